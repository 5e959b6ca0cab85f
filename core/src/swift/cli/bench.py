"""`swift bench train`: how fast a configuration trains, and where the time and the memory go; two configurations in turns.

Each measurement is a process of its own, so that its peak memory is its own too. Nothing of the run is kept.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from swift.cli.bench_flags import NOTES, OWN
from swift.cli.data_settings import split
from swift.cli.help import flag_lines, width
from swift.config.loader import load, takes
from swift.config.spelling import TRAIN_VERBS
from swift.errors import ConfigError, SwiftError
from swift.plan.plan import Plan
from swift.plan.planner import make_plan, refuse
from swift.plan.render import bytes_of, columns, count, header, value_of
from swift.plugins.missing import nearest
from swift.plugins.registry import Registry, discover
from swift.run_dir import RunDir
from swift.start import execute, worker_error

RESULT = "bench.json"
"""`swift.training.bench.RESULT`, right of the torch line."""
CONFIGS = (".yaml", ".yml", ".json")


def main(argv: Sequence[str]) -> int:
    """Exit code 0. Raises `SwiftError` as the run itself would."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help") or any(word in ("-h", "--help") for word in words):
        print(help_text())
        return 0
    if words[0].startswith("-") or words[0].endswith(CONFIGS):
        raise ConfigError("bench what?", fix=f"swift bench train {shlex.join(words)}")
    verb, rest = words[0], words[1:]
    registry = discover()
    verbs = trainers(registry)
    if verb not in verbs:
        near = nearest(verb, verbs, 1)
        raise ConfigError(f"swift {verb} trains nothing that could be measured; these do: {', '.join(verbs)}",
                          fix=shlex.join(["swift", "bench", near[0] if near else "train", *rest]))  # fmt: skip
    told = split(rest, OWN, takes(verb, registry))
    flags = [*told.positional, *told.rest]
    against = told.own["against"]
    plans = {"A": planned(verb, flags, registry)}
    if against is not None:
        plans["B"] = planned(verb, other(flags, against), registry)
    steps, warmup = at_least(told.own["steps"], 1, "--steps"), at_least(told.own["warmup"], 1, "--warmup")
    rounds = at_least(told.own["rounds"] or (3 if against is not None else 1), 1, "--rounds")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in plans}
    for number in range(rounds):
        for name, plan in plans.items():
            if len(plans) > 1 or rounds > 1:
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            found[name].append(measured(plan, warmup=warmup, steps=steps))
    if told.own["json"]:
        print(json.dumps(as_json(found), indent=1))
    elif against is None:
        print(header(plans["A"]))
        print(columns(figures(best(found["A"]))))
    else:
        print("\n".join(f"{name}: {header(plan)}" for name, plan in plans.items()))
        print(columns(differences(plans["A"], plans["B"]), indent="  "))
        print(columns(comparison(found), right=(1, 2)))
    return 0


def help_text() -> str:
    columns_ = width()
    lines = ["swift bench train: tokens per second, memory, and where the time goes, of a training run", ""]
    lines += ["usage: swift bench train|sft|pt|VERB [run.yaml] [flags of that verb] [--against OTHER]"]
    lines += ["  e.g. swift bench train -c a.yaml --against b.yaml", "", "Options"]
    lines += [line for flag in OWN for line in flag_lines(flag, columns_)]
    for note in NOTES:
        lines += ["", *textwrap.wrap(note, columns_, break_on_hyphens=False)]
    return "\n".join(lines)


def at_least(value: int, least: int, flag: str) -> int:
    if value < least:
        raise ConfigError(f"{flag} {value}: at least {least}")
    return value


def other(flags: Sequence[str], against: str) -> list[str]:
    """The second command line: another file in place of the first one's, or further flags."""
    if against.lstrip().startswith("-"):
        try:
            return [*flags, *shlex.split(against)]
        except ValueError as error:
            raise ConfigError(f"--against {against}: {str(error).lower()}", fix='--against="--flag value"') from None
    if not Path(against).is_file():
        raise ConfigError(
            f"--against {against}: there is no such file", fix='--against other.yaml, or --against="--flag value"'
        )
    kept, skip = list[str](), False
    for word in flags:
        if skip or word.startswith(("--config=", "-c=")):
            skip = False
        elif word in ("-c", "--config"):
            skip = True
        elif word.startswith("-") or not word.endswith(CONFIGS) or (kept and kept[-1].startswith("-")):
            kept.append(word)
    return ["--config", against, *kept]


def trainers(registry: Registry) -> list[str]:
    """Verbs that train."""
    objectives = (verb for entry in registry.entries("objective") for verb in entry.data.get("verbs", ()))
    return list(dict.fromkeys([*TRAIN_VERBS, *objectives]))


def planned(verb: str, flags: Sequence[str], registry: Registry) -> Plan:
    resolved = load(verb, argv=list(flags), registry=registry)
    for note in resolved.notes:
        print(note, file=sys.stderr)
    if resolved.extra.get("resume"):
        raise ConfigError("a benchmark goes on with no run", fix="leave --resume out; -c RUN/config.yaml measures its settings")
    plan = make_plan(resolved, registry)
    refuse(plan)
    return plan


def measured(plan: Plan, *, warmup: int, steps: int, longest: int = 0, **train: Any) -> dict[str, Any]:
    """Run the plan for so many steps in processes of its own, and return what `swift.training.bench` wrote.

    Args:
        longest: Steps of the longest rows that come first; then memory is measured by component too.
        train: Other values of the section `train`.

    Raises:
        SwiftError: The run failed; with its own reason.
    """
    config = {
        **plan.config,
        "bench": {"warmup": warmup, "steps": steps, "longest": longest},
        "train": {**plan.config["train"], **train},
        "logging": {**plan.config["logging"], "tracker": [], "report": False, "watch": False},
        "data": {**plan.config["data"], "val_dataset": []},
    }
    kept = {slot: c for slot, c in plan.components.items() if not slot.startswith("tracker")}
    with tempfile.TemporaryDirectory(prefix="swift-bench-") as folder:
        run_dir = RunDir.create(Path(folder) / "run", replace(plan, config=config, components=kept), {})
        if "launcher" in kept:
            execute(run_dir.plan, run_dir)
        else:
            code = subprocess.run([sys.executable, "-m", "swift.worker", str(run_dir.plan_file)], check=False).returncode
            if code:
                raise worker_error(code, plan, run_dir)
        file = run_dir.path / RESULT
        if not file.is_file():
            raise SwiftError("the measured run ended without a result", fix="look at its output above")
        return dict(json.loads(file.read_text(encoding="utf-8")))


def best(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """On a noisy machine the fastest round is the one that was disturbed least."""
    return max(results, key=lambda result: float(result["tokens_per_second"]))


def figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the user reads of one result."""
    step = result["step_seconds"]
    rows = [
        ("real tokens/s", f"{result['tokens_per_second']:,.0f}; {100 * result['padding']:.1f} % of what is computed is padding"
         if result["padding"] >= 0.001 else f"{result['tokens_per_second']:,.0f}, no padding"),
        ("optimizer step", f"{1000 * step['median']:,.1f} ms in the median, {1000 * step['p10']:,.1f} to "
         f"{1000 * step['p90']:,.1f} from the 10th to the 90th percentile of {result['steps']} steps after {result['warmup']}"),
    ]  # fmt: skip
    parts = result["parts"]
    whole = max(step["median"], 1e-12)
    rows.append(("of it", ", ".join(f"{part} {100 * parts[part] / whole:.0f} %" for part in parts if part != "data")))
    rows.append(("waiting for data", f"{100 * result['data_wait']:.1f} % of the time"))
    if "flops_per_token" in result:
        speed = f"{result['tflops']:,.4g} TFLOP/s per device"
        if "mfu" in result:
            speed += f", {100 * result['mfu']:.1f} % of its peak of {result['peak_tflops']:,.0f} (model FLOPs utilisation)"
        rows.append(("arithmetic", speed))
        rows.append(("", f"{count(result['flops_per_token'])}FLOP per token, in documents of {result['attended']:,.0f} tokens"))
    rows.append(("memory, peak", f"{bytes_of(result['memory_peak'])} per process"))
    rows.append(("until step 1", f"{result['setup_seconds']:.1f} s, imports left out, warm-up included"))
    return rows


def comparison(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "A", "B", "A / B in pairs: median (lowest to highest)")]
    for name, read, show in (
        ("real tokens/s", lambda r: r["tokens_per_second"], lambda v: f"{v:,.0f}"),
        ("optimizer step, ms", lambda r: 1000 * r["step_seconds"]["median"], lambda v: f"{v:,.1f}"),
        ("memory, peak", lambda r: r["memory_peak"], bytes_of),
        ("waiting for data, %", lambda r: 100 * r["data_wait"], lambda v: f"{v:.1f}"),
        ("TFLOP/s per device", lambda r: r.get("tflops", 0.0), lambda v: f"{v:.4g}"),
    ):
        a, b = ([float(read(result)) for result in found[side]] for side in ("A", "B"))
        pairs = ratios(a, b)
        shares = name.endswith("%")  # a few microseconds by a few
        text = f"{median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})" if pairs and not shares else ""
        rows.append((name, show(median(a)), show(median(b)), text))
    return rows


def differences(a: Plan, b: Plan) -> list[tuple[str, ...]]:
    """Values in which the plans differ, with a heading; empty where there are none."""

    def values(plan: Plan) -> dict[str, Any]:
        sections = [*plan.config.items(), *((c.name, c.settings) for c in plan.components.values())]
        return {f"{section}.{key}": value for section, fields in sections for key, value in fields.items()}

    of_a, of_b = values(a), values(b)
    rows = [(path, *(value_of(v[path]) if path in v else "" for v in (of_a, of_b)))
            for path in dict.fromkeys([*of_a, *of_b]) if of_a.get(path) != of_b.get(path)]  # fmt: skip
    return [("", "A", "B"), *rows] if rows else [("no setting differs between A and B",)]


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True) if y]


def as_json(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    result: dict[str, Any] = dict(found)
    if "B" in found:
        speeds = [[float(r["tokens_per_second"]) for r in found[side]] for side in ("A", "B")]
        peaks = [[float(r["memory_peak"]) for r in found[side]] for side in ("A", "B")]
        result["A/B"] = {"tokens_per_second": ratios(*speeds), "memory_peak": ratios(*peaks)}
    return result
