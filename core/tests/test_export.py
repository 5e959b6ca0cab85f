"""Export: a standard folder that answers as the tuned model, proved and whole, or nothing at all."""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.cli.export import main as export_main
from swift.config.loader import load as load_config
from swift.errors import CheckpointError, ConfigError, Unsupported
from swift.inference.export import REPORT, export
from swift.inference.source import resolve_source
from swift.plan.plan import Component
from swift.plugins.loading import load_object
from swift.plugins.registry import discover
from swift.run_dir import RunDir
from swift.testing import tiny_folder

_HELPERS = importlib.util.spec_from_file_location("swift_test_inference_helpers", Path(__file__).with_name("test_inference.py"))
helpers = importlib.util.module_from_spec(_HELPERS)
_HELPERS.loader.exec_module(helpers)

REGISTRY = discover()
IDS = torch.arange(3, 60)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits.float()


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(tmp_path: Path, base: Path) -> RunDir:
    return helpers.make_run(tmp_path / "run", base)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def export_with(run: RunDir, tuner: type, *argv: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """`swift export` of a run whose tuner is another class."""
    module = types.ModuleType("swift_test_other_tuner")
    module.Other = tuner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = load_config("export", argv=[str(run), *argv], registry=REGISTRY, environ={})
    source = resolve_source(str(run), sections=config.sections, registry=REGISTRY)
    component: Component = replace(source.tuner, impl=f"{module.__name__}:Other")
    return export(replace(source, tuner=component), sections=config.sections, settings={}, registry=REGISTRY)


Lora = load_object("swift_tuner_peft.lora:Lora")


class Forgetful(Lora):
    """Merges nothing."""

    def merge(self, model: torch.nn.Module) -> torch.nn.Module:
        return model.unload()


class Twice(Lora):
    """Merges with twice the strength."""

    def merge(self, model: torch.nn.Module) -> torch.nn.Module:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(2)
        return super().merge(model)


def test_the_merged_folder_is_a_plain_model_that_answers_as_the_tuned_one(
    run: RunDir, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run.path)
    assert export_main([str(run)], "export") == 0
    merged = run.path / "merged"
    tuned = PeftModel.from_pretrained(load(base), str(run.final))
    difference = (logits(load(merged)) - logits(tuned)).abs().max()
    assert difference < 1e-4 < (logits(load(base)) - logits(tuned)).abs().max()
    assert AutoTokenizer.from_pretrained(merged).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert (merged / "generation_config.json").is_file() and (merged / "model.safetensors").is_file()
    assert not list(merged.glob("adapter*"))
    report = json.loads((merged / REPORT).read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert report["checks"]["kl_mean"] < 1e-8 < 1e-3 < report["checks"]["tuned_to_base_kl_mean"]
    assert report["checks"]["logit_max_difference"] < 1e-4
    printed = capsys.readouterr().out
    assert "kl_mean" in printed and "bound 1e-05" in printed and "check passed" in printed
    assert {k: v for k, v in contents(run.path).items() if not k.startswith("merged/")} == before


def test_what_was_merged_is_a_source_like_any_model(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_main([str(run)], "merge-lora") == 0
    capsys.readouterr()
    for source in (run.path, run.path / "merged"):
        assert helpers.infer(str(source), "--prompt", "Who are you?") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_run_of_whole_weights_is_copied_through(tmp_path: Path, base: Path) -> None:
    run = helpers.make_run(tmp_path / "whole", base, tuner="full")
    assert export_main([str(run), "-o", str(tmp_path / "out")], "export") == 0
    assert torch.equal(logits(load(tmp_path / "out")), logits(load(run.final)))
    report = json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8"))
    assert report["checks"]["logit_max_difference"] == 0


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2e-2), ("float16", 1e-3)])
def test_a_16_bit_model_is_merged_and_judged_in_its_own_dtype(tmp_path: Path, dtype: str, bound: float) -> None:
    base = tiny_folder(tmp_path / "base", dtype=dtype)
    run = helpers.make_run(tmp_path / "run", base)
    assert export_main([str(run)], "export") == 0
    assert load(run.path / "merged").dtype == getattr(torch, dtype)
    report = json.loads((run.path / "merged" / REPORT).read_text(encoding="utf-8"))
    assert report["bounds"]["kl_mean"] == bound
    assert 0 < report["checks"]["kl_mean"] < bound / 4, "a CPU does not compute in float16: still it is what is written"
    assert report["checks"]["tuned_to_base_kl_mean"] > 4 * report["checks"]["kl_mean"]


@pytest.mark.parametrize("tuner", [Forgetful, Twice])
def test_a_wrong_merge_is_refused_and_leaves_nothing(
    run: RunDir, tuner: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run.path)
    with pytest.raises(CheckpointError, match=r"kl_mean .* is above 1e-05") as error:
        export_with(run, tuner, monkeypatch=monkeypatch)
    assert "--force" in error.value.fix
    assert "check FAILED" in capsys.readouterr().out
    assert contents(run.path) == before
    assert not (run.path / "merged").exists()


def test_force_keeps_a_wrong_merge_marked(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_with(run, Forgetful, "--force", monkeypatch=monkeypatch) == 0
    report = json.loads((run.path / "merged" / REPORT).read_text(encoding="utf-8"))
    assert report["passed"] is False and report["above_bounds"]
    assert "kept by --force though its check FAILED" in capsys.readouterr().out


def test_a_check_that_gives_no_number_is_refused(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverged(Lora):
        def merge(self, model: torch.nn.Module) -> torch.nn.Module:
            merged = super().merge(model)
            merged.lm_head.weight.data.fill_(float("nan"))
            return merged

    with pytest.raises(CheckpointError, match="nan"):
        export_with(run, Diverged, monkeypatch=monkeypatch)
    assert not (run.path / "merged").exists()


def test_an_existing_folder_is_left_alone_unless_forced(run: RunDir, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "mine.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists already"):
        export_main([str(run), "-o", str(target)], "export")
    assert (target / "mine.txt").read_text(encoding="utf-8") == "precious"
    assert export_main([str(run), "-o", str(target), "--force"], "export") == 0
    assert not (target / "mine.txt").exists()


def test_a_forced_export_that_fails_leaves_the_old_result(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export_main([str(run)], "export") == 0
    before = contents(run.path)

    class Failing(Lora):
        def merge(self, model: torch.nn.Module) -> torch.nn.Module:
            raise CheckpointError("no luck")

    with pytest.raises(CheckpointError, match="no luck"):
        export_with(run, Failing, "--force", monkeypatch=monkeypatch)
    assert contents(run.path) == before


@pytest.mark.parametrize("where", ["run", "base", "final"])
def test_force_never_replaces_the_source(run: RunDir, base: Path, where: str) -> None:
    target = {"run": run.path, "base": base, "final": run.final}[where]
    before = contents(target)
    with pytest.raises(ConfigError, match="holds the source"):
        export_main([str(run), "-o", str(target), "--force"], "export")
    assert contents(target) == before


def test_a_full_disk_loses_nothing_and_leaves_nothing(run: RunDir, tmp_path: Path) -> None:
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the weights have 500 kB; Python ignores SIGXFSZ
    try:
        with pytest.raises(CheckpointError, match="cannot write") as error:
            export_main([str(run)], "export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "-o" in error.value.fix
    assert contents(tmp_path) == before
    assert not [p for p in tmp_path.rglob("*.tmp")]


def test_a_place_that_cannot_be_written_is_said(run: RunDir, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot write"):
        export_main([str(run), "-o", str(file / "out")], "export")


def test_weights_that_surely_do_not_fit_are_refused_at_once(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match="GiB left"):
        export_main([str(run)], "export")


def test_what_cannot_be_merged_is_said_before_anything_is_loaded(tmp_path: Path, base: Path) -> None:
    run = helpers.make_run(tmp_path / "prompts", base, tuner="prompt_tuning")
    with pytest.raises(Unsupported, match="cannot be folded") as error:
        export_main([str(run)], "export")
    assert "swift infer" in error.value.fix


def test_shards_prompts_and_verification_can_be_chosen(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(run), "-o", str(tmp_path / "a"), "--max_shard_size", "200KB", "--prompts", "Hi", "Who?"]
    assert export_main(argv, "export") == 0
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()
    assert json.loads((tmp_path / "a" / REPORT).read_text(encoding="utf-8"))["checks"]["positions"] < 60
    assert export_main([str(run), "-o", str(tmp_path / "b"), "--verify", "false"], "export") == 0
    assert "not checked" in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / REPORT).read_text(encoding="utf-8"))["passed"] is None


def test_a_checkpoint_can_be_exported(run: RunDir) -> None:
    assert export_main([str(run), "--checkpoint", "step-000003"], "export") == 0
    assert (run.path / "merged-step-000003" / "config.json").is_file()


def test_end_tokens_of_the_template_go_into_the_exported_generation_config(tmp_path: Path) -> None:
    """Other engines read this file alone; without the end of a turn in it a tuned base never stops there."""
    base = tiny_folder(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    model = load(base)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.save_pretrained(base)
    run = helpers.make_run(tmp_path / "run", base)
    assert export_main([str(run)], "export") == 0
    written = json.loads((run.path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert written["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])


def test_a_generation_config_that_transformers_refuses_to_save_is_mended(tmp_path: Path) -> None:
    base = tiny_folder(tmp_path / "base")
    file = base / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "temperature": 0.6, "top_p": 0.9}), encoding="utf-8")
    run = helpers.make_run(tmp_path / "run", base)
    assert export_main([str(run)], "export") == 0
    written = json.loads((run.path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert (written["temperature"], written["do_sample"]) == (0.6, True)
