"""What each means is worth, one by one: tokens per second over the base's, to decide defaults by.

The base is 8B LoRA with what Swift chooses by itself. It is measured again after the most telling ones (`base-again`), and
how far that ratio is from 1 says what is noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from records import Case, Skip
from training import Setting, swift_run

BASE = Setting()
BEST = replace(BASE, autocast=True, checkpointing=False)
MEANS: dict[str, tuple[Setting, float]] = {
    # What changes, and about how many seconds it takes.
    "sdpa": (replace(BASE, attention="sdpa"), 15),
    "torch_varlen": (replace(BASE, attention="torch_varlen"), 15),
    "bfloat16-autocast-of-adapters": (replace(BASE, autocast=True), 15),
    "adapters-in-bfloat16": (replace(BASE, adapter_dtype="model"), 15),
    "tf32-adapters": (replace(BASE, tf32=True), 15),
    "checkpointing-off": (replace(BASE, checkpointing=False), 15),
    "autocast+checkpointing-off": (BEST, 15),
    "compile": (replace(BASE, compile=True), 50),
    "autocast+checkpointing-off+compile": (replace(BEST, compile=True), 50),
    "logits-in-one-piece": (replace(BASE, logits_mib=65536.0), 15),
    "optimizer-not-fused": (replace(BASE, fused=False), 15),
    "padding-free": (replace(BASE, layout="padding_free"), 15),
    "padded": (replace(BASE, layout="padded"), 20),
    "4-packs": (replace(BASE, micro_batch=4), 20),
    "flex_attention": (replace(BASE, attention="flex_attention"), 60),
    "eager": (replace(BASE, attention="eager"), 20),
}  # fmt: skip
LATER = (
    "logits-in-one-piece",
    "optimizer-not-fused",
    "padding-free",
    "padded",
    "4-packs",
    "flex_attention",
    "eager",
)
"""Those that decide less."""


def first(context: Any, pieces: Sequence[str]) -> list[Case]:
    return [
        Case("means/base", partial(swift_run, setting=BASE), pieces, 15),
        *(_case(name, pieces) for name in MEANS if name not in LATER),
        Case("means/base-again", partial(variant, setting=BASE), pieces, 15),
    ]


def more(context: Any, pieces: Sequence[str]) -> list[Case]:
    return [_case(name, pieces) for name in LATER]


def _case(name: str, pieces: Sequence[str]) -> Case:
    setting, seconds = MEANS[name]
    cuda = setting.attention == "flex_attention"  # which compiles its kernels
    return Case(f"means/{name}", partial(variant, setting=setting), pieces, seconds, cuda=cuda)


def variant(context: Any, setting: Setting) -> Mapping[str, Any]:
    base = context.records.result("means/base")
    if not base:
        raise Skip("the base was not measured")
    found = swift_run(context, setting)
    return {**found, "ratio": found["tokens_per_second"] / base["tokens_per_second"],
            "memory_ratio": found["peak_allocated"] / base["peak_allocated"] if base["peak_allocated"] else None,
            "loss_difference": abs(found["losses"][0] - base["losses"][0])}  # fmt: skip
