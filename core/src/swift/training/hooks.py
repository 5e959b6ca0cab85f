"""Run-time hooks, called only on the plugins that own a part of the plan."""

from __future__ import annotations

import importlib

import pluggy

from swift.api import hookspecs
from swift.plan.plan import Plan


def hooks_of(plan: Plan) -> pluggy.HookRelay:
    """A relay over the descriptor modules of the plan's components; each module once."""
    manager = pluggy.PluginManager("swift")
    manager.add_hookspecs(hookspecs)
    for door in dict.fromkeys(c.door for c in plan.components.values() if c.door):
        manager.register(importlib.import_module(door), name=door)
    return manager.hook
