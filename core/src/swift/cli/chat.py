"""`swift chat SOURCE`: left of the torch line; `swift.inference.chat` does the talking."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.cli.infer import settings_by_owner, source_word
from swift.config.loader import load
from swift.inference.source import resolve_source
from swift.plugins.loading import load_object
from swift.plugins.registry import discover


def main(argv: Sequence[str], verb: str = "chat") -> int:
    registry = discover()
    resolved = load(verb, argv=list(argv), registry=registry)
    source = resolve_source(source_word(resolved, verb), sections=resolved.sections, registry=registry)
    for note in (*resolved.notes, *(f"note: {n}" for n in source.notes)):
        print(note, file=sys.stderr)
    return load_object("swift.inference.chat:chat")(
        source, sections=resolved.sections, settings=settings_by_owner(resolved), registry=registry
    )
