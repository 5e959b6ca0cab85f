"""Updates in the backward pass: each parameter as soon as its gradient is there, which is dropped at once.

Gradients never live all at once: their memory is that of the largest one. Lv et al. 2023, "Full Parameter Fine-tuning for Large
Language Models with Limited Resources" (LOMO), with any optimizer: it is the one that would step after the pass, given one
parameter at a time, so that its state is the same and runs may change between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from swift.errors import SwiftError

CHANGED = "parameters whose gradients were there before the fault was met are updated already, the others are not"
REMEDY = (
    "go on from the last checkpoint with --resume and a lower --learning_rate; without --optimizer_in_backward and with "
    "--max_grad_norm 1 such a step changes nothing"
)


class InBackward:
    """Hooks that do the optimizer's work. Made after a resume: loading its state gives an optimizer new groups.

    Needs one backward pass per step, in one process, and no clipping.

    Where the optimizer can be told on the device not to change anything (as for `GuardedOptimizer`), a gradient that is not
    finite is met there; else the host asks for each gradient before its parameter changes, which waits for the device.

    Args:
        names: id of each parameter -> its name, for messages.
        step: Optimizer steps done.
        late: As of `GuardedOptimizer`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, torch_device: torch.device, *, names: Mapping[int, str], step: int = 0,
        late: bool | None = None,
    ) -> None:  # fmt: skip
        self.optimizer, self.names, self.number = optimizer, names, step
        able = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self.late = torch_device.type != "cpu" and able if late is None else late
        self._norms: list[torch.Tensor] = []
        self._fault: torch.Tensor | None = None
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._of(group))
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]

    def _of(self, group: dict[str, Any]) -> Any:
        return lambda parameter: self._update(group, parameter)

    @torch.no_grad()
    def _update(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        """Raises `SwiftError` for a gradient that is not finite, before its parameter changes."""
        assert parameter.grad is not None
        norm = torch.linalg.vector_norm(parameter.grad)
        self._norms.append(norm)
        optimizer = self.optimizer
        if self.late:
            bad = norm.isfinite().logical_not()
            self._fault = bad if self._fault is None else self._fault | bad
            optimizer.found_inf = self._fault.float()
        elif not norm.isfinite():
            name = self.names.get(id(parameter), "a parameter")
            raise SwiftError(f"step {self.number + 1}: the gradient of {name} is {float(norm)}; {CHANGED}", fix=REMEDY)
        groups, parameters = optimizer.param_groups, group["params"]
        optimizer.param_groups, group["params"] = [group], [parameter]
        try:
            optimizer.step()
        finally:
            optimizer.param_groups, group["params"] = groups, parameters
            if self.late:
                del optimizer.found_inf
        parameter.grad = None

    def norm(self) -> torch.Tensor:
        """Norm of the whole gradient of the step that ends with this call, 0-d."""
        norms, self._norms, self._fault = self._norms, [], None
        self.number += 1
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
