"""A run that is only measured: steps are timed part by part, and nothing of it is kept but `bench.json`.

A plan whose config has a section `bench` (the keywords of `Bench`) is such a run; `swift bench train` and
`swift plan --measure` make them.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from swift.api import Batch, Device, Strategy
from swift.data.batches import StepLoader, StepSource, moved
from swift.plan.fit import setup_of_plan
from swift.plan.plan import Plan
from swift.plan.work import model_flops
from swift.run_dir import RunDir, write_text
from swift.training.checkpoint import TrainState
from swift.training.memory import LongestFirst, Peak, costliest, held, kept_for_backward, tensor_bytes

RESULT = "bench.json"
PARTS = ("forward", "backward", "clip", "optimizer")


@dataclass
class Watched:
    """A source of steps that remembers what it gave.

    Args:
        seen: Step -> `Batch.documents` of its micro-batches.
    """

    source: StepSource
    seen: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def step(self, step: int) -> list[Batch]:
        batches = self.source.step(step)
        self.seen[step] = [batch.documents for batch in batches if batch.documents is not None]
        return batches

    def epoch(self, step: int) -> float:
        return self.source.epoch(step)

    def position(self, step: int) -> dict[str, Any]:
        return self.source.position(step)


class Bench:
    """Measures one run.

    Args:
        warmup: Steps that are not counted.
        steps: Steps that are.
        longest: Begin with so many steps of the longest rows, where memory peaks, and measure memory by component.
    """

    def __init__(self, device: Device, torch_device: torch.device, *, warmup: int, steps: int, longest: int) -> None:
        self.device, self.torch_device = device, torch_device
        self.skipped, self.steps, self.longest = longest + warmup, steps, longest
        self.total_steps = self.skipped + steps
        self.began = time.perf_counter()
        self.overhead = self.reference = 0
        self.peak = Peak(device, torch_device)
        self.marks: list[list[tuple[str, Any]]] = []
        self.source: Watched | None = None
        self.state = TrainState()
        self.at_first: tuple[float, float, int, int] = (0.0, 0.0, 0, 0)

    @classmethod
    def of(cls, plan: Plan, device: Device, torch_device: torch.device) -> Bench | None:
        """None for a plan that is to be run in earnest."""
        request = plan.config.get("bench")
        return cls(device, torch_device, **request) if request else None

    def watched(self, loader: StepSource, state: TrainState, model: nn.Module, reference: nn.Module | None) -> StepSource:
        """The data that steps are to take. By now all is loaded, and nothing computed yet.

        Args:
            reference: A frozen model beside the trained one.
        """
        self.reference = tensor_bytes(reference.parameters()) if reference is not None and reference is not model else 0
        weights = sum(held(model, None, adapters=False).values())
        self.overhead = max(self.device.memory().used - weights - self.reference, 0)
        if self.longest and isinstance(loader, StepLoader):
            loader = LongestFirst.before(loader, self.longest)
        self.state = state
        self.source = Watched(loader)
        return self.source

    def mark(self, part: str) -> None:
        """An event on the device's queue, or the time where work is done at once."""
        if part == "start":
            if not self.marks:
                self.peak.restart()
            if len(self.marks) == self.skipped:
                self.device.synchronize()
                self.at_first = (time.perf_counter(), self.state.seconds, self.state.tokens, self.state.labels)
            self.marks.append([])
        if self.torch_device.type == "cpu":
            self.marks[-1].append((part, time.perf_counter()))
        else:
            event = torch.Event(device=self.torch_device, enable_timing=True)
            event.record()
            self.marks[-1].append((part, event))

    def finish(
        self, plan: Plan, run_dir: RunDir | None, *, strategy: Strategy, module: nn.Module, model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:  # fmt: skip
        """Write the result; every rank enters, the one with a `run_dir` writes."""
        self.device.synchronize()
        seconds = time.perf_counter() - self.at_first[0]
        peak = max(strategy.gather(self.peak.bytes()))
        tokens, labels = self.state.tokens - self.at_first[2], self.state.labels - self.at_first[3]
        steps = [self._parts(marks) for marks in self.marks[self.skipped :]]
        result: dict[str, Any] = {
            "steps": len(steps), "warmup": self.skipped, "seconds": seconds, "tokens": tokens, "labels": labels,
            "tokens_per_second": tokens / seconds, "world_size": strategy.world_size,
            "step_seconds": spread([step["step"] for step in steps]),
            "parts": {part: median(step.get(part, 0.0) for step in steps) for part in ("data", *PARTS)},
            "data_wait": sum(step["data"] for step in steps) / max(sum(step["step"] for step in steps), 1e-9),
            "memory_peak": peak, "setup_seconds": self.at_first[0] - self.began,
            **self._work(plan, tokens / seconds / strategy.world_size),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }  # fmt: skip
        if self.longest:
            result["memory"] = self._memory(plan, peak, strategy, module, model, optimizer)
        if run_dir is not None:
            write_text(run_dir.path / RESULT, json.dumps(result, indent=1))

    def _parts(self, marks: Sequence[tuple[str, Any]]) -> dict[str, float]:
        """Seconds of each part of one step; micro-batches are summed."""
        parts = {"step": self._between(marks[0][1], marks[-1][1])}
        for (_, before), (part, after) in pairwise(marks):
            parts[part] = parts.get(part, 0.0) + self._between(before, after)
        return parts

    def _between(self, before: Any, after: Any) -> float:
        return float(after - before) if self.torch_device.type == "cpu" else float(before.elapsed_time(after)) / 1000

    def _work(self, plan: Plan, tokens_per_second: float) -> dict[str, Any]:
        """Padding, the length that tokens attend over, and what the arithmetic is of what the device could do."""
        assert self.source is not None
        given = [micro for step in range(self.skipped, self.total_steps) for micro in self.source.seen[step]]
        lengths = [np.bincount(_numbers(documents)).astype(np.float64) for documents in given]
        real, places = sum(float(n.sum()) for n in lengths), sum(documents.numel() for documents in given)
        attended = sum(float((n**2).sum()) for n in lengths) / max(real, 1.0)
        found = {"padding": 1 - real / max(places, 1), "attended": attended}
        setup = setup_of_plan(plan)
        if setup is not None:
            flops = model_flops(setup, attended)
            found |= {"flops_per_token": flops, "tflops": flops * tokens_per_second / 1e12}
            if peak := plan.facts.get("device.peak_tflops"):
                found |= {"peak_tflops": peak, "mfu": found["tflops"] / peak}
        return found

    def _memory(
        self, plan: Plan, peak: int, strategy: Strategy, module: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Bytes by component, of the costliest micro-batch. Activations are what autograd keeps in one more pass."""
        assert self.source is not None
        source = self.source.source
        batch = costliest(source) if isinstance(source, StepLoader) else source.step(self.total_steps)[0]
        batch = moved(batch, lambda tensor: tensor.to(self.torch_device))
        with strategy.accumulating(module):
            with kept_for_backward(module) as kept:
                total, _ = module(batch)
            activations = sum(kept.values())
            strategy.backward(total / max(batch.num_labels, 1))
        parts = held(model, optimizer, adapters=plan.components["tuner"].spec.get("artifact") == "adapter")
        optimizer.zero_grad(set_to_none=True)
        if self.reference:
            parts["reference"] = self.reference
        parts["activations"] = activations
        # What the process held before may have been freed and used again: then it is not overhead besides the rest.
        parts["overhead"] = min(self.overhead, max(peak - sum(parts.values()), 0))
        parts["logits, temporaries"] = max(peak - sum(parts.values()), 0)
        return {"components": parts, "rows": batch.num_rows, "tokens": batch.labels.numel()}


def _numbers(documents: torch.Tensor) -> np.ndarray:
    """Number of the document of each real token, [B, S] to [tokens]."""
    flat = documents.reshape(-1)
    return flat[flat >= 0].numpy()


def spread(seconds: Sequence[float]) -> dict[str, float]:
    low, high = np.percentile(seconds, [10, 90])
    return {"median": median(seconds), "p10": float(low), "p90": float(high)}
