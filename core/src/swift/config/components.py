"""Settings of components: whose they are, and whether that component takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swift.api.settings import Settings
from swift.config import aliases, conversions, spelling
from swift.config.aliases import Alias
from swift.config.given import RANKS, Given, Source, is_mapping, is_unset, items, plain, strongest
from swift.config.keys import Keys, fields_of, section_names
from swift.config.reading import Reading
from swift.config.sections import SLOTS
from swift.config.spelling import did_you_mean, normal
from swift.config.values import dump, read_scalar, read_value, words
from swift.errors import PluginError, PluginNotFound
from swift.plugins.catalog import is_planned
from swift.plugins.info import Entry
from swift.plugins.loading import load_object

UNCHOSEN = {"", "auto", "none"}


class Components:
    """Checks what `Keys` took for settings of components."""

    def __init__(self, reading: Reading, keys: Keys) -> None:
        self.reading = reading
        self.keys = keys

    def choice(self, data: Mapping[str, Mapping[str, Any]], section: str, name: str = "name") -> tuple[str, bool]:
        """What is chosen for a slot, and whether the user said so."""
        reading = self.reading
        if section not in reading.classes:
            return "", False
        given = data[section].get(name)
        if isinstance(given, str):
            said = reading.provenance.get(f"{section}.{name}", "default") != "default"
            return given, said
        default = reading.classes[section].model_fields[name].default
        return (default if isinstance(default, str) else ""), False

    def chosen(self, data: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Entry]]:
        """Kind -> components that are chosen, or that may be where the planner chooses."""
        reading = self.reading
        found: dict[str, list[Entry]] = {}
        for section, kind in SLOTS.items():
            if section in reading.classes:
                name, said = self.choice(data, section)
                found[kind] = self.entries_for(kind, name, said, f"{section}.name")
        if "export" in reading.classes:
            name, said = self.choice(data, "export", "to")
            found["exporter"] = self.entries_for("exporter", name, said, "export.to")
        if "logging" in reading.classes:
            trackers = data["logging"].get("tracker") or []
            found["tracker"] = [
                e
                for t in (trackers if isinstance(trackers, list) else [])
                for e in self.entries_for("tracker", str(t), True, "logging.tracker")
            ]
        if "template" in reading.classes:
            name, said = self.choice(data, "template")
            is_file = name.endswith((".jinja", ".jinja2", ".j2")) or "/" in name or Path(name).is_file()
            found["template"] = [] if is_file else self.entries_for("template", name, said, "template.name")
        name, said = self.choice(data, "model", "hub")
        found["hub"] = self.entries_for("hub", name, said, "model.hub")
        found["model"] = [e for e in reading.registry.entries("model") if e.data.get("impl")]
        if reading.trains:
            found["launcher"] = reading.registry.entries("launcher")
        return found

    def entries_for(self, kind: str, name: str, said: bool, path: str) -> list[Entry]:
        reading = self.reading
        if name in UNCHOSEN:
            return reading.registry.entries(kind) if name == "auto" else []
        try:
            return [reading.registry.find(kind, name)]
        except PluginError as error:
            if said and reading.collected is not None and isinstance(error, PluginNotFound) and kind not in {"parallel", "hub"}:
                return []  # the planner reports it
            if said:
                given = reading.given.get(path)
                place = strongest(given).place if given else path
                if isinstance(error, PluginNotFound) and is_planned(kind, name):
                    reading.unbuilts.append((place, error.message))
                else:
                    reading.fault(place, error.message, error.fix)
                reading.plugin_faults.append(error)
            return []

    def component_values(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        reading = self.reading
        chosen = self.chosen(data)
        self.keys.suggest(chosen)
        reading.unknowns = []
        names = [e.name for entries in chosen.values() for e in entries if e.data.get("settings")]
        fields: dict[str, dict[str, Given]] = {}
        owner: dict[str, Entry] = {}

        def home(entry: Entry) -> str:
            name = (
                entry.name
                if names.count(entry.name) < 2 and entry.name not in reading.classes
                else f"{entry.kind}:{entry.name}"
            )
            owner[name] = entry
            fields.setdefault(name, {})
            return name

        def keep(entry: Entry, name: str, given: Given) -> None:
            values = fields[home(entry)]
            old = values.get(name)
            if old is not None and old.extends and given.extends and old.rank == given.rank:
                both = [*conversions.as_list(old.value), *conversions.as_list(given.value)]
                given = replace(given, value=both)
            if (
                old is not None
                and old.rank == given.rank
                and old.key != given.key
                and given.rank < RANKS["flag"]
                and not given.extends
            ):
                reading.fault(given.place, f"{given.key} is the same as {old.key} in {old.place}; keep one of them")
            if old is None or given.rank >= old.rank:
                values[name] = given

        for path, all_given in reading.given.items():
            if path.startswith("@"):
                slot, _, name = path[1:].partition(".")
                for given in all_given:
                    self.slot_value(slot, name, given, chosen, data, keep)
        for key, value, source in reading.components:
            entry, rest = self.owner_of(key, value, source, chosen, data)
            if entry is None:
                continue
            home(entry)
            if rest:
                pairs: Iterable[tuple[str, Any]] = [(rest, value)]
            elif is_mapping(value):
                pairs = items(value)
            else:
                pairs = []
            for name, item in pairs:
                at = source.at(item)
                field_name, _, deeper = name.partition(".")
                field_name = normal(field_name)
                full = key if rest else f"{key}.{name}"
                if field_name not in fields_of(reading.registry, entry):
                    known = [f"{entry.name}.{f}" for f in fields_of(reading.registry, entry)]
                    shown = f"{entry.name}.{name}" if source.style == "flag" else name
                    near = did_you_mean(
                        shown,
                        known if source.style == "flag" else fields_of(reading.registry, entry),
                        "--" * (source.style == "flag"),
                    )
                    said = "unknown" if source.style != "file" else f"{name} is unknown in {entry.name}"
                    reading.fault(
                        at.place(full),
                        f"{said}{near or '; it has ' + (', '.join(fields_of(reading.registry, entry)) or 'no settings')}",
                    )
                    continue
                given = self.keys.as_given(item, at, full)
                if deeper:
                    old = fields[home(entry)].get(field_name)
                    base = dict(plain(old.value)) if old is not None and isinstance(plain(old.value), dict) else {}
                    base[deeper] = read_scalar(plain(given.value), given.text)
                    given = replace(given, value=base, text=False)
                keep(entry, field_name, given)
        self.keys.suggest(chosen)
        for name, values in fields.items():
            self.check_component(name, owner[name], values)

    def slot_value(
        self, slot: str, name: str, given: Given, chosen: Mapping[str, list[Entry]], data: Mapping[str, Any], keep: Any
    ) -> None:
        """ms-swift's flat spelling of a setting of the chosen tuner or optimizer."""
        reading = self.reading
        entries = chosen.get(SLOTS[slot], [])
        spelled = f"--{given.key}" if given.place.startswith("flag") else given.key
        if not entries:
            return  # a component that is missing is a fault of its own, or the planner's to report
        entry = entries[0]
        fields = fields_of(reading.registry, entry)
        if name not in fields or (name == "eps" and "beta1" not in fields):  # not every optimizer's eps is Adam's
            rule = aliases.find(given.key, reading.verb, reading.classes)
            if isinstance(rule, Alias) and rule.later is not None and not rule.later.is_off(plain(given.value)):
                place = (given.place, f"{plain(given.value)}: understood, not built yet: {rule.later.what}")
                reading.unbuilts.append(place)
                return
            reading.note(f"{spelled} has no effect with {slot} {entry.name}")
            return
        reading.note(f"{spelled} is {'--' if given.place.startswith('flag') else ''}{entry.name}.{name} here")
        origin = given.origin.replace(aliases.native(f"@{slot}.{name}"), f"{entry.name}.{name}")
        keep(entry, name, Given(given.value, given.place, given.key, given.rank, origin, given.text, given.extends))

    def owner_of(
        self, key: str, value: Any, source: Source, chosen: Mapping[str, list[Entry]], data: Mapping[str, Any]
    ) -> tuple[Entry | None, str]:
        """The chosen component whose settings section a key names, and the field after it."""
        reading = self.reading

        def match(entry: Entry) -> str | None:
            for name in section_names(entry):
                if normal(key) == normal(name):
                    return ""
                if normal(key).startswith(f"{normal(name)}."):
                    return key[len(name) + 1 :]
            return None

        found = [(e, m) for entries in chosen.values() for e in entries if (m := match(e)) is not None]
        with_settings = [(e, m) for e, m in found if e.data.get("settings")] or found
        if len({e.id for e, _ in with_settings}) == 1:
            return with_settings[0]
        if with_settings:
            ways = " or ".join(f'"{e.id}"' for e, _ in with_settings)
            reading.fault(source.place(key), f"{key} is the name of several components; write {ways}")
            return None, ""
        others = [(e, m) for e in reading.registry.entries() if (m := match(e)) is not None]
        if not others:
            self.keys.unknown(key, source)
            return None, ""
        entry = others[0][0]
        slot = next((s for s, kind in SLOTS.items() if kind == entry.kind and s in reading.classes), "")
        section = entry.name if source.style != "flag" else f"--{entry.name}.*"
        if slot and self.choice(data, slot)[0] not in UNCHOSEN and not chosen[entry.kind]:
            return None, ""  # the choice itself is a fault already
        if slot:
            current = self.choice(data, slot)[0] or "none"
            text = f"{section} are settings of {entry.kind} {entry.name}, and {slot} is {current}; choose it with "
            text += f"--{slot} {entry.name}" if source.style == "flag" else f"{slot}: {entry.name}"
        else:
            text = f"{section} are settings of {entry.kind} {entry.name}, which is not chosen here"
        reading.fault(source.place(key), f"{text}, or leave them out")
        return None, ""

    def check_component(self, name: str, entry: Entry, given: Mapping[str, Given]) -> None:
        """Read the values for their types, and let the component's own class judge them."""
        reading = self.reading
        props = (reading.registry.settings_schema(entry.data.get("settings", "")) or {}).get("properties", {}) if given else {}
        given = {f: g for f, g in given.items() if spelling.nullable(props[f]) or not is_unset(g)}
        values = {f: read_value(g.value, props[f], g.text) for f, g in given.items()}
        try:
            instance = settings_class(entry)(**values)
        except PluginError as error:
            reading.fault(name, error.message, error.fix)
            return
        except ValidationError as error:
            for path, text in words(error):
                field_given = given.get(path.partition(".")[0])
                place = field_given.place if field_given else name
                key = field_given.key if field_given else name
                reading.fault(place, text if normal(place).endswith(normal(key)) else f"{key} {text}")
            return
        reading.settings[name] = instance.model_dump(include=set(values))
        reading.owners[name] = entry.id
        whole = dump(instance)
        reading.plain_settings[name] = {f: whole[f] for f in values if f in whole}
        for f in type(instance).model_fields:
            reading.provenance[f"{name}.{f}"] = (given[f].origin or given[f].place) if f in given else "default"


def settings_class(entry: Entry) -> type[Settings]:
    """The component's settings class; one without fields where it names none. Raises `PluginBroken`."""
    dotted = entry.data.get("settings", "")
    cls: type[Settings] = load_object(dotted) if dotted else Settings
    return cls
