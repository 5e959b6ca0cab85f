"""Contracts of the kinds around a run: hubs, trackers, launchers, exporters, optimizers."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.api import DataError, ExportContext, LoadedModel, ModelError, Tuner
from swift.plugins.loading import load_object
from swift.testing.descriptor import DescriptorContract
from swift.testing.tiny import CONVERSATIONS, tiny_folder

TOKEN = "kit-secret-1234567890"


class HubContract(DescriptorContract):
    """What is not there is refused with the right error, without a network, and the token is never told."""

    unknown = "no-such-owner-0/no-such-repository-0"

    @pytest.fixture
    def hub(self, spec: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        def refuse(*_args: Any, **_options: Any) -> None:
            raise OSError("the contract suite has no network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        yield load_object(spec.impl)(TOKEN)

    def refusal(self, call: Any, error: type[Exception], what: str) -> str:
        try:
            folder = call()
        except error as refused:
            return str(refused)
        except Exception as other:
            pytest.fail(f"{what} raises {type(other).__name__}, not {error.__name__}: {other}")
        pytest.fail(f"{what} gives {folder}")

    def test_what_is_not_there_is_refused(self, hub: Any) -> None:
        self.refusal(lambda: hub.resolve_model(self.unknown), ModelError, "an unknown model")
        self.refusal(lambda: hub.resolve_dataset(self.unknown), DataError, "an unknown dataset")

    def test_an_id_that_leads_elsewhere_is_refused(self, hub: Any) -> None:
        for repo_id in ("../../etc", "/etc/passwd"):
            self.refusal(lambda repo_id=repo_id: hub.resolve_model(repo_id), ModelError, f"the id {repo_id!r}")

    def test_the_token_stands_in_no_message(self, hub: Any) -> None:
        texts = [
            self.refusal(lambda: hub.resolve_model(self.unknown), ModelError, "an unknown model"),
            self.refusal(lambda: hub.resolve_dataset(self.unknown), DataError, "an unknown dataset"),
        ]
        assert not any(TOKEN in text for text in texts), "the access token stands in an error message"

    def test_the_prefix_is_its_own(self, spec: Any, registry: Any) -> None:
        others = [e.origin for e in registry.entries("hub") if e.spec.prefix == spec.prefix != "" and e.name != spec.name]
        assert not others, f"the prefix {spec.prefix}:: is also that of {', '.join(others)}"


class TrackerContract(DescriptorContract):
    """A tracker may lose a value that it cannot keep; it may not end the run, nor what a run before it wrote."""

    def run(self, spec: Any, settings: Any, folder: Path, steps: range) -> None:
        tracker = load_object(spec.impl)(settings, spec.name, folder)
        tracker.start({"model": {"id": "x", "revision": None}, "data": {"dataset": ["a.jsonl"]}})
        for step in steps:
            tracker.log(step, {"loss": 2.0 / step, "learning_rate": 1e-4})
        tracker.finish({"loss": 0.5})

    def test_a_run_is_logged_inside_its_directory(
        self, spec: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, run_dir = tmp_path / "here", tmp_path / "run"
        here.mkdir()
        run_dir.mkdir()
        monkeypatch.chdir(here)
        self.run(spec, settings, run_dir, range(1, 4))
        stray = sorted(p.name for p in [*here.iterdir(), *tmp_path.iterdir()] if p not in (here, run_dir))
        assert not stray, f"{stray} were written outside the run directory"

    def test_no_value_ends_the_run(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        tracker = load_object(spec.impl)(settings, spec.name, tmp_path)
        tracker.start({})
        for value in (math.nan, math.inf, -math.inf, 3, 1e308):
            try:
                tracker.log(1, {"loss": value, "eval/loss ü": value})
            except Exception as error:
                pytest.fail(f"logging {value} raises {type(error).__name__}: {error}")
        tracker.finish({"loss": math.nan})

    def test_a_resumed_run_keeps_what_was_logged(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        self.run(spec, settings, tmp_path, range(1, 4))
        before = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
        self.run(spec, settings, tmp_path, range(4, 6))
        lost = sorted(p.name for p, size in before.items() if not p.is_file() or p.stat().st_size < size)
        assert not lost, f"a resumed run shortens or removes {lost}, which the run before it wrote"


WORKER = """
import json, os, pathlib, sys, time
plan = pathlib.Path(sys.argv[1])
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "KIT_WORD")
said = {name: os.environ.get(name) for name in names}
plan.with_name("rank-" + str(said["RANK"])).write_text(json.dumps(said))
fails = json.loads(plan.read_text())["fails"]
if said["RANK"] == fails:
    sys.exit(7)
end = time.monotonic() + 5  # for the rank that fails to come up
while fails and (time.monotonic() < end or plan.with_name("rank-" + fails).exists()):
    time.sleep(0.1)
    if time.monotonic() > end + 60:
        break
"""


class LauncherContract(DescriptorContract):
    """Two workers on this machine, in the place of `swift.worker`."""

    patience_s = 30.0
    """Within which the others must be ended when a rank has failed."""

    def launch(self, spec: Any, settings: Any, folder: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        """(exit code, what each rank that ran was told)."""
        package = folder / "path" / "swift"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("", encoding="utf-8")
        (package / "worker.py").write_text(WORKER, encoding="utf-8")
        run_dir = folder / "run"
        run_dir.mkdir()
        plan = run_dir / "plan.json"
        plan.write_text(json.dumps({"fails": fails}), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(folder / "path"))
        launcher = load_object(spec.impl)(settings, spec.name)
        code = launcher.launch(
            plan, nproc_per_node=2, nnodes=1, node_rank=0, master_addr="127.0.0.1", master_port=0,
            env={"PYTHONPATH": str(folder / "path"), "KIT_WORD": "told"},
        )  # fmt: skip
        said = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(run_dir.glob("rank-*"))]
        return code, said

    def test_every_rank_runs_and_knows_its_place(
        self, spec: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code, said = self.launch(spec, settings, tmp_path, "", monkeypatch)
        assert code == 0, f"both workers ended with 0, launch returns {code}"
        assert [s["RANK"] for s in said] == ["0", "1"], f"ranks {[s['RANK'] for s in said]} ran, not 0 and 1"
        assert [s["LOCAL_RANK"] for s in said] == ["0", "1"], f"LOCAL_RANK is {[s['LOCAL_RANK'] for s in said]}"
        assert {s["WORLD_SIZE"] for s in said} == {"2"}, f"WORLD_SIZE is {[s['WORLD_SIZE'] for s in said]}"
        meeting = {(s["MASTER_ADDR"], s["MASTER_PORT"]) for s in said}
        assert len(meeting) == 1 and all(str(port).isdigit() and port != "0" for _, port in meeting), (
            f"the ranks meet at {sorted(meeting)}; they need one address and one port above 0"
        )
        assert {s["KIT_WORD"] for s in said} == {"told"}, "variables of env do not reach the workers"

    def test_a_failing_rank_ends_the_run_with_its_code(
        self, spec: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = time.monotonic()
        code, _ = self.launch(spec, settings, tmp_path, "1", monkeypatch)
        assert code == 7, f"rank 1 ended with 7, launch returns {code}"
        assert time.monotonic() - started < self.patience_s, "rank 1 had failed, and the other was waited for"


class Folding(Tuner):
    """Stands for a trained adapter: `merge` doubles one weight."""

    merges = 0

    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        raise AssertionError("an exporter saves no adapter")

    def restore(self, model: nn.Module, folder: Path) -> None:
        raise AssertionError("an exporter restores no adapter")

    def merge(self, model: nn.Module) -> nn.Module:
        self.merges += 1
        return model


class ExporterContract(DescriptorContract):
    """A tiny model in, files and a proof out, and the source as it was."""

    def export(self, spec: Any, settings: Any, folder: Path, tuner: Tuner | None = None) -> tuple[Any, Path]:
        source, output = tiny_folder(folder / "source"), folder / "output"
        output.mkdir()

        def load(path: Path = source) -> LoadedModel:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            return LoadedModel(model, AutoTokenizer.from_pretrained(path), "sdpa", True)

        context = ExportContext(
            run_dir=source, output=output, tuner=tuner, load_tuned=load, load_folder=load, prompts=CONVERSATIONS[:2]
        )
        return load_object(spec.impl)(settings, spec.name).export(context), output

    def test_the_files_are_there(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        report, output = self.export(spec, settings, tmp_path)
        written = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
        assert written, "nothing was written"
        missing = sorted(set(report.files) - written)
        assert report.files and not missing, f"the report names {missing or 'no files'}; written were {sorted(written)}"
        empty = [name for name in report.files if not (output / name).stat().st_size]
        assert not empty, f"{empty} are empty"

    def test_the_source_stays_as_it_is(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        reference = tiny_folder(tmp_path / "reference")
        self.export(spec, settings, tmp_path)
        for file in reference.iterdir():
            same = (tmp_path / "source" / file.name).read_bytes() == file.read_bytes()
            assert same, f"{file.name} of the source was changed"
        stray = sorted(p.name for p in tmp_path.iterdir() if p.name not in ("source", "output", "reference"))
        assert not stray, f"{stray} were written beside the output folder"

    def test_the_result_is_proved(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        report, _ = self.export(spec, settings, tmp_path)
        assert report.checks, "prompts were given, and nothing was measured between the source and the result"
        assert report.bounds, "no bound is stated, so that core would accept any result"
        unmeasured = sorted(set(report.bounds) - set(report.checks))
        assert not unmeasured, f"bounds {unmeasured} are of nothing that was measured"
        broken = [n for n, bound in report.bounds.items() if not report.checks[n] <= bound]
        assert not broken, f"the export of the tiny model breaks its own bounds: {broken}"

    def test_an_adapter_is_folded_in_once(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        tuner = Folding(None, "folding")
        self.export(spec, settings, tmp_path, tuner)
        assert tuner.merges == 1, f"the run has an adapter; its tuner's merge was called {tuner.merges} times"


class OptimizerContract(DescriptorContract):
    """Groups are obeyed, state comes back, and takes as many bytes as the spec says."""

    lr = 1e-2

    def model(self, size: int = 12) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(size, size), nn.Tanh(), nn.Linear(size, 1))

    def build(self, spec: Any, settings: Any, *groups: dict[str, Any]) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = load_object(spec.impl)(settings, spec.name).build(list(groups))
        return optimizer

    def group(self, model: nn.Module, lr: float = lr, weight_decay: float = 0.0) -> dict[str, Any]:
        return {"params": list(model.parameters()), "lr": lr, "weight_decay": weight_decay}

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> float:
        x = torch.randn(32, 12, generator=torch.Generator().manual_seed(seed))
        loss = ((model(x) - x.sum(1, keepdim=True).sin()) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def test_groups_keep_their_learning_rates(self, spec: Any, settings: Any) -> None:
        model = self.model()
        first, last = model[0], model[2]
        optimizer = self.build(spec, settings, self.group(first, 1e-2, 0.1), self.group(last, 1e-3))
        for number, (lr, decay) in enumerate(((1e-2, 0.1), (1e-3, 0.0))):
            made = optimizer.param_groups[number]
            assert made["lr"] == lr, f"group {number} was given lr {lr}, the optimizer has {made['lr']}"
            assert made["weight_decay"] == decay, f"group {number} was given weight_decay {decay}, not {made['weight_decay']}"

    def test_the_learning_rate_of_the_moment_counts(self, spec: Any, settings: Any) -> None:
        """A schedule sets `lr` of each group before each step; at 0 nothing moves."""
        model = self.model()
        optimizer = self.build(spec, settings, self.group(model))
        self.step(model, optimizer)
        before = [p.detach().clone() for p in model.parameters()]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self.step(model, optimizer)
        same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert same, "with lr set to 0 the weights move: a schedule would be ignored"

    def test_loss_falls(self, spec: Any, settings: Any) -> None:
        model = self.model()
        optimizer = self.build(spec, settings, self.group(model))
        losses = [self.step(model, optimizer) for _ in range(50)]
        assert losses[-1] < losses[0], f"the loss did not fall in 50 steps: {losses[0]:.4f} -> {losses[-1]:.4f}"

    def test_state_comes_back(self, spec: Any, settings: Any, tmp_path: Path) -> None:
        model = self.model()
        optimizer = self.build(spec, settings, self.group(model))
        for seed in range(3):
            self.step(model, optimizer, seed)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        again = self.model()
        again.load_state_dict(model.state_dict())
        resumed = self.build(spec, settings, self.group(again))
        resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
        for seed in range(3, 5):
            self.step(model, optimizer, seed)
            self.step(again, resumed, seed)
        for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
            assert torch.equal(a, b), f"{name} goes another way after the state was saved and loaded"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    def test_state_is_as_large_as_the_spec_says(self, spec: Any, settings: Any, dtype: torch.dtype) -> None:
        """The memory estimate multiplies it with the trained parameters."""
        matrix = nn.Parameter(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(dtype))
        optimizer = self.build(spec, settings, {"params": [matrix], "lr": 1e-3, "weight_decay": 0.0})
        for _ in range(2):
            matrix.grad = torch.ones_like(matrix)
            optimizer.step()
        kept = [v for v in optimizer.state[matrix].values() if isinstance(v, torch.Tensor)]
        measured = sum(v.numel() * v.element_size() for v in kept) / matrix.numel()
        said = spec.state_bytes_per_parameter * (1 if spec.fixed_state else dtype.itemsize / 4)
        assert abs(measured - said) <= max(0.1, 0.05 * said), (
            f"state_bytes_per_parameter is {spec.state_bytes_per_parameter} and fixed_state {spec.fixed_state}, so {said:g} "
            f"for {str(dtype).removeprefix('torch.')}; the state takes {measured:.2f} bytes per parameter"
        )
