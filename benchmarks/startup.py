"""Start-up of the commands left of the torch line, beside `python -c "import pydantic, pluggy"`.

    python benchmarks/startup.py [--rounds 15] [--out FILE]

Counts CPU seconds (user + system) of each child process; commands and yardstick take turns, so that a busy machine slows
both. Three states of the caches, each in a SWIFT_HOME of its own:

    warm      index and settings schemas are there
    rebuilt   the index is built anew, as after `pip install` of a plugin; settings schemas are there
    cold      the very first start: nothing is there

Goals: warm at most 1.0, rebuilt at most 1.5 times the yardstick; `swift doctor` has none, since it compares versions of
requirements (importlib.metadata, packaging) and asks the drivers of devices. Prints the ratio of the minima and the median
ratio of neighbouring runs, and writes them, with the versions of everything, to benchmarks/results/startup.json. Absolute
times depend on the machine and are asserted nowhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

YARDSTICK = [sys.executable, "-c", "import pydantic, pluggy"]
COMMANDS = ("--version", "--help", "sft --help", "plugin list", "list tuners", "doctor")
GOALS = {"warm": 1.0, "rebuilt": 1.5}
WITHOUT_GOAL = ("doctor",)
RESULTS = Path(__file__).parent / "results" / "startup.json"


def cpu_ms(command: list[str], environment: dict[str, str]) -> float:
    """CPU milliseconds of one run. Raises `RuntimeError` where it does not end with exit code 0 or 1."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):  # `swift doctor` may find something
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def surroundings(home: Path) -> dict[str, str]:
    """Environment of the children. Bytecode of everything is kept, as in any installation, but in a folder of ours."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "SWIFT_HOME": str(home), "PYTHONPYCACHEPREFIX": str(home / "bytecode")}


def drop(home: Path, pattern: str) -> None:
    for file in home.rglob(pattern):
        file.unlink()


def measure(command: list[str], rounds: int, home: Path, prepare: Callable[[], None]) -> dict[str, float]:
    """Command and yardstick in turns; `prepare` brings the caches into the state before each run."""
    environment = surroundings(home)
    mine, theirs = [], []
    for _ in range(rounds):
        prepare()
        mine.append(cpu_ms(command, environment))
        theirs.append(cpu_ms(YARDSTICK, environment))
    return {
        "min_ms": round(min(mine), 1),
        "median_ms": round(statistics.median(mine), 1),
        "yardstick_min_ms": round(min(theirs), 1),
        "yardstick_median_ms": round(statistics.median(theirs), 1),
        "ratio_min": round(min(mine) / min(theirs), 2),
        "ratio_paired": round(statistics.median(m / t for m, t in zip(mine, theirs)), 2),
    }


def swift() -> list[str]:
    """The installed command of this interpreter, else the module."""
    script = Path(sys.executable).parent / "swift"
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "swift"]


def main() -> int:
    """Exit code 1 where a goal is missed (by the median of the paired ratios)."""
    parser = argparse.ArgumentParser(description="CPU time of starting Swift, beside import pydantic, pluggy")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp())
    rows: list[dict[str, object]] = []
    print(f"{'state':9}{'command':22}{'min ms':>9}{'median':>9}{'yardstick':>11}{'ratio':>8}{'paired':>10}   goal")
    missed = 0
    try:
        for words in COMMANDS:
            command = [*swift(), *words.split()]
            subprocess.run(
                command, env={**os.environ, "SWIFT_HOME": str(home)}, stdout=subprocess.DEVNULL, check=words != "doctor"
            )
            states: dict[str, Callable[[], None]] = {
                "warm": lambda: None,
                "rebuilt": lambda: drop(home, "plugins-*.json"),
                "cold": lambda: drop(home, "*.json"),
            }
            for state, prepare in states.items():
                rounds = options.rounds if state in GOALS else max(3, options.rounds // 3)
                result = measure(command, rounds, home, prepare)
                goal = None if words in WITHOUT_GOAL else GOALS.get(state)
                met = "" if goal is None else "met" if result["ratio_paired"] <= goal else "MISSED"
                missed += met == "MISSED"
                rows.append({"command": f"swift {words}", "state": state, **result, "goal": goal})
                numbers = f"{result['min_ms']:9.1f}{result['median_ms']:9.1f}{result['yardstick_min_ms']:11.1f}"
                ratios = f"{result['ratio_min']:8.2f}{result['ratio_paired']:10.2f}"
                print(f"{state:9}{'swift ' + words:22}{numbers}{ratios}   {goal or '-'} {met}")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    versions = {name: importlib.metadata.version(name) for name in ("swift-llm-core", "pydantic", "pluggy")}
    plugins = sorted(
        f"{e.dist.name} {e.dist.version}" for e in importlib.metadata.entry_points(group="swift.plugins") if e.dist
    )
    data = {
        "what": "CPU milliseconds of starting a command, beside python -c 'import pydantic, pluggy'",
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()},
        "versions": versions,
        "plugins": plugins,
        "distributions": sum(1 for _ in importlib.metadata.distributions()),
        "rounds": options.rounds,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\n{missed} goal(s) missed" if missed else "\nall goals met", f"-> {options.out}")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
