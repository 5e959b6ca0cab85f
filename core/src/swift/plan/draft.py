"""What grows while a plan is made. Left of the torch line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swift.errors import ConfigError, PluginError, SwiftError
from swift.plan.plan import Choice, Component, Problem
from swift.plugins.info import Entry
from swift.plugins.loading import component_of, require

# Codes of the planner's own problems, by family; the family decides which error `refuse` raises when it stands alone.
MODEL, DEVICE, DATA, MEMORY, COMPONENT, SETTINGS, CHECK = "SW901", "SW902", "SW903", "SW904", "SW905", "SW906", "SW907"
UNBUILT = "SW908"


@dataclass
class Draft:
    """What grows while a plan is made."""

    registry: Any
    resolved: Any
    config: dict[str, dict[str, Any]]
    here: bool
    """The run is to start on this machine now; False: it is only planned."""
    entries: dict[str, Entry] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def has(self, section: str) -> bool:
        return section in self.config

    def get(self, section: str, key: str) -> Any:
        return self.config[section][key]

    def choose(self, path: str, value: Any, why: str, *, plain: bool = False) -> None:
        section, _, key = path.partition(".")
        self.config[section][key] = value
        self.choices.append(Choice(path, value, why, plain))

    def problem(self, code: str, error: SwiftError | str, *, fix: str = "", level: str = "impossible") -> None:
        message = error if isinstance(error, str) else error.message
        self.problems.append(Problem(code, level, message, fix=fix or (error.fix if isinstance(error, SwiftError) else "")))

    def find(self, kind: str, name: str) -> Entry | None:
        try:
            entry: Entry = self.registry.find(kind, name)
        except PluginError as error:
            self.problem(COMPONENT, error)
            return None
        return entry

    def take(self, slot: str, entry: Entry | None) -> Entry | None:
        """Put a component into a slot, with its validated settings."""
        if entry is None:
            return None
        try:
            settings = self.resolved.settings_for(entry)
            values = settings.model_dump(mode="json") if hasattr(settings, "model_dump") else dict(settings or {})
            chosen = settings.resolve_auto() if hasattr(settings, "resolve_auto") else {}
            component = component_of(entry, values | {name: value for name, (value, _) in chosen.items()})
        except ConfigError as error:
            self.problem(SETTINGS, error)
            return None
        except PluginError as error:
            self.problem(COMPONENT, error)
            return None
        self.entries[slot], self.components[slot] = entry, component
        paths = {f"{entry.name}.{name}": choice for name, choice in chosen.items()}
        self.choices = [c for c in self.choices if c.path not in paths] + [
            Choice(p, v, why, plain=True) for p, (v, why) in paths.items()
        ]
        try:
            require(entry)
        except PluginError as error:
            self.problem(COMPONENT, error, level="impossible" if self.here else "unverified")
        return entry


def on_host(entry: Entry | None) -> bool:
    """Whether processes share the machine's own memory and cores, as gloo's devices do."""
    collectives = entry.spec.facts.get("device.collectives", ()) if entry is not None else ()
    return bool(collectives) and "gloo" in collectives[:1]


def trained_dtypes(device: Entry | None) -> tuple[str, ...]:
    return (
        tuple(device.spec.facts.get("device.dtypes", ()))
        if device is not None and device.spec.facts.get("device.dtypes")
        else ("float32",)
    )
