"""Correctness and speed on one GPU, in one call that installs nothing.

    python benchmarks/gpu/run.py [--minutes 9] [--only training,means] [--out FILE]
    python benchmarks/gpu/run.py --device cpu --toy        every part at toy size, where there is no GPU

Measures, most valuable first, and writes benchmarks/results/gpu.json after each case; what no longer fits the time is
skipped and says so. The cases run in a child process: one that dies takes its own case with it, and a new child goes on with
the next. Which cases there are: --list. What the numbers mean: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import checkout
from records import SCHEMA, Case, Records, Skip, say

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu.json"
PARTS = ("environment", "correctness", "training", "means")
STICKY = 75
"""Exit code of a child whose device is lost: the next case needs another process."""
GRACE, HANGS_AT, SILENT = 20.0, 4.0, 120.0
"""Seconds that the last case may take over the limit; times its usual duration (and a minute) after which a case hangs; seconds
between cases (imports above all) after which the process does."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything (default: 9)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="models and lengths small enough for a CPU")
    parser.add_argument("--only", default="", help="parts (training), their parts (training/lora-8B) or cases, with commas")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: benchmarks/results/gpu.json")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> int:
    """The parent: starts children until every case has been tried or the time is over."""
    started = time.time()
    signal.signal(signal.SIGTERM, _interrupt)
    target = Path(tempfile.mkdtemp(prefix="swift-gpu-"))
    records = Records(options.out)
    records.data = {
        "schema": SCHEMA,
        "script": "benchmarks/gpu/run.py",
        "options": {"minutes": options.minutes, "device": options.device, "toy": options.toy, "only": options.only},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "started": started,
        "deadline": started + 60 * options.minutes,
        "commit": commit(),
        "cases": {},
        "summary": {},
    }
    try:
        records.data["paths"] = checkout.write(target)
        records.write()
        while True:
            before = len(Records.open(options.out).cases)
            ended = child(options, target, records.data["deadline"])
            records = Records.open(options.out)
            lost = [name for name, case in records.cases.items() if case["status"] == "running"]
            for name in lost:
                seconds = time.time() - records.cases[name]["since"]
                records.set(name, status="crashed", seconds=seconds, error=ended or "the process ended without a word")
                say(f"{name}: crashed ({records.cases[name]['error']})", since=started)
            over = ended in FINAL or time.time() > records.data["deadline"]
            if not ended or over or (not lost and len(records.cases) == before):
                break
        records.data["seconds"] = time.time() - started
        if ended:
            records.data["error"] = ended
        del records.data["paths"]
        records.data["summary"] = summary(records)
        records.write()
    finally:
        shutil.rmtree(target, ignore_errors=True)
    show(records)
    return 0 if all(case["status"] in ("done", "skipped") for case in records.cases.values()) and not ended else 1


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


OVER, STOPPED = "the time was over and the case did not end", "stopped from outside"
FINAL = (OVER, STOPPED)


def child(options: argparse.Namespace, target: Path, deadline: float) -> str:
    """Run cases until none is left. Returns why it ended before; "" where it did not."""
    command = [
        sys.executable, *(["-S"] if sys.flags.no_site else []), __file__, "--child", str(target), "--device", options.device,
        "--out", str(options.out), "--only", options.only, *(["--toy"] if options.toy else []),
    ]  # fmt: skip
    # A group of its own, so that what it has started ends with it; not a session, which would outlive whoever called.
    process = subprocess.Popen(command, preexec_fn=getattr(os, "setpgrp", None))
    why, heard = "", time.time()
    try:
        while process.poll() is None and not why:
            time.sleep(0.5)
            running = [case for case in Records.open(options.out).cases.values() if case["status"] == "running"]
            heard = time.time() if running else heard
            if time.time() > deadline + GRACE:
                why = OVER
            elif any(time.time() > case["since"] + case["limit"] for case in running) or time.time() > heard + SILENT:
                why = "it hung"
    except KeyboardInterrupt:
        why = STOPPED
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may not let go of it
                process.wait(timeout=10)
    return why or ("" if process.returncode == 0 else f"the process ended with {process.returncode}")


def run_cases(options: argparse.Namespace) -> int:
    """The child: every case that has not been tried yet, in order."""
    records = Records.open(options.out)
    checkout.use(options.child, records.data["paths"])
    started, deadline = records.data["started"], records.data["deadline"]
    absent = checkout.missing("torch", "transformers")
    if absent:
        records.set("environment/packages", status="failed", seconds=0.0, error=f"not here: {', '.join(absent)}")
        return 0
    setting = importlib.import_module("setting")  # after the path: it imports torch
    context = setting.Context(options.device, options.toy, records, options.child)
    for case in setting.cases(context):
        if case.name in records.cases or not wanted(case.name, options.only):
            continue
        left = deadline - time.time()
        lacks = checkout.missing(*case.needs)
        if lacks:
            reason = f"not here: {', '.join(lacks)} (a wheel in benchmarks/gpu/wheels/ brings it)"
        elif case.cuda and options.device != "cuda":
            reason = "needs a CUDA device"
        elif left < (0 if options.toy else case.seconds):
            reason = f"takes about {case.seconds:.0f} s, {max(left, 0):.0f} s were left"
        else:
            reason = ""
        if reason:
            records.set(case.name, status="skipped", seconds=0.0, reason=reason)
            say(f"{case.name}: skipped, {reason}", since=started)
            continue
        sticky = attempt(case, context, records, started)
        records.data["summary"] = summary(records)
        records.write()
        if sticky:
            return STICKY
        context.clean()
    return 0


def attempt(case: Case, context: Any, records: Records, started: float) -> bool:
    """Run one case; True where its fault leaves the device unusable."""
    records.set(case.name, status="running", since=time.time(), limit=60 + HANGS_AT * case.seconds)
    begun = time.perf_counter()
    try:
        result = case.run(context)
    except Skip as reason:
        records.set(case.name, status="skipped", seconds=time.perf_counter() - begun, reason=str(reason))
        say(f"{case.name}: skipped, {reason}", since=started)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        records.set(
            case.name, status="failed", seconds=time.perf_counter() - begun, error=text[:2000],
            traceback=traceback.format_exc()[-3000:],
        )  # fmt: skip
        say(f"{case.name}: failed, {text.splitlines()[0][:200]}", since=started)
        return "CUDA error" in text or type(error).__name__ == "AcceleratorError"
    else:
        seconds = time.perf_counter() - begun
        failed = result.get("ok") is False
        records.set(case.name, status="failed" if failed else "done", seconds=seconds, result=dict(result))
        say(f"{case.name}: {'FAILED' if failed else 'done'} in {seconds:.1f} s{headline(result)}", since=started)
    return False


def headline(result: Any) -> str:
    words = []
    if "tokens_per_second" in result:
        words.append(f"{result['tokens_per_second']:,.0f} tokens/s")
    if result.get("mfu"):
        words.append(f"MFU {100 * result['mfu']:.1f} %")
    if "ratio" in result:
        words.append(f"{result['ratio']:.2f} x the base")
    if "checks" in result:
        words.append(f"{sum(c['ok'] for c in result['checks'])} of {len(result['checks'])} checks hold")
    return ": " + ", ".join(words) if words else ""


def wanted(name: str, only: str) -> bool:
    words = [word.strip() for word in only.split(",") if word.strip()]
    return not words or name.startswith("environment/") or any(f"{name}/".startswith(f"{word.rstrip('/')}/") for word in words)


def summary(records: Records) -> dict[str, Any]:
    """What is asked first: does all agree, how fast, against whom, and is the memory estimate right."""
    checks = [check for name in records.cases for check in records.result(name).get("checks", ())]
    rows: dict[str, Any] = {}
    for name in records.cases:
        result = records.result(name)
        if not name.startswith("training/") or "tokens_per_second" not in result:
            continue
        _, what, who = (*name.split("/"), "")[:3]
        row = rows.setdefault(what, {})
        row[who] = {key: result[key] for key in ("tokens_per_second", "mfu", "peak_allocated", "data_wait") if key in result}
        if "estimate_ratio" in result:
            row["estimate_ratio"] = result["estimate_ratio"]
    for row in rows.values():
        peers = [row[who]["tokens_per_second"] for who in ("trainer", "trl") if who in row]
        if peers and "swift" in row:
            row["swift_over_best_peer"] = row["swift"]["tokens_per_second"] / max(peers)
    statuses = [case["status"] for case in records.cases.values()]
    return {
        "checks": len(checks),
        "checks_failed": [f"{check['name']}: {check.get('error')}" for check in checks if not check["ok"]],
        "training": rows,
        "means": {
            name.partition("/")[2]: {key: records.result(name).get(key) for key in ("ratio", "memory_ratio", "mfu")}
            for name in records.cases
            if "ratio" in records.result(name)
        },
        "cases": {status: statuses.count(status) for status in sorted(set(statuses))},
    }


def show(records: Records) -> None:
    print(json.dumps(records.data["summary"], indent=1))
    print(f"{records.path}: {records.data['summary']['cases']}")


def commit() -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def names(options: argparse.Namespace) -> int:
    target = Path(tempfile.mkdtemp(prefix="swift-gpu-"))
    try:
        checkout.use(target, checkout.write(target))
        setting = importlib.import_module("setting")
        for case in setting.cases(setting.Context(options.device, options.toy, Records(options.out), target)):
            print(f"{case.name:44} about {case.seconds:3.0f} s  {', '.join(case.needs)}")
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return 0


if __name__ == "__main__":
    chosen = arguments()
    print(f"Python {platform.python_version()}", flush=True) if not chosen.child else None
    if chosen.child:
        ended = run_cases(chosen)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended)  # taking down a device or its collectives may wait forever
    raise SystemExit(names(chosen) if chosen.list else main(chosen))
