"""From a plan, and what was measured of it, to what fits: the arithmetic behind `swift plan --measure` and the post-mortem of a
run without memory. Left of the torch line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swift.api import KINDS
from swift.config.sections import TunerSection
from swift.errors import SwiftError
from swift.plan import estimate as est
from swift.plan import models
from swift.plan.advice import CHECKPOINTING, Change, changes
from swift.plan.draft import on_host, trained_dtypes
from swift.plan.forecast import setup_of
from swift.plan.plan import Plan
from swift.plan.sample import DataSize
from swift.plugins.planned import PlannedEntry

DYNAMIC = ("activations", "logits", "autocast copies", "gathered weights")
"""Components that follow from the micro-batch: estimates, which a measurement corrects."""
FULL = 0.9
"""Share of the memory that a suggestion fills at most: allocators do not get at the rest."""
NOT_ON_RESUME = ("--tuner", "--dtype", "--max_length", "--packing_length")


def setup_of_plan(plan: Plan) -> est.Setup | None:
    """What the memory of the plan's run depends on; None where the model's shapes are not known."""
    entries: dict[str, Any] = {
        slot: PlannedEntry(KINDS[c.kind].from_dict(dict(c.spec)), c) for slot, c in plan.components.items() if c.spec
    }
    try:
        shapes = models.inspect(Path(plan.model_folder)).shapes if plan.model_folder else None
    except SwiftError:
        return None
    if shapes is None:
        return None
    data = plan.estimate.get("data") or {}
    size = DataSize(data["rows"], data["tokens"], data["longest"]) if data.get("rows") else None
    device = entries.get("device")
    reference = plan.estimate.get("memory", {}).get("per_rank", {}).get("reference", 0)
    setup, _ = setup_of(
        plan.config, plan.components, entries, shapes, host=on_host(device), dtypes=trained_dtypes(device), size=size,
    )  # fmt: skip
    return replace(setup, reference=reference // setup.itemsize, compared=setup.compared or bool(reference))


def at_batch(setup: est.Setup, *, rows: int, tokens: int) -> est.Setup:
    """The setup with the micro-batch that was really there: `rows` of it, `tokens` with padding."""
    return replace(setup, batch_size=max(rows, 1), tokens=max(tokens, 1), span=max(tokens // max(rows, 1), 1))


@dataclass(frozen=True)
class Saving:
    flag: str
    why: str
    bytes: int


def savings(plan: Plan, setup: est.Setup, *, limit: int = 0, resuming: bool = False) -> list[Saving]:
    """Changes of a run that saves memory, each by itself, those that save most first. The global batch stays.

    Args:
        limit: Bytes that there are; 0: not known. The micro-batch becomes the largest that fits, half of what it was at most.
        resuming: Leave out what a run cannot change when it goes on from a checkpoint.
    """
    total = est.memory(setup).total
    rows = setup.batch_size * plan.config["train"]["gradient_accumulation_steps"]
    device = plan.components.get("device")
    entry: Any = PlannedEntry(KINDS[device.kind].from_dict(dict(device.spec)), device) if device and device.spec else None
    found = []
    possible = changes(
        setup, dtypes=trained_dtypes(entry), tuner_flag=f"--tuner {TunerSection().name}",
        cut="packing_length" if plan.config["data"]["batching"] == "packed" else "max_length",
    )  # fmt: skip
    mode = _one_mode(possible, total, limit)
    for change in possible:
        if change.flag.startswith(CHECKPOINTING) and change is not mode:
            continue
        new = change.setup
        flag, why = change.flag, change.why
        if flag.startswith("--batch_size"):
            halves = [s for s in smaller(setup, rows) if s.batch_size <= setup.batch_size // 2]
            new = next((s for s in halves if not limit or est.memory(s).total <= FULL * limit), new)
            flag = f"--batch_size {new.batch_size} --gradient_accumulation_steps {rows // new.batch_size}"
            why = "same global batch, same result; --auto_batch_size true finds the size by itself"
        saved = total - est.memory(new).total
        if saved > 0 and not (resuming and flag.startswith(NOT_ON_RESUME)):
            found.append(Saving(flag, why, saved))
    return sorted(found, key=lambda s: -s.bytes)


def _one_mode(possible: list[Change], total: int, limit: int) -> Change | None:
    """The mode of activation checkpointing to suggest: the one that computes least again and fits; full where the estimate of
    the run as it is would fit too, and so is too low, or where none fits."""
    modes = [change for change in possible if change.flag.startswith(CHECKPOINTING)]
    fitting = (change for change in modes if est.memory(change.setup).total <= FULL * limit < total)
    full = (change for change in modes if change.setup.checkpointing == "full")
    return next(fitting, None) or next(full, None) or next(iter(modes), None)


def smaller(setup: est.Setup, rows: int) -> list[est.Setup]:
    """With smaller micro-batches, the largest first, such that whole ones make up `rows`."""
    return [
        replace(setup, batch_size=n, tokens=max(setup.tokens * n // setup.batch_size, 1))
        for n in range(setup.batch_size - 1, 0, -1)
        if rows % n == 0
    ]


def next_smaller(micro_batch: int, rows: int) -> int:
    """The largest divisor of `rows` that is at most half of `micro_batch`; 0 where it is 1 already."""
    return next((n for n in range(micro_batch // 2, 0, -1) if rows % n == 0), 0)


# --------------------------------------------------------------------------------------------------------- calibration


def grouped(components: Mapping[str, int]) -> dict[str, int]:
    """The estimate's components by what can be measured: beside activations, all that comes and goes is one."""
    groups: dict[str, int] = {}
    for name, size in components.items():
        group = "logits, temporaries" if name in DYNAMIC and name != "activations" else name
        groups[group] = groups.get(group, 0) + size
    return groups


@dataclass(frozen=True)
class Fit:
    """A way to run the same global batch, with the peak that the calibrated estimate predicts for it."""

    batch_size: int
    accumulation: int
    checkpointing: str
    total: int

    @property
    def flags(self) -> str:
        return (
            f"--batch_size {self.batch_size} --gradient_accumulation_steps {self.accumulation} "
            f"--gradient_checkpointing {self.checkpointing}"
        )


@dataclass(frozen=True)
class Calibrated:
    """An estimate corrected by a measurement.

    Args:
        setup: With the micro-batch that was measured.
        fixed: Bytes that are there whatever the micro-batch is.
        ratio: Measured by estimated bytes of what follows from the micro-batch.
    """

    setup: est.Setup
    fixed: int
    ratio: float

    def total(self, setup: est.Setup) -> int:
        components = est.memory(setup).components
        return self.fixed + round(self.ratio * sum(components.get(name, 0) for name in DYNAMIC))


def calibrate(setup: est.Setup, measured: Mapping[str, int]) -> Calibrated:
    """`measured`: component (as in `grouped`) -> bytes."""
    own = {"activations", "logits, temporaries"}
    components = est.memory(setup).components
    expected = sum(components.get(name, 0) for name in DYNAMIC)
    return Calibrated(
        setup,
        sum(size for name, size in measured.items() if name not in own),
        sum(measured.get(name, 0) for name in own) / max(expected, 1),
    )


def fits(calibrated: Calibrated, *, rows: int, budget: int) -> list[Fit]:
    """Micro-batches that make up `rows` (of one rank and step), in each mode of activation checkpointing, that stay under
    `FULL` of `budget`; the likely fastest first: the largest without recomputation, then with."""
    found = []
    row = calibrated.setup.tokens // calibrated.setup.batch_size
    for mode in modes(calibrated.setup):
        for size in sorted((n for n in range(1, rows + 1) if rows % n == 0), reverse=True):
            setup = replace(calibrated.setup, batch_size=size, tokens=row * size, checkpointing=mode)
            total = calibrated.total(setup)
            if total <= FULL * budget:
                found.append(Fit(size, rows // size, mode, total))
    return found


def modes(setup: est.Setup) -> tuple[str, ...]:
    """Modes of activation checkpointing that make sense there; on a CPU there is no other memory to offload to."""
    return tuple(mode for mode in est.MODES if mode != "offload" or not setup.host)


def longest_row(calibrated: Calibrated, *, budget: int, checkpointing: str) -> int:
    """Tokens of the longest row (or pack) that fits with micro-batches of one, in steps of 256; 0: not even that."""
    step, low, high = 256, 0, 4096

    def fitting(rows_of_step: int) -> bool:
        tokens = rows_of_step * step
        setup = replace(calibrated.setup, batch_size=1, tokens=tokens, span=tokens, checkpointing=checkpointing)
        return calibrated.total(setup) <= FULL * budget

    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fitting(middle) else (low, middle - 1)
    return low * step
