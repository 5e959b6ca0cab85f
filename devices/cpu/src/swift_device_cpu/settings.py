"""What can be set about a CPU."""

from __future__ import annotations

from typing import Any, Literal

from swift.api.settings import Settings
from swift_device_cpu.probe import fast_dtypes


class CpuSettings(Settings):
    products: Literal["auto", "float32", "native"] = "auto"
    """How 16-bit matrices are multiplied: float32 turns them to float32 piece by piece and rounds the result; native leaves it
    to torch, which is slow where the processor has no instruction for them."""

    def resolve_auto(self) -> dict[str, tuple[Any, str]]:
        if self.products != "auto":
            return {}
        if "bfloat16" in fast_dtypes():
            return {"products": ("native", "this processor multiplies bfloat16")}
        return {"products": ("float32", "this processor has no instruction for 16-bit products")}
