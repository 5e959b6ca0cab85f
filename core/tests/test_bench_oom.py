"""Out of memory: explained, with what would help; and mended by smaller micro-batches that make the same steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.api import Batch
from swift.config.loader import load
from swift.errors import OutOfMemory
from swift.plan.plan import Plan
from swift.plan.planner import make_plan
from swift.plugins.registry import discover
from swift.run_dir import RunDir
from swift.start import execute, reload, worker_error
from swift.testing import tiny_folder
from swift.training import oom
from swift.training.run import run

HERE = Path(__file__).parent
STEPS = 4
FLAGS: dict[str, Any] = {
    "tuner": "lora", "dtype": "float32", "max_steps": STEPS, "batch_size": 8, "gradient_accumulation_steps": 2,
    "batching": "padded", "progress": False, "report": False, "learning_rate": 1e-2, "workers": 1,
    "save_steps": 1, "save_total_limit": 9, "lora": {"rank": 4, "dropout": 0.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tight_strategies` can be imported, here and by workers."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("oom")
    rows = [{"query": f"Say {n}.", "response": " ".join(["word"] * (1 + (n * 7) % 23))} for n in range(48)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"model": str(tiny_folder(folder / "model")), "dataset": str(folder / "rows.jsonl")}


Train = Callable[..., RunDir]


@pytest.fixture
def train(given: dict[str, str], tmp_path: Path) -> Train:
    """Train in this process, on a strategy of `tight_strategies` where one is named."""

    def call(name: str, strategy: str = "", resume: RunDir | None = None, **flags: Any) -> RunDir:
        registry = discover()
        resolved = load("sft", values={**given, **FLAGS, **flags}, registry=registry)
        plan = make_plan(resolved, registry)
        if strategy:
            plan = on(plan, strategy)
        run_dir = resume or RunDir.create(tmp_path / name, plan, resolved.plain())
        if "launcher" in plan.components:
            execute(plan, run_dir)
        else:
            run(plan, run_dir)
        return run_dir

    return call


def on(plan: Plan, strategy: str) -> Plan:
    component = replace(plan.components["parallel"], impl=f"tight_strategies:{strategy}")
    return replace(plan, components={**plan.components, "parallel": component})


def losses(run_dir: RunDir) -> list[float]:
    return [value for row in run_dir.log() if "grad_norm" in row for value in (row["loss"], row["grad_norm"])]


@pytest.fixture(scope="module")
def plain(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    registry = discover()
    resolved = load("sft", values={**given, **FLAGS}, registry=registry)
    plan = make_plan(resolved, registry)
    run_dir = RunDir.create(tmp_path_factory.mktemp("plain") / "run", plan, resolved.plain())
    run(plan, run_dir)
    return losses(run_dir)


@pytest.mark.parametrize(("strategy", "streaming"), [("TightSingle", False), ("LateSingle", False), ("LateSingle", True)])
def test_the_steps_are_those_of_a_run_with_enough_memory(
    train: Train, plain: list[float], strategy: str, streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    want = losses(train("reference", streaming=True)) if streaming else plain
    run_dir = train("run", strategy, auto_batch_size=True, streaming=streaming)
    assert losses(run_dir) == pytest.approx(want, rel=1e-5)
    assert "--batch_size 4 --gradient_accumulation_steps 4" in capsys.readouterr().err
    assert micro_batches(run_dir)[-1] == 2


def micro_batches(run_dir: RunDir) -> list[int]:
    return [json.loads((c / "state.json").read_text(encoding="utf-8"))["micro_batch"] for c in run_dir.checkpoints()]


def test_a_resume_keeps_the_size_and_tries_no_larger_one(
    train: Train, plain: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = train("run", "TightSingle", auto_batch_size=True, max_steps=2, lr_scheduler="constant", warmup_ratio=0)
    whole = losses(train("whole", lr_scheduler="constant", warmup_ratio=0))
    capsys.readouterr()
    train("run", "TightSingle", resume=run_dir, auto_batch_size=True, lr_scheduler="constant", warmup_ratio=0)
    assert "no memory for" not in capsys.readouterr().err
    assert micro_batches(run_dir)[-1] == 2
    assert losses(run_dir) == pytest.approx(whole, rel=1e-5)


def test_without_the_flag_the_run_ends_with_a_post_mortem(train: Train, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory) as caught:
        train("run", "LateSingle")
    text = str(caught.value)
    assert caught.value.exit_code == 9
    assert "step 3, micro-batch 1 of 2" in text and "Tried to allocate 20.00 MiB" in text
    for component in ("weights", "adapters", "gradients", "optimizer", "activations", "logits"):
        assert component in text
    assert "--gradient_checkpointing full" in text and "--batch_size 4 --gradient_accumulation_steps 4" in text
    assert f"the last checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step-000002'}" in text
    assert f"swift sft --resume {tmp_path / 'run'} --" in caught.value.fix
    assert "--dtype" not in text  # a run that goes on keeps its weights


def test_the_suggested_change_resumes_the_run(train: Train, given: dict[str, str], plain: list[float], tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        train("run", "LateSingle")
    registry, old = discover(), RunDir(tmp_path / "run")
    values = {"batch_size": 2, "gradient_accumulation_steps": 8}
    resolved = load("sft", values={**given, **values}, registry=registry)
    resolved = reload("sft", old, resolved, argv=(), values=values, registry=registry)
    run(on(make_plan(resolved, registry), "TightSingle"), old)
    assert losses(old) == pytest.approx(plain, rel=1e-5)


def test_one_row_that_does_not_fit_ends_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tight_strategies.ROOM", 0)
    with pytest.raises(OutOfMemory, match="1 row of"):
        train("run", "TightSingle", auto_batch_size=True)


@pytest.mark.slow
def test_all_ranks_agree_where_one_has_no_memory(train: Train, plain: list[float]) -> None:
    run_dir = train("run", "TightOnRank1", auto_batch_size=True, gradient_accumulation_steps=1, nproc_per_node=2)
    assert losses(run_dir) == pytest.approx(plain, rel=1e-5)
    assert set(micro_batches(run_dir)) == {2}


LIMITED = """
import resource, sys
import peft, pyarrow, torch, transformers
import swift.training.run
from swift.cli.main import main
used = next(line for line in open("/proc/self/status", encoding="utf-8") if line.startswith("VmSize"))
limit = int(used.split()[1]) * 1024 + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the address space, as Linux keeps it")
def test_a_real_allocation_that_fails(given: dict[str, str], tmp_path: Path) -> None:
    """A micro-batch that needs more than 1 GiB under a limit of 700 MiB: the allocator's own error, no made one."""
    rows = [{"query": "Say it.", "response": "word " * 105} for _ in range(150)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["sft", "--model", given["model"], "--dataset", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "run")]
    words += ["--batch_size", "150", "--max_steps", "1", "--workers", "1", "--report", "false", "--overlong", "truncate_right"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == OutOfMemory.exit_code, done.stderr[-3000:]
    assert "out of memory in step 1" in done.stderr and "Traceback" not in done.stderr
    assert "--gradient_checkpointing full" in done.stderr and "there is no checkpoint yet" in done.stderr


def batch(rows: int) -> Batch:
    shape = (rows, 4)
    zeros = torch.zeros(shape, dtype=torch.long)
    return Batch(
        inputs={"input_ids": zeros}, labels=zeros, loss_weight=None, num_labels=4 * rows, num_tokens=4 * rows, num_rows=rows
    )


def test_allocators_are_understood_and_other_faults_left_alone() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert oom.is_out_of_memory(caught.value)
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("MPS backend out of memory (...)"),
                  RuntimeError("std::bad_alloc"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")):  # fmt: skip
        assert oom.is_out_of_memory(error), error
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")):
        assert not oom.is_out_of_memory(other), other
    with pytest.raises(RuntimeError, match="shapes"), oom.noticed(batch(2), "step 1"):
        raise RuntimeError("shapes")


def test_what_the_failed_step_held_is_let_go() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def compute() -> None:
        large = torch.ones(1000)
        seen.append(weakref.ref(large))
        raise torch.OutOfMemoryError("no memory")

    fault: oom.StepOutOfMemory | None = None
    try:
        with oom.noticed(batch(3), "step 1"):
            compute()
    except oom.StepOutOfMemory as error:
        fault = error.with_traceback(None)
    assert fault is not None and (fault.rows, fault.tokens) == (3, 12)
    assert seen[0]() is None


def test_a_killed_worker_is_taken_for_one_without_memory(given: dict[str, str], tmp_path: Path) -> None:
    error = worker_error(137, Plan("sft", {}), RunDir(tmp_path))
    assert isinstance(error, OutOfMemory) and "--measure" in error.fix
