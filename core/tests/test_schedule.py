"""Learning-rate factors against hand-computed values and torch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from swift.training.schedule import factor, warmup


def factors(shape: str, total: int, warm: int, floor: float = 0.0) -> list[float]:
    return [factor(s, total_steps=total, warmup_steps=warm, shape=shape, min_ratio=floor) for s in range(total)]


def test_warmup_is_linear_and_never_zero() -> None:
    assert factors("constant", 6, 4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_by_hand() -> None:
    assert factors("linear", 4, 0) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_equals_torch(floor: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=floor)
    for value in factors("cosine", 10, 0, floor):
        assert value == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_warmup_steps_from_ratio() -> None:
    assert warmup(100, steps=0, ratio=0.03) == 3
    assert warmup(10, steps=0, ratio=0.03) == 1
    assert warmup(10, steps=50, ratio=0.03) == 10
