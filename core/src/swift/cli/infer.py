"""`swift infer SOURCE`: left of the torch line; `swift.inference.batch` does the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from swift.config.loader import Resolved, load
from swift.errors import ConfigError
from swift.inference.source import resolve_source
from swift.plugins.loading import load_object
from swift.plugins.registry import discover


def main(argv: Sequence[str], verb: str = "infer") -> int:
    registry = discover()
    resolved = load(verb, argv=list(argv), registry=registry)
    for note in resolved.notes:
        print(note, file=sys.stderr)
    section: Any = resolved.sections["infer"]
    prompts = list(section.prompt)
    if not prompts and not section.input:
        prompts = from_stdin()
    source = resolve_source(source_word(resolved, verb), sections=resolved.sections, registry=registry)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    return load_object("swift.inference.batch:infer")(
        source, sections=resolved.sections, settings=settings_by_owner(resolved), registry=registry, prompts=prompts,
        as_json=bool(resolved.extra.get("json")),
    )  # fmt: skip


def from_stdin() -> list[str]:
    """One prompt a line, where something is piped in."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError("there is nothing to answer", fix='--prompt "...", --input FILE.jsonl, or `swift chat` to talk')
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def source_word(resolved: Resolved, verb: str) -> str:
    """The one positional argument, or "" (then --model is the source)."""
    words: list[Any] = list(resolved.positional)
    if len(words) > 1:
        raise ConfigError(
            f"one model at a time: {', '.join(map(str, words))}",
            fix=f"swift {verb} {words[0]}; quote prompts and name them: --prompt",
        )
    return str(words[0]) if words else ""


def settings_by_owner(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """`kind:name` -> what was given for that component."""
    return {owner: dict(resolved.settings[name]) for name, owner in resolved.owners.items()}
