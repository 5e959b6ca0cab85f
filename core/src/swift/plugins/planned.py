"""The registry of a process that discovers nothing: it knows exactly what the plan names."""

from __future__ import annotations

from dataclasses import dataclass

from swift.api import KINDS, Spec
from swift.errors import PluginNotFound
from swift.plan.plan import Component, Plan


@dataclass(frozen=True)
class PlannedEntry:
    """Like an entry of the full registry, as far as a run needs it."""

    spec: Spec
    component: Component


class PlannedRegistry:
    def __init__(self, plan: Plan) -> None:
        self._entries = [PlannedEntry(KINDS[c.kind].from_dict(dict(c.spec)), c) for c in plan.components.values() if c.spec]

    def entries(self, kind: str | None = None) -> list[PlannedEntry]:
        return [e for e in self._entries if kind in (None, e.spec.kind)]

    def find(self, kind: str, name: str) -> PlannedEntry:
        """Raises `PluginNotFound` for what the plan does not name."""
        for entry in self.entries(kind):
            if name in (entry.spec.name, *entry.spec.aliases):
                return entry
        raise PluginNotFound(f"the plan names no {kind} {name!r}", fix="make the plan again: swift plan")
