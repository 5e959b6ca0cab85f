"""Training side by side: Swift, TRL, ms-swift and a bare PyTorch loop, each in an environment of its own.

    python benchmarks/peers/training.py [--quick] [--minutes 40] [--only NAME ...] [--rounds 3] [--models 7M] [--tuners lora]
        [--dtypes float32] [--settings same] [--threads 1] [--out FILE] [--envs DIR] [--fresh | --table]

One model folder (Qwen3-shaped, random weights), one file of conversations, one order of rows, one precision, the same
hyperparameters. `same`: padded batches of 4 rows in file order for everybody, so that losses must agree. `joined`: the same
rows in each step and the same losses, but Swift computes no padding (--batching unpacked; the others can that only with
flash attention). `best`: each framework's fastest honest setting on a CPU (Swift: packs of 1,024 tokens; the bare loop: the
same, documents told apart by position ids; TRL: the same by its own packing; ms-swift refuses packing without flash
attention and runs as before).

Runs alternate between the frameworks, `--rounds` times, the most telling workloads first. Reported: real (non-padding)
tokens per second after the first `--warmup` steps; seconds from the start of the process to the first step; wall time of the
whole command; peak memory (the larger of the process's peak resident set and the tree's sum of proportional sets, sampled);
final loss; ratios as paired medians with their range. No run finds tokenized data of another one, but for --warm.

The JSON is written after each run. The same command goes on from it: what is there is not run again, --fresh forgets the
workloads that were asked for. A workload keeps the settings and the commit that it was measured with.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import children
import environments
from comparison import compare, expected_seconds, order, table

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "training.json"
FRAMEWORKS = {"bare": "train_bare.py", "swift": "train_swift.py", "trl": "train_trl.py", "ms-swift": "train_msswift.py"}
SHAPES, TUNERS, DTYPES, SETTINGS = ("7M", "60M"), ("lora", "full"), ("float32", "bfloat16"), ("same", "joined", "best")
KEYS = ("model", "tuner", "dtype", "setting")
CACHES = ("swift", "trl", "ms-swift", "tokens", "hf", "modelscope")
"""What frameworks leave in the working folder."""
Workload = tuple[str, str, str, str]


def once(name: str, task: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    folder = Path(task["folder"])
    for left in CACHES[:3] if options.warm else CACHES:
        shutil.rmtree(folder / left, ignore_errors=True)
    command = [environments.python_of(name, options.envs), HERE / FRAMEWORKS[name], json.dumps(task)]
    env = {
        "SWIFT_HOME": str(folder / "home"), "MODELSCOPE_CACHE": str(folder / "modelscope"),
        "HF_DATASETS_CACHE": str(folder / "hf"),
    }  # fmt: skip
    outcome = children.run(command, threads=options.threads, env=env, timeout_s=options.timeout)
    done = outcome.events["done"]
    kept = slice(min(options.warmup, len(done["seconds"]) - 1), None)
    return {
        "tokens_per_s": round(sum(done["tokens"][kept]) / sum(done["seconds"][kept]), 1),
        "first_step_s": outcome.events["first_step"]["at_s"],
        "first_step_cpu_s": outcome.events["first_step"]["cpu_s"],
        "wall_s": outcome.wall_s,
        "cpu_s": outcome.cpu_s,
        "peak_mib": round(max(outcome.peak_bytes, outcome.max_rss_bytes) / 2**20),
        "tokens": sum(done["tokens"]),
        "first_loss": round(done["losses"][0], 5),
        "loss": round(done["losses"][-1], 5),
    }


def settings_of(options: argparse.Namespace, workload: Workload) -> dict[str, Any]:
    """What runs of a workload must have in common to be compared."""
    return {
        "threads": options.threads, "batch": options.batch, "steps": steps_of(options, workload), "warmup": options.warmup,
        "rows": options.count, "warm": options.warm, "machine": children.machine(),
        "commit": commit(),
    }  # fmt: skip


def commit() -> str:
    """Of this checkout; `-changed` after it where its packages differ from that."""
    git = ["git", "-C", str(HERE.parents[1])]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    packages = ["core", "backends", "devices", "plugins", "tuners"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *packages], capture_output=True, check=False).returncode
    return f"{head}-changed" if changed else head


def steps_of(options: argparse.Namespace, workload: Workload) -> int:
    return max(2, options.steps // (1 if workload[0] == "7M" else 2))


def opened(options: argparse.Namespace) -> dict[str, Any]:
    """The report so far, or a new one."""
    if options.out.is_file():
        report: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8"))
        return report
    return {"what": (__doc__ or "").splitlines()[0], "versions": {}, "workloads": []}


def save(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)


def of_workload(report: dict[str, Any], workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """Its entry in the report. Ends where that has runs of other settings."""
    found = next((w for w in report["workloads"] if tuple(w[key] for key in KEYS) == workload), None)
    settings = settings_of(options, workload)
    if found is None:
        found = {**dict(zip(KEYS, workload, strict=True)), "settings": settings, "summary": {}, "runs": {}}
        report["workloads"].append(found)
    others = [key for key, value in settings.items() if found["settings"].get(key) != value]
    if others:
        what = " ".join(workload)
        raise SystemExit(
            f"{options.out} has runs of {what} with another {', '.join(others)}: --fresh starts anew, or --out OTHER"
        )
    return found


def main() -> None:
    options = parsed()
    report = opened(options)
    if options.table:
        print(table(report["workloads"]))
        return
    chosen = [
        (shape, tuner, dtype, setting)
        for shape in options.models for tuner in options.tuners for dtype in options.dtypes for setting in options.settings
    ]  # fmt: skip
    if options.fresh:
        report["workloads"] = [w for w in report["workloads"] if tuple(w[key] for key in KEYS) not in chosen]
    for name in options.only:
        report["versions"][name] = environments.versions(environments.python_of(name, options.envs))
    ends = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    took: dict[Workload, list[float]] = defaultdict(list)
    for entry in report["workloads"]:
        rounds = [[run.get("seconds", 0.0) for run in entry["runs"].get(name, ())] for name in options.only]
        if rounds and all(rounds):
            took[tuple(entry[key] for key in KEYS)] = [sum(max(of) for of in rounds)]
    with tempfile.TemporaryDirectory(prefix="swift-training-") as work:
        for number, workload in order(chosen, options.rounds):
            entry = of_workload(report, workload, options)
            names = options.only if number % 2 == 0 else list(reversed(options.only))
            left = [
                name for name in names
                if not any(run["round"] == number and "error" not in run for run in entry["runs"].get(name, ()))
            ]  # fmt: skip
            wanted = expected_seconds(workload, took) * len(left) / len(names)
            if not left or time.monotonic() + wanted > ends:
                if left:
                    print(f"{' '.join(workload)} round {number + 1}: left out, it would take about {wanted:.0f} s", flush=True)
                continue
            began = time.monotonic()
            folder = prepared(Path(work), workload, options)
            for name in left:
                entry["runs"].setdefault(name, [])
                entry["runs"][name] = [run for run in entry["runs"][name] if run["round"] != number]
                entry["runs"][name].append(measured(name, workload, number, folder, options))
                entry["summary"] = compare(entry["runs"])
                save(report, options.out)
            if len(left) == len(names):
                took[workload].append(time.monotonic() - began)
    report["workloads"] = [entry for entry in report["workloads"] if entry["runs"]]
    save(report, options.out)
    print(table(report["workloads"]))
    print(f"-> {options.out}")


def prepared(work: Path, workload: Workload, options: argparse.Namespace) -> Path:
    """The folder with model and rows, of each shape and precision one."""
    shape, _, dtype, _ = workload
    folder = work / f"{shape}-{dtype}"
    if not (folder / "tokens.jsonl").is_file():
        swift = environments.python_of("swift", options.envs)
        folder.mkdir(exist_ok=True)
        children.run([swift, HERE / "train_prepare.py", folder, shape, dtype, options.rows, str(options.count)])
    return folder


def measured(name: str, workload: Workload, number: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    shape, tuner, dtype, setting = workload
    task = {
        "folder": str(folder), "tuner": tuner, "dtype": dtype, "setting": setting, "batch": options.batch,
        "steps": steps_of(options, workload),
    }  # fmt: skip
    began = time.monotonic()
    what = f"{shape:4} {tuner:5} {dtype:9} {setting:6} {name:9}"
    try:
        run = once(name, task, options)
    except (RuntimeError, KeyError, ZeroDivisionError) as error:
        print(f"{what} failed: {error}", flush=True)
        return {"round": number, "seconds": round(time.monotonic() - began, 1), "error": str(error)[-2000:]}
    print(
        f"{what} {run['tokens_per_s']:9,.0f} tokens/s  first step {run['first_step_s']:6.1f} s  wall {run['wall_s']:6.1f} s  "
        f"{run['peak_mib']:6,} MiB  loss {run['first_loss']:.4f} -> {run['loss']:.4f}",
        flush=True,
    )
    return {"round": number, "seconds": round(time.monotonic() - began, 1), **run}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="the 7M model with LoRA in float32, 8 steps, one round: figures of no value")
    add("--minutes", type=float, default=0, help="start nothing that would not end within so many [no limit]")
    add(
        "--only",
        nargs="+",
        choices=list(FRAMEWORKS),
        default=list(FRAMEWORKS),
        metavar="NAME",
        help="of " + ", ".join(FRAMEWORKS),
    )
    for flag, values in (("models", SHAPES), ("tuners", TUNERS), ("dtypes", DTYPES), ("settings", SETTINGS)):
        add(f"--{flag}", nargs="+", choices=values, default=list(values), help=f"[{' '.join(values)}]")
    add("--rounds", type=int, default=3, help="[3]")
    add("--steps", type=int, default=32, help="of a run; the 60M model takes half of them [32]")
    add("--warmup", type=int, default=5, help="steps that are not counted [5]")
    add("--batch", type=int, default=4, help="rows of a step [4]")
    add("--rows", type=Path, default=HERE.parents[1] / "plugins/tiny/src/swift_tiny/data/chat.jsonl", help="Alpaca file")
    add("--count", type=int, default=128, help="rows that are trained on [128]")
    add("--threads", type=int, default=1, help="[1]")
    add("--warm", action="store_true", help="keep tokenized data between the rounds")
    add("--timeout", type=float, default=900, help="seconds that a run may take [900]")
    add("--envs", type=Path, default=environments.ENVIRONMENTS, help="folder of the environments")
    add("--out", type=Path, default=RESULTS, help="[benchmarks/results/training.json]")
    add("--fresh", action="store_true", help="forget the runs of these workloads in that file")
    add("--table", action="store_true", help="only print what the file says")
    options = parser.parse_args()
    if options.quick:
        options.models, options.tuners, options.dtypes = ["7M"], ["lora"], ["float32"]
        options.rounds, options.steps, options.warmup = 1, min(options.steps, 8), min(options.warmup, 2)
    return options


if __name__ == "__main__":
    main()
