"""What a run computes on: one kind of accelerator, and one or many processes that share the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class DeviceInfo:
    """Answer of a device's probe, without torch."""

    count: int
    """Devices present."""
    names: tuple[str, ...] = ()
    """One per device, for `swift doctor`."""
    memory: int = 0
    """Bytes of memory of the smallest device."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the plan (`device.dtypes`, ...)."""


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    used: int
    peak: int
    total: int


class Device(ABC):
    """One kind of accelerator."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def setup(self, local_rank: int) -> torch.device:
        """Make this process use device `local_rank` and return it. Raises `ModelError` where it is absent."""

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that can be trained in, best first; checked on the hardware that is there."""

    def fast_dtypes(self) -> tuple[str, ...]:
        """Those of `dtypes()` that the hardware has arithmetic for; the others are slower than float32."""
        return self.dtypes()

    def choose_kernels(self, dtypes: Collection[torch.dtype]) -> str:
        """Make ready for matrix products in these dtypes, once a model is loaded: a device may have better kernels for
        some. Returns what was chosen, in a sentence for the log; "" where nothing was."""
        return ""

    @abstractmethod
    def attention(self) -> tuple[str, ...]:
        """transformers' names of attention implementations, and torch_varlen, best first; loaders pass over those that they,
        the model or the installed packages do not know."""

    @abstractmethod
    def collective_backend(self) -> str:
        """torch.distributed backend."""

    def synchronize(self) -> None:
        """Wait for queued work."""

    def empty_cache(self) -> None:
        """Give unused memory back."""

    def rng_state(self) -> dict[str, torch.Tensor]:
        """State of generators beyond torch's CPU one."""
        return {}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None: ...


class Strategy(ABC):
    """Wraps the trained module for one or many processes.

    The module that is wrapped is the loss itself: `forward(batch) -> LossSum.total` and metrics, so that whatever a
    strategy hooks on `forward` sees the whole computation.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    def __init__(self, settings: Any, name: str, device: Device) -> None:
        self.settings = settings
        self.name = name
        self.device = device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def start(self, *, timeout_s: float) -> torch.device:
        """Join the process group, if any, and return this rank's device."""
        return self.device.setup(self.local_rank)

    @abstractmethod
    def wrap(self, module: nn.Module) -> nn.Module: ...

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        """Open for every micro-batch but the last of a step: gradients stay local."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """`loss` is this rank's share, already divided by the global label count.

        After the last micro-batch, each gradient is the sum of the ranks' shares."""
        loss.backward()

    @abstractmethod
    def clip_gradients(self, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Clip to `max_norm` (0: do not clip) and return the global norm before clipping, a 0-d tensor."""

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Sum over ranks."""
        return list(values)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable object, on every rank."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, in rank order, on every rank."""
        return [value]

    def barrier(self) -> None: ...

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes through the block first, then the others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def unwrapped(self, module: nn.Module) -> AbstractContextManager[nn.Module | None]:
        """The whole module ready to be saved, on rank 0; None elsewhere. A collective: every rank enters."""
        return nullcontext(module if self.is_main else None)

    @abstractmethod
    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        """A collective. Writes into an existing folder; loadable on another number of ranks."""

    @abstractmethod
    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None: ...

    def stop(self) -> None:
        """Leave the process group."""


class Launcher(ABC):
    """Starts the worker processes of a run and waits for them."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def launch(self, plan_file: Path, *, nproc_per_node: int, nnodes: int, node_rank: int, master_addr: str,
               master_port: int, env: Mapping[str, str]) -> int:  # fmt: skip
        """Run `python -m swift.worker PLAN_FILE` on every rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
        environment) and return the exit code: 0, or the first failing rank's."""
