"""A gradient that is not finite changes nothing, and nobody waits for the device to know it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from swift.errors import SwiftError


@dataclass
class GuardedOptimizer:
    """Steps of an optimizer, each refused where the norm of its gradient is not finite.

    On an accelerator, reading the norm waits for all work queued so far. Optimizers that take `found_inf` (torch's fused ones,
    for gradient scalers) are therefore told on the device not to change anything, neither weights nor state; the host reads
    the norm when the next step is due, or at `settle`, and raises then. Others are asked before they step.

    Args:
        late: Whether norms are read late; None: where the device works on its own and the optimizer can be told.
        changed, remedy: What a step whose gradient is not finite has changed, and what to type then.
    """

    optimizer: torch.optim.Optimizer
    torch_device: torch.device
    late: bool | None = None
    changed: str = "nothing was changed by this step"
    remedy: str = (
        "lower --learning_rate, keep --max_grad_norm above 0, use --dtype bfloat16 rather than float16, "
        "and look at the rows of this step with `--train.batch_size 1`"
    )
    _unread: tuple[int, torch.Tensor, torch.Event | None] | None = field(default=None, repr=False)
    _norm: float = 0.0

    def __post_init__(self) -> None:
        if self.late is None:
            able = getattr(self.optimizer, "_step_supports_amp_scaling", False)
            self.late = self.torch_device.type != "cpu" and bool(able)

    def step(self, number: int, norm: torch.Tensor) -> None:
        """Optimizer step `number` (1, 2, ...).

        Args:
            norm: 0-d, of the gradient that the parameters hold.

        Raises:
            SwiftError: The gradient of this step, or of the one before it, is not finite. Weights and optimizer state are
                those before that step.
        """
        self.settle()
        self._unread = (number, *_on_its_way(norm))
        if not self.late:
            self.settle()
            self.optimizer.step()
            return
        self.optimizer.found_inf = norm.isfinite().logical_not().float()
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.found_inf

    def settle(self) -> float:
        """Wait for the last step's norm and return it (before anything is logged, saved, evaluated or given back).

        Raises:
            SwiftError: As `step`.
        """
        if self._unread is not None:
            (number, norm, there), self._unread = self._unread, None
            if there is not None:
                there.synchronize()
            self._norm = float(norm)
            if not math.isfinite(self._norm):
                raise SwiftError(f"step {number}: the gradient is {self._norm}; {self.changed}", fix=self.remedy)
        return self._norm


def _on_its_way(norm: torch.Tensor) -> tuple[torch.Tensor, torch.Event | None]:
    """The value on the host, and what tells that it has arrived."""
    norm = norm.detach()
    if norm.device.type == "cpu":
        return norm, None
    copy, there = norm.to("cpu", non_blocking=True), torch.Event(device=norm.device)
    there.record()
    return copy, there
