"""Fixtures of the tests that cross packages: a tiny real model and a little data, made on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from swift.testing import tiny_folder

WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "small",
    "large",
    "quick",
    "slow",
    "bright",
    "quiet",
    "loud",
    "warm",
    "cold",
    "soft",
    "hard",
    "round",
    "flat",
    "deep",
    "high",
]


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and plugin preferences of the tests stay away from the user's."""
    home = tmp_path_factory.getbasetemp() / "swift-home"
    monkeypatch.setenv("SWIFT_HOME", str(home))
    monkeypatch.setenv("SWIFT_CONFIG", str(home / "config"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A jsonl file of n Alpaca rows of uneven length."""
    folder = tmp_path_factory.mktemp("data")

    def make(count: int) -> Path:
        file = folder / f"{count}.jsonl"
        rows = [
            {"instruction": f"Say {WORDS[n % 20]} {n}.", "input": "", "output": " ".join(WORDS[: 1 + (n * 7) % 13]) + f" {n}"}
            for n in range(count)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return make
