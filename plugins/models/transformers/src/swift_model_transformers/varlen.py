"""`torch_varlen`: attention over documents that share a row, without a mask.

On CUDA by torch's own variable-length kernel (`torch.nn.attention.varlen`, torch 2.10 and later), elsewhere each document by
itself through the kernel of sdpa. Bounds of the documents come with the model's inputs, under the names that transformers has
for FlashAttention: `cu_seq_lens_q` int32 [documents + 1] and `max_length_q`. Without them (padded batches, generation with a
cache) everything goes the way of sdpa, mask included.

Shapes: T tokens of the row, a heads of queries, k heads of keys and values, d head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

TORCH_VARLEN = "torch_varlen"

try:
    from torch.nn.attention.varlen import varlen_attn

    _KERNEL = frozenset(inspect.signature(varlen_attn).parameters)
except ImportError:  # before torch 2.10
    varlen_attn, _KERNEL = None, frozenset()

_UNKNOWN_BENDS = ("softcap", "s_aux", "position_bias")
"""What some models ask of an attention that cannot be done here."""


def varlen_fault(config: Any, model_class: Any, device: str, *, half: bool) -> str:
    """Why a model cannot use it; "" where it can.

    Args:
        device: Type of the torch device.
        half: Queries, keys and values have 16 bits.
    """
    text = config.get_text_config()
    if not (getattr(model_class, "_supports_sdpa", False) and getattr(model_class, "_supports_attention_backend", False)):
        return f"{model_class.__name__} does not take attention from outside"
    for name, what in (
        ("attn_logit_softcapping", "a softcap"), ("attention_chunk_size", "chunks"), ("use_bidirectional_attention", "no order")
    ):  # fmt: skip
        if getattr(text, name, None):
            return f"its attention has {what}"
    if device != "cuda":
        return ""
    if varlen_attn is None:
        return f"torch {torch.__version__} has no variable-length kernel (2.10 has)"
    if not half:
        return "the kernel needs a 16-bit dtype"
    if getattr(text, "attention_dropout", 0):
        return "the kernel knows no dropout, and the model has attention_dropout"
    if getattr(text, "sliding_window", None) and "window_size" not in _KERNEL:
        return f"the kernel of torch {torch.__version__} knows no sliding window"
    sizes = {size for name in ("head_dim", "v_head_dim") if (size := getattr(text, name, None))}
    if getattr(text, "qk_nope_head_dim", None):
        sizes |= {text.qk_nope_head_dim + text.qk_rope_head_dim}
    if len(sizes) > 1 or any(size > 256 or size % 8 for size in sizes):
        return f"the kernel does not know heads of sizes {sorted(sizes)}"
    return ""


def without_mask(model: nn.Module) -> None:
    """Spare the decoder of `model` the mask [S, S] wherever bounds come with the inputs (and the wait for the device by which
    transformers finds out whether it needs one)."""
    decoder = model.base_model
    if _spare_mask not in decoder._forward_pre_hooks.values():
        decoder.register_forward_pre_hook(_spare_mask, with_kwargs=True)


def _spare_mask(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None or kwargs.get("attention_mask") is not None or kwargs.get("past_key_values") is not None:
        return None
    if decoder.config._attn_implementation != TORCH_VARLEN:
        return None
    # A mask of four dimensions is handed on as it is.
    return args, {**kwargs, "attention_mask": bounds.new_empty((1, 1, 0, 0), dtype=torch.bool)}


def attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, dropout: float = 0.0,
    scaling: float | None = None, sliding_window: int | None = None, cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """As transformers calls it: query [1, a, T, d], key and value [1, k, T, d]; returns [1, T, a, d].

    Raises:
        ValueError: The model asks for something that would silently be left out.
    """
    bent = [name for name in _UNKNOWN_BENDS if kwargs.get(name) is not None]
    if bent or not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        raise ValueError(f"{TORCH_VARLEN} knows no {', '.join(bent) or 'attention to what comes later'}")
    spared = attention_mask is not None and attention_mask.numel() == 0
    if cu_seq_lens_q is None or not spared:
        if spared:
            raise ValueError(f"{type(module).__name__} does not hand bounds of documents on to its attention")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    longest = q.shape[0] if max_length_q is None else max_length_q
    window = sliding_window if sliding_window and sliding_window < longest else None
    out = varlen(q, k, v, cu_seq_lens_q, longest, scale=scaling, window=window, dropout=dropout)
    return out[None], None


def varlen(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, *, scale: float | None = None, window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:  # fmt: skip
    """Causal attention within each document.

    Args:
        q, k, v: [T, a, d], [T, k, d], [T, k, d].
        bounds: int32 [documents + 1] from 0 to T; documents may be empty.
        longest: Tokens of the longest document, or more.
        window: Tokens that each one sees, itself included; None: all before it.

    Returns:
        [T, a, d].
    """
    if q.is_cuda and varlen_attn is not None and v.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return _by_kernel(q, k, v, bounds, longest, scale=scale, window=window)
    if q.device.type == "cpu" and _FLASH_ON_CPU and window is None and not dropout and q.shape[-1] == v.shape[-1]:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else v.dtype
        if not _GROUPS_ON_CPU:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        return _each_on_cpu(*(_by_heads(t.to(dtype)) for t in (q, k, v)), bounds, scale)[0].transpose(0, 1)
    return _one_by_one(q, k, v, bounds, scale=scale, window=window, dropout=dropout)


@torch.compiler.disable  # how the documents are cut is data, and would compile anew for each batch
def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, *, scale: float | None, window: int | None, dropout: float
) -> Tensor:
    sizes = bounds.diff().tolist()
    parts = zip(*(t.split(sizes) for t in (q, k, v)), strict=True)
    return torch.cat([_alone(*part, scale=scale, window=window, dropout=dropout) for part in parts if len(part[0])])


def _by_kernel(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, *, scale: float | None, window: int | None
) -> Tensor:
    # Under autocast a norm with float32 weights hands on float32 queries and keys.
    q, k = q.to(v.dtype), k.to(v.dtype)
    options: dict[str, Any] = {}
    if "window_size" in _KERNEL:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        options["is_causal"] = True
    if "enable_gqa" in _KERNEL:
        options["enable_gqa"] = True
    else:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    if "scale" in _KERNEL:
        options["scale"] = scale
    elif scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)  # the kernel's own is 1 / sqrt(d)
    assert varlen_attn is not None
    return varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)


def _alone(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, window: int | None, dropout: float) -> Tensor:
    """One document, [n, a, d]."""
    q, k, v = (_by_heads(t)[None] for t in (q, k, v))
    mask = None
    if window is not None and window < q.shape[2]:
        position = torch.arange(q.shape[2], device=q.device)
        behind = position[:, None] - position
        mask = (behind >= 0) & (behind < window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, dropout_p=dropout, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def _by_heads(t: Tensor) -> Tensor:
    return t.transpose(0, 1)


# ----------------------------------------------------------------------------------------------------- sdpa's kernel on a CPU

# One operator to autograd and to torch.compile, which looks into nothing and so cuts no graph.


@torch.library.custom_op("swift::documents_attention", mutates_args=(), device_types="cpu")
def _each_on_cpu(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """q [a, T, d], k and v [k, T, d]; gives [a, T, d] and the log of the sums [T, a]."""
    out, log_sums = torch.empty_like(q), q.new_empty((q.shape[1], len(q)), dtype=torch.float32)
    for span in _spans(bounds):
        part, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q[None, :, span], k[None, :, span], v[None, :, span], 0.0, True, attn_mask=None, scale=scale
        )
        out[:, span], log_sums[span] = part[0], sums[0].t()
    return out, log_sums


@_each_on_cpu.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@torch.library.custom_op("swift::documents_attention_backward", mutates_args=(), device_types="cpu")
def _each_on_cpu_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sums: Tensor, bounds: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for span in _spans(bounds):
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad[None, :, span], q[None, :, span], k[None, :, span], v[None, :, span], out[None, :, span],
            log_sums[span].t()[None], 0.0, True, attn_mask=None, scale=scale,
        )  # fmt: skip
        for whole, part in zip(grads, found, strict=True):
            whole[:, span] = part[0]
    return grads


@_each_on_cpu_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, bounds, out, log_sums = ctx.saved_tensors
    return (*_each_on_cpu_backward(grad, q, k, v, out, log_sums, bounds, ctx.scale), None, None)


_each_on_cpu.register_autograd(_backward, setup_context=_save)


def _spans(bounds: Tensor) -> Iterator[slice]:
    ends = bounds.tolist()
    return (slice(start, end) for start, end in pairwise(ends) if end > start)


def _shares_heads() -> bool:
    """Whether that kernel knows fewer heads of keys than of queries; torch documents it nowhere."""
    q, k = torch.ones(1, 2, 2, 8), torch.ones(1, 1, 2, 8)
    try:
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k, 0.0, True)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(q, q, k, k, out, sums, 0.0, True)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return bool((out == 1).all()) and grads[1].shape == k.shape


_FLASH_ON_CPU = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
_GROUPS_ON_CPU = _FLASH_ON_CPU and _shares_heads()

AttentionInterface.register(TORCH_VARLEN, attention_forward)
AttentionMaskInterface.register(TORCH_VARLEN, sdpa_mask)
