"""`swift plan`: what a run would do, need and take, without starting it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from swift.config.loader import Resolved, load
from swift.errors import ConfigError, PlanRefused, PluginError, SwiftError
from swift.plan.draft import COMPONENT
from swift.plan.plan import Problem
from swift.plan.planner import make_plan
from swift.plan.render import render
from swift.plugins.registry import Registry, discover
from swift.run_dir import RunDir

OWN_FLAGS = ("--all", "--provenance")
"""List every value with where it came from."""


def main(argv: Sequence[str], verb: str = "plan") -> int:
    """Print the plan. Returns 0, or `PlanRefused.exit_code` where the run would be refused."""
    every_value = any(word in OWN_FLAGS for word in argv)
    registry = discover()
    resolved, found = load_for_plan(verb, [word for word in argv if word not in OWN_FLAGS], registry)
    as_json = bool(resolved.extra.get("json"))
    for note in resolved.notes:
        print(note, file=sys.stderr)
    if resolved.positional:
        plan = RunDir.open(str(resolved.positional[0])).plan
    else:
        plan = make_plan(resolved, registry, here=False, found=found)
    print(plan.to_json() if as_json else render(plan, every_value=every_value))
    return PlanRefused.exit_code if plan.refused else 0


def load_for_plan(verb: str, argv: list[str], registry: Registry) -> tuple[Resolved, tuple[Problem, ...]]:
    """The configuration; a strategy that splits the model and is not built yet becomes a problem of the plan, so that the rest
    is planned, and what such a strategy would need is shown.

    Raises:
        ConfigError, PluginError: Any other fault.
    """
    try:
        return load(verb, argv=argv, registry=registry), ()
    except (ConfigError, PluginError) as error:
        words, values, dropped = without_strategy(argv)
        if not dropped:
            raise
        try:
            resolved = load(verb, argv=words, values=values, registry=registry)
        except SwiftError:
            raise error from None
        fix = "leave it out, then each process holds the whole model; the memory above and its advice say what fits that way"
        return resolved, (Problem(COMPONENT, "impossible", error.message, ("parallel",), fix),)


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
