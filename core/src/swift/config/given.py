"""One value that somebody wrote, where it stands, and which of several counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.config import spelling
from swift.config.argv import BOOLEANS
from swift.config.yaml_lines import Lined

RANKS = {"verb": 2, "environment": 4, "file": 6, "keyword": 8, "flag": 10}
"""The strongest wins."""


@dataclass(frozen=True)
class Given:
    """One value that somebody wrote."""

    value: Any
    place: str
    """run.yaml:7, flag --lr, train(...) keyword lr, environment DEVICE."""
    key: str
    rank: float
    origin: str = ""
    """Provenance; default: the place."""
    text: bool = False
    """Came as text (flags, environment), so that numbers and the like have to be read out of it."""
    extends: bool = False


@dataclass(frozen=True)
class Source:
    """Where a key stands. `name` is the place without the key."""

    name: str
    rank: float
    style: str
    """flag, file, keyword or environment."""
    shown: str = ""
    """The flag as typed."""
    file: str = ""

    def at(self, value: Any) -> Source:
        """The same source at the line of a nested value."""
        return in_file(self.file, value.line) if self.file and isinstance(value, Lined) else self

    def place(self, key: str) -> str:
        if self.style == "flag":
            return f"flag {self.shown or '--' + key}"
        if self.style == "keyword":
            return f"{self.name} keyword {key}"
        return self.name

    def spell(self, key: str) -> str:
        return f"--{key}" if self.style == "flag" else key

    @property
    def origin(self) -> str:
        return "keyword" if self.style == "keyword" else ""


def in_file(file: str, line: int) -> Source:
    return Source(f"{file}:{line}" if line else file, RANKS["file"], "file", file=file)


def is_mapping(value: Any) -> bool:
    return isinstance(value.value if isinstance(value, Lined) else value, Mapping)


def items(value: Any) -> list[tuple[str, Any]]:
    return [(str(k), v) for k, v in (value.value if isinstance(value, Lined) else value).items()]


def plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Lined) else value


def switch(value: Any) -> Any:
    return BOOLEANS.get(str(value).lower(), value)


def is_unset(given: Given) -> bool:
    """Nothing was given: a YAML key without a value, Python's None, or the word that ms-swift's scripts have for it."""
    return plain(given.value) is None or (given.text and given.value in ("None", ["None"]))


def strongest(given: Sequence[Given]) -> Given:
    best = max(g.rank for g in given)
    return [g for g in given if g.rank == best][-1]


def joined(given: Sequence[Given], prop: Mapping[str, Any]) -> Any:
    """The strongest value; a list flag that is repeated goes on."""
    best = strongest(given)
    same = [g for g in given if g.rank == best.rank]
    if best.rank == RANKS["flag"] and len(same) > 1 and spelling.takes(prop) in {"many", "map"}:
        parts = [g.value for g in same]
        return [item for part in parts for item in (part if isinstance(part, list) else [part])]
    return best.value
