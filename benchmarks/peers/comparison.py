"""What the runs of training.py come to: ratios of Swift to each other framework, in pairs of a round, and a table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {
    # what a run says: (heading, more is better, digits)
    "tokens_per_s": ("real tokens/s", True, 0),
    "first_step_s": ("to first step, s", False, 1),
    "wall_s": ("whole command, s", False, 1),
    "peak_mib": ("peak memory, MiB", False, 0),
}
COST = {"7M": 1.0, "60M": 4.0}
"""How long a run of each model takes, about, beside one of the smallest."""
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Framework -> its runs, each with the number of its `round`; one that failed has an `error` instead of figures."""


def compare(runs: Runs) -> dict[str, Any]:
    """Best figures of each framework, and of each but Swift the ratios `swift / it`: of the bests, and in pairs of a round."""
    done = {name: [run for run in of if "error" not in run] for name, of in runs.items()}
    summary: dict[str, Any] = {}
    for name, of in done.items():
        if not of:
            summary[name] = {"rounds": 0, "error": runs[name][-1]["error"] if runs[name] else "not run yet"}
            continue
        summary[name] = {"rounds": len(of), "loss": statistics.median(run["loss"] for run in of)}
        for metric in METRICS:
            summary[name][metric] = best(metric, of)
            if name != "swift" and (ratio := ratios(metric, done.get("swift", ()), of)):
                summary[name].setdefault("swift_over_it", {})[metric] = ratio
    return summary


def best(metric: str, of: Sequence[Mapping[str, Any]]) -> float:
    return (max if METRICS[metric][1] else min)(run[metric] for run in of)


def ratios(metric: str, swift: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{} where no round has both."""
    by_round = {run["round"]: run[metric] for run in other}
    pairs = [run[metric] / by_round[run["round"]] for run in swift if by_round.get(run["round"])]
    if not pairs:
        return {}
    return {
        "paired_median": round(statistics.median(pairs), 3), "paired_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "best": round(best(metric, swift) / best(metric, other), 3), "pairs": len(pairs),
    }  # fmt: skip


def table(workloads: Sequence[Mapping[str, Any]]) -> str:
    """Lines per workload and framework; `2.10 (1.90-2.30, best 2.05)` is swift / it: paired median, range, of the bests."""
    rows = [("", *(heading for heading, _, _ in METRICS.values()), "final loss")]
    for work in workloads:
        rows.append((" ".join((work["model"], work["tuner"], work["dtype"], work["setting"])), *[""] * (len(METRICS) + 1)))
        for name, of in work["summary"].items():
            if not of["rounds"]:
                rows.append((f"  {name}", of["error"].splitlines()[-1][:60], *[""] * len(METRICS)))
                continue
            cells = []
            for metric, (_, _, digits) in METRICS.items():
                ratio = of.get("swift_over_it", {}).get(metric)
                cells.append(f"{of[metric]:,.{digits}f}" + (f"  x {shown(ratio)}" if ratio else ""))
            rows.append((f"  {name} ({of['rounds']})", *cells, f"{of['loss']:.4f}"))
    widths = [max(len(row[column]) for row in rows if row[column] or column == 0) for column in range(len(rows[0]))]
    note = "x: swift's over its: paired median (lowest-highest, best over best). Above 1 is good for tokens/s, bad elsewhere."
    return "\n".join(["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows] + [note])


def shown(ratio: Mapping[str, Any]) -> str:
    low, high = ratio["paired_range"]
    spread = f"{low:.2f}-{high:.2f}, " if ratio["pairs"] > 1 else ""
    return f"{ratio['paired_median']:.2f} ({spread}best {ratio['best']:.2f})"


def order(workloads: Sequence[tuple[str, str, str, str]], rounds: int) -> list[tuple[int, tuple[str, str, str, str]]]:
    """(round, workload), the most telling first: the small model in float32 is a round ahead of the large one, and that
    is a round ahead of bfloat16, which most CPUs only emulate."""

    def tier(workload: tuple[str, str, str, str]) -> int:
        shape, _, dtype, _ = workload
        return 2 if dtype == "bfloat16" else int(shape != "7M")

    jobs = [(number, workload) for workload in workloads for number in range(rounds)]
    return sorted(jobs, key=lambda job: (job[0] + tier(job[1]), tier(job[1])))


def expected_seconds(workload: tuple[str, str, str, str], took: Mapping[tuple[str, str, str, str], Sequence[float]]) -> float:
    """Seconds of one round: as measured; else as those that differ least took, the larger model four times as long as the
    smaller one. 0 where nothing is known."""
    if took.get(workload):
        return statistics.median(took[workload])
    known = []
    for other, of in took.items():
        if of:
            apart = sum(a != b for a, b in zip(workload, other, strict=True))
            known.append((apart, statistics.median(of) * COST[workload[0]] / COST[other[0]]))
    nearest = min((distance for distance, _ in known), default=0)
    return max((seconds for distance, seconds in known if distance == nearest), default=0.0)
