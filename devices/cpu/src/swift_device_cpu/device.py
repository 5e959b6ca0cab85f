"""The CPU as a device."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

import torch

from swift.api import Device, Memory
from swift_device_cpu import products
from swift_device_cpu.probe import fast_dtypes, memory_bytes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class CpuDevice(Device):
    """Every rank runs on the one CPU; torch's own CPU generator is saved by core, so there is no further RNG state."""

    def setup(self, local_rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Memory:
        """Resident memory of this process, its peak, and what the machine (or container) has."""
        used, peak = _resident_bytes(), _peak_resident_bytes()
        return Memory(used=used, peak=max(used, peak), total=memory_bytes())

    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "bfloat16")

    def fast_dtypes(self) -> tuple[str, ...]:
        return fast_dtypes()

    def attention(self) -> tuple[str, ...]:
        return ("torch_varlen", "sdpa", "eager")

    def choose_kernels(self, dtypes: Collection[torch.dtype]) -> str:
        low = [dtype for dtype in dtypes if dtype in products.LOW]
        chosen = self.settings.products if self.settings else "auto"
        if chosen == "native" or (chosen == "auto" and "bfloat16" in self.fast_dtypes()):
            products.remove()
            return ""
        if not low:
            return ""
        name = str(low[0]).removeprefix("torch.")
        if not products.available():
            return f"products of {name} are slow on this processor; torch 2.10 and later can compute them in float32"
        products.install()
        return f"products of {name} are computed in float32: this processor has no instruction for them"

    def collective_backend(self) -> str:
        return "gloo"


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
