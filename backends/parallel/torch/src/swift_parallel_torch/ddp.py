"""Data parallel: each process has the whole model and its share of the batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swift.api import ConfigError
from swift_parallel_torch import state
from swift_parallel_torch.single import Single

_LEFT: list[Any] = []
"""Process groups that were left. They outlive every wrapped module: one that is freed as the last owner of its group waits for
the group's threads while it holds the interpreter's lock, and those may wait for that (pytorch issue 56297)."""


class DDP(Single):
    """torch's DistributedDataParallel, with gradients that are the sum (not the mean) of the ranks' shares."""

    _device: torch.device

    def start(self, *, timeout_s: float) -> torch.device:
        """Raises `ConfigError` outside a launcher, or where the group does not come together in `timeout_s`."""
        try:
            self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            self.local_rank = int(os.environ["LOCAL_RANK"])
        except KeyError as missing:
            raise ConfigError(
                f"ddp needs a launcher, which sets {missing.args[0]}", fix="let swift start the processes: --nproc_per_node 2"
            ) from None
        self._device = self.device.setup(self.local_rank)
        backend = self.device.collective_backend()
        kind = self._device.type
        try:
            dist.init_process_group(
                backend if kind == "cpu" else f"cpu:gloo,{kind}:{backend}", timeout=timedelta(seconds=timeout_s),
                device_id=self._device if backend == "nccl" else None,
            )  # fmt: skip
        except (dist.DistError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"rank {self.rank} of {self.world_size} could not join the process group at "
                f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} over {backend}: {error}",
                fix="check that every machine was started with the same --master_addr and --master_port, "
                "and its own --node_rank",
            ) from error
        return self._device

    def wrap(self, module: nn.Module) -> nn.Module:
        self._names = state.parameter_names(module)
        if not any(p.requires_grad for p in module.parameters()):
            return module
        with warnings.catch_warnings():
            # torch 2.13 deprecates broadcast_buffers for an argument that torch 2.6 does not have
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            return DistributedDataParallel(
                module,
                device_ids=None if self._device.type == "cpu" else [self._device],
                broadcast_buffers=False,
                find_unused_parameters=False,
                gradient_as_bucket_view=True,
            )

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.world_size).backward()  # DDP divides by it again

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        # On the host: the numbers come from there, and no queued work of an accelerator is waited for.
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box

    def barrier(self) -> None:
        # Over the host, where dist.barrier() would guess a device under nccl.
        self.all_reduce([0.0])

    def unwrapped(self, module: nn.Module) -> AbstractContextManager[nn.Module | None]:
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        return nullcontext(inner if self.is_main else None)

    def stop(self) -> None:
        if dist.is_initialized():
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()
