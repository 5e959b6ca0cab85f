"""benchmarks/gpu/run.py at toy size on the CPU: every part runs, nothing is lost, the file holds what it promises."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
COMMAND = [sys.executable, str(FOLDER / "run.py"), "--device", "cpu", "--toy", "--minutes", "5"]
FEW = "correctness/losses,correctness/attention,training/lora-8B/swift,training/lora-8B/trainer,means/base,means/torch_varlen"
NEEDS_A_GPU = {
    "correctness/flex_attention", "means/flex_attention", "training/qlora-8B/swift",
}  # fmt: skip
SPEED = {
    "tokens_per_second", "tokens_per_second_best", "seconds_per_step", "mfu", "peak_allocated", "peak_reserved", "device_used",
    "padding", "setting",
}  # fmt: skip


def run(out: Path, *, only: str = "") -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*COMMAND, "--out", str(out), "--only", only], capture_output=True, text=True, encoding="utf-8", timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, json.loads(out.read_text(encoding="utf-8")), done.stdout + done.stderr


@pytest.fixture
def module() -> Iterator[Any]:
    """Imports a module of the script, and forgets it and its siblings afterwards."""
    siblings = {file.stem for file in FOLDER.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in siblings & set(sys.modules)}
    sys.path.insert(0, str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    sys.path.remove(str(FOLDER))
    for name in siblings & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(before)


def test_results_hold_correctness_speed_and_ratios(tmp_path: Path) -> None:
    code, data, output = run(tmp_path / "gpu.json", only=FEW)
    assert code == 0, output
    cases = data["cases"]
    assert {name: case["status"] for name, case in cases.items()} == dict.fromkeys(
        ["environment/machine", *FEW.split(",")], "done"
    )
    machine = cases["environment/machine"]["result"]
    assert (
        machine["packages"]["torch"]
        and "sdpa" in machine["attention"]
        and set(machine["formulas"]) == {"mfu", "mfu_palm", "hfu"}
    )
    checks = [check for name in cases for check in cases[name]["result"].get("checks", ())]
    assert len(checks) > 80 and all(check["ok"] and check["error"] <= check["bound"] for check in checks)
    swift, peer = (cases[f"training/lora-8B/{who}"]["result"] for who in ("swift", "trainer"))
    assert set(swift) >= SPEED | {"data_wait", "losses", "estimate", "estimate_parts", "estimate_ratio"}
    assert set(peer) >= SPEED
    # The same packs at the same weights.
    assert swift["tokens_per_step"] == peer["tokens_per_step"] and swift["padding"] == 0
    assert swift["losses"][0] == pytest.approx(peer["losses"][0], rel=0.02)
    summary = data["summary"]
    assert summary["training"]["lora-8B"]["swift_over_best_peer"] == pytest.approx(
        swift["tokens_per_second"] / peer["tokens_per_second"], rel=1e-3
    )
    assert summary["means"]["torch_varlen"]["ratio"] > 0
    # Attention that sees documents apart, at the same weights and rows: only rounding differs.
    assert cases["means/torch_varlen"]["result"]["loss_difference"] < 0.02


def test_flops_are_those_counted_by_hand(module: Any) -> None:
    models = module("models")
    config = models.config_of("8B", toy=True)  # h 64, i 160, 2 layers, q 64, kv 32, vocabulary 512, untied
    model = models.random_model(config, attention="sdpa", dtype=torch.float32, device=torch.device("cpu"))
    block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160
    found = models.flops(model, tokens=100, labels=80, squares=100 * 50.0, recompute=True)
    attention = 6 * 2 * 64 * 50  # a token, forward and backward, causal
    assert found.needed == pytest.approx(6 * 2 * block * 100 + attention * 100 + 6 * 64 * 512 * 80)
    assert found.recomputed == pytest.approx(2 * 2 * block * 100 + attention / 3 * 100)
    assert found.palm == pytest.approx(6 * (2 * block + 64 * 512) * 100 + 2 * attention * 100)
    model.requires_grad_(False)
    assert models.flops(model, tokens=100, labels=80, squares=0, recompute=False).needed == pytest.approx(
        4 * 2 * block * 100 + 4 * 64 * 512 * 80
    )


def test_published_sizes(module: Any) -> None:
    models = module("models")
    for size, billions in (("0.6B", 0.596), ("4B", 4.022), ("8B", 8.191)):  # parameters, as the model cards tell
        with torch.device("meta"):
            model = models.AutoModelForCausalLM.from_config(models.config_of(size, toy=False), dtype=torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=2e-3)


def test_members_are_found_and_fitting_wheels_unpacked(module: Any, tmp_path: Path) -> None:
    checkout = module("checkout")
    wheels = tmp_path / "given"
    wheels.mkdir()
    for name in ("pure-1-py3-none-any", "other-1-cp27-cp27m-manylinux2014_x86_64"):
        with zipfile.ZipFile(wheels / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name.partition('-')[0]}_package.py", "")
    paths = checkout.write(tmp_path / "made", wheels)
    points = "".join(f.read_text(encoding="utf-8") for f in Path(paths[0]).glob("*/entry_points.txt"))
    assert "swift_tuner_peft.swift_plugin" in points and all(Path(path).is_dir() for path in paths)
    assert [file.name for file in (tmp_path / "made" / "wheels").iterdir()] == ["pure_package.py"]


@pytest.mark.slow
def test_every_part_runs(tmp_path: Path) -> None:
    code, data, output = run(tmp_path / "gpu.json")
    assert code == 0, output
    cases = data["cases"]
    assert {name for name, case in cases.items() if case["status"] != "done"} <= NEEDS_A_GPU, data["summary"]
    profile = cases["training/lora-8B/profile"]["result"]
    assert len(profile["top"]) == 20 and set(profile["top"][0]) == {"name", "calls", "share", "seconds"}
    assert cases["training/command"]["result"]["estimate"] > 0
    assert set(data["summary"]["means"]) >= {
        "compile",
        "checkpointing-off",
        "logits-in-one-piece",
        "optimizer-not-fused",
        "padded",
    }


def working_on(process: subprocess.Popen[str], out: Path, name: str) -> int:
    """The number of the child process, once it is at that case."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        cases = json.loads(out.read_text(encoding="utf-8"))["cases"] if out.is_file() else {}
        if cases.get(name, {}).get("status") == "running":
            break
        time.sleep(0.05)
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()[0])


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="the process that is ended is found in /proc")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("how", ["hangs past the end", "ended from outside"])
def test_the_file_is_whole_where_a_run_does_not_get_to_its_end(tmp_path: Path, how: str) -> None:
    out = tmp_path / "gpu.json"
    only = ["--only", "correctness/losses,correctness/attention,correctness/optimizer"]
    hangs = how == "hangs past the end"
    process = subprocess.Popen([*COMMAND, *(["--minutes", "0.5"] if hangs else []), "--out", str(out), *only], text=True)
    child = working_on(process, out, "correctness/attention")
    if hangs:
        os.kill(child, signal.SIGSTOP)
    else:
        process.terminate()
    assert process.wait(timeout=120) == 1
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["cases"]["correctness/losses"]["status"] == "done" and data["summary"]["checks"] > 50
    lost = data["cases"]["correctness/attention"]
    assert lost["status"] == "crashed" and lost["error"] == data["error"]
    assert ("the time was over" in data["error"]) is hangs and ("from outside" in data["error"]) is not hangs
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
@needs_proc
def test_a_case_that_dies_takes_only_itself(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out), "--only", "correctness/attention,correctness/optimizer"],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.kill(working_on(process, out, "correctness/attention"), signal.SIGKILL)
    process.communicate(timeout=200)
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert cases["correctness/attention"]["status"] == "crashed" and "-9" in cases["correctness/attention"]["error"]
    assert cases["environment/machine"]["status"] == cases["correctness/optimizer"]["status"] == "done"
    assert process.returncode == 1
