"""The packages of this checkout: reads them from the folders, and writes what must agree with them.

    python tools/members.py            list them
    python tools/members.py --write    rewrite requirements/dev.txt

The law: folder, distribution and import name follow from each other.

    core                 swift-llm-core             swift
    devices/cpu          swift-llm-device-cpu       swift_device_cpu
    tuners/peft          swift-llm-tuner-peft       swift_tuner_peft
    backends/engines/x   swift-llm-engine-x         swift_engine_x
    plugins/models/qwen  swift-llm-model-qwen       swift_model_qwen
    plugins/tiny         swift-llm-tiny             swift_tiny

Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("core", "devices/*", "tuners/*", "backends/*/*", "plugins/*", "plugins/*/*")
DEV_FILE = ROOT / "requirements" / "dev.txt"
EXTRAS = {"core": "[run]"}  # what the core needs right of the torch line


class Member(NamedTuple):
    folder: str
    dist: str
    module: str


def singular(word: str) -> str:
    return word if word in ("parallel", "ui") else word[:-1]


def member(folder: str) -> Member:
    """Names that follow from a folder, e.g. `tuners/peft`."""
    parts = folder.split("/")
    if parts == ["core"]:
        return Member(folder, "swift-llm-core", "swift")
    if parts[0] in ("backends", "plugins"):
        parts = parts[1:]
    words = [singular(parts[0]), *parts[1:]] if len(parts) > 1 else parts
    return Member(folder, "-".join(["swift-llm", *words]), "_".join(["swift", *words]).replace("-", "_"))


def members() -> list[Member]:
    folders = {p for pattern in PATTERNS for p in ROOT.glob(pattern) if (p / "pyproject.toml").is_file()}
    names = sorted(p.relative_to(ROOT).as_posix() for p in folders)
    return [member(name) for name in sorted(names, key=lambda name: (name != "core", name))]


def dev_requirements() -> str:
    head = "# Written by `python tools/members.py --write`. Every package, editable; run pip at the root of the checkout.\n"
    return head + "".join(f"-e ./{m.folder}{EXTRAS.get(m.folder, '')}\n" for m in members())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        DEV_FILE.write_text(dev_requirements(), encoding="utf-8")
        print("wrote", DEV_FILE.relative_to(ROOT))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        for m in members():
            print(f"{m.folder:32} {m.dist:34} {m.module}")
