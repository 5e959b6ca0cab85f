"""How cost grows: with rows, row length, adapters and installed plugins.

    python benchmarks/growth.py [--only rows,length,rank,adapters,plugins] [--rounds 2] [--threads 2] [--out FILE] [--plots DIR]
    python benchmarks/growth.py --quick --out FILE --plots DIR   # every part at toy size, as the tests do it
    python benchmarks/growth.py --draw                           # only the plots, from the file

Each point is a real command in a process of its own, points in turns, on a CPU:

    rows       `swift sft` of `tiny` with 10^3 to 10^6 short conversations: seconds from the command to the first step with
               empty caches (cold) and with full ones (warm), steps per second, peak memory of the process tree
    length     `swift pt` of a model of 0.1 M parameters with one row of 512 to 32,768 tokens a step: tokens per second, peak
               memory, and the tokens per second that the model's arithmetic predicts from the shortest: C / (6 N + 12 n q S),
               as in docs/performance.md
    rank       `swift sft` of `tiny` by LoRA of rank 1 to 256, on all linear layers and on q_proj, v_proj: steps per second
    adapters   `swift infer` of a run with 0 to 32 further adapters in memory (--adapters): tokens per second, seconds from
               the command to the first answers, peak memory
    plugins    `swift sft` with 0 to 100 installed plugins that it does not use (benchmarks/discovery.py makes them): seconds to
               the first step, with a ready index and with one that is built anew, and steps per second

Steps per second: one over the median step after the first ones. Of several rounds the best figure stands in the file as `best`
and is drawn; all are in `runs`. results/growth.json is written after each point, docs/images/growth-*.svg at the end. The whole
takes eleven minutes on two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import discovery
import growth_plots
from peers import children
from safetensors.numpy import load_file

from swift.testing import tiny_folder

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "growth.json"
PLOTS = HERE.parent / "docs" / "images"
VERSIONS = ("swift-llm-core", "torch", "transformers", "peft", "tokenizers")
COMMON = (
    "--gradient_accumulation_steps", "1", "--log_steps", "1", "--save_steps", "1000000", "--report", "false",
    "--progress", "false", "--device", "cpu",
)  # fmt: skip
HIGHER_IS_BETTER = {"steps_per_s", "tokens_per_s"}


@dataclass(frozen=True)
class Sizes:
    """What is measured; `QUICK` only shows that it runs.

    Attributes:
        steps: Of a run of `tiny`.
        tokens: Of a run of the length part, at most; there are three steps at least.
        answers: (rows, new tokens of each) of a run of the adapters part.
    """

    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384, 32768)
    ranks: tuple[int, ...] = (1, 8, 64, 256)
    adapters: tuple[int, ...] = (0, 1, 2, 8, 32)
    plugins: tuple[int, ...] = (0, 10, 30, 100)
    steps: int = 30
    tokens: int = 1 << 16
    answers: tuple[int, int] = (48, 32)


QUICK = Sizes((20, 60), (64, 128), (1, 4), (0, 2), (0, 3), steps=5, tokens=1 << 9, answers=(4, 4))


class Bench:
    """Runs commands in a folder of its own, and keeps the results file.

    Args:
        sizes: The points.
        rounds: Of each point, in turns.
        threads: Of torch.
    """

    def __init__(self, sizes: Sizes, *, rounds: int, threads: int, out: Path) -> None:
        self.sizes, self.rounds, self.threads, self.out = sizes, rounds, threads, out
        self.root = Path(tempfile.mkdtemp(prefix="swift-growth-"))
        self.home = self.root / "home"
        self.python: str | Path = sys.executable
        kept = json.loads(out.read_text(encoding="utf-8")).get("parts", {}) if out.is_file() else {}
        self.report: dict[str, Any] = {"what": (__doc__ or "").splitlines()[0], "parts": kept}

    # ----------------------------------------------------------------------------------------------------------- commands

    def command(self, words: Sequence[object], until: Callable[[], bool]) -> tuple[float, children.Outcome]:
        """(seconds until `until` holds, the outcome) of `swift WORDS`.

        Raises:
            RuntimeError: The command fails, or `until` never held.
        """
        seen: list[float] = []
        stop = threading.Event()
        started = time.perf_counter()

        def watch() -> None:
            while not (until() or stop.is_set()):
                time.sleep(0.01)
            if until():
                seen.append(time.perf_counter() - started)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        env = {"SWIFT_HOME": str(self.home), "SWIFT_CONFIG": str(self.home / "plugins-file")}
        try:
            outcome = children.run([self.python, "-m", "swift", *map(str, words)], threads=self.threads, env=env)
        finally:
            stop.set()
            watcher.join()
        if not seen:
            raise RuntimeError(f"swift {' '.join(map(str, words))} ended before its first result")
        return seen[0], outcome

    def train(
        self, verb: str, words: Sequence[object], *, steps: int, warm_up: int, keep: Path | None = None
    ) -> dict[str, Any]:
        """A run of so many steps, of which the first `warm_up` do not count for the speed."""
        run = keep or self.root / "run"
        log = run / "log.jsonl"
        first, outcome = self.command(
            [verb, *words, *COMMON, "--max_steps", steps, "-o", run], lambda: log.is_file() and log.stat().st_size > 0
        )
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        found = steady([entry for entry in entries if "loss" in entry], warm_up)
        if keep is None:
            shutil.rmtree(run)
        return {
            "first_step_s": round(first, 2),
            **found,
            "wall_s": outcome.wall_s,
            "peak_mib": round(outcome.peak_bytes / 2**20),
        }

    def infer(self, words: Sequence[object]) -> dict[str, Any]:
        """Answers in batches: tokens per second of those after the first batch."""
        result = self.root / "answers.jsonl"
        times: list[tuple[float, int]] = []

        def lines() -> bool:
            count = result.read_bytes().count(b"\n") if result.is_file() else 0
            if count and (not times or count > times[-1][1]):
                times.append((time.perf_counter(), count))
            return count >= self.sizes.answers[0]

        started = time.perf_counter()
        _, outcome = self.command(["infer", *words, "--device", "cpu", "--result", result], lines)
        tokens = [json.loads(line)["completion_tokens"] for line in result.read_text(encoding="utf-8").splitlines()]
        result.unlink()
        seconds = times[-1][0] - times[0][0]
        made = sum(tokens[times[0][1] :])
        return {
            "first_answers_s": round(times[0][0] - started, 2), "tokens_per_s": round(made / seconds, 1) if seconds else None,
            "peak_mib": round(outcome.peak_bytes / 2**20),
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------ results

    def turns(self, part: str, points: Sequence[dict[str, Any]], measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Every point in each round; the file after each point."""
        runs: list[list[dict[str, Any]]] = [[] for _ in points]
        for number in range(self.rounds):
            order = range(len(points)) if number % 2 == 0 else reversed(range(len(points)))
            for place in order:
                found = measure(points[place])
                runs[place].append(found)
                shown = "  ".join(f"{name} {value}" for name, value in found.items())
                print(f"{part:9}{', '.join(f'{k} {v}' for k, v in points[place].items()):28}{shown}", flush=True)
                measured = [(point, done) for point, done in zip(points, runs, strict=True) if done]
                self.keep(part, [{**point, "best": best_of(done), "runs": done} for point, done in measured])

    def keep(self, part: str, points: list[dict[str, Any]]) -> None:
        """A part in the file, with what it was measured on."""
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        self.report["parts"][part] = {
            "machine": machine, "load": round(os.getloadavg()[0], 1), "threads": self.threads, "rounds": self.rounds,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS}, "points": points,
        }  # fmt: skip
        self.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.out.with_suffix(".partial")
        partial.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.out)

    def clear(self) -> None:
        """Empty caches."""
        shutil.rmtree(self.home, ignore_errors=True)

    # -------------------------------------------------------------------------------------------------------------- parts

    def rows(self) -> None:
        steps = self.sizes.steps
        for count in self.sizes.rows:
            write_rows(self.root / f"{count}.jsonl", conversations(count))
        runs: dict[int, list[dict[str, Any]]] = {count: [] for count in self.sizes.rows}
        self.clear()
        for number in range(max(2, self.rounds)):
            for count in self.sizes.rows:
                words = ["--model", "tiny", "--dataset", self.root / f"{count}.jsonl", "--batch_size", 4]
                found = {
                    "caches": "warm" if number else "cold",
                    **self.train("sft", words, steps=steps, warm_up=warm_up(steps)),
                }
                runs[count].append(found)
                print(f"{'rows':9}{count:<28,}{'  '.join(f'{k} {v}' for k, v in found.items())}", flush=True)
                self.keep("rows", [
                    {"rows": rows, "cold": done[0], **({"warm": best_of(done[1:])} if done[1:] else {}), "runs": done}
                    for rows, done in runs.items() if done
                ])  # fmt: skip
        self.clear()

    def length(self) -> None:
        longest = max(self.sizes.lengths)
        layers, heads, head_size = 2, 4, 16
        model = tiny_folder(
            self.root / "long", max_position_embeddings=longest, num_hidden_layers=layers, num_attention_heads=heads,
            head_dim=head_size,
        )  # fmt: skip
        points = []
        for length in self.sizes.lengths:
            write_rows(self.root / f"length-{length}.jsonl", texts(4, length))
            points.append({"length": length})

        def measure(point: dict[str, Any]) -> dict[str, Any]:
            length = point["length"]
            words = ["--model", model, "--dataset", self.root / f"length-{length}.jsonl", "--tuner", "full", "--batch_size", 1,
                     "--max_length", length, "--overlong", "truncate_right", "--batching", "padded"]  # fmt: skip
            steps = min(self.sizes.steps, max(3, self.sizes.tokens // length))
            return self.train("pt", words, steps=steps, warm_up=warm_up(steps))

        self.turns("length", points, measure)
        part = self.report["parts"]["length"]
        multiplied = multiplied_weights(model)
        first = part["points"][0]
        for point in part["points"]:
            flops = [6 * multiplied + 12 * layers * heads * head_size * p["length"] for p in (first, point)]
            point["flops_per_token"] = flops[1]
            point["predicted_tokens_per_s"] = round(first["best"]["tokens_per_s"] * flops[0] / flops[1])
        self.keep("length", part["points"])

    def rank(self) -> None:
        rows = self.root / "ranks.jsonl"
        write_rows(rows, conversations(400))
        points = [
            {"rank": rank, "modules": modules} for modules in ("all-linear", "q_proj v_proj") for rank in self.sizes.ranks
        ]
        words = ["--model", "tiny", "--dataset", rows, "--batch_size", 4]
        self.train("sft", words, steps=1, warm_up=0)  # fills the caches

        def measure(point: dict[str, Any]) -> dict[str, Any]:
            lora = ["--lora.rank", point["rank"], "--lora.target_modules", *point["modules"].split()]
            return self.train("sft", [*words, *lora], steps=self.sizes.steps, warm_up=warm_up(self.sizes.steps))

        self.turns("rank", points, measure)

    def adapters(self) -> None:
        rows, questions = self.root / "adapters.jsonl", self.root / "questions.jsonl"
        write_rows(rows, conversations(50))
        count, new_tokens = self.sizes.answers
        write_rows(questions, conversations(count))
        run = self.root / "adapter-run"
        self.train("sft", ["--model", "tiny", "--dataset", rows, "--batch_size", 4], steps=2, warm_up=0, keep=run)
        copies = {f"a{n}": self.root / f"adapter-{n}" for n in range(max(self.sizes.adapters))}
        for folder in copies.values():
            shutil.copytree(run / "final", folder)
        points = [{"adapters": number} for number in self.sizes.adapters]

        def measure(point: dict[str, Any]) -> dict[str, Any]:
            further = dict(list(copies.items())[: point["adapters"]])
            named = ["--adapters", json.dumps({name: str(path) for name, path in further.items()})] if further else []
            return self.infer(
                [run, "--input", questions, "--max_new_tokens", new_tokens, "--batch_size", max(1, count // 6), *named]
            )

        self.turns("adapters", points, measure)

    def plugins(self) -> None:
        rows = self.root / "plugins.jsonl"
        write_rows(rows, conversations(400))
        words = ["--model", "tiny", "--dataset", rows, "--batch_size", 4]
        pythons = {}
        for count in self.sizes.plugins:
            site = discovery.environment(self.root / f"plugins-{count}")
            for number in range(count):
                discovery.install(site, number, plugin=True)
            pythons[count] = discovery.python_of(self.root / f"plugins-{count}")
        points = [{"plugins": count, "index": index} for index in ("built anew", "ready") for count in self.sizes.plugins]
        steps, home = self.sizes.steps, self.home

        def measure(point: dict[str, Any]) -> dict[str, Any]:
            self.python, self.home = pythons[point["plugins"]], self.root / f"plugins-{point['plugins']}" / "home"
            if not self.home.exists():  # tokens are there, bytecode of the doors too
                self.train("sft", words, steps=1, warm_up=0)
            if point["index"] == "built anew":
                discovery.STATES["cold"](self.home)
            try:
                few = 1 if point["index"] == "built anew" else steps  # only its start differs
                return self.train("sft", words, steps=few, warm_up=warm_up(few))
            finally:
                self.python, self.home = sys.executable, home

        self.turns("plugins", points, measure)


PARTS: dict[str, Callable[[Bench], None]] = {
    "rows": Bench.rows, "length": Bench.length, "rank": Bench.rank, "adapters": Bench.adapters, "plugins": Bench.plugins,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- figures


def warm_up(steps: int) -> int:
    """Steps that do not count: the first ones allocate."""
    return min(5, max(1, steps // 3))


def steady(entries: Sequence[dict[str, Any]], warm_up: int) -> dict[str, Any]:
    """Speed of the logged steps after the first `warm_up`, by their median; nothing where no step is left."""
    seconds = [entry["seconds"] for entry in entries]
    tokens = [entry["tokens"] for entry in entries]
    steps = [(s - s0, t - t0) for s0, s, t0, t in zip([0.0, *seconds], seconds, [0, *tokens], tokens)][warm_up:]
    if not steps:
        return {}
    rate = statistics.median(t / s for s, t in steps)
    return {"steps_per_s": round(1 / statistics.median(s for s, _ in steps), 2), "tokens_per_s": round(rate, 1)}


def best_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of each figure: nothing but other load makes a run slower."""
    return {
        name: (max if name in HIGHER_IS_BETTER else min)(run[name] for run in runs)
        for name, value in runs[0].items()
        if isinstance(value, int | float)
    }


def multiplied_weights(model: Path) -> int:
    """Weights that a token is multiplied with: all but the input embedding, in a model whose output is not tied to it."""
    return sum(weight.size for name, weight in load_file(model / "model.safetensors").items() if "embed_tokens" not in name)


# ------------------------------------------------------------------------------------------------------------------- rows


def conversations(count: int) -> Iterator[dict[str, Any]]:
    """Different ones of 110 to 130 characters of JSON."""
    for number in range(count):
        question, answer = f"What is {number} plus {number % 97}?", f"It is {number + number % 97}."
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def texts(count: int, length: int) -> Iterator[dict[str, Any]]:
    """Of more than `length` bytes, to be cut."""
    for number in range(count):
        yield {"text": f"{number} words of nothing much ".ljust(32, ".") * (length // 32 + 2)}


def write_rows(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="How cost grows with rows, row length, adapters and installed plugins")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas; others stay in the file as they are")
    parser.add_argument("--rounds", type=int, default=2, help="of each point, in turns; the rows part has one cold start")
    parser.add_argument("--rows", type=int, default=Sizes().rows[-1], help="the largest file of the rows part")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="toy sizes, one round: shows that it runs, measures nothing")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw the file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plots", type=Path, default=PLOTS)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.quick and options.out == RESULTS:
        parser.error("--quick writes toy figures: give it an --out of its own")
    if not options.draw:
        sizes = QUICK if options.quick else Sizes()
        sizes = replace(sizes, rows=tuple(count for count in sizes.rows if count <= options.rows) or sizes.rows[:1])
        bench = Bench(sizes, rounds=1 if options.quick else options.rounds,
                      threads=options.threads, out=options.out)  # fmt: skip
        try:
            for name in chosen:
                started = time.perf_counter()
                PARTS[name](bench)
                print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        finally:
            shutil.rmtree(bench.root, ignore_errors=True)
    drawn = growth_plots.draw(json.loads(options.out.read_text(encoding="utf-8"))["parts"], options.plots)
    print("->", options.out, *drawn)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
