"""benchmarks/peers: what its ratios mean, and that a run which is cut loses nothing. No framework runs here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "peers"))
import children
import comparison
import training

PEERS = Path(sys.path.pop(0))
for _name in ("children", "comparison", "environments", "training"):
    del sys.modules[_name]  # other scripts of benchmarks/ have files of these names

SMALL, LARGE, EMULATED = (
    ("7M", "lora", "float32", "same"),
    ("60M", "lora", "float32", "same"),
    ("7M", "lora", "bfloat16", "same"),
)


def run(number: int, speed: float, **more: float) -> dict:
    return {"round": number, "tokens_per_s": speed, "first_step_s": 4.0, "wall_s": 10.0, "peak_mib": 500, "loss": 2.0, **more}


def test_ratios_are_of_runs_of_the_same_round() -> None:
    runs = {"swift": [run(0, 200), run(1, 90), run(2, 300)], "bare": [run(2, 100), run(0, 100), {"round": 1, "error": "gone"}]}
    found = comparison.compare(runs)["bare"]
    assert found["rounds"] == 2 and found["tokens_per_s"] == 100
    speed = found["swift_over_it"]["tokens_per_s"]
    assert speed == {"paired_median": 2.5, "paired_range": [2.0, 3.0], "best": 3.0, "pairs": 2}


def test_the_best_of_what_should_be_small_is_the_smallest() -> None:
    runs = {"swift": [run(0, 1, wall_s=6.0), run(1, 1, wall_s=8.0)], "trl": [run(0, 1, wall_s=12.0), run(1, 1, wall_s=16.0)]}
    summary = comparison.compare(runs)
    assert summary["trl"]["wall_s"] == 12.0 and summary["trl"]["swift_over_it"]["wall_s"]["best"] == 0.5


def test_a_framework_that_only_failed_is_shown_with_its_reason() -> None:
    work = {
        **dict(zip(training.KEYS, SMALL, strict=True)),
        "runs": {"swift": [run(0, 1)], "trl": [{"round": 0, "error": "no\nspace"}]},
    }
    work["summary"] = comparison.compare(work["runs"])
    assert "space" in comparison.table([work])


def test_the_most_telling_workload_is_a_round_ahead() -> None:
    assert comparison.order([EMULATED, LARGE, SMALL], 2) == [
        (0, SMALL), (1, SMALL), (0, LARGE), (1, LARGE), (0, EMULATED), (1, EMULATED),
    ]  # fmt: skip


def test_what_was_not_measured_is_expected_to_take_what_its_like_took() -> None:
    took = {SMALL: [30.0, 50.0, 40.0]}
    assert comparison.expected_seconds(SMALL, took) == 40
    assert comparison.expected_seconds(LARGE, took) == 160
    assert comparison.expected_seconds(LARGE, {}) == 0


def test_a_run_that_is_cut_goes_on_where_it_was(tmp_path, monkeypatch, capsys) -> None:
    started: list[str] = []
    cut_at = 3

    def once(name, task, options):
        started.append(f"{task['tuner']} {name}")
        if len(started) == cut_at:
            raise KeyboardInterrupt
        return {**run(0, 1), "first_loss": 3.0}

    monkeypatch.setattr(training, "once", once)
    monkeypatch.setattr(training, "prepared", lambda work, workload, options: tmp_path)
    monkeypatch.setattr(training.environments, "python_of", lambda name, envs: Path(sys.executable))
    words = ["training.py", "--only", "bare", "swift", "--models", "7M", "--dtypes", "float32", "--settings", "same"]
    words += ["--rounds", "1", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(KeyboardInterrupt):
        training.main()
    saved = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["workloads"]
    assert set(saved[0]["runs"]) == {"bare", "swift"}
    cut_at = 0
    training.main()
    assert started == ["lora bare", "lora swift", "full bare", "full bare", "full swift"]
    monkeypatch.setattr(sys, "argv", [*words, "--steps", "4"])
    with pytest.raises(SystemExit, match="another steps"):
        training.main()
    monkeypatch.setattr(sys, "argv", [*words, "--table"])
    training.main()
    assert "7M full float32 same" in capsys.readouterr().out


def test_a_child_is_measured_to_its_end() -> None:
    code = 'kept = bytearray(60 << 20); print(\'@@ {"event": "ready"}\', flush=True); sum(range(2_000_000))'
    outcome = children.run([sys.executable, "-c", code])
    assert outcome.max_rss_bytes > 60 << 20 and outcome.cpu_s >= outcome.events["ready"]["cpu_s"]
    with pytest.raises(RuntimeError, match="ended with 3"):
        children.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_help_needs_no_environment() -> None:
    out = subprocess.run([sys.executable, PEERS / "training.py", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(flag in out for flag in ("--minutes", "--models", "--rounds", "--fresh", "--table"))
