"""Run-time hooks, by pluggy: checked against the hook specs, and called only on plugins that own a part of the plan."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from swift.api import hookspecs
from swift.errors import PluginBroken
from swift.plugins.scan import GROUP

if TYPE_CHECKING:
    from swift.plan.plan import Component


def manager() -> pluggy.PluginManager:
    """An empty manager that knows the hook specs."""
    new = pluggy.PluginManager("swift")
    new.add_hookspecs(hookspecs)
    return new


def signature_faults(functions: Mapping[str, Any], collection: Iterable[str]) -> Iterator[str]:
    """Faults of functions whose name or arguments no hook spec has."""
    known = {name: inspect.signature(spec) for name, spec in vars(hookspecs).items() if name.startswith("swift_")}
    for name, function in functions.items():
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *collection], n=1)
            yield f"there is no hook {name}" + (f"; did you mean {near[0]}?" if near else "")
            continue
        surplus = [p for p in inspect.signature(function).parameters if p not in known[name].parameters]
        if surplus:
            allowed = ", ".join(known[name].parameters) or "none"
            yield f"{name} asks for {', '.join(surplus)}; its arguments are {allowed}"


def for_components(components: Iterable[Component]) -> pluggy.PluginManager:
    """A manager with the descriptors of exactly these components' plugins, ready to call run-time hooks.

    Raises:
        PluginBroken: A descriptor cannot be imported or has an illegal hook.
    """
    new = manager()
    for dist, plugin in dict.fromkeys((c.dist, c.plugin) for c in components if c.plugin):
        points = [e for e in importlib.metadata.distribution(dist).entry_points if e.group == GROUP and e.name == plugin]
        for point in points:
            try:
                module = importlib.import_module(point.module)
                if not new.is_registered(module):
                    new.register(module, name=f"{dist}/{plugin}")
            except (ImportError, pluggy.PluginValidationError) as error:
                raise PluginBroken(
                    f"plugin {plugin!r} of {dist} cannot be used: {error}", fix=f"pip install -U {dist}"
                ) from error
    return new
