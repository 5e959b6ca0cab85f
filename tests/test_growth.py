"""benchmarks/growth.py: its arithmetic, its plots from the kept figures, and every part at toy size (slow)."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swift.testing import byte_tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RESULTS = FOLDER / "results" / "growth.json"
PARTS = ("rows", "length", "rank", "adapters", "plugins")


@pytest.fixture(scope="module")
def growth() -> Iterator[Any]:
    path = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("growth")
    sys.path[:] = path
    for name in ("growth", "growth_plots", "discovery", "children"):
        sys.modules.pop(name, None)


def test_speed_is_that_of_the_median_step_after_the_first_ones(growth: Any) -> None:
    seconds = [9.0, 9.5, 10.0, 10.4, 20.4]  # steps of 9, 0.5, 0.5, 0.4 and 10 seconds
    entries = [{"seconds": s, "tokens": 100 * n} for n, s in enumerate(seconds, 1)]
    assert growth.steady(entries, 1) == {"steps_per_s": 2.0, "tokens_per_s": 200.0}
    assert growth.steady(entries[:1], 1) == {}
    runs = [{"steps_per_s": 2.0, "first_step_s": 8.0, "caches": "warm"}, {"steps_per_s": 3.0, "first_step_s": 9.0}]
    assert growth.best_of(runs) == {"steps_per_s": 3.0, "first_step_s": 8.0}


def test_rows_differ_and_texts_are_long_enough(growth: Any) -> None:
    rows = [json.dumps(row) for row in growth.conversations(500)]
    assert len(set(rows)) == 500 and all(100 < len(row) < 140 for row in rows)
    assert all(length < len(row["text"]) < length + 100 for length in (64, 4096) for row in growth.texts(3, length))


def test_the_kept_figures_are_drawn_and_nothing_else(growth: Any, tmp_path: Path) -> None:
    parts = json.loads(RESULTS.read_text(encoding="utf-8"))["parts"]
    drawn = growth.growth_plots.draw(parts, tmp_path)
    assert [file.name for file in drawn] == [f"growth-{name}.svg" for name in parts] and set(parts) <= set(PARTS)
    first = {file.name: file.read_bytes() for file in drawn}
    assert all(b"<svg" in content for content in first.values())
    growth.growth_plots.draw(parts, tmp_path)
    assert {file.name: file.read_bytes() for file in drawn} == first, "the same figures give the same files"


def run(tmp_path: Path, *words: str) -> dict[str, Any]:
    out = tmp_path / "growth.json"
    command = [sys.executable, FOLDER / "growth.py", "--quick", "--threads", "1", "--out", out, "--plots", tmp_path, *words]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, encoding="utf-8", timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    parts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert {file.name for file in tmp_path.glob("*.svg")} == {f"growth-{name}.svg" for name in parts}
    return parts


@pytest.mark.slow
def test_every_part_measures_what_it_promises(tmp_path: Path) -> None:
    parts = run(tmp_path)
    assert tuple(parts) == PARTS
    for part in parts.values():
        assert part["machine"]["cpus"] and part["versions"]["torch"] and part["threads"] == 1 and len(part["points"]) >= 2
    steps = {"first_step_s", "steps_per_s", "tokens_per_s", "peak_mib"}
    for point in parts["rows"]["points"]:
        assert set(point["cold"]) >= steps and set(point["warm"]) >= steps
    lengths = parts["length"]["points"]
    assert all(set(point["best"]) >= steps for point in lengths + parts["rank"]["points"])
    assert lengths[0]["predicted_tokens_per_s"] == pytest.approx(lengths[0]["best"]["tokens_per_s"], abs=1)
    # By hand: two layers (q, o 64 x 64; k, v 64 x 32; three of 64 x 128; norms of 2 x 64 and 2 x 16), a norm, the output.
    weights = 2 * (64 * (64 + 64 + 32 + 32 + 3 * 128) + 2 * 64 + 2 * 16) + 64 + 64 * len(byte_tokenizer())
    assert [point["flops_per_token"] for point in lengths] == [6 * weights + 12 * 2 * 64 * length for length in (64, 128)]
    assert all(set(point["best"]) == {"first_answers_s", "tokens_per_s", "peak_mib"} for point in parts["adapters"]["points"])
    plugins = parts["plugins"]["points"]
    assert [(p["plugins"], p["index"]) for p in plugins] == [
        (0, "built anew"), (3, "built anew"), (0, "ready"), (3, "ready"),
    ]  # fmt: skip
