"""What may be written where: names of sections and fields, read from JSON schemas. Standard library only.

The loader, `--help` and shell completion all use this file, so that what one accepts the others show.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TRAIN_VERBS = ("sft", "pt", "train", "rlhf")
INFER_VERBS = ("infer", "chat")
EXPORT_VERBS = ("export", "merge-lora")
CONFIG_VERBS = (*TRAIN_VERBS, *INFER_VERBS, *EXPORT_VERBS, "plan")
"""Verbs that read a configuration."""
LIKE = {
    **dict.fromkeys(("deploy", "serve", "rollout", "eval", "evaluate", "app", "app-ui", "web-ui", "sample"), "infer"),
    "megatron sft": "sft", "megatron pt": "pt", "megatron rlhf": "rlhf", "megatron export": "export",
}  # fmt: skip
"""Verbs that speak the words of another one."""


def like(verb: str) -> str:
    """The verb whose sections a verb reads."""
    return LIKE.get(verb, verb)


class Option(NamedTuple):
    """A flag of some verbs that is not part of the configuration.

    Args:
        takes: bool, one or many values.
        verbs: Empty for all verbs that read a configuration.
        value: What stands behind it in help.
    """

    name: str
    takes: str
    help: str
    verbs: tuple[str, ...] = ()
    short: str = ""
    value: str = ""


OPTIONS: tuple[Option, ...] = (
    Option(
        "config", "one", "Configuration (YAML, JSON); flags override it. Also as the first argument.", short="c", value="FILE"
    ),
    Option("resume", "one", "Go on with the run in this directory.", verbs=(*TRAIN_VERBS, "plan"), value="RUN"),
    Option("allow", "many", "Lower these unsupported problems to warnings.", verbs=(*TRAIN_VERBS, "plan"), value="CODE"),
    Option("verb", "one", "Verb to plan for.", verbs=("plan",), value="VERB"),
    Option(
        "locked", "maybe", "Stop unless the installed plugins are those of this lock file (swift plugin lock).", value="[FILE]"
    ),
    Option("all", "bool", "List every value with where it came from.", verbs=("plan",)),
    Option(
        "measure", "bool", "Then run a few steps of the longest rows, correct the estimate, suggest what fits.", verbs=("plan",)
    ),
    Option("json", "bool", "Print the result as JSON."),
    Option("debug", "bool", "Show the traceback of an error."),
    Option("help", "bool", "This text; --help-all shows the settings of every installed component.", short="h"),
)


def normal(key: str) -> str:
    """`learning-rate` and `learning_rate` are one key."""
    return key.replace("-", "_")


def options(verb: str) -> dict[str, Option]:
    return {o.name: o for o in OPTIONS if not o.verbs or verb in o.verbs or verb not in CONFIG_VERBS}


# ------------------------------------------------------------------------------------------------ properties of a schema


def types(prop: Mapping[str, Any]) -> set[str]:
    """JSON types that a property accepts; empty where anything goes."""
    found: set[str] = set()
    for part in prop.get("anyOf") or prop.get("oneOf") or [prop]:
        if "const" in part or "enum" in part:
            found.add("string" if all(isinstance(v, str) for v in choices(part)) else "number")
        elif "$ref" in part or "allOf" in part:
            found.add("object")
        elif isinstance(part.get("type"), list):
            found.update(part["type"])
        elif "type" in part:
            found.add(part["type"])
        else:
            return set()
    return found


def choices(prop: Mapping[str, Any]) -> list[Any]:
    """Allowed values of an enumeration, else an empty list."""
    found: list[Any] = []
    for part in prop.get("anyOf") or [prop]:
        found += part.get("enum") or ([part["const"]] if "const" in part else [])
    return found


def takes(prop: Mapping[str, Any]) -> str:
    """How many values a flag for this property takes: bool (optional), one, maybe (one; bare and `--no-` too), many,
    map (k=v ...) or any."""
    if prop.get("x-switch"):
        return "maybe"
    kinds = types(prop) - {"null"}
    if kinds == {"boolean"}:
        return "bool"
    if kinds == {"array"}:
        return "many"
    if kinds == {"object"}:
        return "map"
    if not kinds or "array" in kinds or "object" in kinds:
        return "any"
    return "one"


def nullable(prop: Mapping[str, Any]) -> bool:
    kinds = types(prop)
    return not kinds or "null" in kinds


def is_secret(prop: Mapping[str, Any]) -> bool:
    return any(part.get("format") == "password" for part in prop.get("anyOf") or [prop])


SECRET_NAME = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------ names of fields


TERSE = {"id", "dir", "name"}
"""Field names that say less than their section's."""


class Vocabulary:
    """Spellings of the fields of one verb's sections.

    Args:
        sections: Section -> JSON schema, with `x-primary` and `x-group` (see `Section`).

    Attributes:
        leaves: Field name that is unique among the sections -> path.
        ambiguous: Field name that is not -> its paths.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self.sections = sections
        self.leaves: dict[str, str] = {}
        self.ambiguous: dict[str, list[str]] = {}
        homes: dict[str, list[str]] = {}
        for section, schema in self.sections.items():
            for name in schema.get("properties", {}):
                homes.setdefault(name, []).append(f"{section}.{name}")
        for name, paths in homes.items():
            if name in self.sections:
                continue
            if len(paths) == 1:
                self.leaves[name] = paths[0]
            else:
                self.ambiguous[name] = paths

    def primary(self, section: str) -> str:
        return str(self.sections[section].get("x-primary", ""))

    def fields(self, section: str) -> Mapping[str, Mapping[str, Any]]:
        fields: Mapping[str, Mapping[str, Any]] = self.sections[section].get("properties", {})
        return fields

    def prop(self, path: str) -> Mapping[str, Any] | None:
        """Schema of the field at a dotted path, None where there is none."""
        section, _, name = path.partition(".")
        return self.fields(section).get(name) if section in self.sections else None

    def path(self, key: str) -> str | None:
        """Dotted path that a key stands for: a section's primary field, `section.field`, or a unique field name."""
        key = normal(key)
        if key in self.sections:
            return f"{key}.{self.primary(key)}" if self.primary(key) else None
        if self.prop(key) is not None:
            return key
        return self.leaves.get(key)

    def spelling(self, path: str) -> str:
        """The key that is shown to users."""
        section, _, name = path.partition(".")
        if section in self.sections and self.primary(section) == name and (name in TERSE or self.leaves.get(name) != path):
            return section
        return name if self.leaves.get(name) == path else path

    def paths(self) -> list[str]:
        return [f"{section}.{name}" for section in self.sections for name in self.fields(section)]

    def keys(self) -> list[str]:
        """Every key that is accepted."""
        return [*self.sections, *self.leaves, *self.paths()]


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Names that were probably meant, likeliest first."""
    table: dict[str, str] = {}
    for name in known:
        table.setdefault(normal(name).lower(), name)
    wanted = normal(word).lower()
    found = difflib.get_close_matches(wanted, table, n=count, cutoff=0.72)
    if not found:
        tails = [key for key in table if key.rpartition(".")[2] == wanted.rpartition(".")[2]]
        found = tails[:count] or difflib.get_close_matches(wanted, table, n=count, cutoff=0.6)
    return [table[key] for key in found]


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`"; did you mean x or y?"`, or nothing."""
    names = [prefix + name for name in nearest(word, known)]
    return f"; did you mean {' or '.join(names)}?" if names else ""
