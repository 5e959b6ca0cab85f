"""benchmarks/means.py: its ratios, its place in docs/performance.md, and every part at toy size (slow)."""

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
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
RESULTS = FOLDER / "results" / "means.json"
PAGE = ROOT / "docs" / "performance.md"
PARTS = ("attention", "loss", "lora", "compile", "checkpointing", "optimizers")
OWN = ("means", "means_memory", "means_runs", "means_table", "peers", "peers.children")


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports a module of the script, and forgets all of them afterwards: benchmarks/gpu has files of these names."""
    path, environment = list(sys.path), dict(os.environ)
    before = {name: sys.modules.pop(name) for name in OWN if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    for name in OWN:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_ratios_are_of_runs_of_one_round(load: Any) -> None:
    found = load("means").compared({"plain": [2.0, 4.0, 1.0], "means": [1.0, 3.0, 1.0]})
    assert found["plain"]["time"] == {"median": 1.0, "range": [1.0, 1.0], "pairs": 3}
    assert found["means"]["cpu_s"] == [1.0, 3.0, 1.0]
    assert found["means"]["time"] == {"median": 0.75, "range": [0.5, 1.0], "pairs": 3}
    assert found["means"]["speed"] == {"median": 1.333, "range": [1.0, 2.0], "pairs": 3}


def test_both_ways_of_the_loss_are_one_loss(load: Any) -> None:
    """What is timed against each other computes the same."""
    means = load("means")
    for trained in (False, True):
        found = []
        for loss in means.LOSSES.values():
            states, weight, labels = means.head("float32", 16, 64, trained=trained)
            total = loss(states, weight, labels)
            total.backward()
            found.append((total.detach(), states.grad, weight.grad))
        assert (found[0][2] is not None) == trained
        torch.testing.assert_close(*found)


def test_what_lives_is_counted_by_hand(load: Any) -> None:
    memory = load("means_memory")
    layer = torch.nn.Linear(8, 16, bias=False)
    with memory.Alive(layer.parameters()) as alive:
        first = torch.ones(4, 8)
        kept = layer(first)
        torch.ones(1000).sum()
    assert alive.bytes() == 4 * (first.numel() + kept.numel())
    assert 4 * 1000 <= alive.most - alive.bytes() <= 4 * 1001


def test_the_page_shows_the_file(load: Any, tmp_path: Path) -> None:
    table = load("means_table")
    blocks, shown = table.blocks(json.loads(RESULTS.read_text(encoding="utf-8"))["parts"]), table.places(PAGE)
    assert blocks == shown, "python benchmarks/means.py --table --docs writes the figures into the page"
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8").replace(blocks["compile"], "old"), encoding="utf-8")
    table.fill(copy, json.loads(RESULTS.read_text(encoding="utf-8"))["parts"])
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def run(out: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(FOLDER / "means.py"), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=900)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_every_part_measures_what_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "means.json"
    code, said = run(out, "--quick")
    assert code == 0, said
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert tuple(parts) == PARTS
    for part in parts.values():
        assert part["machine"]["cpus"] and part["versions"]["torch"] and part["threads"] == 1 and part["toy"]
        for case in part["cases"].values():
            assert len(case) > 1 and next(iter(case.values()))["time"]["median"] == 1.0
            assert all(min(variant["cpu_s"]) > 0 for variant in case.values())
    assert len(parts["attention"]["cases"]["LoRA, 7M"]) == 7
    for case in parts["checkpointing"]["cases"].values():
        off, selective, full = (case[mode]["mib"]["kept"] for mode in ("off", "selective", "full"))
        assert off > selective > full > 0
    lora = parts["lora"]["cases"]["dropout 0.05"]
    assert all(lora["lean"]["kept_mib"][dtype] < lora["peft"]["kept_mib"][dtype] for dtype in ("float32", "bfloat16"))
    assert parts["compile"]["cases"]["LoRA, 13M"]["blocks"]["compiling_s"] > 1
    steps = parts["optimizers"]["cases"]
    assert steps["whole steps"]["in backward"]["most_mib"] < steps["whole steps"]["plain"]["most_mib"]
    assert steps["step, float32"]["fused"]["state_bytes_per_parameter"] == 8
    before = out.read_bytes()
    code, said = run(out, "--quick", "--only", "loss", "lora")
    assert code == 0 and "--fresh measures again" in said and out.read_bytes() == before
    code, said = run(out, "--table")
    assert code == 0 and all(f"\n{place}\n\n| " in said for place in ("attention", "loss", "in-backward"))
    code, said = run(tmp_path / "none.json", "--table")
    assert code == 2 and "there is no" in said
