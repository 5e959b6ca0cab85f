"""What means.py measured, as docs/performance.md shows it: a text of each part, and its place in the page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(<!-- means: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""Where a part's text stands in a page."""
Cases = Mapping[str, Mapping[str, Any]]


def blocks(parts: Mapping[str, Any]) -> dict[str, str]:
    """Place -> text, of the parts that were measured."""
    found = {}
    for name, part in parts.items():
        for place, text in TEXTS[name](part["cases"]).items():
            pairs = sorted({v["time"]["pairs"] for case in part["cases"].values() for v in case.values()})
            found[place] = text.replace("PAIRS", " or ".join(map(str, pairs)))
    return found


def fill(page: Path, parts: Mapping[str, Any]) -> None:
    """Write the texts into their places; a place whose part was not measured keeps what it has."""
    texts = blocks(parts)

    def filled(place: re.Match[str]) -> str:
        head, name, tail = place.groups()
        return f"{head}{texts[name]}\n{tail}" if name in texts else place.group(0)

    page.write_text(PLACE.sub(filled, page.read_text(encoding="utf-8")), encoding="utf-8")


def places(page: Path) -> dict[str, str]:
    """Place -> the text that stands there."""
    text = page.read_text(encoding="utf-8")
    return {match[2]: match[0][len(match[1]) : -len(match[3])].rstrip("\n") for match in PLACE.finditer(text)}


def shown(ratio: Mapping[str, Any]) -> str:
    """1.09 (1.05 to 1.14)."""
    low, high = ratio["range"]
    return f"{ratio['median']:.2f}" + (f" ({low:.2f} to {high:.2f})" if ratio["pairs"] > 1 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def attention(cases: Cases) -> dict[str, str]:
    layouts = list(dict.fromkeys(name for case in cases.values() for name in case))
    rows = [[name, *(shown(case[name]["speed"]) if name in case else "" for case in cases.values())] for name in layouts[1:]]
    return {"attention": table([f"tokens per CPU second over {layouts[0]}", *cases], rows)}


def loss(cases: Cases) -> dict[str, str]:
    dtypes = list(dict.fromkeys(case.split(", ")[1] for case in cases))
    heads = list(dict.fromkeys(case.split(", ")[0] for case in cases))
    variant = "gradients in the forward pass"
    rows = [[head, *(shown(cases[f"{head}, {dtype}"][variant]["time"]) for dtype in dtypes)] for head in heads]
    return {"loss": table(["CPU time over autograd's", *dtypes], rows)}


def lora(cases: Cases) -> dict[str, str]:
    rows = []
    for name, case in cases.items():
        kept = [f"{case['peft']['kept_mib'][d]:.0f} to {case['lean']['kept_mib'][d]:.0f} MiB" for d in ("float32", "bfloat16")]
        rows.append([name, shown(case["lean"]["time"]), *kept])
    return {"lora": table(["`lean` over `peft`", "CPU time", "kept, float32", "kept, bfloat16"], rows)}


def compile_(cases: Cases) -> dict[str, str]:
    found = cases["LoRA, 13M"]["blocks"]
    tokens = found["earned_back_after_tokens"]
    earned = f"what steps of about {round(tokens, -3):,} tokens earn back" if tokens else "which is not earned back"
    rows = [[shown(found["speed"]), f"{found['compiling_s']:.0f} s", earned]]
    return {"compile": table(["steps per CPU second over plain blocks", "compiling takes", "that is"], rows)}


def checkpointing(cases: Cases) -> dict[str, str]:
    rows = []
    for name, case in cases.items():
        for mode, figures in case.items():
            memory = figures["mib"]
            sizes = [f"{memory[key]:.0f} MiB" for key in ("kept", "most", "estimate")]
            rows.append([name if mode == "off" else "", mode, *sizes, "1" if mode == "off" else shown(figures["time"])])
    return {"checkpointing": table(["", "mode", "kept", "most in the backward pass", "estimate", "time"], rows)}


def optimizers(cases: Cases) -> dict[str, str]:
    names = {
        "fused": "`adamw` fused (`auto` on CPUs and CUDA)", "loop": "`adamw`, loop over parameters",
        "foreach": "`adamw`, foreach", "adamw_8bit": "`adamw_8bit` (bitsandbytes)",
    }  # fmt: skip
    float32, bfloat16 = cases["step, float32"], cases["step, bfloat16"]
    rows = []
    for name, figures in float32.items():
        base = name == "fused"
        state = f"{figures['state_bytes_per_parameter']:.3g} bytes"
        rows.append([names[name], state, *("1" if base else shown(of[name]["time"]) for of in (float32, bfloat16))])
    steps = cases["whole steps"]
    change = [
        ["`--optimizer_in_backward true`", shown(steps["in backward"]["time"]),
         f"{steps['plain']['most_mib']:.1f} to {steps['in backward']['most_mib']:.1f} MiB"],
        ["`--adamw.fused false`", shown(steps["not fused"]["time"]), ""],
    ]  # fmt: skip
    seconds = statistics.median(float32["fused"]["cpu_s"])
    head = ["", "state per float32 parameter", f"float32 (1 is {seconds:.2f} s)", "bfloat16"]
    return {
        "optimizers": table(head, rows),
        "in-backward": table(["", "CPU time of a step", "most that lives in the backward pass"], change),
    }


def products(cases: Cases) -> dict[str, str]:
    names = {"bfloat16, float32": "bfloat16, `--cpu.products float32`", "bfloat16, native": "bfloat16, `--cpu.products native`"}
    rows = [[text, *(shown(case[name]["time"]) for case in cases.values())] for name, text in names.items()]
    return {"products": table(["CPU time over float32 weights", *cases], rows)}


TEXTS = {
    "attention": attention, "loss": loss, "lora": lora, "compile": compile_, "checkpointing": checkpointing,
    "optimizers": optimizers, "products": products,
}  # fmt: skip
