"""How to reach the loss in a causal language model.

Shapes: B rows of a batch, S positions, T positions that are scored, H hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swift.api.ops.losses import (
    IGNORED,
    MAX_TILE_VOCABULARY,
    label_indices,
    linear_cross_entropy,
    select_labels,
    token_log_probs,
    transform_logits,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderHead:
    """A causal language model, split before its output layer."""

    decoder: nn.Module
    """Called with the model's inputs, gives `last_hidden_state` [B, S, H]."""
    head: nn.Module
    """Last hidden states to raw logits."""
    softcap: float | None
    logit_scale: float | None

    @property
    def plain(self) -> bool:
        """The head is nothing but a matrix product, so its weight may be used without calling it."""
        return type(self.head) is nn.Linear and not (
            self.head._forward_hooks or self.head._forward_pre_hooks or "forward" in self.head.__dict__
        )


_SOFTCAPS = ("final_logit_softcapping",)
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISORS = ("logits_scaling",)
_OWN_FORWARD = ("XLORA", "SHADOW", "POLY", "CARTRIDGE")  # PEFT methods whose wrapper does more than call the base model


def decoder_and_head(model: nn.Module) -> DecoderHead | None:
    """Split a transformers causal LM (PEFT-wrapped or not) before its output layer.

    None where last hidden states are not the plain input of the head: prompt learning, a wrapper or an architecture that does
    more than is known here. The split is checked once per model: a forward pass over four tokens must hand the decoder's
    states to the head, and bend the head's output exactly as the config says.
    """
    cached = model.__dict__.get("_swift_decoder_head", False)
    if cached is False:
        cached = model.__dict__["_swift_decoder_head"] = _split(model)
    return cached


def _split(model: nn.Module) -> DecoderHead | None:
    inner = model
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            method = getattr(config.peft_type, "value", str(config.peft_type))
            if config.is_prompt_learning or method in _OWN_FORWARD or getattr(config, "alora_invocation_tokens", None):
                return None
        inner = model.get_base_model()
    decoder = getattr(inner, "base_model", None)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if not isinstance(decoder, nn.Module) or decoder is inner or head is None or not hasattr(inner, "config"):
        return None
    split = DecoderHead(decoder, head, *_logit_transform(inner.config))
    try:
        agrees = _agrees(model, split)
    except Exception as error:  # an architecture that cannot be called like this takes the general path
        _logger.debug("%s cannot be split before its head: %s", type(inner).__name__, error)
        return None
    return split if agrees else None


def _logit_transform(config: Any) -> tuple[float | None, float | None]:
    text = config.get_text_config()
    softcap = next((float(value) for name in _SOFTCAPS if (value := getattr(text, name, None))), None)
    scale = 1.0
    for name in _FACTORS:
        value = getattr(text, name, None)
        scale *= value if isinstance(value, (int, float)) else 1.0
    for name in _DIVISORS:
        scale /= getattr(text, name, None) or 1.0
    return softcap, None if scale == 1.0 else scale


@torch.no_grad()
def _agrees(model: nn.Module, split: DecoderHead) -> bool:
    seen: dict[str, Tensor] = {}

    def swap_logits(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Steep made-up logits: those of a fresh model are so small that a forgotten softcap would not show.
        seen["states"] = inputs[0]
        seen["logits"] = torch.linspace(-80, 80, output.numel(), device=output.device).view(output.shape).to(output.dtype)
        return seen["logits"]

    device = next(model.parameters()).device
    tokens = torch.arange(4, device=device)[None]
    handle = split.head.register_forward_hook(swap_logits)
    try:
        with evaluating(model):
            got = model(input_ids=tokens, use_cache=False).logits
            handle.remove()
            states = split.decoder(input_ids=tokens, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    expected = transform_logits(seen["logits"], softcap=split.softcap, logit_scale=split.logit_scale)
    tolerance = 1e-5 if got.dtype == torch.float32 and seen["logits"].dtype == torch.float32 else 2e-2
    return (
        states.shape == seen["states"].shape
        and torch.allclose(states.float(), seen["states"].float(), rtol=tolerance, atol=tolerance)
        and got.shape == expected.shape
        and torch.allclose(got.float(), expected, rtol=tolerance, atol=tolerance)
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for as long as the context is open; then each module is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def next_token_loss(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    *,
    memory_budget: int,
    loss_weight: Tensor | None = None,
    label_positions: Tensor | None = None,
) -> Tensor:
    """Sum of the cross entropy of a causal LM over `labels` [B, S] (already shifted; -100 is not scored), 0-d float32.

    Args:
        memory_budget: As in `label_log_probs`.
        loss_weight: [B, S], factor per label.
        label_positions: As in `select_labels`.
    """
    positions = label_indices(labels) if label_positions is None else label_positions
    split = decoder_and_head(model)
    if split is not None and split.plain:
        return linear_cross_entropy(
            _states(split, inputs), split.head.weight, labels, memory_budget=memory_budget, loss_weight=loss_weight,
            bias=split.head.bias, softcap=split.softcap, logit_scale=split.logit_scale, label_positions=positions,
        )  # fmt: skip
    losses = -label_log_probs(model, inputs, labels, memory_budget=memory_budget, label_positions=positions)
    return (losses if loss_weight is None else losses * loss_weight.float()).sum()


def label_log_probs(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    labels: Tensor,
    *,
    memory_budget: int,
    label_positions: Tensor | None = None,
) -> Tensor:
    """[B, S] float32: log-probability of each of `labels` [B, S] (already shifted) under a causal LM; 0 where it is -100.

    Logits are made only where there are labels: by tiles within `memory_budget` bytes where the model can be split before its
    head, by chunks of tokens where the head is more than a matrix (LoRA on it, quantized), else from the model's own logits.

    Args:
        label_positions: As in `select_labels`.
    """
    positions = label_indices(labels) if label_positions is None else label_positions
    log_probs = _selected_log_probs(model, inputs, labels, positions, memory_budget)
    whole = log_probs.new_zeros(labels.numel()).index_copy(0, positions, log_probs).view(labels.shape)
    return whole if label_positions is None else whole.masked_fill(labels == IGNORED, 0.0)


def _states(split: DecoderHead, inputs: Mapping[str, Tensor]) -> Tensor:
    """Last hidden states [B, S, H], as a plain head takes them."""
    hidden: Tensor = split.decoder(**inputs, use_cache=False).last_hidden_state
    return hidden.to(split.head.weight.dtype) if split.plain else hidden


def _selected_log_probs(
    model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, positions: Tensor, memory_budget: int
) -> Tensor:
    """[T] float32: log-probabilities of the labels, row by row."""
    split = decoder_and_head(model)
    if split is None:
        logits, tokens = _own_logits(model, inputs, labels, positions)
        return -F.cross_entropy(logits.float(), tokens.clamp(min=0), reduction="none")
    hidden, tokens, _ = select_labels(_states(split, inputs), labels, None, positions)
    tokens = tokens.clamp(min=0)
    if split.plain:
        return token_log_probs(
            hidden, split.head.weight, tokens, memory_budget=memory_budget,
            bias=split.head.bias, softcap=split.softcap, logit_scale=split.logit_scale,
        )  # fmt: skip

    def of_chunk(hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = transform_logits(split.head(hidden), softcap=split.softcap, logit_scale=split.logit_scale)
        return -F.cross_entropy(logits, tokens, reduction="none")

    vocabulary = getattr(split.head, "out_features", None) or MAX_TILE_VOCABULARY
    size = max(memory_budget // (4 * vocabulary), 1)
    if len(tokens) <= size:
        return of_chunk(hidden, tokens)
    chunks = zip(hidden.split(size), tokens.split(size), strict=True)
    return torch.cat([checkpoint(of_chunk, *chunk, use_reentrant=False) for chunk in chunks])


def _own_logits(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The model's own logits [T, V] at the labels, with these."""
    prompt_learning = any(c.is_prompt_learning for c in getattr(model, "peft_config", {}).values())
    if prompt_learning:  # PEFT numbers the positions itself, virtual tokens included, and warns about given ones
        inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    if labels.shape[0] == 1 and not prompt_learning and "logits_to_keep" in _forward_parameters(model):
        logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
        return logits[0], labels[0].index_select(0, positions)
    logits = model(**inputs, use_cache=False).logits
    # Virtual tokens come first.
    return select_labels(logits[:, logits.shape[1] - labels.shape[1] :], labels, None, positions)[:2]


def _forward_parameters(model: nn.Module) -> Mapping[str, Any]:
    inner: Callable[..., Any] = (model.get_base_model() if hasattr(model, "get_base_model") else model).forward
    return inspect.signature(inner).parameters
