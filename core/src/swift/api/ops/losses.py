"""The loss over a large vocabulary.

Shapes: T positions that are scored, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Label of a position that is not scored."""

_MAX_TILE_TOKENS, MAX_TILE_VOCABULARY = 4096, 32768
_MIN_TILE_TOKENS, _MIN_TILE_ELEMENTS = 64, 1 << 14
_BYTES_PER_LOGIT = 8  # a tile lives twice in float32: the logits and one temporary
_MIN_CHUNK_TOKENS = 64
_MAX_CHUNK_TOKENS_CPU = 256  # measured: as fast as one piece, which may be many times larger
_MIN_CHUNK_TOKENS_TRAINED = 512  # each chunk reads and writes the weight's whole gradient, which only large ones are worth
_MM_FLOAT32_OUT = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    memory_budget: int,
    loss_weight: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
    label_positions: Tensor | None = None,
) -> Tensor:
    """Sum of the cross entropy over the labels that are not -100, without logits for the others.

    Gradients are computed in the forward pass, so that no logits are kept and none are computed twice; the backward pass
    scales them.

    Args:
        hidden: [T, H], any floating dtype; the matrix product runs in it.
        weight: [V, H] of the output layer.
        labels: [T], the token that each position must predict, or -100.
        memory_budget: Bytes that logits may take at once, in one piece or in chunks of labels. Where it is too little for
            chunks worth a matrix product, logits are made in tiles that the backward pass computes again.
        loss_weight: [T], factor per label.
        bias: [V].
        softcap: Logits become `softcap * tanh(logits / softcap)` (Gemma 2), after scaling.
        logit_scale: Factor on the logits (Cohere; Granite has its inverse).
        label_positions: As in `select_labels`.

    Returns:
        0-d float32 (float64 for such states). Without any label a zero that is still connected to `hidden`, `weight` and
        `bias`, so that ranks which wait for gradients do not hang.
    """
    hidden, tokens, loss_weight = select_labels(hidden, labels, loss_weight, label_positions)
    if label_positions is not None:  # whoever took labels out of the batch has left the positions as they were
        scored = tokens != IGNORED
        tokens, loss_weight = tokens.clamp(min=0), scored.float() if loss_weight is None else loss_weight * scored
    size = _chunk_tokens(hidden, weight, softcap, memory_budget)
    if not size or (loss_weight is not None and loss_weight.requires_grad):
        log_probs = token_log_probs(
            hidden, weight, tokens, memory_budget=memory_budget, bias=bias, softcap=softcap, logit_scale=logit_scale
        )
        return (-log_probs if loss_weight is None else -log_probs * loss_weight.float()).sum()
    scale = 1.0 if logit_scale is None else float(logit_scale)
    return _ChunkedLoss.apply(hidden, weight, bias, tokens, loss_weight, softcap, scale, size, torch.is_grad_enabled())


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    memory_budget: int,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
) -> Tensor:
    """[T] float32: log-probability of each of `tokens` [T] under the softmax over `hidden @ weight.T`.

    The arguments are those of `linear_cross_entropy`.
    """
    scale = 1.0 if logit_scale is None else float(logit_scale)
    if hidden.shape[0] * weight.shape[0] * 4 <= memory_budget:
        logits = transform_logits(F.linear(hidden, weight, bias), softcap=softcap, logit_scale=scale)
        return -F.cross_entropy(logits, tokens, reduction="none")
    return _TiledLogProbs.apply(hidden, weight, bias, tokens, softcap, scale, memory_budget)


def transform_logits(logits: Tensor, *, softcap: float | None, logit_scale: float | None) -> Tensor:
    """Raw logits in any dtype to those of the softmax, in float32 (float64 stays)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logit_scale is not None and logit_scale != 1.0:
        logits = logits * logit_scale
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def select_labels(
    hidden: Tensor, labels: Tensor, loss_weight: Tensor | None, label_positions: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of `hidden` [..., H] that have a label [...], with label and weight: [T, H], [T], [T].

    Args:
        label_positions: [T], where labels stand in the flattened [...]; `Batch.label_positions` has it. None: the device is
            asked, which waits for it. What stands there without a label comes with -100.
    """
    rows = label_indices(labels) if label_positions is None else label_positions
    labels = labels.reshape(-1)
    return (
        hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows),
        labels.index_select(0, rows),
        None if loss_weight is None else loss_weight.reshape(-1).index_select(0, rows),
    )


def label_indices(labels: Tensor) -> Tensor:
    return (labels.reshape(-1) != IGNORED).nonzero().squeeze(-1)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _chunk_tokens(hidden: Tensor, weight: Tensor, softcap: float | None, memory_budget: int) -> int:
    """Labels of one chunk over the whole vocabulary; 0 where tiles serve better."""
    narrow = _compute_dtype(hidden)
    wide = torch.promote_types(narrow, torch.float32)
    bytes_per_logit = wide.itemsize * (2 if softcap else 1) + (narrow.itemsize if narrow != wide else 0)
    size = memory_budget // (bytes_per_logit * len(weight))
    trained = weight.requires_grad and torch.is_grad_enabled()
    if trained and weight.dtype != wide:  # chunks would round the sum of their gradients again and again
        return max(len(hidden), 1) if size >= len(hidden) else 0
    if weight.is_cpu:
        size = min(size, _MAX_CHUNK_TOKENS_CPU)
    least = _MIN_CHUNK_TOKENS_TRAINED if trained and not weight.is_cpu else _MIN_CHUNK_TOKENS
    return max(min(size, len(hidden)), 1) if size >= min(least, len(hidden)) else 0


def _tile(num_tokens: int, vocabulary: int, memory_budget: int) -> tuple[int, int]:
    """Tokens and vocabulary entries of one tile: wide first, since few long matrix products are fastest."""
    elements = max(memory_budget // _BYTES_PER_LOGIT, _MIN_TILE_ELEMENTS)
    width = min(vocabulary, MAX_TILE_VOCABULARY, max(elements // min(num_tokens, _MIN_TILE_TOKENS), 1))
    return min(num_tokens, _MAX_TILE_TOKENS, max(elements // width, 1)), width


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b` in float32. Rounding each tile's product to bfloat16 first biases training (TRL, chunked_logprob)."""
    if _MM_FLOAT32_OUT and total.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


class _ChunkedLoss(torch.autograd.Function):
    """Sum of the cross entropy with its gradients computed beside it, chunk by chunk of labels.

    The idea is that of Liger Kernel (Hsu et al. 2024, arXiv:2410.10989, section 3.2, fused linear cross entropy). Here the
    gradient is of the sum, and what the caller divides by comes in by the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, loss_weight: Tensor | None,
                softcap: float | None, scale: float, size: int, differentiate: bool) -> Tensor:  # fmt: skip
        ctx.dtype, ctx.softcap, ctx.scale = _compute_dtype(hidden), softcap, scale
        wide = torch.promote_types(ctx.dtype, torch.float32)
        needs_hidden, needs_weight, needs_bias = (differentiate and needed for needed in ctx.needs_input_grad[:3])
        total = torch.zeros((), device=hidden.device, dtype=wide)
        matrix = weight.to(ctx.dtype)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros(weight.shape, device=weight.device, dtype=wide) if needs_weight and size < len(tokens) else None
        d_bias = torch.zeros(len(weight), device=weight.device, dtype=wide) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(tokens), size):
                rows = slice(start, start + size)
                chunk, index = hidden[rows].to(ctx.dtype), tokens[rows, None]
                logits, slope = _logits(ctx, chunk, matrix, bias, 0, len(matrix))
                top, own = logits.amax(1, keepdim=True), logits.gather(1, index)
                z = logits.sub_(top).exp_().sum(1, keepdim=True)
                losses = z.log() + top - own
                factor = torch.ones_like(z) if loss_weight is None else loss_weight[rows, None].to(wide)
                total += (losses * factor).sum()
                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                factor = factor * scale
                d_logits = logits.mul_(factor / z).scatter_add_(1, index, -factor)
                if slope is not None:
                    d_logits.mul_(slope)
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_logits = d_logits.to(ctx.dtype)
                del logits, slope
                if d_hidden is not None:
                    d_hidden[rows] = d_logits @ matrix
                if d_weight is not None:
                    _add_product(d_weight, d_logits.t(), chunk)
                elif needs_weight:
                    d_weight = d_logits.t() @ chunk
            if needs_weight and d_weight is None:  # no label
                d_weight = torch.zeros_like(weight)
        ctx.save_for_backward(
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keep = _graph_is_kept()
        scaled = [None if d is None else _scale(d.clone() if keep else d, grad) for d in ctx.saved_tensors]
        return (*scaled, *[None] * 6)


def _graph_is_kept() -> bool:
    """Whether the backward pass at work leaves the graph for another one, which then needs what was saved as it is."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def _scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """In place. Of 16-bit gradients it is the product that is rounded, not the factor, by which all would be wrong alike."""
    if gradient.dtype.itemsize >= 4:
        return gradient.mul_(factor)
    for part in gradient.split(max((16 << 20) // max(gradient[:1].numel(), 1), 1)):
        part.copy_(part.float().mul_(factor))
    return gradient


class _TiledLogProbs(torch.autograd.Function):
    """Online logsumexp over token x vocabulary tiles; the backward pass makes each tile again.

    The scheme is that of TRL 1.16 (`trl/kernels/chunked_logprob.py`). Here the backward pass walks the vocabulary in its outer
    loop, so that only one strip of the weight's gradient is held in float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, softcap: float | None,
                scale: float, memory_budget: int) -> Tensor:  # fmt: skip
        ctx.dtype, ctx.softcap, ctx.scale = _compute_dtype(hidden), softcap, scale
        ctx.tile = num_tokens, width = _tile(len(tokens), len(weight), memory_budget)
        log_z = torch.empty(len(tokens), device=hidden.device, dtype=torch.promote_types(ctx.dtype, torch.float32))
        target = torch.empty_like(log_z)
        for rows in torch.arange(len(tokens), device=hidden.device).split(num_tokens):
            chunk = hidden[rows].to(ctx.dtype)
            top = log_z.new_full((len(rows),), -torch.inf)
            total, own = torch.zeros_like(top), torch.zeros_like(top)
            for start in range(0, len(weight), width):
                logits, _ = _logits(ctx, chunk, weight, bias, start, width)
                index = tokens[rows] - start
                inside = (index >= 0) & (index < logits.shape[1])
                found = logits.gather(1, index.clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
                own = torch.where(inside, found, own)
                new_top = torch.maximum(top, logits.amax(1))
                total = total * torch.exp(top - new_top) + logits.sub_(new_top[:, None]).exp_().sum(1)
                top = new_top
            log_z[rows] = top + total.log()
            target[rows] = own
        ctx.save_for_backward(hidden, weight, bias, tokens, log_z)
        return target - log_z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, log_z = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        num_tokens, width = ctx.tile
        d_hidden = log_z.new_zeros(hidden.shape) if needs_hidden else None
        d_weight = torch.empty_like(weight) if needs_weight else None
        d_bias = torch.empty_like(bias) if needs_bias else None
        for start in range(0, len(weight), width):
            strip = weight[start : start + width].to(ctx.dtype)
            d_strip = log_z.new_zeros(strip.shape) if needs_weight else None
            d_strip_bias = log_z.new_zeros(len(strip)) if needs_bias else None
            for first in range(0, len(tokens), num_tokens):
                rows = slice(first, first + num_tokens)
                chunk = hidden[rows].to(ctx.dtype)
                logits, slope = _logits(ctx, chunk, weight, bias, start, width)
                d_logits = logits.sub_(log_z[rows, None]).exp_().neg_()  # -p
                index = tokens[rows] - start
                inside = (index >= 0) & (index < len(strip))
                d_logits.scatter_add_(1, index.clamp(0, len(strip) - 1)[:, None], inside[:, None].to(d_logits.dtype))
                d_logits.mul_(grad[rows, None] * ctx.scale)
                if slope is not None:
                    d_logits.mul_(slope)
                if d_strip_bias is not None:
                    d_strip_bias += d_logits.sum(0)
                d_logits = d_logits.to(ctx.dtype)
                if d_hidden is not None:
                    _add_product(d_hidden[rows], d_logits, strip)
                if d_strip is not None:
                    _add_product(d_strip, d_logits.t(), chunk)
            if d_weight is not None:
                d_weight[start : start + width] = d_strip
            if d_bias is not None:
                d_bias[start : start + width] = d_strip_bias
        return (None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None, None)


def _logits(
    ctx: Any, chunk: Tensor, weight: Tensor, bias: Tensor | None, start: int, width: int
) -> tuple[Tensor, Tensor | None]:
    """One tile in float32, free to be overwritten, and d(capped)/d(uncapped)."""
    part = slice(start, start + width)
    logits = F.linear(chunk, weight[part].to(ctx.dtype), None if bias is None else bias[part].to(ctx.dtype))
    logits = logits.to(torch.promote_types(ctx.dtype, torch.float32))
    if ctx.scale != 1.0:
        logits.mul_(ctx.scale)
    if not ctx.softcap:
        return logits, None
    bent = logits.div_(ctx.softcap).tanh_()
    slope = bent.square().neg_().add_(1)
    return bent.mul_(ctx.softcap), slope
