"""The figures of growth.py: an SVG a part, for docs/performance.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

STYLE = {
    "svg.hashsalt": "swift", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.3, "legend.frameon": False, "figure.facecolor": "white",
}  # fmt: skip
"""`hashsalt`: the same figures give the same file."""

Curve = tuple[str, Sequence[tuple[float, float]], str]
"""Label, points, format."""


def panel(axes: Axes, title: str, x: str, y: str, curves: Sequence[Curve], *, log_x: bool = True, log_y: bool = True) -> None:
    """Curves over a quantity that is named with its unit; those of points that are not measured yet are left out."""
    curves = [curve for curve in curves if curve[1]]
    axes.set(title=title, xlabel=x, ylabel=y)
    if not curves:
        return
    for label, points, form in curves:
        axes.plot(*zip(*points, strict=True), form, label=label, markersize=4, linewidth=1.3)
    heights = [point[1] for _, points, _ in curves for point in points]
    places = sorted({point[0] for _, points, form in curves for point in points})
    if log_x:
        axes.set_xscale("symlog", linthresh=1) if places[0] == 0 else axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(places, [_short(place) for place in places])
    if log_y:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(min(heights))), 10 ** math.ceil(math.log10(1.01 * max(heights))))
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.15 * max(heights))
    if len(curves) > 1:
        axes.legend(fontsize=8)


def _short(value: float) -> str:
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def series(
    points: Sequence[dict[str, Any]], key: str, figure: str, of: str = "best", **where: Any
) -> list[tuple[float, float]]:
    """(key, figure) of the points that are as `where` says and have it."""
    return [
        (point[key], point[of][figure])
        for point in points
        if all(point[name] == value for name, value in where.items()) and point.get(of, {}).get(figure) is not None
    ]


def rows(points: Sequence[dict[str, Any]]) -> list[Callable[[Axes], None]]:
    def both(figure: str) -> list[Curve]:
        found = [
            (f"{state} caches", series(points, "rows", figure, state), form)
            for state, form in (("cold", "C1o-"), ("warm", "C0o-"))
        ]
        return [curve for curve in found if curve[1]]

    state = "warm" if "warm" in points[0] else "cold"
    return [
        lambda axes: panel(axes, "From the command to the first step", "rows", "seconds", both("first_step_s")),
        lambda axes: panel(axes, "Steady state", "rows", "steps per second",
                           [("", series(points, "rows", "steps_per_s", state), "C0o-")], log_y=False),
        lambda axes: panel(axes, "Peak memory, all processes", "rows", "MiB", both("peak_mib"), log_y=False),
    ]  # fmt: skip


def length(points: Sequence[dict[str, Any]]) -> list[Callable[[Axes], None]]:
    predicted = [(point["length"], point["predicted_tokens_per_s"]) for point in points if "predicted_tokens_per_s" in point]
    curves: list[Curve] = [("measured", series(points, "length", "tokens_per_s"), "C0o-")]
    if predicted:
        curves.append(("predicted from the first", predicted, "k:"))
    return [
        lambda axes: panel(axes, "Speed, one row a step", "tokens in a row", "tokens per second", curves),
        lambda axes: panel(axes, "Peak memory", "tokens in a row", "MiB",
                           [("", series(points, "length", "peak_mib"), "C0o-")], log_y=False),
    ]  # fmt: skip


def rank(points: Sequence[dict[str, Any]]) -> list[Callable[[Axes], None]]:
    every = list(dict.fromkeys(point["modules"] for point in points))

    def curves(figure: str) -> list[Curve]:
        names = {"all-linear": "all linear layers"}
        return [
            (names.get(m, m.replace(" ", ", ")), series(points, "rank", figure, modules=m), f"C{n}o-")
            for n, m in enumerate(every)
        ]

    return [
        lambda axes: panel(axes, "Training", "LoRA rank", "steps per second", curves("steps_per_s"), log_y=False),
        lambda axes: panel(axes, "Peak memory", "LoRA rank", "MiB", curves("peak_mib"), log_y=False),
    ]


def adapters(points: Sequence[dict[str, Any]]) -> list[Callable[[Axes], None]]:
    titles = {
        "tokens_per_s": ("Answers", "tokens per second"),
        "first_answers_s": ("From the command to the first answers", "seconds"),
        "peak_mib": ("Peak memory", "MiB"),
    }  # fmt: skip
    return [_plain(points, "adapters", figure, *title, "further adapters in memory") for figure, title in titles.items()]


def _plain(points: Sequence[dict[str, Any]], key: str, figure: str, title: str, y: str, x: str) -> Callable[[Axes], None]:
    return lambda axes: panel(axes, title, x, y, [("", series(points, key, figure), "C0o-")], log_y=False)


def plugins(points: Sequence[dict[str, Any]]) -> list[Callable[[Axes], None]]:
    def curves(figure: str) -> list[Curve]:
        return [(f"index {state}", series(points, "plugins", figure, index=state), form)
                for state, form in (("built anew", "C1o-"), ("ready", "C0o-"))]  # fmt: skip

    return [
        lambda axes: panel(axes, "From the command to the first step", "installed plugins", "seconds", curves("first_step_s"),
                           log_x=False, log_y=False),
        lambda axes: panel(axes, "Steady state", "installed plugins", "steps per second",
                           [("", series(points, "plugins", "steps_per_s", index="ready"), "C0o-")], log_x=False, log_y=False),
    ]  # fmt: skip


FIGURES = {"rows": rows, "length": length, "rank": rank, "adapters": adapters, "plugins": plugins}


def draw(parts: dict[str, Any], folder: Path) -> list[Path]:
    """growth-PART.svg of each part that was measured, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, part in parts.items():
        panels = FIGURES[name](part["points"])
        with plt.rc_context(STYLE):
            figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 2.9), squeeze=False)
            for place, fill in zip(axes[0], panels, strict=True):
                fill(place)
            figure.tight_layout()
            file = folder / f"growth-{name}.svg"
            figure.savefig(file, format="svg", metadata={"Date": None})
            plt.close(figure)
        drawn.append(file)
    return drawn
