"""`swift list KIND [FILTER]`: what the installed plugins offer."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Callable
from typing import Any

from swift.cli.tables import table
from swift.errors import ConfigError
from swift.plugins import registry
from swift.plugins.info import Entry

Column = tuple[str, Callable[[dict[str, Any]], object]]

KINDS = (
    "model", "dataset", "task", "template", "tuner", "objective", "parallel", "device", "quantizer", "engine", "optimizer",
    "loss", "reward", "metric", "hub", "tracker", "evaluator", "launcher", "exporter", "command", "rule",
)  # fmt: skip
"""`swift.api.KINDS`, whose import would cost more than the rest of this command; a test compares them."""

COLUMNS: dict[str, tuple[Column, ...]] = {
    "model": (
        ("parameters", lambda s: _count(s.get("parameters", 0))),
        ("context", lambda s: s.get("context_length") or ""),
        ("architecture", lambda s: s.get("architecture", "")),
        ("hub id", lambda s: next(iter(s.get("hub_ids", {}).values()), "any folder" if s.get("generic") else "")),
    ),
    "dataset": (
        ("rows", lambda s: s.get("rows") or ""),
        ("tasks", lambda s: ", ".join(s.get("tasks", ("sft",)))),
        ("licence", lambda s: s.get("licence", "")),
        ("kept", lambda s: "here" if s.get("files") or s.get("impl") else ", ".join(s.get("hub_ids", ())) or "nowhere"),
    ),
    "task": (
        ("objective", lambda s: s.get("objective", "sft")),
        ("a row holds", lambda s: ", ".join((*s.get("columns", ("messages",)), *s.get("media", ()))).replace("|", " or ")),
        ("datasets", lambda s: s.get("datasets", "")),
    ),
    "tuner": (
        ("saves", lambda s: s.get("artifact", "adapter")),
        ("mergeable", lambda s: "yes" if s.get("mergeable") else "no"),
        ("learning rate", lambda s: s.get("learning_rate", 1e-4)),
    ),
    "objective": (("commands", lambda s: ", ".join(s.get("verbs", ()))),),
    "quantizer": (("bits", lambda s: ", ".join(map(str, s.get("bits", ())))),),
    "hub": (("prefix", lambda s: f"{s['prefix']}::" if s.get("prefix") else ""),),
}
"""Further columns of a kind, from a spec's data with defaults left out."""


def plural(kind: str) -> str:
    return "losses" if kind == "loss" else f"{kind}s"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="swift list", description="List what the installed plugins offer.")
    top.add_argument(
        "kind", nargs="?", default="", help=f"one of {', '.join(map(plural, KINDS))}; without it: the kinds. Also: facts"
    )
    top.add_argument("filter", nargs="?", default="", help="only rows that contain this word")
    top.add_argument("--task", default="", metavar="TASK", help="with datasets: only those that serve this task type")
    top.add_argument("--json", action="store_true", help="machine-readable")
    return top


def main(argv: list[str]) -> int:
    """Raises `ConfigError` for a kind that does not exist, `PluginError` where the user's own lists leave no plugin."""
    options = parser().parse_args(argv)
    found = registry.discover(strict=False)
    if (nothing := registry.emptied(found)) and options.kind.lower() not in ("fact", "facts"):
        raise nothing
    if not options.kind:
        return list_kinds(found, as_json=options.json)
    if options.kind.lower() in ("fact", "facts"):
        return list_facts(found, options.filter, as_json=options.json)
    kind = singular(options.kind)
    offered = found.entries(kind)
    if kind == "task":
        offered = _tasks("entries")(found)
        datasets = _tasks("counts")(found)
        offered = [Entry({**e.data, "datasets": datasets[e.name]}, e.plugin, e.dist, e.version, kind=kind) for e in offered]
    if options.task:
        if kind != "dataset":
            raise ConfigError("--task chooses among datasets", fix=f"swift list datasets --task {options.task}")
        offered = _tasks("serving")(found, _tasks("find")(found, options.task))
    entries = sorted((e for e in offered if _contains(e, options.filter)), key=lambda e: (e.name, e.dist))
    if options.json:
        rows = [{**e.data, "kind": e.kind, "plugin": e.plugin, "dist": e.dist, "version": e.version} for e in entries]
        print(json.dumps(rows, indent=1))
    elif not entries:
        what = f" that contains {options.filter!r}" if options.filter else ""
        what += f" for the task {options.task}" if options.task else ""
        asked = os.environ.get("SWIFT_PLUGINS", "")
        print(f"no {kind}{what} is installed" + (f" among what SWIFT_PLUGINS={asked} leaves" if asked else ""))
    else:
        extra = COLUMNS.get(kind, ())
        header = (kind, *(title for title, _ in extra), "distribution", "summary")
        print(table(header, [(e.name, *(cell(dict(e.data)) for _, cell in extra), e.origin, e.summary) for e in entries]))
    unusable = found.faulty()
    if unusable and not options.json:
        print(f"\n{len(unusable)} plugin(s) could not be used: {', '.join(p.id for p in unusable)}   (swift doctor)")
    return 0


def singular(word: str) -> str:
    """`tuners` or `tuner` -> `tuner`. Raises `ConfigError`."""
    for kind in KINDS:
        if word.lower() in (kind, plural(kind)):
            return kind
    raise ConfigError(f"there is no kind {word!r}; kinds are {', '.join(map(plural, KINDS))}", fix="swift list")


def list_kinds(found: registry.Registry, *, as_json: bool) -> int:
    names = {kind: sorted({e.name for e in found.entries(kind)}) for kind in KINDS}
    if as_json:
        print(json.dumps(names, indent=1))
        return 0
    rows = [(plural(k), len(n), ", ".join(n[:6]) + (", ..." if len(n) > 6 else "")) for k, n in names.items() if n]
    print(table(("kind", "installed", "names"), rows) if rows else "no plugin is installed; start with: pip install swift-llm")
    return 0


def _tasks(name: str) -> Any:
    """A function of swift.data.tasks, whose import the other listings do without."""
    return getattr(importlib.import_module("swift.data.tasks"), name)


def list_facts(found: registry.Registry, word: str, *, as_json: bool) -> int:
    """The vocabulary of needs and clashes: Swift's facts, and those that plugins declare."""
    own = importlib.import_module("swift.api.facts").FACTS.values()
    rows = [{"name": f.name, "type": f.type, "declared by": "swift", "meaning": f.meaning} for f in own]
    for entry in found.entries():
        for fact in entry.data.get("declares", ()):
            row = {"name": fact["name"], "type": fact["type"], "declared by": entry.origin, "meaning": fact["meaning"]}
            if row not in rows:
                rows.append(row)
    rows = sorted((r for r in rows if word.lower() in json.dumps(r).lower()), key=lambda r: str(r["name"]))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print(table(("fact", "type", "declared by", "meaning"), [tuple(r.values()) for r in rows]))
    return 0


def _contains(entry: Entry, word: str) -> bool:
    return word.lower() in json.dumps([entry.name, *entry.aliases, entry.summary, entry.data.get("hub_ids", {})]).lower()


def _count(number: int) -> str:
    """7615616512 -> 7.6B"""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f}{unit}".replace(".0", "")
    return str(number or "")
