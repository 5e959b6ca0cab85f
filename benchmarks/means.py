"""What each means of speed and memory is worth on a CPU, beside doing without it.

    python benchmarks/means.py [--only PART ...] [--rounds 3] [--fresh] [--out FILE] [--docs FILE]
    python benchmarks/means.py --quick --out FILE      # every part at toy size, as the tests do it
    python benchmarks/means.py --table                 # only what the file says, as docs/performance.md shows it

Variants take turns, `--rounds` times, and a ratio is of two runs of one round: median and range stand in the file. What is
counted is CPU time of this process on one thread (its children's too, where it compiles).

    attention      `swift sft`: rows one by one, padded, packed with masked sdpa and with torch_varlen, joined
    loss           linear_cross_entropy beside autograd over whole logits; 600 labels, frozen and trained head
    lora           `swift sft --lora.computation lean` beside peft, and MiB that live after the forward pass
    compile        `swift sft --compile blocks` beside plain blocks on packs of 1,024 tokens, and what compiling takes
    checkpointing  `swift sft --gradient_checkpointing`: time, and MiB beside the planner's estimate
    optimizers     a step over 53 M parameters, fused, by a loop, foreach and in 8 bits (where bitsandbytes is installed);
                   `swift sft` with --optimizer_in_backward and with --adamw.fused false, and MiB of gradients
    products       `swift sft --dtype bfloat16 --cpu.products float32` and native beside float32 weights

`swift sft` is the real command, run in this process (starting one for each run would take longer than the steps), with a
tracker that notes the CPU time of each step; of a run count CPU seconds per 1,000 real tokens after the first step. Models are
Qwen3-shaped with random weights, rows are those of the plugin `tiny`. Time of short operations is of some calls in turns.

bitsandbytes is found in a folder of its own, too: `pip install --no-deps --target DIR bitsandbytes`, then PYTHONPATH=DIR.

results/means.json is written after each part. A part that it holds for this machine, these versions and as many rounds is not
measured again but with --fresh. The whole takes about eight minutes on two cores that nothing else uses.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # read when torch is imported

import argparse
import importlib.metadata
import importlib.util
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import means_memory
import means_table
import torch
from means_runs import Runs, Taken, cpu_seconds, piece
from peers import children
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from swift.api.ops import linear_cross_entropy
from swift.cli.bench import ratios

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "means.json"
DOCS = HERE.parent / "docs" / "performance.md"
VERSIONS = ("swift-llm-core", "torch", "transformers", "peft", "bitsandbytes")
LORA = ("--tuner", "lora", "--lora.rank", "8", "--lora.target_modules", "all-linear")
FULL = ("--tuner", "full")
ADAPTERS = {"rank": 8, "target_modules": ["all-linear"]}
PADDED = ("--batching", "padded", "--attention", "sdpa", "--batch_size")
VARLEN, SDPA = ("--attention", "torch_varlen"), ("--attention", "sdpa")
LABELS = 600
HEADS = {"float32": (256, 16384), "bfloat16": (256, 2048)}
"""(hidden size, vocabulary) of the loss. Most CPUs emulate bfloat16, many times slower."""


def packs(length: int) -> tuple[str, ...]:
    return ("--batching", "packed", "--packing_length", str(length), "--batch_size", "1")


LAYOUTS = {
    # name -> (flags, tokens of a step; to 16 it is rows)
    "rows one by one": ((*PADDED, "1"), 1),
    "4 rows padded": ((*PADDED, "4"), 4),
    "packs of 1,024, masked sdpa": ((*packs(1024), *SDPA), 1024),
    "packs of 512, torch_varlen": ((*packs(512), *VARLEN), 512),
    "packs of 1,024, torch_varlen": ((*packs(1024), *VARLEN), 1024),
    "packs of 2,048, torch_varlen": ((*packs(2048), *VARLEN), 2048),
    "4 rows joined, torch_varlen": (("--batching", "padding_free", "--batch_size", "4", *VARLEN), 4),
    "16 rows a step, each alone": ((*PADDED, "1", "--gradient_accumulation_steps", "16"), 16),
    "16 rows a step, unpacked, torch_varlen": (
        ("--batching", "unpacked", "--batch_size", "1", "--gradient_accumulation_steps", "16", *VARLEN),
        16,
    ),
}
FEW = ("rows one by one", "packs of 1,024, masked sdpa", "packs of 1,024, torch_varlen")
ATTENTION = {
    # case -> (model, tuner, layouts)
    "LoRA, 7M": ("7M", LORA, tuple(LAYOUTS)),
    "LoRA, 13M": ("13M", LORA, FEW),
    "full tuning, 7M": ("7M", FULL, (*FEW, "4 rows padded")),
}
CHECKPOINTING: dict[str, tuple[tuple[str, ...], dict[str, Any] | None]] = {
    "full tuning": (FULL, None),
    "LoRA (0)": ((*LORA, "--lora.dropout", "0"), {**ADAPTERS, "dropout": 0.0, "computation": "lean"}),
    "LoRA (0.05)": ((*LORA, "--lora.dropout", "0.05"), {**ADAPTERS, "dropout": 0.05, "computation": "lean"}),
}


class Bench:
    """Measures parts.

    Args:
        rounds: Of each variant, in turns.
        toy: Toy models, few steps.
    """

    def __init__(self, root: Path, *, rounds: int, toy: bool) -> None:
        self.rounds, self.toy = rounds, toy
        self.runs = Runs(root, toy=toy, count=8 if toy else 48)
        self.first: dict[str, Taken] = {}

    # -------------------------------------------------------------------------------------------------------------- turns

    def turns(self, what: str, variants: Mapping[str, Callable[[], float]], *, rounds: int = 0) -> dict[str, Any]:
        """Each variant in each round; the first of `variants` is what the others are compared with."""
        found: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds or self.rounds):
            for name in variants if number % 2 == 0 else reversed(list(variants)):
                found[name].append(variants[name]())
                print(f"{what:32} {name:32}{found[name][-1]:10.4f}", flush=True)
        return compared(found)

    def commands(
        self, what: str, model: str, variants: Mapping[str, tuple[Sequence[str], int]], *, figure: str = "per_thousand"
    ) -> dict[str, Any]:
        """CPU seconds of `swift sft`, name -> (flags, steps): per 1,000 real tokens, or another figure of `Taken`."""

        def measured(name: str) -> float:
            words, steps = variants[name]
            taken = self.runs.train(self.name(model), words, steps=2 if self.toy else steps, warm_up=1)
            self.first.setdefault(f"{what} {name}", taken)
            return float(getattr(taken, figure))

        return self.turns(what, {name: partial(measured, name) for name in variants})

    def name(self, model: str) -> str:
        return "13M" if self.toy else model  # at toy size all others are the same

    # -------------------------------------------------------------------------------------------------------------- parts

    def attention(self) -> dict[str, Any]:
        total = self.runs.tokens()

        def steps(size: int) -> int:
            """That go through all rows once."""
            return math.ceil(self.runs.count / size) if size <= 16 else max(2, math.ceil(total / size))

        found = {}
        for case, (model, tuner, names) in ATTENTION.items():
            variants = {name: ((*tuner, *LAYOUTS[name][0]), steps(LAYOUTS[name][1])) for name in names}
            found[case] = self.commands(case, model, variants)
        return found

    def loss(self) -> dict[str, Any]:
        found = {}
        for dtype, (hidden, vocabulary) in HEADS.items():
            for state in ("frozen", "trained"):
                case = f"{state} head, {dtype}"
                of = head(dtype, hidden, 256 if self.toy else vocabulary, trained=state == "trained")
                calls = {name: partial(passes, loss, of) for name, loss in LOSSES.items()}
                found[case] = self.timed(case, calls, slow=dtype == "bfloat16")
        return found

    def lora(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        folder = self.runs.model(self.name("7M"))
        for dropout in ("0", "0.05"):
            words = (*LORA, "--lora.dropout", dropout, *packs(512))
            variants = {how: ((*words, "--lora.computation", how), 4) for how in ("peft", "lean")}
            found[f"dropout {dropout}"] = self.commands(f"LoRA, dropout {dropout}", "7M", variants)
            for dtype in ("float32", "bfloat16"):
                for how, figures in found[f"dropout {dropout}"].items():
                    lora = {**ADAPTERS, "dropout": float(dropout), "computation": how}
                    size = means_memory.kept(folder, lora=lora, tokens=64 if self.toy else 512, dtype=dtype)
                    figures.setdefault("kept_mib", {})[dtype] = size
        return found

    def compile(self) -> dict[str, Any]:
        """By the median step, since compiled ones fill a short pack up. What compiling takes: CPU time until the first step has
        ended, with empty caches, over that of plain blocks."""
        words = (*LORA, *packs(1024))
        variants = {"plain": (words, 5), "blocks": ((*words, "--compile", "blocks"), 5)}
        case = "LoRA, 13M"
        found = self.commands(case, "13M", variants, figure="step")
        compiling = self.first[f"{case} blocks"].before - self.first[f"{case} plain"].before
        saved = statistics.median(found["plain"]["cpu_s"]) - statistics.median(found["blocks"]["cpu_s"])
        found["blocks"]["compiling_s"] = round(compiling, 1)
        found["blocks"]["earned_back_after_tokens"] = round(1024 * compiling / saved) if saved > 0 else None
        return {case: found}

    def checkpointing(self) -> dict[str, Any]:
        found = {}
        tokens = 64 if self.toy else 512
        for case, (tuner, lora) in CHECKPOINTING.items():
            modes = ("off", "selective", "full")
            variants = {mode: ((*tuner, *packs(512), "--gradient_checkpointing", mode), 2) for mode in modes}
            found[case] = self.commands(case, "13M", variants)
            for mode in modes:
                found[case][mode]["mib"] = means_memory.activations(self.runs.model("13M"), lora=lora, mode=mode, tokens=tokens)
        return found

    def optimizers(self) -> dict[str, Any]:
        words = (*FULL, *packs(512), "--max_grad_norm", "0")
        variants = {"plain": words, "in backward": (*words, "--optimizer_in_backward", "true"),
                    "not fused": (*words, "--adamw.fused", "false")}  # fmt: skip
        found = {"whole steps": self.commands("whole steps", "7M", {name: (flags, 4) for name, flags in variants.items()})}
        memory = means_memory.in_backward(self.runs.model(self.name("7M")))
        found["whole steps"]["plain"]["most_mib"] = memory["plain"]
        found["whole steps"]["in backward"]["most_mib"] = memory["in_backward"]
        for dtype in ("float32", "bfloat16"):
            found[f"step, {dtype}"] = self.steps_of(dtype)
        return found

    def products(self) -> dict[str, Any]:
        """On a processor that multiplies bfloat16, native is quick and this says nothing."""
        found = {}
        for case, tuner in (("LoRA, 7M", LORA), ("full tuning, 7M", FULL)):
            words = (*tuner, *PADDED, "4")
            ways = {"float32": ("--dtype", "float32")} | {
                f"bfloat16, {how}": ("--dtype", "bfloat16", "--cpu.products", how) for how in ("float32", "native")
            }
            variants = {name: ((*words, *flags), 2 if name.endswith("native") else 8) for name, flags in ways.items()}
            found[case] = self.commands(case, "7M", variants)
        return found

    def steps_of(self, dtype: str) -> dict[str, Any]:
        """The optimizer's step alone, over as many parameters as the 60M model of peers/ has (53 M)."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.runs.config("60M"))
        shapes = [p.shape for p in model.parameters()]

        def groups() -> list[dict[str, Any]]:
            made = [torch.nn.Parameter(torch.zeros(shape, dtype=getattr(torch, dtype))) for shape in shapes]
            for parameter in made:
                parameter.grad = torch.full_like(parameter, 0.01)
            return [{"params": made, "lr": 1e-4, "weight_decay": 0.0}]

        built: dict[str, Any] = {
            "fused": piece("optimizer", "adamw").build(groups()),
            "loop": piece("optimizer", "adamw", fused=False).build(groups()),
            "foreach": torch.optim.AdamW(groups(), foreach=True),
        }
        if importlib.util.find_spec("bitsandbytes"):
            built["adamw_8bit"] = piece("optimizer", "adamw_8bit").build(groups())
        calls = {name: optimizer.step for name, optimizer in built.items()}
        found = self.timed(f"step, {dtype}", calls)
        for name, optimizer in built.items():
            state = [v for of in optimizer.state.values() for v in of.values() if isinstance(v, torch.Tensor) and v.dim()]
            count = sum(shape.numel() for shape in shapes)
            found[name]["state_bytes_per_parameter"] = round(sum(v.numel() * v.element_size() for v in state) / count, 2)
        return found

    def timed(self, what: str, calls: Mapping[str, Callable[[], Any]], *, slow: bool = False) -> dict[str, Any]:
        """CPU seconds of a call, after one that does not count; short ones have three times as many rounds."""

        def seconds(call: Callable[[], Any]) -> float:
            began = cpu_seconds()
            call()
            return cpu_seconds() - began

        for call in calls.values():
            call()
        variants = {name: partial(seconds, call) for name, call in calls.items()}
        return self.turns(what, variants, rounds=self.rounds * (1 if slow or self.toy else 3))


PARTS = {
    "attention": Bench.attention, "loss": Bench.loss, "lora": Bench.lora, "compile": Bench.compile,
    "checkpointing": Bench.checkpointing, "optimizers": Bench.optimizers, "products": Bench.products,
}  # fmt: skip


def head(dtype: str, hidden: int, vocabulary: int, *, trained: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(states [600, hidden], weight of the output layer [vocabulary, hidden], labels [600])."""
    torch.manual_seed(0)
    states = torch.randn(LABELS, hidden).to(getattr(torch, dtype)).requires_grad_()
    weight = torch.randn(vocabulary, hidden).mul_(0.02).to(states.dtype).requires_grad_(trained)
    return states, weight, torch.randint(vocabulary, (LABELS,))


def whole(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(states, weight).float(), labels, reduction="sum")


def chunked(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return linear_cross_entropy(states, weight, labels, memory_budget=256 * means_memory.MIB)


LOSSES = {"autograd over whole logits": whole, "gradients in the forward pass": chunked}


def passes(loss: Callable[..., torch.Tensor], of: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """A loss forward and backward."""
    loss(*of).backward()
    of[0].grad = of[1].grad = None


def compared(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of each variant its CPU seconds, its time over the first one's, and its speed over the first one's, in pairs."""
    base = next(iter(found.values()))
    return {
        name: {
            "cpu_s": [round(value, 4) for value in taken],
            "time": spread(ratios(taken, base)), "speed": spread(ratios(base, taken)),
        }
        for name, taken in found.items()
    }  # fmt: skip


def spread(pairs: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(pairs), 3), "range": [round(min(pairs), 3), round(max(pairs), 3)],
        "pairs": len(pairs),
    }  # fmt: skip


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """By which a part that was measured is known to need no further measurement."""
    return {
        "machine": children.machine(),
        "versions": {name: version(name) for name in VERSIONS},
        "threads": 1, "rounds": options.rounds, "toy": options.quick,
    }  # fmt: skip


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(options: argparse.Namespace, report: dict[str, Any]) -> None:
    settings = settings_of(options)
    left = [
        name for name in options.only
        if options.fresh or any(report["parts"].get(name, {}).get(key) != value for key, value in settings.items())
    ]  # fmt: skip
    if kept := [name for name in options.only if name not in left]:
        print(f"{', '.join(kept)}: in {options.out} already; --fresh measures again")
    if not left:
        return
    root = Path(tempfile.mkdtemp(prefix="swift-means-"))
    os.environ |= {
        "SWIFT_HOME": str(root / "home"), "SWIFT_CONFIG": str(root / "plugins-file"), "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(root / "compiled"),
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        bench = Bench(root, rounds=options.rounds, toy=options.quick)
        for name in left:
            began = time.perf_counter()
            cases = PARTS[name](bench)
            seconds = round(time.perf_counter() - began)
            report["parts"][name] = {**settings, "load": round(os.getloadavg()[0], 1), "seconds": seconds, "cases": cases}
            report["parts"] = {part: report["parts"][part] for part in PARTS if part in report["parts"]}
            save(report, options.out)
            print(f"{name}: {seconds} s", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def save(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)}; others stay in the file as they are")  # fmt: skip
    add("--rounds", type=int, default=3, help="of each variant, in turns; short operations have three times as many [3]")
    add("--fresh", action="store_true", help="measure parts again that the file holds")
    add("--quick", action="store_true", help="toy sizes, one round: shows that it runs, measures nothing")
    add("--table", action="store_true", help="measure nothing, print the file as docs/performance.md shows it")
    add("--docs", type=Path, nargs="?", const=DOCS, help="write that into the marked places of this page [docs/performance.md]")
    add("--out", type=Path, default=RESULTS, help="[benchmarks/results/means.json]")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
        if options.out == RESULTS:
            parser.error("--quick writes toy figures: give it an --out of its own")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    report: dict[str, Any] = {"what": (__doc__ or "").splitlines()[0], "parts": {}}
    if options.out.is_file():
        report["parts"] = json.loads(options.out.read_text(encoding="utf-8"))["parts"]
    elif options.table:
        parser.error(f"--table: there is no {options.out}; without --table it is measured")
    if not options.table:
        measure(options, report)
        print(f"-> {options.out}")
    for name, text in means_table.blocks(report["parts"]).items():
        print(f"\n{name}\n\n{text}")
    if options.docs:
        means_table.fill(options.docs, report["parts"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
