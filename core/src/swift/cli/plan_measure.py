"""`swift plan --measure`: a few real steps of the longest rows, to correct the estimate and to suggest what fits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swift.cli.bench import figures, measured
from swift.config.sections import checkpointing_mode
from swift.plan import estimate as est
from swift.plan.fit import FULL, Fit, at_batch, calibrate, fits, grouped, longest_row, modes, setup_of_plan
from swift.plan.plan import Plan
from swift.plan.render import bytes_of, columns, duration

LONGEST, STEPS = 2, 4
SHOWN = 6


def measure(plan: Plan) -> Plan:
    """The plan with `estimate["measured"]`. Raises `SwiftError` where its steps fail, out of memory among them."""
    print(f"measuring: {LONGEST} steps of the longest rows, then {STEPS} as they come ...", file=sys.stderr)
    train = plan.config["train"]
    accumulation = min(train["gradient_accumulation_steps"], 2)  # the second micro-batch finds the gradients of the first
    result = measured(plan, warmup=1, steps=STEPS, longest=LONGEST, gradient_accumulation_steps=accumulation)
    return replace(plan, estimate={**plan.estimate, "measured": {**result, **conclusions(plan, result)}})


def conclusions(plan: Plan, result: Mapping[str, Any]) -> dict[str, Any]:
    """Estimate beside measurement, the time of the whole run, and ways to run it that fit."""
    found: dict[str, Any] = {}
    time = plan.estimate.get("time")
    if time:
        found["run_seconds"] = time["tokens"] / result["tokens_per_second"]
    setup = setup_of_plan(plan)
    if setup is None:
        return found
    memory = result["memory"]
    batch_size = plan.config["train"]["batch_size"]
    setup = at_batch(setup, rows=min(batch_size, max(memory["rows"], 1)), tokens=memory["tokens"])
    estimated = grouped(est.memory(setup).components)
    measured_ = memory["components"]
    found["components"] = {
        name: {"estimated": estimated.get(name, 0), "measured": measured_.get(name, 0)}
        for name in dict.fromkeys([*estimated, *measured_])
    }
    found["total"] = {"estimated": sum(estimated.values()), "measured": result["memory_peak"]}
    budget = plan.estimate.get("memory", {}).get("budget", 0)
    calibrated = calibrate(setup, measured_)
    found["calibration"] = calibrated.ratio
    if budget:
        rows = batch_size * plan.config["train"]["gradient_accumulation_steps"]
        ways = fits(calibrated, rows=rows, budget=budget)
        found["fits"] = [vars(way) for way in ways]
        context = plan.estimate["model"].get("context_length") or 2**63
        found["longest_row"] = {
            mode: min(longest_row(calibrated, budget=budget, checkpointing=mode), context) for mode in modes(setup)
        }
    return found


def render(plan: Plan) -> str:
    found = plan.estimate["measured"]
    lines = ["Measured, in a few steps of the longest rows and a few as they come", columns(figures(found))]
    if "components" in found:
        pairs = [(name, p["estimated"], p["measured"]) for name, p in found["components"].items()]
        pairs.append(("total", found["total"]["estimated"], found["total"]["measured"]))
        table = [("", "estimated", "measured")] + [(name, bytes_of(a), bytes_of(b) if b else "") for name, a, b in pairs]
        lines += ["  memory of one process, for the costliest micro-batch:", columns(table, indent="    ", right=(1, 2))]
    if "run_seconds" in found:
        planned = plan.estimate["time"]["seconds"]
        before = f"; the estimate without measuring was {duration(planned)}" if planned else ""
        lines.append(f"  the whole run would take {duration(found['run_seconds'])}{before}")
    return "\n".join([*lines, *_suggestions(plan, found)])


def _suggestions(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    if "fits" not in found:
        return []
    budget = plan.estimate["memory"]["budget"]
    ways = [Fit(**way) for way in found["fits"]]
    if not ways:
        return [f"  nothing with these weights stays under {100 * FULL:.0f} % of {bytes_of(budget)}; see the advice above"]
    train = plan.config["train"]
    now = (train["batch_size"], checkpointing_mode(train["gradient_checkpointing"]))
    # The largest ones, and what is set now.
    shown = [way for n, way in enumerate(ways) if n < SHOWN or (way.batch_size, way.checkpointing) == now]
    table = [
        (
            way.flags,
            bytes_of(way.total) + (" (now)" if (way.batch_size, way.checkpointing) == now else ""),
        )
        for way in shown
    ]
    longest = found["longest_row"]
    return [
        f"  what fits {100 * FULL:.0f} % of {bytes_of(budget)} with the same rows per step, by the corrected estimate:",
        "\n".join(f"    {flags}  {size}" for flags, size in table),
        "  longest row (--max_length) or pack (--packing_length) with --batch_size 1, by --gradient_checkpointing: "
        + ", ".join(f"{mode} {tokens:,} tokens" for mode, tokens in longest.items()),
    ]
