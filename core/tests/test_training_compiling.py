"""Compiled decoder blocks: the losses and gradients of plain ones, one graph for all of them, and never the end of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from swift.api import Batch
from swift.api.ops import next_token_loss
from swift.data.batches import TokenRow, collate, filled, filler, with_bounds
from swift.errors import ConfigError
from swift.plugins.loading import load_object
from swift.testing.ranks import PlainCpu
from swift.testing.tiny import CONVERSATIONS, tiny_folder
from swift.training import compiling
from swift.training.activations import checkpoint_activations
from swift.training.compiling import CompiledBlocks, graphs

CPU = torch.device("cpu")
LENGTH = 96
without_mask: Any = load_object("swift_model_transformers.varlen:without_mask")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pack(lengths: Sequence[int], *, length: int = LENGTH, bounds: bool = True) -> Batch:
    rows = []
    for number, n in enumerate(lengths):
        weights = (np.arange(n) >= n // 4).astype(np.float32)
        rows.append(TokenRow(np.random.default_rng((n, number)).integers(3, 97, n), weights))
    batch = filled(collate(rows, "packed"), length)
    return with_bounds(batch) if bounds else batch


PACKS = ((31, 9, 24), (1, 60, 2, 3, 4), (64, 32))
"""Others in number and length of documents."""


def small(attention: str, *, mode: str = "off", lora: bool = False) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3", hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, vocab_size=97, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if attention == "torch_varlen":
        without_mask(model)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    checkpoint_activations(model, mode)
    return model.train()


def steps(model: nn.Module, batches: Sequence[Batch]) -> tuple[list[float], torch.Tensor]:
    losses = []
    for batch in batches:
        loss = next_token_loss(model, batch.inputs, batch.labels, memory_budget=2**26)
        loss.backward()
        losses.append(float(loss.detach()))
    return losses, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


COMBINATIONS = [
    *((attention, mode, False) for attention in ("sdpa", "torch_varlen") for mode in ("off", "full")),
    ("torch_varlen", "selective", False), ("torch_varlen", "offload", False), ("sdpa", "selective", False),
    ("torch_varlen", "off", True), ("torch_varlen", "full", True),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "mode", "lora"), COMBINATIONS)
def test_losses_and_gradients_are_those_of_plain_blocks_by_one_graph(attention: str, mode: str, lora: bool) -> None:
    bounds = attention == "torch_varlen"
    batches = [pack(lengths, bounds=bounds) for lengths in PACKS]
    want = steps(small(attention, mode=mode, lora=lora), [pack(lengths, length=0, bounds=bounds) for lengths in PACKS])
    model = small(attention, mode=mode, lora=lora)
    names = list(model.state_dict())
    before = graphs()
    compiled = CompiledBlocks(model, CPU, backend="aot_eager")
    found = steps(model, batches)
    assert found[0] == pytest.approx(want[0], rel=1e-5)
    assert (found[1] - want[1]).norm() / want[1].norm() < 1e-5
    # With frozen weights the first block's input has no gradient, unless checkpointing asks for one: a second graph.
    assert graphs() - before == (2 if lora and mode == "off" else 1)
    assert list(model.state_dict()) == names
    compiled.off()
    assert steps(model, batches)[0] == pytest.approx(want[0], rel=1e-5)
    assert graphs() - before <= 2


def test_without_gradients_blocks_run_plain() -> None:
    model = small("sdpa")
    CompiledBlocks(model, CPU, backend="aot_eager")
    before = graphs()
    with torch.no_grad():
        model(**pack(PACKS[0], bounds=False).inputs, use_cache=False)
    model.eval()
    model(**pack(PACKS[1], bounds=False).inputs, use_cache=False)
    assert graphs() == before


def test_the_trial_compiles_says_so_and_leaves_no_trace() -> None:
    model = small("torch_varlen")
    compiled = CompiledBlocks(model, CPU, backend="aot_eager")
    state, before = torch.get_rng_state(), graphs()
    said = compiled.trial(LENGTH, bounds=True, autocast=None, device=PlainCpu())
    assert said.startswith("compile: 3 decoder blocks by 1 graph, made in ")
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())
    steps(model, [pack(lengths) for lengths in PACKS])
    assert graphs() - before == 1  # what the trial made is what the steps use


@pytest.mark.parametrize("mode", ["off", "full"])
def test_a_compiler_that_fails_ends_no_run(mode: str) -> None:
    want = steps(small("sdpa", mode=mode), [pack(PACKS[0], bounds=False)])
    model = small("sdpa", mode=mode)

    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("the compiler has a fault")

    compiled = CompiledBlocks(model, CPU, backend=broken)
    said = compiled.trial(LENGTH, bounds=False, autocast=None, device=PlainCpu())
    assert said.startswith("compile: off, since compiling failed") and "the compiler has a fault" in said
    assert steps(model, [pack(PACKS[0], bounds=False)])[0] == want[0]


def test_a_machine_without_a_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError, match=r"C\+\+ compiler") as caught:
        CompiledBlocks(small("sdpa"), CPU)
    assert "apt install g++" in (caught.value.fix or "") and "--compile off" in (caught.value.fix or "")


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no list of blocks"):
        compiling.decoder_blocks(nn.Linear(2, 2))


def test_a_filled_pack_keeps_its_labels_and_gets_documents() -> None:
    batch = pack((37, 5), length=600, bounds=False)
    assert batch.labels.shape == (1, 600) and (batch.labels != -100).sum() == batch.num_labels
    assert batch.bounds is not None and batch.bounds.tolist() == [0, 37, 42, 298, 554, 600] and batch.longest_document == 256
    starts = (batch.inputs["position_ids"][0] == 0).nonzero().squeeze(1).tolist()
    assert starts == batch.bounds.tolist()[:-1]  # what the model sees as a document, and what the kernel does
    assert batch.documents is not None and set(batch.documents[0, 42:].tolist()) == {-1}
    assert batch.num_tokens == 42 and filled(batch, 500) is batch
    assert (
        pack((64, 32), bounds=False).inputs["position_ids"].stride() == pack((9,), bounds=False).inputs["position_ids"].stride()
    )
    empty = filler(300)
    assert empty.bounds is not None and empty.bounds.tolist() == [0, 256, 300] and empty.num_labels == 0


RUNS = {
    "lora": ("--lora.dropout", "0"),
    "autocast": ("--lora.dropout", "0", "--mixed_precision", "bfloat16", "--dtype", "float32"),
    "two processes": ("--tuner", "full", "--gradient_checkpointing", "full", "--nproc_per_node", "2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_with_compiled_blocks_is_the_plain_run(tmp_path: Path, kind: str) -> None:
    """By inductor, with packs, accumulation and evaluation."""
    folder = tiny_folder(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS * 8), encoding="utf-8")

    def run(name: str, *flags: str) -> list[float]:
        command = [
            sys.executable, "-m", "swift", "sft", "--model", str(folder), "--dataset", str(rows), "--batching", "packed",
            "--packing_length", "128", "--max_steps", "4", "--rows_per_step", "4", "--val_split", "0.2", "--device", "cpu",
            *RUNS[kind], "--progress", "false", "--report", "false", "--cache_dir", str(tmp_path / "cache"),
            "-o", str(tmp_path / name), *flags,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        if flags:
            assert "decoder blocks by" in done.stdout + done.stderr
        lines = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [value for line in map(json.loads, lines) if (value := line.get("loss", line.get("eval_loss")))]

    assert run("compiled", "--compile", "blocks") == pytest.approx(run("plain"), rel=1e-4)
