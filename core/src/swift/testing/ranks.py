"""One rank of the strategy contract: `python -m swift.testing.ranks IMPL SETTINGS NAME OUTPUT`, started once per rank.

Three steps of AdamW on a small regression; the rows of a step are dealt over ranks and accumulated twice. What comes out must
not depend on the number of ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from swift.plugins.loading import load_object
from swift.testing.kinds import PlainCpu

ROWS, STEPS, ACCUMULATION = 8, 3, 2


class Loss(nn.Module):
    """Sum of squared errors; like the loop's module it is given a batch and returns (sum, metrics)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y = batch
        return ((self.model(x) - y) ** 2).sum(), {}


def rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


def main(impl: str, settings_class: str, name: str, output: str) -> None:
    settings = load_object(settings_class)() if settings_class else None
    strategy = load_object(impl)(settings, name, PlainCpu())
    strategy.start(timeout_s=60.0)
    module = strategy.wrap(Loss())
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses, norms = [], []
    folder = Path(output)
    for step in range(STEPS):
        x, y = rows(step)
        share = ROWS // (strategy.world_size * ACCUMULATION)
        total = 0.0
        for number in range(ACCUMULATION):
            start = (number * strategy.world_size + strategy.rank) * share
            batch = (x[start : start + share], y[start : start + share])
            if number < ACCUMULATION - 1:
                with strategy.accumulating(module):
                    loss, _ = module(batch)
                    strategy.backward(loss / ROWS)
            else:
                loss, _ = module(batch)
                strategy.backward(loss / ROWS)
            total += float(loss.detach())
        norms.append(float(strategy.clip_gradients(parameters, 0.5)))
        losses.append(strategy.all_reduce([total])[0] / ROWS)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if strategy.is_main:
        (folder / "optimizer").mkdir()
    strategy.barrier()
    strategy.save_optimizer(optimizer, folder / "optimizer")
    strategy.barrier()
    fresh = torch.optim.AdamW(parameters, lr=1e-2)
    strategy.load_optimizer(fresh, folder / "optimizer")
    kept = all(
        torch.equal(fresh.state[p]["exp_avg"], optimizer.state[p]["exp_avg"]) for p in parameters if p in optimizer.state
    )
    everyone = strategy.gather(strategy.rank)
    said = strategy.broadcast("from rank 0" if strategy.is_main else "wrong")
    with strategy.unwrapped(module) as whole:
        if whole is not None:
            result = {
                "losses": losses, "norms": norms, "optimizer_kept": kept, "gathered": everyone, "broadcast": said,
                "weights": [p.detach().flatten().tolist() for p in whole.parameters()],
            }  # fmt: skip
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    strategy.barrier()
    strategy.stop()


if __name__ == "__main__":
    main(*sys.argv[1:5])
