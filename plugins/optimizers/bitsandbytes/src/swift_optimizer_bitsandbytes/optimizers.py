"""Optimizers of bitsandbytes: state in blocks of 256 numbers of 8 bits with a scale each.

Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization".
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from bitsandbytes import optim

from swift.api import OptimizerFactory

# On a CPU there is no other memory to page to; bitsandbytes says so in every process.
warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")


class _AdamW(OptimizerFactory):
    optimizer: ClassVar[type[torch.optim.Optimizer]]

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        s = self.settings
        options: Any = {"betas": (s.beta1, s.beta2), "min_8bit_size": s.min_8bit_size}
        return self.optimizer(groups, eps=s.eps, **options)  # type: ignore[call-arg]


class AdamW8bit(_AdamW):
    optimizer = optim.AdamW8bit


class PagedAdamW8bit(_AdamW):
    optimizer = optim.PagedAdamW8bit


class PagedAdamW32bit(_AdamW):
    optimizer = optim.PagedAdamW32bit


class Lion8bit(OptimizerFactory):
    optimizer: ClassVar[type[torch.optim.Optimizer]] = optim.Lion8bit

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        s = self.settings
        options: Any = {"betas": (s.beta1, s.beta2), "min_8bit_size": s.min_8bit_size}
        return self.optimizer(groups, **options)


class PagedLion8bit(Lion8bit):
    optimizer = optim.PagedLion8bit
