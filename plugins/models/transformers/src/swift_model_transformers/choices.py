"""dtype and attention: what was asked for, what is there, what is taken, and one sentence that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from swift.api import ModelError
from swift_model_transformers.varlen import TORCH_VARLEN, varlen_fault

NEAREST = {
    "bfloat16": ("float32", "float16"),
    "float16": ("bfloat16", "float32"),
    "float64": ("float32",),
}
"""Where a checkpoint's dtype cannot be had: a dtype that loses range is the last resort."""

INSTALLED: dict[str, Callable[[], bool]] = {
    "flash_attention_2": lambda: bool(is_flash_attn_2_available()),
    "flash_attention_3": lambda: bool(is_flash_attn_3_available()),
}


def choose_dtype(
    asked: str, stored: str, offered: Sequence[str], *, training: bool, slow: Sequence[str] = ()
) -> tuple[str, str]:
    """(dtype, note). `offered`: what the device computes in, best first; `slow`: those it only emulates.

    Raises:
        ModelError: A dtype was asked for that the device does not offer.
    """
    if asked != "auto":
        if asked not in offered:
            raise ModelError(
                f"dtype {asked} is not to be had on this device; it offers {', '.join(offered)}", fix=f"--dtype {offered[0]}"
            )
        return asked, f"dtype: {asked}"
    # Nothing here scales losses, and unscaled gradients underflow in float16: it is kept for inference only.
    fits = stored in offered and not (training and stored == "float16" and len(offered) > 1)
    if fits and stored in slow and "float32" in offered:
        return "float32", f"dtype: float32; the checkpoint has {stored}, which this device only emulates, slowly"
    if fits:
        return stored, f"dtype: {stored}, as in the checkpoint"
    dtype = next((d for d in NEAREST.get(stored, ()) if d in offered), offered[0])
    reason = "gradients underflow in it" if stored in offered else "this device does not offer it"
    return dtype, f"dtype: {dtype}; the checkpoint has {stored}, but {reason}"


@dataclass(frozen=True)
class Computes:
    """What attention has to do with.

    Args:
        config: The model's.
        dtype: Of the weights.
        half: Queries, keys and values have 16 bits, as weights or by autocast.
        device: Type of the torch device.
        documents: As `LoadRequest.documents`.
    """

    model_class: Any
    config: Any = None
    dtype: str = "float32"
    half: bool = False
    device: str = "cpu"
    documents: bool = False


def attention_fault(name: str, computes: Computes) -> str:
    """Why the model cannot use an attention implementation; "" where it can."""
    model_class = computes.model_class
    if name.startswith("flash_attention"):
        if not INSTALLED.get(name, lambda: False)():
            return f"{name} is not installed"
        if not computes.half:
            return f"{name} needs a 16-bit dtype"
        if not getattr(model_class, "_supports_flash_attn", False):
            return f"{model_class.__name__} does not support {name}"
    elif name == TORCH_VARLEN:
        fault = varlen_fault(computes.config, model_class, computes.device, half=computes.half)
        return f"{TORCH_VARLEN} does not do: {fault}" if fault else ""
    elif name == "sdpa" and not getattr(model_class, "_supports_sdpa", False):
        return f"{model_class.__name__} does not support sdpa"
    elif name == "flex_attention" and not getattr(model_class, "_supports_flex_attn", False):
        return f"{model_class.__name__} does not support flex_attention"
    elif name not in ("eager", "sdpa", "flex_attention"):
        return f"{name} is unknown"
    return ""


def choose_attention(asked: str, order: Sequence[str], computes: Computes) -> tuple[str, str]:
    """(implementation, note): what was asked for, or the first of the device's `order` that is there.

    Raises:
        ModelError: The implementation that was asked for cannot be used; the message lists those that can.
    """
    if asked != "auto":
        fault = attention_fault(asked, computes)
        if fault:
            able = [n for n in dict.fromkeys((*order, "eager")) if not attention_fault(n, computes)]
            raise ModelError(
                f"attention {asked} cannot be used: {fault}; it can be {', '.join(able)}", fix=f"--attention {able[0]}"
            )
        return asked, f"attention: {asked}"
    faults = []
    for name in (*order, "eager"):
        if name == TORCH_VARLEN and not computes.documents:
            continue  # it would pass everything on to sdpa
        fault = attention_fault(name, computes)
        if not fault:
            why = f"{'; '.join(faults)}" if faults else "the best that this device and model offer"
            return name, f"attention: {name} ({why})"
        faults.append(fault)
    raise AssertionError("eager has no fault")
