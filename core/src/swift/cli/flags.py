"""The flags of a verb, read from JSON schemas: for `--help` and completion. Imports no pydantic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from swift.config.spelling import Vocabulary, choices, is_secret, normal, options, takes, types
from swift.errors import SwiftError
from swift.plugins.info import Entry
from swift.plugins.registry import Registry

SLOTS = {
    "objective": "objective",
    "tuner": "tuner",
    "optimizer": "optimizer",
    "device": "device",
    "parallel": "parallel",
    "quantizer": "quantizer",
    "engine": "engine",
}
"""`swift.config.sections.SLOTS`, whose import would bring pydantic; a test compares them."""
KINDS = {
    **{f"{s}.name": k for s, k in SLOTS.items()},
    "logging.tracker": "tracker",
    "export.to": "exporter",
    "template.name": "template",
    "model.hub": "hub",
    "model.id": "model",
    "data.dataset": "dataset",
    "data.val_dataset": "dataset",
}
"""Field -> kind of the components that it names."""
FOREIGN = {"tuner_type": "tuner", "train_type": "tuner", "sft_type": "tuner", "infer_backend": "engine"}
FILES = (
    "data.dataset",
    "data.val_dataset",
    "infer.input",
    "infer.result",
    "output.dir",
    "model.id",
    "engine.adapters",
    "template.name",
)
"""Fields whose values may be paths."""

_WORDS = {"integer": "N", "number": "X", "string": "TEXT", "array": "...", "object": "KEY=VALUE"}


class Flag(NamedTuple):
    """Args:
    name: As typed, with dashes.
    path: Dotted path of the field, or the option's name.
    takes: As `spelling.takes`.
    value: What stands behind the flag in help.
    default: As text, "" where there is none.
    """

    name: str
    path: str
    takes: str
    value: str
    choices: tuple[str, ...]
    default: str
    help: str


class Group(NamedTuple):
    title: str
    flags: list[Flag]


def of_prop(name: str, path: str, prop: Mapping[str, Any]) -> Flag:
    allowed = tuple(str(c) for c in choices(prop))
    kinds = types(prop) - {"null"}
    kind = KINDS.get(path, "")
    if takes(prop) == "bool":
        value = "[true|false]"
    elif allowed:
        allowed = (*(("true", "false") if "boolean" in kinds else ()), *allowed)
        value = "|".join((*("X" for kind in kinds if kind in ("number", "integer")), *allowed))
    elif kind:
        value = kind.upper() + (" ..." if takes(prop) == "many" else "")
    elif takes(prop) == "many":
        value = f"{_WORDS.get(next(iter(_items(prop)), ''), 'TEXT')} ..."
    else:
        value = _WORDS.get(sorted(kinds)[0], "VALUE") if len(kinds) == 1 else "VALUE"
    default = prop.get("default")
    shown = (
        "" if default in (None, "", [], {}) or is_secret(prop) else default if isinstance(default, str) else json.dumps(default)
    )
    return Flag(
        "-o, --output" if path == "output.dir" else "--" + name,
        path,
        takes(prop),
        value,
        allowed,
        shown,
        " ".join(str(prop.get("description", "")).split()),
    )


def _items(prop: Mapping[str, Any]) -> set[str]:
    return types(prop["items"]) if isinstance(prop.get("items"), Mapping) else set()


def core_groups(verb: str, registry: Registry) -> list[Group]:
    """Fields of the verb's sections under the sections' headings, and the verb's options."""
    words = Vocabulary(registry.core_schema(verb))
    groups: dict[str, list[Flag]] = {}
    for section in words.sections:
        title = words.sections[section].get("x-group") or section
        for name, prop in words.fields(section).items():
            path = f"{section}.{name}"
            groups.setdefault(title, []).append(of_prop(words.spelling(path), path, prop))
    own = [
        Flag(f"-{o.short}, --{o.name}" if o.short else f"--{o.name}", o.name, o.takes, o.value, (), "", o.help)
        for o in options(verb).values()
    ]
    return [*(Group(title, flags) for title, flags in groups.items()), Group("Options", own)]


def settings_group(entry: Entry, registry: Registry) -> Group | None:
    """Settings of one component, None where it has none or is broken."""
    try:
        schema = registry.settings_schema(entry.data.get("settings", ""))
    except SwiftError:
        return None
    props = (schema or {}).get("properties", {})
    name = entry.name
    return (
        Group(f"Settings of {entry.kind} {name}", [of_prop(f"{name}.{f}", f"{name}.{f}", p) for f, p in props.items()])
        if props
        else None
    )


def chosen(verb: str, argv: Sequence[str], registry: Registry) -> dict[str, str]:
    """Slot -> name that the flags (else the defaults) choose. Files are not read."""
    sections = registry.core_schema(verb)
    found: dict[str, str] = {}
    for slot in SLOTS:
        if slot in sections:
            found[slot] = str(sections[slot]["properties"]["name"].get("default", ""))
    if verb in ("sft", "pt"):
        found["objective"] = verb
    words = [w for word in argv for w in (word.split("=", 1) if word.startswith("--") else [word])]
    for word, value in pairwise(words):
        key = normal(word[2:]).removesuffix(".name") if word.startswith("--") else ""
        slot = FOREIGN.get(key, key)
        if slot in found and not value.startswith("-"):
            found[slot] = value
    return found


def groups(verb: str, argv: Sequence[str], registry: Registry, *, everything: bool = False) -> list[Group]:
    """All groups of a verb's help: core, then the settings of the chosen (or of all) components."""
    result = core_groups(verb, registry)
    entries: list[Entry] = []
    for slot, name in chosen(verb, argv, registry).items():
        if everything:
            entries += registry.entries(SLOTS[slot])
        elif name not in ("auto", "none", "") and registry.has(SLOTS[slot], name):
            entries += [e for e in registry.entries(SLOTS[slot]) if e.name == name or name in e.aliases][:1]
    if everything and "logging" in registry.core_schema(verb):
        entries += registry.entries("tracker")
    if everything and "export" in registry.core_schema(verb):
        entries += registry.entries("exporter")
    settings = [group for entry in entries if (group := settings_group(entry, registry)) is not None]
    return [*result[:-1], *settings, result[-1]]
