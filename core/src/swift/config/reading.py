"""What was read so far of a configuration, and every fault of it."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from swift.config import schema, spelling
from swift.config.given import RANKS, Given, Source, is_unset, plain
from swift.config.sections import Section
from swift.config.spelling import Option
from swift.config.values import show
from swift.errors import ConfigError, PlanRefused, PluginError
from swift.plugins.registry import Registry


@dataclass
class Reading:
    """Filled by `Keys`, `Components` and the loader, in this order.

    Args:
        collected: Takes what is not built, instead of a fault.
    """

    verb: str
    registry: Registry
    environ: MutableMapping[str, str]
    collected: list[tuple[str, str]] | None = None
    given: dict[str, list[Given]] = field(default_factory=dict)
    """Path (or @slot.field) -> values, in order of arrival."""
    components: list[tuple[str, Any, Source]] = field(default_factory=list)
    """(key, value, source) of what may be settings of a component."""
    extra: dict[str, Any] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Of `ENV:` blocks."""
    foreign: bool = False
    """A word of ms-swift's was used that is none of Swift's."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)
    unbuilts: list[tuple[str, str]] = field(default_factory=list)
    plugin_faults: list[PluginError] = field(default_factory=list)
    unknowns: list[tuple[int, str, Source]] = field(default_factory=list)
    """(number of the fault, key, source): what was meant is looked up once the components are known."""
    notes: dict[str, None] = field(default_factory=dict)
    details: dict[str, list[str]] = field(default_factory=dict)
    """What is not built -> details of it that were given."""
    unneeded: list[tuple[str, float, str, str]] = field(default_factory=list)
    """(path, rank, note where the weak value of that rank is taken, note where it is not)."""
    provenance: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    plain_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.classes: dict[str, type[Section]] = schema.sections_of(self.verb)
        self.words = schema.vocabulary(self.verb)
        self.options: dict[str, Option] = spelling.options(self.verb)

    @property
    def trains(self) -> bool:
        return "train" in self.classes

    def fault(self, place: str, text: str, fix: str = "") -> None:
        if (place, text) not in self.faults:
            self.faults.append((place, text))
        if fix and fix not in self.fixes:
            self.fixes.append(fix)

    def note(self, text: str) -> None:
        self.notes.setdefault(text)

    def put(self, path: str, given: Given) -> None:
        """Keep a value. Two spellings of one thing in a file, or among keywords, contradict each other."""
        prop = self.words.prop(path)
        if prop is not None and not spelling.nullable(prop) and is_unset(given):
            return
        before = self.given.setdefault(path, [])
        twin = next((g for g in before if g.rank == given.rank and g.place != given.place), None)
        if twin is not None and not (twin.extends and given.extends) and plain(twin.value) != plain(given.value):
            if given.rank == RANKS["file"] and twin.place.rpartition(":")[0] == given.place.rpartition(":")[0]:
                self.fault(given.place, f"{given.key} is the same as {twin.key} in {twin.place}; keep one of them")
            elif given.rank == RANKS["keyword"]:
                self.fault(given.place, f"is the same as {twin.key}; keep one of them")
        before.append(given)

    def later(self, source: Source, key: str, raw: Any, what: str) -> None:
        said = "" if source.style != "file" else f"{key} "
        entry = (source.place(key), f"{said}{show(key, raw)}: understood, not built yet: {what}")
        if entry not in self.unbuilts:
            self.unbuilts.append(entry)

    def complain(self) -> None:
        if self.collected is not None and not self.faults:
            self.collected += self.unbuilts
            return
        own = tuple(self.faults)
        self.faults += self.unbuilts
        if not self.faults:
            return
        if len(self.faults) == 1 and self.plugin_faults:
            cause = self.plugin_faults[0]
            single = type(cause)(f"{self.faults[0][0]}: {cause.message}", fix=cause.fix)
            single.faults = own
            raise single
        lines = [f"{place}: {text}" if place else text for place, text in self.faults]
        if len(lines) > 1:
            lines = [f"{len(lines)} faults in what was asked of swift {self.verb}:", *(f"  {_indent(line)}" for line in lines)]
        error = (ConfigError if own else PlanRefused)("\n".join(lines), fix="; ".join(self.fixes))
        error.faults = own
        raise error


def _indent(text: str) -> str:
    return text.replace("\n", "\n    ")
