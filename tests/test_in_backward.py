"""Updates in the backward pass: the same run as without them, and checkpoints that both read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import swift

FLAGS: dict[str, Any] = {
    "dtype": "float32", "max_steps": 10, "learning_rate": 1e-3, "warmup_ratio": 0.2, "batch_size": 4, "save_steps": 4,
    "gradient_accumulation_steps": 1, "max_grad_norm": 0.0, "progress": False, "report": False, "save_total_limit": 0,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "adamw": {"tuner": "full"},
    "sgd": {"tuner": "full", "optimizer": "sgd", "sgd": {"momentum": 0.9}},
    "adafactor, recomputed": {"tuner": "full", "optimizer": "adafactor", "gradient_checkpointing": "selective"},
    "lora": {"tuner": "lora", "lora": {"rank": 4, "dropout": 0.1}},
}


def log(run: swift.Run, name: str = "loss") -> list[float]:
    return [row[name] for row in run.log() if name in row]


def weights(run: swift.Run) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(Path(run.final).rglob("*.safetensors")):
        found.update(load_file(file))
    return found


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_give_the_same_weights(case: str, model_folder: Path, dataset: Any, tmp_path: Path) -> None:
    runs = [
        swift.train(
            model=model_folder,
            dataset=dataset(24),
            output=tmp_path / str(how),
            optimizer_in_backward=how,
            **FLAGS | CASES[case],
        )
        for how in (False, True)
    ]
    assert log(runs[0]) == log(runs[1]) and len(log(runs[0])) == 10
    assert log(runs[1], "grad_norm") == pytest.approx(log(runs[0], "grad_norm"), rel=1e-6)
    plain, updated = map(weights, runs)
    assert plain.keys() == updated.keys() and all(torch.equal(plain[name], updated[name]) for name in plain)


@pytest.mark.parametrize("first", [False, True])
def test_a_resume_may_change_between_the_two(first: bool, model_folder: Path, dataset: Any, tmp_path: Path) -> None:
    run = swift.train(
        model=model_folder, dataset=dataset(24), output=tmp_path / "run", tuner="full", optimizer_in_backward=first, **FLAGS
    )
    want, final = log(run), weights(run)
    for folder in [*run.checkpoints()[1:], run.final]:
        shutil.rmtree(folder)
    assert [c.name for c in run.checkpoints()] == ["step-000004"]
    resumed = swift.train(resume=run, optimizer_in_backward=not first)
    assert log(resumed) == want
    again = weights(resumed)
    assert all(torch.equal(final[name], again[name]) for name in final)
