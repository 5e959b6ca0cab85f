"""The training loop. It knows no tuner, objective, strategy or device by name.

One optimizer step: take the step's micro-batches; count over all ranks what the objective counts (labels, pairs, rows); for
each, backward the loss *sum* divided by that global count; clip; step. So batch 8, batch 1 x 8 accumulations, packed rows and
2 ranks are the same step.

Nothing in a step waits for an accelerator: sums stay there until they are logged, and so does the norm (`GuardedOptimizer`).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn

from swift.api import Batch, Device, Objective, Strategy
from swift.data.batches import Prefetch, StepSource, moved, with_bounds
from swift.training import oom
from swift.training.checkpoint import TrainState, rng_state, set_rng_state
from swift.training.finite import GuardedOptimizer
from swift.training.in_backward import CHANGED, REMEDY, InBackward
from swift.training.reference import Reference
from swift.training.schedule import factor


class LossModule(nn.Module):
    """The loss as a module, so that whatever a strategy hooks on `forward` sees the whole computation.

    Args:
        reference: Tells the objective of each batch what it wants to know of the frozen reference model.
        media_parameters: Trained ones that only batches with media reach. Batches of text give them a gradient of 0: else there
            might be none at all, and ranks that wait for it would hang.
        takes_bounds: As `LoadedModel.takes_bounds`.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, *, memory_budget: int, autocast: torch.dtype | None = None,
        reference: Reference | None = None, takes_bounds: bool = False, media_parameters: Sequence[nn.Parameter] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self._media_parameters = tuple(media_parameters)
        self.model = model
        self.objective = objective
        self.memory_budget = memory_budget
        self.autocast = autocast
        self.reference = reference
        self.takes_bounds = takes_bounds

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(sum of the loss over what the objective counts, further sums)."""
        if self.reference is not None:
            # Under an autocast of its own: the casts of weights that one keeps know of no gradient when made without.
            with self._autocast(batch):
                batch = self.reference(self.objective, batch, memory_budget=self.memory_budget)
        if self.takes_bounds:
            batch = with_bounds(batch)
        with self._autocast(batch):
            out = self.objective.loss(self.model, batch, memory_budget=self.memory_budget)
        total = out.total
        if self._media_parameters and not any(value.is_floating_point() for value in batch.inputs.values()):  # only media are
            total = total + 0.0 * torch.stack([p.sum() for p in self._media_parameters]).sum()
        return total, out.metrics

    def _autocast(self, batch: Batch) -> AbstractContextManager[Any]:
        return torch.autocast(batch.labels.device.type, self.autocast) if self.autocast else nullcontext()


@dataclass(frozen=True)
class LoopConfig:
    total_steps: int
    warmup_steps: int
    lr_scheduler: str
    min_lr_ratio: float
    max_grad_norm: float
    log_steps: int
    save_steps: int
    eval_steps: int


@dataclass
class StopRequest:
    """Set by SIGINT or SIGTERM; read between steps, where everything is consistent."""

    signal_name: str = ""
    _old: dict[int, Any] = field(default_factory=dict)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        def note(number: int, _frame: FrameType | None) -> None:
            if self.signal_name:  # a second one means now
                raise KeyboardInterrupt
            self.signal_name = signal.Signals(number).name

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, note)
        except ValueError:  # not the main thread: whoever called from there handles signals
            self._old.clear()
        try:
            yield self
        finally:
            for listened, handler in self._old.items():
                signal.signal(listened, handler)


@dataclass
class Loop:
    """Runs steps until done or asked to stop.

    Args:
        count: The objective's, by whose sum over a step the loss is divided.
        on_log: Called on rank 0 with the metrics of a step that is logged.
        on_save: Called on every rank where a checkpoint is due.
        on_eval: Called on every rank where an evaluation is due.
        shrink: Called where a step finds no memory, before anything has changed: data in smaller micro-batches from that step
            on. None: the run ends.
        late: As of `GuardedOptimizer`.
        in_backward: Has done the optimizer's work when a backward pass is over.
        mark: Told which part of a step has been issued to the device: start, data, forward, backward, clip, optimizer.
    """

    config: LoopConfig
    state: TrainState
    strategy: Strategy
    device: Device
    torch_device: torch.device
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loader: StepSource
    count: Callable[[Batch], int]
    stop: StopRequest
    on_log: Callable[[Mapping[str, float]], None]
    on_save: Callable[[TrainState], None]
    on_eval: Callable[[TrainState], None]
    shrink: Callable[[oom.StepOutOfMemory], StepSource] | None = None
    late: bool | None = None
    in_backward: InBackward | None = None
    mark: Callable[[str], None] = lambda part: None
    waited: float = 0.0
    """Seconds that the steps of this process waited for their batches."""
    generators: dict[str, Any] = field(default_factory=dict)
    """State of the random generators before the step at work, where a step may be done again."""

    def run(self) -> bool:
        """True when all steps are done, False when stopped from outside (nothing is lost: the caller saves)."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.module.train()
        window, guarded = Window(), GuardedOptimizer(self.optimizer, self.torch_device, self.late)
        if self.in_backward is not None:
            guarded.changed, guarded.remedy = CHANGED, REMEDY
        while True:
            try:
                with Prefetch(
                    self.loader, first=self.state.step, last=self.config.total_steps, pin=self.torch_device.type == "cuda"
                ) as steps:  # fmt: skip
                    return self._steps(steps, window, guarded, parameters, peaks)
            except oom.StepOutOfMemory as error:
                if self.shrink is None:
                    raise
                fault = error.with_traceback(None)  # its frames hold the step's batches
            self.optimizer.zero_grad(set_to_none=True)
            oom.release(self.device)
            set_rng_state(self.device, self.generators)
            self.loader = self.shrink(fault)

    def _steps(
        self, steps: Prefetch, window: Window, guarded: GuardedOptimizer, parameters: Sequence[torch.Tensor],
        peaks: Sequence[float],
    ) -> bool:  # fmt: skip
        while self.state.step < self.config.total_steps:
            started = time.perf_counter()
            self.mark("start")
            batches = steps.step(self.state.step)
            waited = time.perf_counter() - started
            self.mark("data")
            if self.shrink is not None:
                self.generators = rng_state(self.device)
            counts = [
                sum(map(self.count, batches)), sum(b.num_labels for b in batches), sum(b.num_tokens for b in batches),
                bool(self.stop.signal_name),
            ]  # fmt: skip
            count, num_labels, num_tokens, stopped = self.strategy.all_reduce([float(c) for c in counts])
            if stopped:
                guarded.settle()
                return False
            scale = factor(
                self.state.step, total_steps=self.config.total_steps, warmup_steps=self.config.warmup_steps,
                shape=self.config.lr_scheduler, min_ratio=self.config.min_lr_ratio,
            )  # fmt: skip
            for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
            sums = self.backward(batches, count)
            if self.in_backward is not None:
                grad_norm = self.in_backward.norm()
            else:
                grad_norm = self.strategy.clip_gradients(parameters, self.config.max_grad_norm)
            self.mark("clip")
            guarded.step(self.state.step + 1, grad_norm)
            self.optimizer.zero_grad(set_to_none=True)
            self.mark("optimizer")
            due = self.due(self.state.step + 1)
            if due:
                guarded.settle()  # within the time of the step whose work it waits for
            seconds = time.perf_counter() - started
            self.state.step += 1
            self.state.tokens += int(num_tokens)
            self.state.labels += int(num_labels)
            self.state.seconds += seconds
            self.state.stream = self.loader.position(self.state.step)
            self.waited += waited
            window.add(sums, count, num_tokens, seconds, waited)
            if "log" in due:
                self.log(window, guarded.settle(), self.optimizer.param_groups[0]["lr"])
                window.clear()
            if "eval" in due:
                self.on_eval(self.state)
                self.module.train()
            if "save" in due:
                self.on_save(self.state)
        return True

    def due(self, step: int) -> set[str]:
        """What is to be done after `step` steps: log, eval, save; after the last one the caller evaluates and saves."""
        done = step == self.config.total_steps
        found = {"log"} if step % self.config.log_steps == 0 or done or step == 1 else set()
        for what, every in (("eval", self.config.eval_steps), ("save", self.config.save_steps)):
            if every and step % every == 0 and not done:
                found.add(what)
        return found

    def backward(self, batches: Sequence[Batch], count: float) -> dict[str, torch.Tensor]:
        """Gradients of the whole step; returns this rank's sums, 0-d on the device."""
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else self.strategy.accumulating(self.module):
                with oom.noticed(batch, f"step {self.state.step + 1}, micro-batch {number + 1} of {len(batches)}"):
                    total, metrics = self.module(to_device(batch, self.torch_device))
                    self.mark("forward")
                    self.strategy.backward(total / max(count, 1.0))
                    self.mark("backward")
            for name, value in {"loss": total, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.detach().double()
        return sums

    def log(self, window: Window, grad_norm: float, learning_rate: float) -> None:
        names = sorted(window.sums)
        totals = dict(zip(names, self.strategy.all_reduce(torch.stack([window.sums[n] for n in names]).tolist()), strict=True))
        memory = self.device.memory()
        metrics = {
            "step": self.state.step,
            "epoch": self.loader.epoch(self.state.step),
            **{name: total / max(window.count, 1.0) for name, total in totals.items()},
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "tokens_per_second": window.tokens / window.seconds,
            "data_wait": window.waited / window.seconds,
            "tokens": self.state.tokens,
            "memory": memory.used,
            "memory_peak": memory.peak,
            "seconds": self.state.seconds,
        }
        if self.strategy.is_main:
            self.on_log(metrics)


@dataclass
class Window:
    """Sums between two log lines."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """0-d, on the device."""
    count: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, sums: Mapping[str, torch.Tensor], count: float, tokens: float, seconds: float, waited: float) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += count
        self.tokens += tokens
        self.seconds += seconds
        self.waited += waited

    def clear(self) -> None:
        self.sums, self.count, self.tokens, self.seconds, self.waited = {}, 0.0, 0.0, 0.0, 0.0


@torch.no_grad()
def evaluate(
    module: nn.Module,
    batches: Iterator[Batch],
    *,
    count: Callable[[Batch], int],
    strategy: Strategy,
    torch_device: torch.device,
) -> dict[str, float]:
    """Mean over what the objective counts on all ranks of the loss and its further sums; of a loss over labels the exponential
    too."""
    module.eval()
    sums: dict[str, Any] = {"loss": 0.0}
    counted = labels = 0
    for batch in batches:
        loss, metrics = module(to_device(batch, torch_device))
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + value.double()
        counted += count(batch)
        labels += batch.num_labels
    names = sorted(sums)
    *totals, all_counted, all_labels = strategy.all_reduce([*(float(sums[n]) for n in names), float(counted), float(labels)])
    means = {f"eval_{name}": total / max(all_counted, 1.0) for name, total in zip(names, totals, strict=True)}
    if all_counted == all_labels:
        means["eval_perplexity"] = math.exp(min(means["eval_loss"], 700.0))
    return {**means, "eval_labels": all_labels}


def to_device(batch: Batch, device: torch.device) -> Batch:
    if batch.labels.device == device:
        return batch
    return moved(batch, lambda tensor: tensor.to(device, non_blocking=True))
