"""Factories build what their settings say."""

import pytest
import torch

from swift.api import ConfigError
from swift_optimizer_torch import optimizers, settings
from swift_optimizer_torch.swift_plugin import swift_optimizers


def groups():
    torch.manual_seed(0)
    weight, bias = torch.nn.Parameter(torch.randn(32, 16)), torch.nn.Parameter(torch.randn(32))
    return [{"params": [weight], "lr": 0.1, "weight_decay": 0.5}, {"params": [bias], "lr": 0.01, "weight_decay": 0.0}]


def stepped(factory):
    own = groups()
    optimizer = factory.build(own)
    for p in (p for g in own for p in g["params"]):
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def test_adamw_takes_betas_and_groups_from_outside():
    optimizer = optimizers.AdamW(settings.AdamWSettings(beta2=0.9), "adamw").build(groups())
    assert [(g["lr"], g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups] == [
        (0.1, 0.5, (0.9, 0.9), 1e-8),
        (0.01, 0.0, (0.9, 0.9), 1e-8),
    ]
    assert optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("fused", [True, False])
def test_fused_or_not_it_is_the_same_step(fused):
    own, same = groups(), groups()
    made = optimizers.AdamW(settings.AdamWSettings(fused=fused), "adamw").build(own)
    plain = torch.optim.AdamW(same, betas=(0.9, 0.95), foreach=False)
    assert made.param_groups[0]["fused"] is fused
    for step in range(5):
        for a, b in zip((p for g in own for p in g["params"]), (p for g in same for p in g["params"]), strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        made.step()
        plain.step()
    for a, b in zip((p for g in own for p in g["params"]), (p for g in same for p in g["params"]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_adamw_first_step_by_hand():
    own = groups()
    before = own[0]["params"][0].detach().clone()
    optimizer = optimizers.AdamW(settings.AdamWSettings(), "adamw").build(own)
    own[0]["params"][0].grad = torch.full_like(before, 3.0)
    optimizer.step()
    # bias-corrected moments make the first step lr * sign(gradient), after the decoupled decay
    assert torch.allclose(own[0]["params"][0], before * (1 - 0.1 * 0.5) - 0.1, atol=1e-6)


@pytest.mark.parametrize("spec", swift_optimizers(), ids=lambda s: s.name)
def test_state_is_as_large_as_the_spec_says(spec):
    factory = getattr(optimizers, spec.impl.split(":")[1])(getattr(settings, spec.settings.split(":")[1])(), spec.name)
    optimizer = stepped(factory)
    matrix = optimizer.param_groups[0]["params"][0]
    size = sum(v.numel() * v.element_size() for v in optimizer.state[matrix].values() if torch.is_tensor(v) and v.ndim)
    # Adafactor's share shrinks with the matrix: (rows + columns) / (rows * columns) floats
    expected = 4 * (32 + 16) / (32 * 16) if spec.name == "adafactor" else spec.state_bytes_per_parameter
    assert size / matrix.numel() == pytest.approx(expected, abs=0.01)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ConfigError, match="momentum"):
        optimizers.SGD(settings.SGDSettings(nesterov=True), "sgd").build(groups())
