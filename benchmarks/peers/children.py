"""Runs a child process of a comparison: its events with the time they came, and the peak memory of its process tree."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MARK = "@@ "
"""A child prints MARK and a JSON object {"event": ..., ...} on a line of standard output."""


@dataclass
class Outcome:
    """What one child did.

    Attributes:
        events: Event -> its fields, with seconds since the process was started: `at_s`, and `cpu_s` of its own processor time.
        wall_s, cpu_s: Seconds of the whole process, and its processor time.
        peak_bytes: Largest sum over the process tree of proportional set sizes (shared pages count once), sampled.
        max_rss_bytes: Peak resident set of the largest process.
    """

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    max_rss_bytes: int = 0


def run(
    command: Sequence[str | Path], *, threads: int = 1, env: dict[str, str] | None = None, timeout_s: float = 3600
) -> Outcome:
    """Raises `RuntimeError` with the end of its output where the child fails."""
    fixed = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    outcome = Outcome()
    log: list[str] = []
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], env={**os.environ, **fixed, **(env or {})}, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, outcome, stop), daemon=True)
    watcher.start()
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    for line in process.stdout or ():
        log.append(line)
        start = line.find(MARK + "{")  # a progress bar may stand in front of it
        if start >= 0:
            event, _ = json.JSONDecoder().raw_decode(line[start + len(MARK) :])
            used = _cpu_seconds(process.pid)
            outcome.events[event.pop("event")] = {**event, "at_s": round(time.perf_counter() - started, 3), "cpu_s": used}
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    outcome.cpu_s = round(usage.ru_utime + usage.ru_stime, 2)
    outcome.max_rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    killer.cancel()
    outcome.wall_s = round(time.perf_counter() - started, 3)
    stop.set()
    watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{''.join(log[-40:])}")
    return outcome


def _cpu_seconds(pid: int) -> float:
    """Of the process and those of its children that have ended; 0 where it has just ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return round(times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0), 2)


def _watch(pid: int, outcome: Outcome, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        total = 0
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it has just ended
        except psutil.Error:
            return
        outcome.peak_bytes = max(outcome.peak_bytes, total)


def machine() -> dict[str, Any]:
    """This machine, for reports."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": processor(),
    }


def processor() -> str:
    """Its name, and the widest of the instructions that matter here; "" where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(found.get("flags", "").split())
    widest = next((f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in flags), "")
    return ", ".join(filter(None, (found.get("model name", ""), widest)))
