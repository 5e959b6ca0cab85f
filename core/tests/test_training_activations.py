"""Activation checkpointing: each mode gives the losses and gradients of a run without it, and keeps what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from swift.errors import ModelError
from swift.plan.estimate import MODES
from swift.training import activations
from swift.training.activations import checkpoint_activations
from swift.training.compiling import CompiledBlocks

RECOMPUTING = [mode for mode in MODES if mode != "off"]
VOCABULARY = 97


def small(model_type: str = "qwen3", *, dropout: float = 0.0, lora: bool = False, **extra: Any) -> nn.Module:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 160, "vocab_size": VOCABULARY, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
        "attention_dropout": dropout, **extra,
    }  # fmt: skip
    config = AutoConfig.for_model(model_type, **values)
    model: Any = AutoModelForCausalLM.from_config(config).train()
    if lora:
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", lora_dropout=dropout))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return model


def padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(3, 24, dtype=torch.long)
    mask[1, 17:] = mask[2, 5:] = 0
    return {"input_ids": torch.arange(72).reshape(3, 24) % VOCABULARY, "attention_mask": mask}


def packed() -> dict[str, torch.Tensor]:
    positions = torch.cat([torch.arange(n) for n in (31, 9, 24)])[None]
    return {"input_ids": (torch.arange(64)[None] * 7) % VOCABULARY, "position_ids": positions}


def step(model: nn.Module, batch: dict[str, torch.Tensor], autocast: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of two micro-batches, dropout drawn from one seed."""
    model.zero_grad()
    torch.manual_seed(7)
    total = 0.0
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(**batch, use_cache=False).logits
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).flatten().bool()
        labels = batch["input_ids"].roll(-1).flatten()[mask]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1)[mask].float(), labels, reduction="sum") / 64
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("batch", "autocast"), [(padded, False), (packed, True)], ids=["padded-float32", "packed-autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", RECOMPUTING)
def test_losses_and_gradients_are_those_of_the_plain_path(
    mode: str, lora: bool, dropout: float, batch: Any, autocast: bool
) -> None:
    want_loss, want = step(small(dropout=dropout, lora=lora), batch(), autocast)
    model = small(dropout=dropout, lora=lora)
    checkpoint_activations(model, mode)
    loss, gradients = step(model, batch(), autocast)
    assert loss == want_loss and gradients.keys() == want.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, want[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("mode", RECOMPUTING)
def test_models_of_other_makes_are_recomputed_block_by_block(mode: str) -> None:
    def plain() -> nn.Module:
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 128)) for _ in range(3)]
        return Blocks(blocks).train()

    def gradients(model: nn.Module) -> list[Any]:
        torch.manual_seed(3)
        model(torch.ones(5, 128)).square().sum().backward()
        return [p.grad for p in model.parameters()]

    model = plain()
    checkpoint_activations(model, mode)
    for got, want in zip(gradients(model), gradients(plain()), strict=True):
        assert torch.equal(got, want)


class Blocks(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="no list of blocks") as refused:
        checkpoint_activations(nn.Linear(2, 2), "selective")
    assert refused.value.fix == "--gradient_checkpointing off"


def test_evaluation_recomputes_nothing() -> None:
    model = small()
    checkpoint_activations(model, "full")
    found = []
    for one in (model.eval(), small().eval()):
        with counted() as calls:
            one(**padded(), use_cache=False).logits.sum().backward()
        found.append(calls)
    assert found[0] == found[1]


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Operator -> calls, forward and backward."""
    calls: dict[str, int] = {}

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = activations._name(function)
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **(kwargs or {}))

    with Counting():
        yield calls


def products(model: nn.Module) -> int:
    """Matrix products and attention kernels of a step."""
    with counted() as calls:
        step(model, packed())
    return sum(n for name, n in calls.items() if name in activations.PRODUCTS or name.startswith("_scaled_dot"))


def test_selective_computes_no_large_product_again_and_full_does() -> None:
    found = {}
    for mode in ("off", "selective", "full"):
        model = small()
        checkpoint_activations(model, mode)
        found[mode] = products(model)
    # 2 micro-batches of 3 blocks with 7 linear layers and attention; the last one's result is needed by nobody
    assert found["selective"] == found["off"]
    assert found["full"] == found["off"] + 2 * 3 * 7


def test_the_second_half_of_a_low_rank_adapter_is_computed_again() -> None:
    left, right = torch.ones(4, 8), torch.ones(8, 128)
    decided = activations.keep(None, torch.ops.aten.mm.default, left, right)
    assert decided is activations.CheckpointPolicy.PREFER_RECOMPUTE
    decided = activations.keep(None, torch.ops.aten.mm.default, torch.ones(4, 128), torch.ones(128, 8))
    assert decided is activations.CheckpointPolicy.PREFER_SAVE


def test_attention_with_dropout_is_computed_again() -> None:
    """Its random numbers would be missing before those of later dropouts."""
    q = torch.ones(1, 1, 4, 8)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert activations.keep(None, kernel, q, q, q, 0.0, True) is activations.CheckpointPolicy.PREFER_SAVE
    assert activations.keep(None, kernel, q, q, q, 0.1, True) is activations.CheckpointPolicy.PREFER_RECOMPUTE
    assert activations.keep(None, kernel, q, q, q, dropout_p=0.1) is activations.CheckpointPolicy.PREFER_RECOMPUTE


def test_attention_scores_are_computed_again_and_what_they_weigh_is_kept() -> None:
    scores = torch.ones(2, 512, 128), torch.ones(2, 128, 512)
    weighed = torch.ones(2, 512, 512), torch.ones(2, 512, 64)
    assert activations.keep(None, torch.ops.aten.bmm.default, *scores) is activations.CheckpointPolicy.PREFER_RECOMPUTE
    assert activations.keep(None, torch.ops.aten.bmm.default, *weighed) is activations.CheckpointPolicy.PREFER_SAVE


@pytest.mark.parametrize("mode", RECOMPUTING)
def test_compiled_blocks_are_recomputed_whole(mode: str) -> None:
    """torch's compiler writes over memory of results, which selective checkpointing would have kept."""
    want_loss, want = step(small(), packed())
    model = small()
    checkpoint_activations(model, mode)
    CompiledBlocks(model, torch.device("cpu"), backend="eager")
    hooks = {getattr(block, activations.HOOK).args[0] for block in model.model.layers}
    assert not [hook for hook in hooks if "context_fn" in getattr(hook, "keywords", {})]
    loss, gradients = step(model, packed())
    assert loss == pytest.approx(want_loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, want[name], msg=name)


def test_offloaded_inputs_are_fetched_one_block_ahead() -> None:
    order: list[str] = []

    class Noted(activations.Slot):
        def fetch(self) -> None:
            if self.host is not None:
                order.append(f"fetch {self.number}")
            super().fetch()

    made: list[Noted] = []
    before = None
    for number in range(3):
        slot = Noted(torch.full((2,), float(number), requires_grad=True), None, before)
        slot.number = number
        made.append(slot)
        before = activations.weakref.ref(slot)
    taken = made[2].take()
    assert order == ["fetch 2", "fetch 1"] and taken.requires_grad and taken.tolist() == [2.0, 2.0]
    assert made[1].take().tolist() == [1.0, 1.0] and order == ["fetch 2", "fetch 1", "fetch 0"]
    with pytest.raises(RuntimeError, match="another"):
        made[1].take()
