"""What takes memory in a run: measured, not estimated."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swift.api import Batch, Device
from swift.data.batches import StepLoader


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind them, each counted once."""
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values())


def held(model: nn.Module, optimizer: torch.optim.Optimizer | None, *, adapters: bool) -> dict[str, int]:
    """Bytes of weights, adapters, gradients and optimizer state, under the names of the estimate.

    Args:
        adapters: What trains are adapters beside frozen weights; False: (part of) the weights themselves.
    """
    parameters = list(model.parameters())
    apart = [p for p in parameters if p.requires_grad] if adapters else []
    own = {id(p) for p in apart}
    states = optimizer.state.values() if optimizer is not None else ()
    found = {
        "weights": tensor_bytes([*(p for p in parameters if id(p) not in own), *model.buffers()]),
        "adapters": tensor_bytes(apart),
        "gradients": tensor_bytes(p.grad for p in parameters if p.grad is not None),
        "optimizer": tensor_bytes(value for state in states for value in state.values() if isinstance(value, torch.Tensor)),
    }
    return {name: size for name, size in found.items() if size}


@contextmanager
def kept_for_backward(module: nn.Module) -> Iterator[dict[int, int]]:
    """Fills what it yields (storage -> bytes) with what autograd keeps of the forward passes within, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


class Alive(TorchDispatchMode):
    """Within it: bytes of the storages that operators have made and that live, however they are held.

    Args:
        parameters: Do not count.

    Attributes:
        most: That there were at one time.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._own = {p.untyped_storage().data_ptr() for p in parameters}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            if storage.data_ptr() not in self._own:
                reference = StorageWeakRef(storage)
                self._made[reference.cdata] = (reference, storage.nbytes())
        self.most = max(self.most, self.bytes())
        return out

    def bytes(self) -> int:
        self._made = {key: (reference, size) for key, (reference, size) in self._made.items() if not reference.expired()}
        return sum(size for _, size in self._made.values())


class Peak:
    """The most memory in use since `restart` (where the system can forget the peak before; else since the process began)."""

    def __init__(self, device: Device, torch_device: torch.device) -> None:
        self.device, self.torch_device = device, torch_device
        self._resident = False

    def restart(self) -> None:
        if self.torch_device.type != "cpu":
            # torch.accelerator has it since 2.9; the backends' own modules share the name.
            module = getattr(torch, self.torch_device.type)
            if hasattr(module, "reset_peak_memory_stats"):
                module.reset_peak_memory_stats()
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._resident = True
            except OSError:  # a container may forbid it
                self._resident = False

    def bytes(self) -> int:
        if self._resident:
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            line = next((line for line in lines if line.startswith("VmHWM:")), "")
            if line:
                return int(line.split()[1]) * 1024
        return self.device.memory().peak


class LongestFirst(StepLoader):
    """As its base, but before its first step come `longest_steps` of the costliest units: there memory peaks."""

    longest_steps: int = 0

    def units_of(self, step: int) -> np.ndarray:
        if step >= self.longest_steps:
            return super().units_of(step - self.longest_steps)
        return np.argsort(-self._costs, kind="stable")[: self.units_per_step]

    @classmethod
    def before(cls, loader: StepLoader, steps: int, *, accumulation: int = 0) -> LongestFirst:
        """The same loader with such steps; with `accumulation` micro-batches a step in place of its own."""
        copy = cls.__new__(cls)
        copy.__dict__.update(loader.__dict__)
        copy.longest_steps = steps
        if accumulation:
            copy.units_per_step = copy.micro_batch * accumulation * copy.world_size
        return copy


def costliest(loader: StepLoader) -> Batch:
    """This rank's largest micro-batch of the costliest units there are."""
    batches = LongestFirst.before(loader, 1, accumulation=1).step(0)
    return max(batches, key=lambda batch: batch.labels.numel())
