"""`swift export`: a tuned model in another format, in a folder that appears whole and proved, or not at all."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import swift
from swift.api import Device, ExportContext, Exporter, ExportReport, Record
from swift.errors import CheckpointError, ConfigError, Unsupported
from swift.inference.open import load, open_device, with_settings
from swift.inference.source import Source
from swift.plan.models import inspect
from swift.plugins.loading import instantiate
from swift.run_dir import whole_folder, write_text
from swift.upstream import quiet_libraries

REPORT = "export_report.json"
HELD_PROMPTS: tuple[tuple[str, str], ...] = (
    ("Who are you?", "I am a language model. I answer questions and help with texts."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Translate into German: Good morning, my friend.", "Guten Morgen, mein Freund."),
    ("你是谁？", "我是一个语言模型，可以回答问题、协助写作。"),
    ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
    ("If I have three apples and eat one, how many are left?", "Three minus one is two, so two apples are left."),
    ("Name three colours, as a JSON list.", '["red", "green", "blue"]'),
    ("Tell me a story in one sentence.", "Once upon a time a small boat crossed a wide sea to bring one letter home."),
)
"""Question and answer; both are read, nothing is generated."""


def export(source: Source, *, sections: Mapping[str, Any], settings: Mapping[str, Any], registry: Any) -> int:
    """Export, check, and put the folder in place.

    Raises:
        ConfigError: The output folder is taken.
        Unsupported: The tuner cannot do what the format needs.
        CheckpointError: Disk full, no permission, or the result answers otherwise than the source; nothing is left behind then.
    """
    section, output = sections["export"], sections["output"]
    entry = registry.find("exporter", section.to)
    if source.tuner is not None and not source.tuner.spec.get("mergeable"):
        raise Unsupported(
            f"what {source.tuner.name} trained cannot be folded into the base weights",
            fix=f"use {source.given} as it is: swift infer {source.given}",
        )
    target = Path(output.dir) if output.dir else default_folder(source, section.to)
    overwrite = section.force or output.overwrite
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists already", fix="--force replaces it, -o OTHER leaves it alone")
    if overwrite:
        refuse_to_replace(target, source)
    exporter: Exporter = instantiate(with_settings(entry, settings))
    device = open_device(sections["device"].name, registry, settings)
    check_space(target, source.model_folder)
    source, dtype = dtypes(source, device)
    quiet_libraries()
    try:
        with whole_folder(target) as folder:
            report = exporter.export(
                ExportContext(
                    run_dir=source.folder,
                    output=folder,
                    tuner=instantiate(source.tuner) if source.tuner is not None else None,
                    load_tuned=lambda: load(source, device),
                    load_folder=lambda path: load(as_model(source, path), device),
                    prompts=held_prompts(section.prompts, source.chat) if section.verify else (),
                    max_shard_size=section.max_shard_size,
                    dtype=dtype,
                )
            )
            broken = above_bounds(report)
            write_text(folder / REPORT, as_json(report, source, section.to, broken))
            show(report, broken)
            if broken and not section.force:
                raise CheckpointError(
                    f"the result answers otherwise than {source.given}: {'; '.join(broken)}. Nothing was kept",
                    fix="--force keeps it all the same, marked as failed in " + REPORT,
                )
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}; nothing half-written was left, and {source.given} is untouched",
            fix="free disk space or permissions there, or choose another folder with -o",
        ) from error
    marked = "  (kept by --force though its check FAILED)" if broken else ""
    print(f'result: {target}{marked}\nnext:   swift infer {target} --prompt "Who are you?"')
    return 0


def default_folder(source: Source, to: str) -> Path:
    """`RUN/merged` for a run (`RUN/merged-step-000100` for a checkpoint), `FOLDER-merged` beside anything else."""
    if source.run is not None:
        weights = source.adapter or source.model_folder
        step = f"-{weights.parent.name}" if weights.name == "model" else ""
        return source.run.path / f"{to}{step}"
    return source.folder.with_name(f"{source.folder.name}-{to}")


def refuse_to_replace(target: Path, source: Source) -> None:
    """--force never removes what the export reads from, nor a run."""
    mine = target.resolve()
    read = [p.resolve() for p in (source.folder, source.model_folder, source.adapter, source.tokenizer_folder) if p is not None]
    if any(mine == p or mine in p.parents for p in read) or (target / "plan.json").is_file():
        raise ConfigError(
            f"{target} holds the source or a run, so --force does not replace it", fix="choose another folder with -o"
        )


def check_space(target: Path, model: Path) -> None:
    """Refuse before minutes of work where the weights surely do not fit."""
    needed = sum(f.stat().st_size for f in model.glob("*") if f.suffix in (".safetensors", ".bin") and f.is_file())
    there = next(p for p in (target, *target.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CheckpointError(
            f"the result needs about {needed / 2**30:.1f} GiB, {there} has {free / 2**30:.1f} GiB left",
            fix="free disk space, or choose another folder with -o",
        )


def dtypes(source: Source, device: Device) -> tuple[Source, str]:
    """(source, loaded in what the device computes in; dtype of the result: --dtype, else the checkpoint's)."""
    dtype = source.dtype if source.dtype != "auto" else inspect(source.model_folder).dtype
    if dtype not in ("float32", "bfloat16", "float16"):
        return source, ""
    return replace(source, dtype=dtype if dtype in device.dtypes() else "float32"), dtype


def as_model(source: Source, folder: Path) -> Source:
    """The written folder as a model of its own, through the same loader, in the same dtype."""
    return replace(source, model_folder=folder, adapter=None, tuner=None, tokenizer_folder=folder, init="pretrained")


def held_prompts(given: list[str], chat: bool) -> list[Record]:
    pairs = [(prompt, "") for prompt in given] or list(HELD_PROMPTS)
    if not chat:
        return [{"text": " ".join(part for part in pair if part)} for pair in pairs]
    return [
        {"messages": [{"role": "user", "content": q}, *([{"role": "assistant", "content": a}] if a else [])]} for q, a in pairs
    ]


def above_bounds(report: ExportReport) -> list[str]:
    """Checks that are above their bound, or no number at all."""
    found = []
    for name, bound in report.bounds.items():
        value = report.checks.get(name, math.nan)
        if not value <= bound:  # NaN is never below
            found.append(f"{name} {value:.3g} is above {bound:.3g}")
    return found


def show(report: ExportReport, broken: list[str]) -> None:
    if not report.checks:
        print("not checked (--verify false)")
        return
    print("source against result, on held prompts:")
    for name, value in report.checks.items():
        bound = f"   (bound {report.bounds[name]:.3g})" if name in report.bounds else ""
        print(f"  {name:<22} {value:.3g}{bound}")
    print("check FAILED: " + "; ".join(broken) if broken else "check passed")
    sys.stdout.flush()


def as_json(report: ExportReport, source: Source, to: str, broken: list[str]) -> str:
    return json.dumps(
        {
            "format": to, "source": source.given, "passed": not broken if report.checks else None, "above_bounds": broken,
            "checks": dict(report.checks), "bounds": dict(report.bounds), "files": list(report.files),
            "swift_version": swift.__version__,
        },
        indent=1, ensure_ascii=False,
    )  # fmt: skip
