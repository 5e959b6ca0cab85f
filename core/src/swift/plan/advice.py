"""What to do where a run does not fit, with what each change saves and costs. Left of the torch line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from swift.plan.estimate import MODES, AdapterSize, Setup, memory
from swift.plan.shapes import target_weights
from swift.plan.work import slowdown


@dataclass(frozen=True)
class Change:
    """One change of a run, and what memory depends on with it."""

    flag: str
    why: str
    setup: Setup


@dataclass(frozen=True)
class Advice:
    """One change that saves memory."""

    flag: str
    why: str
    total: int
    """Bytes on one rank with it (and with those before it in the list)."""


CHECKPOINTING = "--gradient_checkpointing"
WHY = {
    "selective": "recomputes all but attention and matrix products",
    "full": "recomputes activations",
    "offload": "recomputes activations from inputs in the host's memory",
}


def changes(setup: Setup, *, dtypes: tuple[str, ...], tuner_flag: str, cut: str = "packing_length") -> list[Change]:
    """What would save memory, each by itself, in the order in which they cost least.

    Args:
        dtypes: Those that the device trains in.
        tuner_flag: What to type for adapters in place of full tuning; "" where no such tuner is installed.
        cut: Flag that halves a row: packing_length, or max_length where rows are not packed.
    """
    found: list[Change] = []

    def add(flag: str, why: str, **new: Any) -> None:
        found.append(Change(flag, why, replace(setup, **new)))

    def recompute(mode: str) -> None:
        times = slowdown(setup, mode)
        add(f"{CHECKPOINTING} {mode}", f"{WHY[mode]}: about {times:.2f} times the time of a step", checkpointing=mode)

    further = MODES[MODES.index(setup.checkpointing) + 1 :]
    for mode in further:
        if mode != "offload":
            recompute(mode)
    if setup.batch_size > 1:
        add("--batch_size 1", "gradient accumulation makes up for it, same result",
            tokens=max(setup.tokens // setup.batch_size, 1), batch_size=1)  # fmt: skip
    if not setup.adapters and tuner_flag:
        add(tuner_flag, "trains adapters instead of all weights", adapters=True, compute_dtype="", dtype=_small(setup, dtypes),
            adapter=AdapterSize(8, tuple(target_weights(setup.shapes, None)), dropout=True))  # fmt: skip
    if setup.itemsize > 2 and "bfloat16" in dtypes:
        add("--dtype bfloat16", "halves the weights" + ("" if setup.adapters else "; small updates may round away"),
            dtype="bfloat16", compute_dtype="")  # fmt: skip
    if setup.tokens // setup.batch_size > 512:
        half = setup.tokens // setup.batch_size // 2
        why = "rows that are longer need --max_length too" if cut == "packing_length" else "longer rows need --overlong"
        add(f"--{cut} {half}", why, tokens=half * setup.batch_size, span=min(setup.span, half))
    if "offload" in further and not setup.host:
        recompute("offload")
    return found


def advise(setup: Setup, *, budget: int, batch_size: int, dtypes: tuple[str, ...], tuner_flag: str) -> list[Advice]:
    """Changes in the order in which they cost least, each on top of those before, until the run fits `budget` bytes.

    The arguments are those of `changes`.
    """
    now, advice = replace(setup, batch_size=batch_size), list[Advice]()
    while not advice or advice[-1].total > budget:
        before = memory(now).total
        better = (c for c in changes(now, dtypes=dtypes, tuner_flag=tuner_flag) if memory(c.setup).total < before)
        change = next(better, None)
        if change is None:
            break
        now = change.setup
        advice = [a for a in advice if a.flag.split()[0] != change.flag.split()[0]]  # a further mode replaces the one before
        advice.append(Advice(change.flag, change.why, memory(now).total))
    return advice


def _small(setup: Setup, dtypes: tuple[str, ...]) -> str:
    return "bfloat16" if "bfloat16" in dtypes else setup.dtype
