"""Bytes that live in a forward and a backward pass, counted tensor by tensor, and the planner's estimate beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from means_runs import piece
from transformers import AutoConfig, AutoModelForCausalLM

from swift.plan import estimate as est
from swift.plan.shapes import shapes_of
from swift.training.activations import checkpoint_activations
from swift.training.in_backward import InBackward
from swift.training.memory import Alive

MIB = 2**20


def loaded(folder: Path, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").train()


def tuned(folder: Path, lora: dict[str, Any] | None, dtype: str) -> tuple[Any, Any]:
    """(the model as its tuner makes it, its decoder without the output layer)."""
    plain = loaded(folder, dtype)
    model = piece("tuner", "full").apply(plain, seed=0) if lora is None else piece("tuner", "lora", **lora).apply(plain, seed=0)
    return model, plain.model


def states(decoder: Any, tokens: int) -> torch.Tensor:
    ids = torch.arange(tokens)[None] % decoder.config.vocab_size
    hidden: torch.Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def kept(folder: Path, *, lora: dict[str, Any], tokens: int, dtype: str) -> float:
    """MiB that live after the forward pass of one row, without those of the output layer."""
    model, decoder = tuned(folder, lora, dtype)
    with Alive(model.parameters()) as alive:
        hidden = states(decoder, tokens)
        assert hidden.requires_grad
        return mib(alive.bytes())


def activations(folder: Path, *, lora: dict[str, Any] | None, mode: str, tokens: int) -> dict[str, Any]:
    """MiB of activations of one row in float32, without those of the output layer.

    Returns:
        kept: That live after the forward pass.
        most: At most in the backward pass, gradients of weights dropped as they come.
        estimate: The planner's, of that most.
    """
    model, decoder = tuned(folder, lora, "float32")
    checkpoint_activations(model, mode)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(dropped)
    with Alive(model.parameters()) as alive:
        hidden = states(decoder, tokens)
        after, alive.most = alive.bytes(), 0
        hidden.sum().backward()
    shapes = shapes_of(AutoConfig.from_pretrained(folder).to_dict())
    setup = est.Setup(
        shapes=shapes, dtype="float32", tokens=tokens, span=tokens, host=True, checkpointing=mode, adapters=lora is not None,
        adapter=est.adapter_size(shapes, lora) if lora is not None else None,
    )  # fmt: skip
    return {"kept": mib(after), "most": mib(alive.most), "estimate": mib(est.activations(setup))}


def dropped(parameter: torch.Tensor) -> None:
    parameter.grad = None


def in_backward(folder: Path, *, tokens: int = 8) -> dict[str, float]:
    """MiB that live at most in a step's backward pass of a few tokens, all weights training: gradients, for the most part."""
    found = {}
    for name in ("plain", "in_backward"):
        model, decoder = tuned(folder, None, "float32")
        factory = piece("optimizer", "adamw")
        optimizer = factory.build([{"params": list(decoder.parameters()), "lr": 1e-4, "weight_decay": 0.0}])
        if name == "in_backward":
            InBackward(optimizer, torch.device("cpu"), names={id(p): n for n, p in model.named_parameters()})
        states(decoder, tokens).sum().backward()  # the optimizer's state is there from now on
        optimizer.step()
        optimizer.zero_grad()
        hidden = states(decoder, tokens)
        with Alive(model.parameters()) as alive:
            hidden.sum().backward()
        found[name] = mib(alive.most)
    return found


def mib(size: int) -> float:
    return round(size / MIB, 2)
