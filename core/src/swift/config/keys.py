"""One key and its value, from any source, to the field, option or component that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.config import aliases, schema, spelling
from swift.config.aliases import Alias, Ignored, Later
from swift.config.conversions import NOTHING, MissingFile, Noted, NotYet, Several, Weak, text_of
from swift.config.given import Given, Source, is_mapping, items, plain, switch
from swift.config.reading import Reading
from swift.config.spelling import did_you_mean, like, nearest, normal
from swift.config.values import show
from swift.config.yaml_lines import Lined
from swift.errors import PluginError
from swift.plugins.info import Entry
from swift.plugins.registry import Registry


class Keys:
    """Files keys in a `Reading`."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def takes(self, key: str) -> str:
        """How many values the flag takes; "" for an unknown one."""
        reading = self.reading
        if key in reading.options:
            return reading.options[key].takes
        rule = aliases.find(key, reading.verb, reading.classes)
        path = reading.words.path(key)
        if isinstance(rule, Alias):
            prop = reading.words.prop(rule.new)
            return rule.takes or (spelling.takes(prop) if prop else "one")
        if path is None and isinstance(rule, (Ignored, Later)):
            return "" if isinstance(rule, Later) or rule.many else "maybe"
        if path is not None:
            return spelling.takes(reading.words.prop(path) or {})
        head, _, rest = key.partition(".")
        if rest and head in reading.classes:
            prop = reading.words.prop(f"{head}.{rest.partition('.')[0]}")
            return "one" if prop is not None else ""
        prop = self.component_prop(key)
        return "" if prop is None else spelling.takes(prop)

    def component_prop(self, key: str) -> Mapping[str, Any] | None:
        """Schema of `name.field` in the settings of any component of that name; used to read flags only."""
        for entry in self.reading.registry.entries():
            for name in section_names(entry):
                if normal(key).startswith(f"{normal(name)}.") and entry.data.get("settings"):
                    head, _, rest = normal(key)[len(name) + 1 :].partition(".")
                    try:
                        prop = (
                            (self.reading.registry.settings_schema(entry.data["settings"]) or {})
                            .get("properties", {})
                            .get(head)
                        )
                    except PluginError:
                        continue
                    if prop is not None:
                        return {"type": "string"} if rest else prop
        return None

    def take(self, key: str, value: Any, source: Source) -> None:
        """File a key and its value under what it stands for."""
        reading = self.reading
        word = normal(key)
        if word in reading.options and word not in {"config", "help"} and word not in reading.words.sections:
            reading.extra[word] = plain(value) if reading.options[word].takes != "bool" else switch(plain(value))
            return
        rule = aliases.find(key, reading.verb, reading.classes) or aliases.find(word, reading.verb, reading.classes)
        path = reading.words.path(word)
        if isinstance(rule, Alias):
            self.translate(rule, value, source, key)
            return
        if path is not None and word not in reading.classes:
            reading.put(path, self.as_given(value, source, key))
            return
        if word in reading.classes or aliases.block(word):
            self.section(aliases.block(word) or word, path, value, source, key)
            return
        head, _, rest = word.partition(".")
        if rest and aliases.block(head):
            self.take(f"{aliases.block(head)}.{rest}", value, source)
            return
        if rest and head in reading.classes:
            name, _, deeper = rest.partition(".")
            prop = reading.words.prop(f"{head}.{name}")
            if prop is not None and deeper and "object" in spelling.types(prop):
                reading.put(f"{head}.{name}.{key.split('.', 2)[2]}", self.as_given(value, source, key))
                return
        if rule is not None:
            self.unbuilt(rule, value, source, key)
            return
        if head == "train" and rest and aliases.find(rest, reading.verb, reading.classes) is not None:
            self.take(rest, value, source)  # ms-swift's blocks for groups of GPUs under Ray
            return
        if rest or is_mapping(value) or (plain(value) is None and component_named(reading.registry, word)):
            if not (rest and head in reading.classes):
                reading.components.append((key, value, source))
                return
        if like(reading.verb) != reading.verb and (schema.vocabulary("train").path(word) or word in aliases.table()):
            reading.note(f"{source.spell(key)} is not needed here: other verbs read it")
            return
        self.unknown(key, source)

    def section(self, name: str, path: str | None, value: Any, source: Source, key: str) -> None:
        """A whole section: a mapping of fields, or a bare value for the primary one."""
        reading = self.reading
        primary = reading.words.prop(path) if path else None
        if is_mapping(value) and not (primary is not None and spelling.takes(primary) == "map"):
            for inner, item in items(value):
                self.take(f"{name}.{inner}", item, source.at(item))
        elif path is None:
            if plain(value) is not None:
                fields = list(reading.words.fields(name))
                reading.fault(source.place(key), f"{source.spell(key)} is a section with fields of its own: "
                           f"{', '.join(f'{name}.{f}' for f in fields[:4])}, ...")  # fmt: skip
        elif not (isinstance(value, Lined) and value.value is None):
            reading.put(path, self.as_given(value, source, key))

    def as_given(self, value: Any, source: Source, key: str, **more: Any) -> Given:
        return Given(
            value, source.place(key), key, more.pop("rank", source.rank), more.pop("origin", source.origin),
            text=source.style in {"flag", "environment"}, **more,
        )  # fmt: skip

    def translate(self, rule: Alias, value: Any, source: Source, key: str) -> None:
        """An alias: its converted value, and a note on the native spelling."""
        reading = self.reading
        raw = plain(value)
        try:
            result = rule.convert(raw) if rule.convert else value
            result = value if result is raw else result
        except NotYet as error:
            reading.later(source, key, raw, str(error))
            return
        except ValueError as error:
            said = f"{source.spell(key)} {error}" if source.style != "flag" else str(error)
            if reading.collected is not None and isinstance(error, MissingFile):
                reading.unbuilts.append((source.place(key), said))
            else:
                reading.fault(source.place(key), said)
            return
        native = aliases.native(rule.new)
        same = normal(key) in (rule.new, rule.new.rpartition(".")[2], rule.new.partition(".")[0])
        if isinstance(result, Noted):
            reading.note(f"{source.spell(key)}: {result.note}")
            result = result.value
        origin = (
            "" if same else f"{source.place(key) if source.style != 'keyword' else 'keyword'} (ms-swift's spelling of {native})"
        )
        rank = source.rank
        if isinstance(result, Weak):
            rank = 1 if result.always else rank - result.by
            result = result.value
        if isinstance(result, Several):
            for path, part in result.values.items():
                if path == "option.positional":
                    self.set_option(path, part, source, key)
                else:
                    reading.put(path, self.as_given(part, source, key, origin=origin))
            return
        reading.foreign |= not same
        if result is NOTHING:
            return
        if rule.new.startswith("option."):
            reading.note(f"{source.spell(key)} is {source.spell(native) if native in reading.options else native} here")
            self.set_option(rule.new, result, source, key)
            return
        reading.put(
            rule.new, self.as_given(result, source, key, rank=rank, origin=origin or source.origin, extends=rule.extends)
        )
        if same or rule.new.startswith("@"):
            return
        spelled = source.spell(reading.words.spelling(rule.new))
        if result is value or result == raw:
            note = f"{source.spell(key)} is {spelled} here"
        else:
            note = f"{source.spell(key)} {show(key, raw)} is {spelled} {show(key, result)} here"
        if rank == source.rank:
            reading.note(note)
        else:
            left = f"{source.spell(key)} is not needed: the architecture is read from config.json" if rank == 1 else ""
            reading.unneeded.append((rule.new, rank, note, left))

    def set_option(self, path: str, value: Any, source: Source, key: str) -> None:
        reading = self.reading
        name = path.partition(".")[2]
        if name == "positional":
            value = value[0] if isinstance(value, list) and len(value) == 1 else plain(value)
            if not reading.positional:
                reading.positional.append(str(value))
        else:
            reading.extra[name] = value

    def unbuilt(self, rule: Later | Ignored | Alias, value: Any, source: Source, key: str) -> None:
        reading = self.reading
        raw = plain(value)
        if isinstance(rule, Later):
            if rule.detail and not (raw is None or text_of(raw).lower() in {"none", "null", "false", ""}):
                names = reading.details.setdefault(rule.what, [])
                if source.spell(key) not in names:
                    names.append(source.spell(key))
            elif not rule.detail and not rule.is_off(raw):
                reading.later(source, key, raw, rule.what)
        elif isinstance(rule, Ignored):
            reading.note(f"{source.spell(key)} is not needed here: {rule.why}")

    def unknown(self, key: str, source: Source) -> None:
        reading = self.reading
        word = normal(key)
        place, said = source.place(key), source.spell(key) + " is unknown" if source.style == "file" else "unknown"
        if word in reading.words.ambiguous:
            paths = " or ".join(source.spell(p) for p in reading.words.ambiguous[word])
            reading.fault(place, f"{source.spell(key)} stands in several sections; write {paths}")
            return
        if word in reading.options or (source.style == "flag" and word == "help_all"):
            return
        reading.unknowns.append((len(reading.faults), key, source))
        reading.fault(place, said, f"swift {reading.verb} --help lists all of them")

    def suggest(self, chosen: Mapping[str, list[Entry]]) -> None:
        """What was probably meant by each unknown key."""
        reading = self.reading
        for number, key, source in reading.unknowns:
            word = normal(key)
            place, said = reading.faults[number]
            homes = [verb for verb in ("sft", "infer", "export") if verb != reading.verb and self.means(verb, word)]
            plural = {reading.words.path(word[:-1]), reading.words.path(word + "s")} - {None}
            if homes and not plural:
                near = f"; it belongs to swift {' and swift '.join(homes)}"
            else:
                near = self.near(key, source, self.legal_keys(chosen, dotted="." in word))
            reading.faults[number] = (place, said + near)

    def near(self, key: str, source: Source, native: list[str]) -> str:
        """What is nearest; ms-swift's spellings only where none of Swift's own is nearer."""
        rules = aliases.known(self.reading.verb, self.reading.classes)
        foreign = [rule.old for rule in rules if isinstance(rule, Alias) and rule.old not in native]
        best = nearest(key, [*native, *foreign], 1)
        return did_you_mean(key, foreign if best and best[0] in foreign else native, "--" if source.style == "flag" else "")

    def means(self, verb: str, word: str) -> bool:
        words = schema.vocabulary(verb)
        return bool(words.path(word)) or isinstance(aliases.find(word, verb, words.sections), Alias)

    def legal_keys(self, chosen: Mapping[str, list[Entry]], *, dotted: bool) -> list[str]:
        """Every key that may be written; the long form of a field only where a long one was tried."""
        reading = self.reading
        own = reading.words.keys() if dotted else [reading.words.spelling(path) for path in reading.words.paths()]
        entries = [entry for kind in chosen for entry in chosen[kind] if entry.data.get("settings")]
        settings = [f"{entry.name}.{name}" for entry in entries for name in fields_of(reading.registry, entry)]
        return [
            *own,
            *reading.words.sections,
            *(name for name in reading.options if name != "help"),
            *settings,
        ]


def section_names(entry: Entry) -> tuple[str, ...]:
    """Keys under which a component's settings may stand."""
    return (entry.name, entry.id, entry.qualified, *entry.aliases)


def component_named(registry: Registry, word: str) -> bool:
    return any(normal(name) == word for entry in registry.entries() for name in section_names(entry))


def fields_of(registry: Registry, entry: Entry) -> list[str]:
    """Names of a component's settings; none where they cannot be had."""
    try:
        found = registry.settings_schema(entry.data.get("settings", ""))
    except PluginError:
        return []
    return list((found or {}).get("properties", {}))
