"""Optimizers of `torch.optim`."""

from __future__ import annotations

from typing import Any

import torch

from swift.api import ConfigError, OptimizerFactory

FUSED = ("cpu", "cuda")
"""Devices where torch's one kernel is the fastest of its three ways (README.md has the measurement)."""


class AdamW(OptimizerFactory):
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        s = self.settings
        fused = s.fused if s.fused is not None else all(p.device.type in FUSED for g in groups for p in g["params"])
        return torch.optim.AdamW(groups, betas=(s.beta1, s.beta2), eps=s.eps, fused=fused)


class SGD(OptimizerFactory):
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        s = self.settings
        if s.nesterov and not s.momentum:
            raise ConfigError("sgd.nesterov needs a momentum above 0; it is 0", fix="--sgd.momentum 0.9")
        return torch.optim.SGD(groups, momentum=s.momentum, nesterov=s.nesterov)


class Adafactor(OptimizerFactory):
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.Adafactor(groups, beta2_decay=s.beta2_decay, eps=(None, s.eps), d=s.d)
