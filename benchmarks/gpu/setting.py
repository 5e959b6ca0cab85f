"""The device, Swift's pieces, and the list of cases. Imported once the checkout is on the path."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import checkout
import correctness
import means
import models
import torch
import training
import transformers
from records import Case, Records
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from swift_device_cuda.probe import peak_tflops

# Importing pieces of Swift beyond the contracts needs these; without them the cases that use the pieces are skipped.
PIECES = ("pydantic", "yaml", "peft", "packaging")
COMMAND = (*PIECES, "pluggy", "rich", "pyarrow", "matplotlib", "jinja2")


@dataclass
class Context:
    """What every case is given."""

    device_name: str
    toy: bool
    records: Records
    scratch: Path

    @cached_property
    def torch_device(self) -> torch.device:
        if self.device_name == "cuda":
            torch.cuda.set_device(0)
            return torch.device("cuda", 0)
        return torch.device("cpu")

    @property
    def cuda(self) -> bool:
        return self.device_name == "cuda"

    @cached_property
    def registry(self) -> Any:
        return importlib.import_module("swift.plugins.registry").discover()

    def piece(self, kind: str, name: str, *args: Any, **settings: Any) -> Any:
        """A component of Swift with settings, by the same way that a run takes."""
        loading = importlib.import_module("swift.plugins.loading")
        return loading.instantiate(loading.component_of(self.registry.find(kind, name), settings), *args)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    @cached_property
    def peak(self) -> float:
        """FLOP/s of the device, dense 16-bit, from its data sheet; 0 where it is not known."""
        return peak_tflops(torch.cuda.get_device_name(0)) * 1e12 if self.cuda else 0.0

    def clean(self) -> None:
        """Give back what a case held, also one that failed; graphs hold the weights that they were made for."""
        torch._dynamo.reset()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def attentions(self) -> list[str]:
        """Implementations that packed rows can go through here."""
        found = ["eager", "sdpa"]
        if models.knows_varlen(self.torch_device):
            found.append(models.TORCH_VARLEN)
        if self.cuda:
            found.append("flex_attention")
        found += ["flash_attention_2"] * bool(self.cuda and is_flash_attn_2_available())
        return found + ["flash_attention_3"] * bool(self.cuda and is_flash_attn_3_available())


def environment(context: Context) -> Mapping[str, Any]:
    cuda = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if cuda else None
    backends = torch.backends.cuda
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": checkout.versions(),
        "device": torch.cuda.get_device_name(0) if cuda else platform.processor() or platform.machine(),
        "memory": properties.total_memory if properties else None,
        "capability": list(torch.cuda.get_device_capability(0)) if cuda else None,
        "cuda": torch.version.cuda,
        "nccl": list(torch.cuda.nccl.version()) if cuda else None,
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False) if cuda else None,
        "peak_tflops": context.peak / 1e12 or None,
        "sdpa": {
            name: bool(getattr(backends, f"{name}_sdp_enabled")())
            for name in ("flash", "mem_efficient", "math", "cudnn")
            if hasattr(backends, f"{name}_sdp_enabled")
        },
        "torch_varlen": models.varlen_attn is not None,
        "attention": context.attentions(),
        "wheels": sorted(file.name for file in checkout.WHEELS.glob("*.whl")),
        "swift": importlib.metadata.version("swift-llm-core"),
        "transformers": transformers.__version__,
        "imports_seconds": time.time() - _STARTED,
        "formulas": models.FORMULAS,
        "argv": sys.argv[1:],
    }


_STARTED = time.time()


def cases(context: Context) -> list[Case]:
    """In the order in which they are run: cheap and most telling first."""
    return [
        Case("environment/machine", environment, seconds=2),
        *correctness.first(context, PIECES),
        *training.first(context, PIECES, COMMAND),
        *means.first(context, PIECES),
        *training.more(context, PIECES),
        *correctness.more(context, PIECES),
        *means.more(context, PIECES),
    ]
