"""Updates in the backward pass: one gradient at a time, and what a gradient that is not finite leaves behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from swift.errors import SwiftError
from swift.training.in_backward import InBackward


def deep(layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(layers)))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": [p], "lr": 0.1 * (n + 1)} for n, p in enumerate(model.parameters())]
    return torch.optim.AdamW(groups, lr=0.1, fused=True)


def names(model: nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in model.named_parameters()}


def step(model: nn.Module, seed: int = 0) -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
    model(x).square().sum().backward()


@pytest.mark.parametrize("late", [False, True])
def test_steps_are_those_of_the_optimizer(late: bool) -> None:
    """Each group with its own learning rate, that of the moment."""
    plain, updated = deep(), deep()
    optimizer, other = adamw(plain), adamw(updated)
    hooks = InBackward(other, torch.device("cpu"), names=names(updated), late=late)
    for number in range(5):
        for one in (optimizer, other):
            one.param_groups[1]["lr"] = 0.01 * number
        step(plain, number)
        norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
        optimizer.step()
        optimizer.zero_grad()
        step(updated, number)
        torch.testing.assert_close(hooks.norm(), norm)
    for a, b in zip(plain.parameters(), updated.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [len(group["params"]) for group in other.param_groups] == [1] * 4 and len(other.state) == 4


def test_a_parameter_that_two_modules_share_is_updated_once() -> None:
    plain, updated = deep(3), deep(3)
    for model in (plain, updated):
        model[2].weight = model[0].weight
    optimizer, other = adamw(plain), adamw(updated)
    InBackward(other, torch.device("cpu"), names=names(updated))
    step(plain)
    optimizer.step()
    step(updated)
    assert torch.equal(plain[0].weight, updated[0].weight) and torch.equal(plain[1].weight, updated[1].weight)


def test_gradients_never_live_at_once() -> None:
    model = deep(6)
    alive: list[int] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            alive.append(sum(p.grad is not None for p in model.parameters()))
            return super().step(closure)

    InBackward(Counting(model.parameters(), lr=0.1), torch.device("cpu"), names=names(model))
    step(model)
    assert alive == [1] * 6 and all(p.grad is None for p in model.parameters())


class Broken(torch.autograd.Function):
    """Hands on a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


@pytest.mark.parametrize("late", [False, True])
def test_what_comes_after_a_gradient_that_is_not_finite_stays(late: bool) -> None:
    model = deep(4)
    hooks = InBackward(adamw(model), torch.device("cpu"), names=names(model), step=6, late=late)
    before = [p.detach().clone() for p in model.parameters()]
    first, second, third, fourth = model
    loss = fourth(third(Broken.apply(second(first(torch.ones(2, 16)))))).square().sum()
    if late:  # the loop reads the norm when the next step is due
        loss.backward()
        assert not hooks.norm().isfinite()
    else:
        with pytest.raises(
            SwiftError, match=r"^step 7: the gradient of 1\.weight is nan; parameters whose gradients"
        ) as refused:
            loss.backward()
        assert "--resume" in refused.value.fix
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False]
    state = hooks.optimizer.state
    assert not any(v.any() for p in (first.weight, second.weight) for v in state.get(p, {}).values())


def test_the_next_step_begins_without_the_fault_of_the_last() -> None:
    model = deep(1)
    hooks = InBackward(adamw(model), torch.device("cpu"), names=names(model), late=True)
    Broken.apply(model(torch.ones(1, 16))).sum().backward()
    assert not hooks.norm().isfinite()
    before = model[0].weight.detach().clone()
    step(model)
    assert hooks.norm().isfinite() and not torch.equal(before, model[0].weight)
