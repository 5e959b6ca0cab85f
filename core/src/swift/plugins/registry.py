"""What is installed: `discover()` answers from the index, and rebuilds it when anything changed.

The warm path reads one JSON file and imports nothing beyond the standard library's json. What only a rebuild or an error
message needs is imported by dotted path at that moment.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import Any

from swift.errors import PluginConflict, PluginError
from swift.plugins import index, preferences, registered, schemas
from swift.plugins.info import FATAL_IF_STRICT, Entry, PluginInfo

__all__ = ["Entry", "PluginInfo", "Registry", "discover"]


class Registry:
    """Plugins and their components.

    Args:
        plugins: Every entry point found, usable or not.
        entries: Every component of the usable ones; the same `kind:name` twice is kept, and refused when it is asked for.
        prefer: `kind:name` -> distribution that the user prefers for it.
        cache: Schemas of settings classes.
        rebuilt: The answer did not come from the index.
    """

    def __init__(
        self,
        plugins: Iterable[PluginInfo] = (),
        entries: Iterable[Entry] = (),
        *,
        prefer: dict[str, str] | None = None,
        cache: schemas.SchemaCache | None = None,
        rebuilt: bool = True,
    ) -> None:
        self.plugins = list(plugins)
        self._entries = list(entries)
        self._prefer = prefer or {}
        self._cache = cache or schemas.SchemaCache("", keep=False)
        self.rebuilt = rebuilt

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All components, or those of one kind, in the order of their plugins."""
        return [entry for entry in self._entries if kind is None or entry.kind == kind]

    def extended(self, entries: Iterable[Entry]) -> Registry:
        """This registry with further components."""
        return Registry(self.plugins, [*self._entries, *entries], prefer=self._prefer, cache=self._cache, rebuilt=self.rebuilt)

    def kinds(self) -> list[str]:
        """Kinds that something is installed for."""
        return sorted({entry.kind for entry in self._entries})

    def find(self, kind: str, name: str) -> Entry:
        """The component that `name` means: its name, an alias, or `dist/kind:name`.

        Raises:
            PluginNotFound: Nothing installed offers it.
            PluginBroken: The plugin that would is installed, but not usable.
            PluginConflict: Two distributions offer it and the user has not chosen.
        """
        found = self._matching(kind, name)
        if not found:
            raise importlib.import_module("swift.plugins.missing").not_found(self, kind, name)
        if len(found) == 1:
            return found[0]
        preferred = self._prefer.get(f"{kind}:{found[0].name}", "")
        chosen = [entry for entry in found if preferred and _same_dist(entry.dist, preferred)]
        if len(chosen) == 1:
            return chosen[0]
        raise conflict(kind, name, found)

    def has(self, kind: str, name: str) -> bool:
        return bool(self._matching(kind, name))

    def duplicates(self) -> dict[str, list[Entry]]:
        """`kind:name` -> the components that claim it, where there are several."""
        seen: dict[str, list[Entry]] = {}
        for entry in self._entries:
            seen.setdefault(entry.id, []).append(entry)
        return {name: entries for name, entries in seen.items() if len(entries) > 1}

    def faulty(self) -> list[PluginInfo]:
        """Plugins that are neither usable nor switched off on purpose."""
        return [plugin for plugin in self.plugins if plugin.status in FATAL_IF_STRICT]

    def settings_schema(self, dotted: str) -> dict[str, Any] | None:
        """JSON schema of the settings class at `dotted`, None for "". Raises `PluginBroken`."""
        return self._cache.get(dotted) if dotted else None

    def core_schema(self, verb: str) -> dict[str, dict[str, Any]]:
        """Section -> JSON schema (with `x-primary` and `x-group`) for a verb of core, or one that an objective brings.

        Raises:
            ConfigError: The verb has no sections.
        """
        if verb not in schemas.VERBS and any(verb in entry.data.get("verbs", ()) for entry in self.entries("objective")):
            verb = "train"
        schema: dict[str, dict[str, Any]] = self._cache.get(schemas.sections_key(verb))
        return schema

    def _matching(self, kind: str, name: str) -> list[Entry]:
        of_kind = self.entries(kind)
        dist, _, rest = name.partition("/")
        if rest.startswith(f"{kind}:"):
            return [e for e in of_kind if e.id == rest and _same_dist(e.dist, dist)]
        name = name.removeprefix(f"{kind}:")
        folded = name.casefold()
        return (
            [e for e in of_kind if e.name == name]
            or [e for e in of_kind if name in e.aliases]
            or [e for e in of_kind if folded == e.name or folded in (alias.casefold() for alias in e.aliases)]
        )


def conflict(kind: str, name: str, found: list[Entry]) -> PluginConflict:
    origins = " and ".join(f"{entry.qualified} ({entry.origin}, {entry.source or 'unknown source'})" for entry in found)
    first = found[0]
    return PluginConflict(
        f"{kind} {name!r} is offered by several plugins: {origins}",
        fix=f"name one in full, as {first.qualified}; or set"
        f' "prefer": {{"{first.id}": "{first.dist}"}} in {preferences.config_file()}',
    )


def _same_dist(one: str, other: str) -> bool:
    def plain(dist: str) -> str:
        return dist.lower().replace("_", "-").replace(".", "-")

    return plain(one) == plain(other)


def discover(*, rebuild: bool = False, paths: list[str] | None = None, strict: bool = True) -> Registry:
    """Everything installed.

    Args:
        rebuild: Do not trust the index; write it anew.
        paths: Folders to look in instead of `sys.path` (they must be importable).
        strict: Obey SWIFT_STRICT_PLUGINS and SWIFT_LOCKED, and refuse a SWIFT_PLUGINS that names what is not there. Commands
            that explain the installation itself pass False; they also try what was broken when the index was written again.

    Raises:
        PluginError: SWIFT_STRICT_PLUGINS=1 and a plugin is not usable, SWIFT_PLUGINS names an unknown plugin, or the plugins
            are not those of the lock file SWIFT_LOCKED (then none was imported).
        ConfigError: The user's plugin file is damaged.
    """
    chosen = preferences.load()
    if strict and "SWIFT_LOCKED" in os.environ:
        lock = importlib.import_module("swift.plugins.lock")
        if file := lock.file_of(os.environ["SWIFT_LOCKED"]):
            lock.verify_lock(file)
    where = index.search_path() if paths is None else paths
    cache = schemas.open_cache(where)
    stored = os.path.join(index.folder(), f"plugins-{index.tag(where, os.environ.get('SWIFT_PLUGINS', ''))}.json")
    head = index.head(where, chosen.key())
    data: Any = index.read(stored) if index.enabled() and not rebuild else None
    rebuilt = not index.fresh(data, head) or (not strict and any(p["status"] == "broken" for p in data["plugins"]))
    if rebuilt:
        data = importlib.import_module("swift.plugins.build").build(stored, head, where, chosen)
    plugins = [_plugin(values) for values in data["plugins"]]
    entries = [_entry(plugins[position], kind, spec) for position, kind, spec in data["entries"]]
    entries += registered.entries()
    registry = Registry(plugins, entries, prefer=chosen.prefer, cache=cache, rebuilt=rebuilt)
    if strict:
        _check_request(registry, chosen)
    return registry


def _plugin(values: dict[str, Any]) -> PluginInfo:
    return PluginInfo(**{**values, "components": tuple(values["components"])})


def _entry(plugin: PluginInfo, kind: str, spec: dict[str, Any]) -> Entry:
    return Entry(spec, plugin.id, plugin.dist, plugin.version, plugin.source, kind=kind)


def _check_request(registry: Registry, chosen: preferences.Preferences) -> None:
    if chosen.only is not None:
        known = {p.id for p in registry.plugins} | {p.dist for p in registry.plugins}
        unknown = [name for name in chosen.only if name not in known]
        if unknown:
            installed = ", ".join(sorted(p.id for p in registry.plugins)) or "none"
            raise PluginError(
                f"SWIFT_PLUGINS names {', '.join(unknown)}, which is not installed; installed: {installed}",
                fix="unset SWIFT_PLUGINS, or install it",
            )
        broken = [p for p in registry.faulty() if {p.id, p.dist} & set(chosen.only)]
        if broken:
            raise PluginError("SWIFT_PLUGINS names what is not usable:\n" + _paragraphs(broken), fix="swift doctor")
    if is_strict() and registry.faulty():
        message = f"SWIFT_STRICT_PLUGINS=1 and not every plugin is usable:\n{_paragraphs(registry.faulty())}"
        raise PluginError(message, fix="swift doctor")


def emptied(registry: Registry) -> PluginError | None:
    """Why nothing is usable although plugins are installed: a list of the user's leaves none. None where that is not so."""
    if registry.entries() or not registry.plugins:
        return None
    here = ", ".join(sorted(p.id for p in registry.plugins))
    if asked := os.environ.get("SWIFT_PLUGINS", ""):
        chosen = preferences.load()
        known = {p.id for p in registry.plugins} | {p.dist for p in registry.plugins}
        unknown = [name for name in chosen.only or () if name not in known]
        why = f": {', '.join(unknown)} is not installed" if unknown else ""
        return PluginError(
            f"SWIFT_PLUGINS={asked} leaves no plugin{why}; installed: {here}",
            fix=f"unset SWIFT_PLUGINS, or name some of: {here}",
        )
    if any(p.status == "untrusted" for p in registry.plugins):
        return PluginError(
            f'"allow" in {preferences.config_file()} leaves no plugin; installed: {here}',
            fix='add patterns of distributions to "allow", e.g. "swift-llm-*", or take it out',
        )
    return None


def is_strict() -> bool:
    return os.environ.get("SWIFT_STRICT_PLUGINS", "") not in ("", "0")


def _paragraphs(plugins: list[PluginInfo]) -> str:
    return "\n".join(plugin.describe() for plugin in plugins)
