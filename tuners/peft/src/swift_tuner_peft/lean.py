"""LoRA's linear layer without copies of activations.

PEFT's own forward makes, for each adapter, a copy of the input in the adapter's dtype (where that is another), one for dropout
with its mask in the input's dtype (on a CPU), and three results of the size of the output: B's product, its multiple, and the
sum. Here the product is added into the base's result, weights are cast instead of activations, and only the input (which
neighbours share), A's product and a mask of one byte per element are kept.

Shapes: [..., I] inputs, [..., O] outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F


class LeanLinear(Linear):
    """PEFT's LoRA layer. Where plain LoRA is trained over a plain `nn.Linear`, `forward` is `lean_lora`, else PEFT's own."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._adapter_at_work() if not (args or kwargs) and x.is_floating_point() else None
        if name is None or torch.is_autocast_enabled(x.device.type):
            return super().forward(x, *args, **kwargs)
        base, dropout = self.base_layer, self.lora_dropout[name]
        if base.weight.dtype != x.dtype:
            return super().forward(x)
        return lean_lora(
            x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name],
            dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0,
        )  # fmt: skip

    def _adapter_at_work(self) -> str | None:
        """The one active adapter, where nothing but W x + B A x is asked for; None: let PEFT see to it."""
        if self.disable_adapters or self.merged or not torch.is_grad_enabled():
            return None
        names = [name for name in self.active_adapters if name in self.lora_A]
        if len(names) != 1 or names[0] in self.lora_variant or self.lora_bias.get(names[0]):
            return None
        name = names[0]
        parts = (self.base_layer, self.lora_A[name], self.lora_B[name])
        plain = all(type(part) is nn.Linear and not _watched(part) for part in parts)
        known = type(self.lora_dropout[name]) in (nn.Dropout, nn.Identity) and not _watched(self.lora_dropout[name])
        frozen = not any(p.requires_grad for p in self.base_layer.parameters())
        return name if plain and known and frozen and getattr(self, "cast_input_dtype_enabled", True) else None


def _watched(module: nn.Module) -> bool:
    """Somebody wants to see its calls, or has replaced them."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        or "forward" in module.__dict__
    )  # fmt: skip


def make_lean(model: nn.Module) -> int:
    """Give PEFT's LoRA layers over plain linear ones the forward of `LeanLinear`; how many there are."""
    found = list(_candidates(model))
    for layer in found:
        layer.__class__ = LeanLinear
    return len(found)


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear and not module.fan_in_fan_out:
            yield module


def lean_lora(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:  # fmt: skip
    """`x @ weight.T + bias + scaling * dropout(x) @ a.T @ b.T`, [..., O] in the dtype of `x`.

    Args:
        x: [..., I].
        weight, bias: [O, I] and [O] in the dtype of `x`; no gradient is computed for them.
        a, b: [R, I] and [O, R], trained, in any floating dtype.
        dropout: Probability, drawn from torch's generator (on a CPU to 16 bits, which takes a quarter of its numbers).
    """
    return _LeanLora.apply(x, weight, bias, a, b, float(scaling), float(dropout))


class _LeanLora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float,
                dropout: float) -> Tensor:  # fmt: skip
        out = F.linear(x, weight, bias)
        left, mask, ctx.scaling = _dropout(x, dropout, scaling) if dropout else (x, None, scaling)
        low = F.linear(left, a.to(x.dtype))
        ctx.save_for_backward(x, weight, a, b, low, mask)
        ctx.scaling_low = scaling / (1 - dropout)
        # Not in place: selective checkpointing may have kept the product as it is.
        flat = torch.addmm(out.view(-1, out.shape[-1]), low.view(-1, low.shape[-1]), b.to(x.dtype).t(), alpha=ctx.scaling)
        return flat.view(out.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low, mask = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b = ctx.needs_input_grad[:5]
        flat, low = grad.reshape(-1, grad.shape[-1]), low.view(-1, low.shape[-1])
        d_a = d_b = d_x = None
        d_low = (flat @ b.to(grad.dtype)).mul_(ctx.scaling_low)  # spares the wide ones dropout's division by 1 - p
        if needs_b:
            d_b = (flat.t() @ low).to(b.dtype).mul_(ctx.scaling)
        if needs_a:
            d_a = (d_low.t() @ (x if mask is None else x * mask).reshape(-1, x.shape[-1])).to(a.dtype)
        if needs_x:
            d_x = d_low @ a.to(grad.dtype)
            if mask is not None:
                d_x.mul_(mask.view(d_x.shape))
            d_x = d_x.addmm_(flat, weight).view(x.shape)
        return d_x, None, None, d_a, d_b, None, None


def _dropout(x: Tensor, p: float, scaling: float) -> tuple[Tensor, Tensor, float]:
    """What is left of `x`, the mask, and `scaling` with the division by 1 - p that is still to be made.

    The mask is uint8: numbers are multiplied faster with that than with bool.
    """
    if x.device.type != "cpu":
        left, mask = torch.native_dropout(x, p, True)
        return left, mask.view(torch.uint8), scaling
    # Drawing takes longer than all else here, and a number of 64 bits serves four elements.
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    mask = (words.view(torch.int16)[: x.numel()] >= min(round(p * 2**16), 2**16 - 1) - 2**15).view(x.shape).view(torch.uint8)
    return x * mask, mask, scaling / (1 - p)
