"""Matrix products of 16-bit numbers on a processor that has no instruction for them.

torch multiplies bfloat16 and float16 there number by number: ten times slower than float32 in a forward pass, a hundred times
in a backward one. Here both factors are turned to float32 piece by piece, multiplied by float32's kernel, and the result is
rounded once: sums are kept in float32, as hardware with such instructions keeps them. Weights and activations stay in 16 bits.

The kernels are registered under torch's own operators, so that autograd, LoRA, losses and compiled code all come by; those of
float32 go through unchanged (2 microseconds each).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LOW = (torch.bfloat16, torch.float16)
PIECE = 4 << 20
"""Numbers of a factor that are float32 at one time: 16 MiB."""
FEW_ROWS = 2
"""Up to so many rows torch's kernel for bfloat16, which reads the weights once, is as fast (answers, token by token)."""

OPERATORS = (
    "mm", "mm.out", "bmm", "bmm.out",
    "addmm", "addmm.out", "addmm_", "baddbmm", "baddbmm.out", "baddbmm_",
)  # fmt: skip

ATTENTION = "_scaled_dot_product_flash_attention_for_cpu_backward"
"""Multiplies within itself; the forward one does that in float32 already."""

_library: torch.library.Library | None = None


def available() -> bool:
    """Whether this torch lets kernels be replaced and the old ones be called (2.9 and later)."""
    return hasattr(torch.library, "get_kernel")


def install() -> None:
    """Take over 16-bit products of this process. Once is enough."""
    global _library
    if _library is not None or not available():
        return
    _library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():  # that a kernel is replaced is the point
        warnings.simplefilter("ignore", UserWarning)
        for operator in OPERATORS:
            _library.impl(operator, _kernel(operator), "CPU", with_keyset=True)
        _library.impl(ATTENTION, _attention_kernel(), "CPU", with_keyset=True)


def remove() -> None:
    """Give torch its kernels back."""
    global _library
    if _library is not None:
        _library._destroy()
        _library = None


def mm(a: Tensor, b: Tensor, bias: Tensor | None = None, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * (m, k) @ (k, n), a piece of the largest dimension at a time."""
    (m, k), n = a.shape, b.shape[1]
    finish = _finish(bias, (m, n), a.dtype, beta, alpha)
    if max(m * k, k * n) <= PIECE:
        return finish(torch.mm(a.float(), b.float()))
    if k >= max(m, n):
        total = torch.zeros(m, n)
        for at in _pieces(k, max(m, n)):
            total.addmm_(a[:, at].float(), b[at].float())
        return finish(total)
    result = a.new_empty(m, n)
    if n >= m:
        left = a.float()
        for at in _pieces(n, k):
            result[:, at] = finish(torch.mm(left, b[:, at].float()), (slice(None), at))
    else:
        right = b.float()
        for at in _pieces(m, k):
            result[at] = finish(torch.mm(a[at].float(), right), at)
    return result


def bmm(a: Tensor, b: Tensor, bias: Tensor | None = None, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * bias + alpha * (batch, m, k) @ (batch, k, n), some of the batch at a time."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    finish = _finish(bias, shape, a.dtype, beta, alpha)
    each = max(a.shape[1], b.shape[2]) * a.shape[2]
    if len(a) * each <= PIECE:
        return finish(torch.bmm(a.float(), b.float()))
    result = a.new_empty(shape)
    for at in _pieces(len(a), each):
        result[at] = finish(torch.bmm(a[at].float(), b[at].float()), at)
    return result


def _finish(
    bias: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, beta: float, alpha: float
) -> Callable[..., Tensor]:
    """What makes a piece of the result out of a float32 product: the bias added, rounded once."""
    if alpha == 1 and (bias is None or beta == 0):  # as everywhere in torch, beta = 0 does not look at the bias
        return lambda product, at=...: product.to(dtype)
    whole = None if bias is None or beta == 0 else bias.expand(shape)

    def finish(product: Tensor, at: Any = ...) -> Tensor:
        if alpha != 1:
            product *= alpha
        return (product if whole is None else product.add_(whole[at], alpha=beta)).to(dtype)

    return finish


def _pieces(size: int, other: int) -> list[slice]:
    """Slices of a dimension whose length times the length of the other one is a piece."""
    step = max(1, PIECE // max(other, 1))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _kernel(operator: str) -> Callable[..., Any]:
    """The kernel of one operator: ours for 16-bit factors, torch's for all others."""
    theirs = torch.library.get_kernel(f"aten::{operator}", "CPU")
    added, inplace = "add" in operator, operator.endswith("_")
    product = bmm if "bmm" in operator else mm

    def kernel(keys: Any, *tensors: Any, **options: Any) -> Any:
        a, b = tensors[-2:]
        if a.dtype not in LOW or b.dtype is not a.dtype or _few_rows(a, b):
            return theirs.call_boxed(keys, *tensors, **options)
        out = tensors[0] if inplace else options.pop("out", None)
        result = product(a, b, tensors[0] if added else None, **options)
        return result if out is None else out.copy_(result)

    return kernel


def _attention_kernel() -> Callable[..., Any]:
    """The backward pass of sdpa, in float32 as a whole."""
    theirs = torch.library.get_kernel(f"aten::{ATTENTION}", "CPU")

    def kernel(keys: Any, *values: Any, **options: Any) -> Any:
        if values[1].dtype not in LOW:
            return theirs.call_boxed(keys, *values, **options)
        options = {name: _widened(value) for name, value in options.items()}
        found = theirs.call_boxed(keys, *(_widened(value) for value in values), **options)
        return tuple(gradient.to(values[1].dtype) for gradient in found)

    return kernel


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value


def _few_rows(a: Tensor, b: Tensor) -> bool:
    return a.dim() == 2 and a.shape[0] <= FEW_ROWS and a.dtype is torch.bfloat16 and b.stride(0) == 1
