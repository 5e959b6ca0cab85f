"""The arithmetic of utilisation, of what fits, and of what would save memory; against torch's own counts and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from swift.data.batches import StepLoader, Units
from swift.data.packing import Groups
from swift.plan import estimate as est
from swift.plan import fit, work
from swift.plan.plan import Component, Plan
from swift.plan.shapes import shapes_of
from swift.training.memory import LongestFirst, costliest, held, kept_for_backward

GIB = 2**30
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    "tie_word_embeddings": False, "max_position_embeddings": 40960,
}  # fmt: skip
CONFIG = {"train": {"gradient_accumulation_steps": 4}, "data": {"batching": "auto"}}
DEVICE = Component("device", "d", "m:C", spec={"name": "d", "impl": "m:C", "facts": {"device.dtypes": ["bfloat16", "float32"]}})


def model(lora: bool) -> tuple[Any, est.Setup]:
    config = AutoConfig.for_model(
        "qwen3", hidden_size=64, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=192, vocab_size=320, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    shapes = shapes_of(json.loads(config.to_json_string()))
    built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if not lora:
        return built, est.Setup(shapes, "float32")
    adapter = est.adapter_size(shapes, {"rank": 4, "target_modules": ["all-linear"]})
    return get_peft_model(built, LoraConfig(r=4, target_modules="all-linear")), est.Setup(
        shapes, "float32", adapters=True, adapter=adapter
    )


@pytest.mark.parametrize("lora", [False, True])
def test_model_flops_are_those_that_torch_counts(lora: bool) -> None:
    """Forward and backward of a real model, its matrix products counted by torch. With LoRA the first layer's inputs need no
    gradient, which the formula leaves aside."""
    built, setup = model(lora)
    with FlopCounterMode(display=False) as counter:
        built(input_ids=torch.arange(128)[None] % 320, labels=torch.arange(128)[None] % 320).loss.backward()
    assert work.model_flops(setup, 128) * 128 == pytest.approx(counter.get_total_flops(), rel=0.03 if lora else 0.005)


def test_the_formula_by_hand() -> None:
    setup = est.Setup(shapes_of(QWEN3_8B), "bfloat16")
    n = 8_190_735_360 - 151936 * 4096
    assert work.matrix_parameters(setup) == n
    assert work.model_flops(setup, 1000) == 6 * n + 12 * 36 * 4096 * 1000
    lora = replace(setup, adapters=True, adapter=est.AdapterSize(16, (), whole=1_000_000))
    assert work.model_flops(lora, 0) == 4 * n + 6_000_000


def test_the_largest_micro_batches_that_fit_keep_the_rows_of_a_step() -> None:
    setup = est.Setup(shapes_of(QWEN3_8B), "bfloat16", adapters=True, tokens=2048 * 2, batch_size=2, span=2048)
    measured = {"weights": 16 * GIB, "activations": 2 * est.activations(setup), "logits, temporaries": 2 * est.logits(setup)}
    calibrated = fit.calibrate(setup, measured)
    assert calibrated.ratio == pytest.approx(2.0) and calibrated.fixed == 16 * GIB
    ways = fit.fits(calibrated, rows=12, budget=80 * GIB)
    assert ways and all(way.batch_size * way.accumulation == 12 for way in ways)
    assert all(way.total <= 0.9 * 80 * GIB for way in ways)
    plain = [way.batch_size for way in ways if way.checkpointing == "off"]
    assert plain == sorted(plain, reverse=True) and max(plain) < 12
    one_more = replace(setup, tokens=2048 * min(n for n in (1, 2, 3, 4, 6, 12) if n > max(plain)))
    assert calibrated.total(one_more) > 0.9 * 80 * GIB
    assert max(way.batch_size for way in ways if way.checkpointing == "full") == 12
    assert not fit.fits(calibrated, rows=12, budget=8 * GIB)
    lengths = [fit.longest_row(calibrated, budget=80 * GIB, checkpointing=mode) for mode in fit.modes(setup)]
    assert 2048 * max(plain) // 2 < lengths[0] and sorted(set(lengths)) == lengths and len(lengths) == 4
    assert fit.longest_row(calibrated, budget=8 * GIB, checkpointing="off") == 0
    assert "offload" not in fit.modes(replace(setup, host=True))


def test_savings_come_largest_first_and_keep_the_global_batch() -> None:
    setup = est.Setup(shapes_of(QWEN3_8B), "float32", tokens=4 * 8192, batch_size=4, span=8192)
    plan = Plan("sft", CONFIG, components={"device": DEVICE})
    found = fit.savings(plan, setup, limit=80 * GIB)
    assert [s.bytes for s in found] == sorted((s.bytes for s in found), reverse=True)
    flags = [s.flag for s in found]
    assert "--tuner lora" in flags and "--gradient_checkpointing full" in flags and "--dtype bfloat16" in flags
    assert "--batch_size 1 --gradient_accumulation_steps 16" in flags and "--max_length 4096" in flags
    assert "--batch_size 2 --gradient_accumulation_steps 8" in [s.flag for s in fit.savings(plan, setup)]
    going_on = [s.flag for s in fit.savings(plan, setup, resuming=True)]
    assert [flag.split()[0] for flag in going_on] == ["--gradient_checkpointing", "--batch_size"]


def test_each_saving_is_what_the_estimate_says() -> None:
    setup = est.Setup(shapes_of(QWEN3_8B), "float32", tokens=8192, batch_size=1, span=8192)
    plan = Plan("sft", CONFIG, components={"device": DEVICE})
    by_flag = {s.flag: s.bytes for s in fit.savings(plan, setup)}
    less = est.memory(setup).total - est.memory(replace(setup, checkpointing="full")).total
    assert by_flag["--gradient_checkpointing full"] == less


def test_the_mode_is_suggested_that_computes_least_again_and_fits() -> None:
    setup = est.Setup(shapes_of(QWEN3_8B), "bfloat16", adapters=True, tokens=8192, batch_size=1, span=8192)
    plan = Plan("sft", CONFIG, components={"device": DEVICE})

    def suggested(limit: int) -> str:
        return next(s.flag for s in fit.savings(plan, setup, limit=limit) if s.flag.startswith("--gradient_checkpointing"))

    needs = {mode: est.memory(replace(setup, checkpointing=mode)).total for mode in est.MODES}
    assert needs["off"] > needs["selective"] > needs["full"] > needs["offload"]
    for mode in ("selective", "full", "offload"):
        assert suggested(round(needs[mode] / fit.FULL) + 1) == f"--gradient_checkpointing {mode}"
    # where the estimate of the run as it is would fit, it was too low
    assert suggested(2 * needs["off"]) == "--gradient_checkpointing full"


@pytest.mark.parametrize(("micro", "rows", "want"), [(8, 16, 4), (3, 12, 1), (6, 12, 3), (5, 10, 2), (2, 6, 1), (1, 8, 0)])
def test_the_next_smaller_micro_batch_divides_the_rows(micro: int, rows: int, want: int) -> None:
    assert fit.next_smaller(micro, rows) == want


class Rows:
    lengths = np.array([5, 30, 7, 12, 29, 6, 8, 11], np.int32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        length = int(self.lengths[index])
        return np.full(length, index), np.ones(length, np.float32)

    def segments(self, index: int) -> np.ndarray:
        return np.array([self.lengths[index]])

    def values(self, index: int) -> dict[str, float]:
        return {}


def test_the_longest_rows_come_first_and_then_all_as_ever() -> None:
    plain = StepLoader(Rows(), Units("padded", Groups.singles(8), ""), micro_batch=2, accumulation=2)
    longest = LongestFirst.before(plain, 2)
    for step in (0, 1):
        assert {int(i) for batch in longest.step(step) for i in batch.inputs["input_ids"].unique()} - {0} == {1, 3, 4, 7}
    for step in range(3):
        for a, b in zip(longest.step(2 + step), plain.step(step), strict=True):
            assert torch.equal(a.labels, b.labels)
    assert costliest(plain).labels.shape == (2, 30)


def test_what_is_held_and_kept_is_counted_once() -> None:
    tied = torch.nn.Linear(4, 4, bias=False)
    other = torch.nn.Linear(4, 4, bias=False)
    other.weight = tied.weight
    both = torch.nn.Sequential(tied, other)
    assert held(both, None, adapters=False) == {"weights": 64}
    assert held(both, None, adapters=True) == {"adapters": 64}
    optimizer = torch.optim.AdamW(both.parameters())
    with kept_for_backward(both) as kept:
        out = both(torch.ones(8, 4))
    assert sum(kept.values()) == 2 * 8 * 4 * 4  # the input, and what is between
    out.sum().backward()
    optimizer.step()
    assert held(both, optimizer, adapters=False) == {"weights": 64, "gradients": 64, "optimizer": 2 * 64 + 4}
