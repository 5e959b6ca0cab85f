"""`swift plan`: what a run would do, need and take, without starting it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from swift.cli.main import NOT_YET
from swift.cli.unbuilt import reason
from swift.config.loader import Resolved, load
from swift.config.spelling import CONFIG_VERBS, EXPORT_VERBS, INFER_VERBS, LIKE, TRAIN_VERBS, like
from swift.errors import ConfigError, PlanRefused, PluginError, SwiftError
from swift.inference.source import ADAPTER_CONFIG, run_of
from swift.plan.draft import COMPONENT, MODEL, UNBUILT
from swift.plan.plan import Plan, Problem
from swift.plan.planner import make_plan
from swift.plan.render import render
from swift.plugins.registry import Registry, discover
from swift.run_dir import RunDir

OWN_FLAGS = ("--all", "--provenance")
"""List every value with where it came from."""
MEASURE = "--measure"
"""Run a few steps, so that the estimate is corrected."""
PLANNED = (*CONFIG_VERBS, *LIKE)
"""Verbs that can be planned: `swift plan sft ...`; the verb may be left out for training."""


def main(argv: Sequence[str], verb: str = "plan") -> int:
    """Print the plan. Returns 0, or `PlanRefused.exit_code` where the run would be refused."""
    every_value = any(word in OWN_FLAGS for word in argv)
    measuring = MEASURE in argv
    verb, words = split_verb([word for word in argv if word not in (*OWN_FLAGS, MEASURE)], verb)
    plan, resolved = plan_of(verb, words, here=measuring)
    for note in resolved.notes:
        print(note, file=sys.stderr)
    as_json, measuring = bool(resolved.extra.get("json")), measuring and not plan.refused and "train" in plan.config
    if not as_json:
        print(render(plan, every_value=every_value), flush=True)
    if measuring:
        measured = importlib.import_module("swift.cli.plan_measure")  # brings what a run needs; other plans do without
        plan = measured.measure(plan)
        if not as_json:
            print(f"\n{measured.render(plan)}")
    if as_json:
        print(plan.to_json())
    return PlanRefused.exit_code if plan.refused else 0


def split_verb(words: list[str], default: str = "plan") -> tuple[str, list[str]]:
    """(verb, the rest) of `sft --model M`, `megatron sft --model M` or `--model M`."""
    for count in (2, 1):
        verb = " ".join(words[:count]).replace("_", "-")
        known = verb in PLANNED or (count == 1 and verb.isidentifier() and any(
            verb in entry.data.get("verbs", ()) for entry in discover().entries("objective")
        ))  # fmt: skip
        if verb != "plan" and len(words) >= count and known and not Path(verb).is_dir():
            return verb, words[count:]
    return default, words


def plan_of(verb: str, argv: Sequence[str], *, here: bool = False) -> tuple[Plan, Resolved]:
    """The plan of a command, and its configuration. What is not built yet stands among the problems of the plan.

    Args:
        here: Its steps are to be measured on this machine now.

    Raises:
        ConfigError, PluginError: Faults of what was written.
    """
    registry = discover()
    if not any(verb in entry.data.get("verbs", ()) for entry in registry.entries("objective")) and verb not in PLANNED:
        raise ConfigError(f"swift {verb} cannot be planned; these can: {', '.join(PLANNED)}")
    resolved, found = load_for_plan(verb, list(argv), registry)
    if verb in NOT_YET:
        message, fix = reason(verb)
        found = (Problem(UNBUILT, "impossible", message, fix=fix), *found)
    if resolved.positional and like(verb) in (*INFER_VERBS, *EXPORT_VERBS):
        resolved, problems = with_source(resolved)
        found = (*found, *problems)
    elif resolved.positional:
        return RunDir.open(str(resolved.positional[0])).plan, resolved
    return make_plan(resolved, registry, here=here, found=found), resolved


def with_source(resolved: Resolved) -> tuple[Resolved, tuple[Problem, ...]]:
    """The configuration with the base model of the run or adapter that stands as its argument."""
    given = str(resolved.positional[0])
    model: Any = resolved.sections["model"]
    base = ""
    try:
        found = run_of(Path(given))
        if found is not None:
            plan = found[0].plan
            base = plan.model_folder or str(plan.config["model"]["id"])
        elif (Path(given) / ADAPTER_CONFIG).is_file():
            base = str(
                json.loads((Path(given) / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
            )
        else:
            base = given
    except (SwiftError, OSError, ValueError) as error:
        return resolved, (Problem(MODEL, "impossible", f"{given} cannot be read: {error}"),)
    base = model.id or base
    sections = {**resolved.sections, "model": model.model_copy(update={"id": base})}
    origin = {**resolved.provenance, "model.id": f"argument {given}"} if base != model.id else resolved.provenance
    return replace(resolved, sections=sections, provenance=origin), ()


def load_for_plan(verb: str, argv: list[str], registry: Registry) -> tuple[Resolved, tuple[Problem, ...]]:
    """The configuration, and what of it is not built yet; a strategy that splits the model and is not built yet is taken out,
    so that the rest is planned, and what such a strategy would need is shown.

    Raises:
        ConfigError, PluginError: Any other fault.
    """
    unbuilt: list[tuple[str, str]] = []
    required = ("model.id",) if like(verb) in TRAIN_VERBS else () if verb in NOT_YET else None
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        required = ()
    try:
        resolved = load(verb, argv=argv, registry=registry, unbuilt=unbuilt, required=required)
        return resolved, _problems(unbuilt)
    except (ConfigError, PluginError) as error:
        words, values, dropped = without_strategy(argv)
        if not dropped:
            raise
        try:
            resolved = load(verb, argv=words, values=values, registry=registry, unbuilt=unbuilt, required=required)
        except SwiftError:
            raise error from None
        return resolved, (Problem(COMPONENT, "impossible", error.message, ("parallel",), _WHOLE), *_problems(unbuilt))


_WHOLE = "leave it out, then each process holds the whole model; the memory above and its advice say what fits that way"


def _problems(unbuilt: Sequence[tuple[str, str]]) -> tuple[Problem, ...]:
    found = []
    for place, text in unbuilt:
        key = place.removeprefix("flag ").lstrip("-") if place.startswith("flag ") else text.partition(" ")[0].rstrip(":")
        splits = _names_strategy(key)
        found.append(
            Problem(
                UNBUILT, "impossible", f"{place}: {text}", ("parallel",) if splits else (), _WHOLE if splits else "leave it out"
            )
        )
    return tuple(found)


def without_strategy(argv: Sequence[str]) -> tuple[list[str], dict[str, Any], bool]:
    """(flags, content of the config files, whether anything was taken out) without what names a strategy."""
    words: list[str] = []
    values: dict[str, Any] = {}
    dropped = dropping = False
    waiting = iter([*argv, ""])
    for word in waiting:
        flag = word.startswith("-") and len(word) > 1
        key = word.lstrip("-").partition("=")[0] if flag else ""
        if flag:
            dropping = _names_strategy(key)
            dropped |= dropping
        file = (
            next(waiting, "")
            if key in ("c", "config") and "=" not in word
            else word.partition("=")[2]
            if key == "config"
            else ""
        )
        if not file and not flag and not dropping and word.endswith((".yaml", ".yml", ".json")) and not words:
            file = word
        if file:
            content, taken = _file_without_strategy(Path(file))
            values |= content
            dropped |= taken
        elif not dropping and word:
            words.append(word)
    return words, values, dropped


def _file_without_strategy(file: Path) -> tuple[dict[str, Any], bool]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}, False
    if not isinstance(content, Mapping):
        return {}, False
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if not _names_strategy(str(key)):
            kept[str(key)] = value
        elif isinstance(value, Mapping):
            kept[str(key)] = {k: v for k, v in value.items() if not _names_strategy(f"{key}.{k}") and k != "name"}
    return kept, kept != dict(content)


_COUNTS = ("nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port", "timeout")


def _names_strategy(key: str) -> bool:
    """Whether a key chooses how a model is spread over processes (by Swift's words or those of other trainers)."""
    key = key.replace("-", "_")
    if key.startswith(("parallel.", "parallelization.")):
        return key.partition(".")[2] not in _COUNTS
    return key in ("parallel", "parallelization") or key.startswith(("deepspeed", "fsdp", "zero_"))
