"""Writes the index. Imported only when it is rebuilt."""

from __future__ import annotations

from typing import Any

from swift.plugins import collect, index
from swift.plugins.preferences import Preferences

KEPT = ("ok", "disabled", "untrusted", "incompatible")


def build(file: str, head: list[Any], paths: list[str], chosen: Preferences) -> dict[str, Any]:
    """The contents of a new index; stored unless a plugin in it is broken, whose mending could not be noticed."""
    plugins, specs, files = collect.collect(paths, chosen)
    data = {
        "head": head,
        "files": [index.stamp(path) for path in files],
        "plugins": [plugin._asdict() for plugin in plugins],
        "entries": [list(found) for found in specs],
    }
    if index.enabled() and all(plugin.status in KEPT for plugin in plugins):
        index.write(file, data)
    return data
