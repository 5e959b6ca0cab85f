"""However a step is cut into batches, it is the same step: losses and gradient norms agree to 1e-5 in float32."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import swift

COMMON: dict[str, Any] = {
    "tuner": "full", "dtype": "float32", "max_steps": 3, "learning_rate": 1e-3, "lr_scheduler": "constant", "warmup_ratio": 0.0,
    "shuffle": False, "progress": False, "report": False,
}  # fmt: skip
CUTS: dict[str, dict[str, Any]] = {
    "batch 1 x 8 accumulations": {"batch_size": 1, "gradient_accumulation_steps": 8, "batching": "padded"},
    "padding-free": {"batch_size": 8, "gradient_accumulation_steps": 1, "batching": "padding_free"},
    "unpacked, joined as they fit": {"batch_size": 1, "gradient_accumulation_steps": 8, "batching": "unpacked"},
    "padding-free, accumulated": {"batch_size": 2, "gradient_accumulation_steps": 4, "batching": "padding_free"},
    "packed": {
        "batch_size": 1, "gradient_accumulation_steps": 1, "batching": "packed", "packing_length": 4096, "max_length": 512,
    },
    "2 ranks": {"batch_size": 4, "gradient_accumulation_steps": 1, "batching": "padded", "nproc_per_node": 2},
    "2 ranks, uneven": {"batch_size": 3, "gradient_accumulation_steps": 2, "batching": "padding_free", "nproc_per_node": 2},
    "streamed": {"batch_size": 4, "gradient_accumulation_steps": 2, "batching": "padding_free", "streaming": True},
    "streamed to 2 ranks": {
        "batch_size": 4, "gradient_accumulation_steps": 1, "batching": "padded", "streaming": True, "nproc_per_node": 2,
    },
    "tiled loss": {"batch_size": 8, "gradient_accumulation_steps": 1, "batching": "padded", "logits_memory": 0.01},
    "gradient checkpointing": {
        "batch_size": 8, "gradient_accumulation_steps": 1, "batching": "padded", "gradient_checkpointing": True,
    },
    "selective checkpointing": {
        "batch_size": 1, "gradient_accumulation_steps": 1, "batching": "packed", "packing_length": 4096, "max_length": 512,
        "gradient_checkpointing": "selective",
    },
}  # fmt: skip


def curve(run: swift.Run) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in run.log() if "loss" in row]


@pytest.fixture(scope="module")
def reference(model_folder: Path, dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    run = swift.train(
        model=model_folder, dataset=dataset(8), output=tmp_path_factory.mktemp("reference") / "run",
        batch_size=8, gradient_accumulation_steps=1, batching="padded", **COMMON,
    )  # fmt: skip
    return curve(run)


@pytest.mark.parametrize("cut", CUTS)
def test_the_same_step(cut: str, reference: Any, model_folder: Path, dataset: Any, tmp_path: Path) -> None:
    run = swift.train(model=model_folder, dataset=dataset(8), output=tmp_path / "run", **COMMON, **CUTS[cut])
    assert len(reference) == 3
    for step, (got, want) in enumerate(zip(curve(run), reference, strict=True), start=1):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6), f"{cut}, step {step}: (loss, norm) {got} instead of {want}"


def test_two_machines_are_one_run(reference: Any, model_folder: Path, dataset: Any, tmp_path: Path) -> None:
    """Each machine types the same command with its own --node_rank; here both are this one, over loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = COMMON | {"batch_size": 4, "gradient_accumulation_steps": 1, "batching": "padded", "nnodes": 2, "master_port": port}
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name}", str(value).lower() if value in (True, False) else str(value))
    ]
    words += ["--model", str(model_folder), "--dataset", str(dataset(8)), "-o", str(tmp_path / "run")]
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "swift", "sft", *words, "--node_rank", str(rank)], env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [machine.communicate(timeout=180)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert "the result is on machine 0" in outputs[1]
    for got, want in zip(curve(swift.Run(tmp_path / "run")), reference, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6)
