"""Learning-rate schedules: a factor of the peak as a pure function of the step."""

from __future__ import annotations

import math

SHAPES = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Shape after warm-up, for progress in [0, 1]; from 1 to 0 (cosine: Loshchilov & Hutter 2017, without restarts)."""


def factor(step: int, *, total_steps: int, warmup_steps: int, shape: str, min_ratio: float) -> float:
    """Factor of the peak learning rate for optimizer step `step` (from 0). Warm-up is linear and starts above 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_ratio + (1.0 - min_ratio) * SHAPES[shape](min(progress, 1.0))


def warmup(total_steps: int, *, steps: int, ratio: float) -> int:
    """Warm-up steps: `steps`, or `ratio` of the total, rounded up."""
    return min(steps or math.ceil(total_steps * ratio), total_steps)
