"""One process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from swift.api import Strategy
from swift_parallel_torch import state


class Single(Strategy):
    """The module as it is. Also the base of `DDP`, which shares clipping and optimizer state."""

    _names: dict[int, str]

    def wrap(self, module: nn.Module) -> nn.Module:
        self._names = state.parameter_names(module)
        return module

    def clip_gradients(self, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(list(parameters), max_norm, norm)
        return norm

    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        if self.is_main:
            state.save(optimizer, self._names, folder)
        self.barrier()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        state.load(optimizer, self._names, folder)
