"""YAML, flags and Python keywords to one checked configuration, with every fault and the origin of every value.

Precedence, lowest first: defaults, the verb's own (`swift pt` sets the objective), environment, files, keywords, flags.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swift.api.settings import Settings
from swift.config import aliases, spelling, yaml_lines
from swift.config import argv as command_line
from swift.config.argv import BOOLEANS
from swift.config.components import Components, settings_class
from swift.config.conversions import ShareOf, number_of, text_of
from swift.config.foreign import common, environment
from swift.config.given import RANKS, Given, Source, in_file, joined, plain, strongest
from swift.config.keys import Keys
from swift.config.reading import Reading
from swift.config.sections import Section
from swift.config.spelling import EXPORT_VERBS, INFER_VERBS, like, normal
from swift.config.values import dump, read_scalar, read_value, show, words
from swift.config.yaml_lines import Lined
from swift.data import tasks
from swift.errors import ConfigError, PluginError
from swift.plugins import lock
from swift.plugins.info import Entry
from swift.plugins.registry import Registry

POSITIONAL = {**dict.fromkeys((*INFER_VERBS, *EXPORT_VERBS), 1), "plan": 1}
"""How many arguments without a flag a verb takes: the run directory."""

UNCHOSEN = {"", "auto", "none"}
OBJECTIVES = {"sft": "sft", "pt": "pt", "rlhf": "dpo"}
"""Verb -> the objective that it starts from."""
TUNERS = {"megatron sft": "full", "megatron pt": "full", "megatron rlhf": "full"}
"""Verb -> tuner, where it is another one than elsewhere."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, checked.

    Args:
        sections: Section -> its values.
        settings: Settings section of a component -> what was given for it (secrets stay wrapped in `SecretStr`).
        provenance: Dotted path -> "default", "run.yaml:7", "flag --learning_rate", "keyword", "environment DEVICE", ...
        notes: Lines for the user, e.g. the native spelling of an ms-swift one.
        positional: Arguments without a flag: a run directory.
        extra: Options of the verb that are no configuration: `resume`, `allow`, `json`, `debug`, `verb`.
        owners: Settings section -> `kind:name` of the component that it belongs to.
        environment: Variable that is set and acts by itself, or that Swift does not read -> (value, what it does).
    """

    verb: str
    sections: Mapping[str, Section]
    settings: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, str]
    notes: Sequence[str] = ()
    positional: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    _plain_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def settings_for(self, entry: Entry) -> Settings:
        """The settings of a component: what was given, else its defaults.

        Raises:
            PluginBroken: Its settings class cannot be imported.
            ConfigError: The class refuses the values.
        """
        given = next((self.settings[name] for name, owner in self.owners.items() if owner == f"{entry.kind}:{entry.name}"), {})
        try:
            return settings_class(entry)(**given)
        except ValidationError as error:
            raise ConfigError("\n".join(f"{entry.name}.{path}: {text}" for path, text in words(error))) from None

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, without secrets. Reads back (as a file or keywords) to the same configuration."""
        return {
            **{name: dump(section) for name, section in self.sections.items()},
            **json.loads(json.dumps(self._plain_settings)),
        }


def load(
    verb: str,
    *,
    argv: Sequence[str] = (),
    config_file: str | os.PathLike[str] | None = None,
    values: Mapping[str, Any] | Sequence[Any] = (),
    registry: Registry,
    required: Sequence[str] | None = None,
    environ: MutableMapping[str, str] | None = None,
    unbuilt: list[tuple[str, str]] | None = None,
) -> Resolved:
    """Read and check a configuration.

    Args:
        verb: sft, pt, train, rlhf, infer, chat, export, merge-lora, plan, one that an objective's plugin brings, or one that
            speaks the words of these (`spelling.LIKE`).
        argv: Flags, and the run directory of verbs that take one.
        config_file: Lies under those that `argv` names.
        values: Python keywords: every spelling that a file may have.
        required: Paths that must be given; default: model and dataset for training, a run or model elsewhere.
        environ: Default: `os.environ`. Variables of a file's `ENV:` block are set in it, where they are not set already.
        unbuilt: Takes (place, what) of all that is understood but not built yet, or not installed, instead of a fault.

    Raises:
        ConfigError: All faults together, each with its place.
        PlanRefused: The only faults are things that are not built yet.
        PluginError: The only fault is a component that cannot be used.
    """
    reading = Reading(verb, registry, os.environ if environ is None else environ, unbuilt)
    return _Loader(reading).load(list(argv), config_file, dict(values), required)


def takes(verb: str, registry: Registry) -> Callable[[str], str]:
    """How many values each flag of a verb takes, for commands that have flags of their own beside it (see `argv.parse`)."""
    return Keys(Reading(verb, registry, {})).takes


class _Loader:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.keys = Keys(reading)
        self.components = Components(reading, self.keys)

    def load(self, argv: list[str], config_file: Any, values: dict[str, Any], required: Sequence[str] | None) -> Resolved:
        reading = self.reading
        letters = {o.short: o.name for o in reading.options.values() if o.short}
        if "output" in reading.classes:
            letters["o"] = "output"
        parsed = command_line.parse(argv, self.keys.takes, letters.get)
        files = [config_file] if config_file is not None else []
        for place, text in parsed.errors:
            reading.fault(place, text)
        if parsed.positional and parsed.positional[0].endswith((".yaml", ".yml", ".json")):
            files.append(parsed.positional.pop(0))
        files += [flag.values[0] for flag in parsed.flags if flag.key == "config" and flag.values]

        asked = (
            [flag.values[0] for flag in parsed.flags if flag.key == "verb" and flag.values] if reading.verb == "plan" else []
        )
        self.of_verb(asked[-1] if asked else reading.verb)
        self.of_environment(reading.environ, "environment")
        for file in files:
            self.of_file(file)
        for key, value in values.items():
            self.keys.take(
                str(key),
                value,
                Source("train(...)" if reading.trains else f"{reading.verb}(...)", RANKS["keyword"], "keyword"),
            )
        for flag in parsed.flags:
            if flag.key != "config":
                value = command_line.value_of(flag, self.keys.takes(flag.key))
                self.keys.take(flag.key, value, Source("", RANKS["flag"], "flag", flag.shown))
        if lock_file := lock.file_of(reading.extra.get("locked", "")):
            lock.verify_lock(lock_file)
        self.arguments(parsed.positional, parsed.after)
        self.of_task()

        data = self.core_values()
        self.components.component_values(data)
        sections = self.check_sections(data)
        self.check_required(data, required)
        self.other_defaults(data)
        for what, names in reading.details.items():
            reading.note(f"without effect, as {what} {'are' if what.endswith('s') else 'is'} not built yet: {', '.join(names)}")
        reading.complain()
        return Resolved(
            reading.verb, sections, reading.settings, reading.provenance, list(reading.notes), reading.positional,
            reading.extra, reading.owners, self.set_environment(), reading.plain_settings,
        )  # fmt: skip

    def of_verb(self, verb: str) -> None:
        """`swift pt` chooses the objective, `megatron sft` a tuner."""
        reading = self.reading
        if not reading.trains or verb in {"train", "plan"}:
            return
        brought = [e.name for e in reading.registry.entries("objective") if verb in e.data.get("verbs", ())]
        name = OBJECTIVES.get(like(verb)) or next(iter(brought), "")
        if name:
            reading.put("objective.name", Given(name, f"verb {verb}", "objective", RANKS["verb"]))
        if verb in TUNERS:
            reading.put("tuner.name", Given(TUNERS[verb], f"verb {verb}", "tuner", RANKS["verb"]))

    def of_task(self) -> None:
        """`--task dpo` chooses the objective where the user named none, so that its settings are known; the planner judges."""
        reading = self.reading
        named = reading.given.get("data.task")
        if not named or reading.verb not in {"sft", "train", "plan"}:
            return
        word = str(strongest(named).value)
        try:
            task = tasks.find(reading.registry, word)
        except PluginError:
            return  # the planner says so
        if not reading.registry.has("objective", task.objective):
            return  # `swift data` needs none, and the planner says so
        reading.put("objective.name", Given(task.objective, f"task {task.name}", "objective", RANKS["verb"] + 1))

    def of_environment(self, environ: Mapping[str, Any], name: str, rank: float = RANKS["environment"]) -> None:
        for variable, path in aliases.ENVIRONMENT.items():
            if environ.get(variable) not in (None, "") and path.partition(".")[0] in self.reading.classes:
                value = str(environ[variable])
                if variable == "USE_HF":
                    if not BOOLEANS.get(value.lower(), False):
                        continue
                    value = "huggingface"
                self.reading.put(path, Given(value, f"{name} {variable}", variable, rank, text=True))

    def set_environment(self) -> dict[str, tuple[str, str]]:
        """Set what `ENV:` blocks say; what is set and stands for no field, with what it does."""
        reading = self.reading
        for name, value in reading.variables.items():
            reading.environ[name] = value
        names = [*environment.HONOURED, *environment.ANSWERED, *reading.variables]
        return {
            name: (reading.environ[name], environment.meaning(name) or "set by the configuration file")
            for name in dict.fromkeys(names)
            if reading.environ.get(name) and not spelling.SECRET_NAME.search(name)
        }

    def of_file(self, file: Any) -> None:
        path = Path(file)
        try:
            tree = yaml_lines.read(path)
        except ConfigError as error:
            self.reading.fault("", error.message, error.fix)
            return
        shown = path.name if path.is_absolute() else str(path)
        for key, item in tree.items():
            if key == "ENV":
                self.environment_block(item, shown)
            else:
                self.keys.take(key, item, in_file(shown, item.line))

    def environment_block(self, item: Lined, shown: str) -> None:
        """ms-swift's `ENV:` block: variables to set, where they are not set already; what stands for a field is one."""
        reading = self.reading
        if not isinstance(item.value, dict):
            reading.fault(f"{shown}:{item.line}", "ENV wants a mapping of names to values")
            return
        block = {str(name): text_of(value) for name, value in item.plain(texts=True).items() if value is not None}
        self.of_environment(block, f"{shown}:{item.line} ENV", RANKS["environment"] - 1)
        for name, value in block.items():
            if name in aliases.ENVIRONMENT:
                continue
            if reading.environ.get(name) not in (None, "", value):
                kept = "(hidden)" if spelling.SECRET_NAME.search(name) else reading.environ[name]
                reading.note(f"{shown}:{item.line}: {name} is set to {kept} already, which goes before the file's value")
            else:
                reading.variables[name] = value

    def arguments(self, positional: list[str], after: Mapping[str, str]) -> None:
        reading = self.reading
        allowed = POSITIONAL.get(like(reading.verb), 0)
        reading.positional += positional[: max(0, allowed - len(reading.positional))]
        for word in positional[allowed:]:
            hint = "flags begin with --"
            if reading.trains and Path(word).is_dir():
                hint = f"to go on with that run: swift {reading.verb} --resume {word}"
            elif word in after:
                hint = f"{after[word]} takes true or false"
            elif allowed:
                hint = f"{reading.verb} takes one run directory, before the flags"
            reading.fault(f"argument {word}", f"unexpected; {hint}")

    def core_values(self) -> dict[str, dict[str, Any]]:
        """The strongest value of each field, read for its type."""
        reading = self.reading
        data: dict[str, dict[str, Any]] = {name: {} for name in reading.classes}
        deeper: list[tuple[str, Given]] = []
        for path, all_given in reading.given.items():
            if path.startswith("@"):
                continue
            prop = reading.words.prop(path)
            if prop is None:
                deeper += [(path, given) for given in all_given]
                continue
            section, _, name = path.partition(".")
            given = strongest(all_given)
            data[section][name] = read_value(joined(all_given, prop), prop, given.text)
            reading.provenance[path] = given.origin or given.place
        for path, given in sorted(deeper, key=lambda pair: pair[1].rank):
            section, name, key = path.split(".", 2)
            whole = [g for g in reading.given.get(f"{section}.{name}", ()) if g.rank > given.rank]
            target = data[section].setdefault(name, {})
            if not whole and isinstance(target, dict):
                data[section][name] = {**target, key: read_scalar(plain(given.value), given.text)}
                reading.provenance[path] = given.origin or given.place
        for path, rank, taken, left in reading.unneeded:
            note = taken if strongest(reading.given[path]).rank == rank else left
            if note:
                reading.note(note)
        for section, cls in reading.classes.items():
            for name in cls.model_fields:
                reading.provenance.setdefault(f"{section}.{name}", "default")
        self.shares(data)
        return data

    def other_defaults(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """ms-swift's defaults that differ from Swift's, told once where a command is written in its words."""
        reading = self.reading
        if not reading.foreign or not reading.trains:
            return
        left = [
            f"{reading.words.spelling(path)} {show(path, value)}"
            for path, value in common.DEFAULTS.items()
            if reading.provenance.get(path) == "default" and reading.words.prop(path) is not None
        ]
        if left:
            reading.note(f"Swift's own defaults hold where nothing was given; ms-swift's are {', '.join(left)}")

    def shares(self, data: dict[str, dict[str, Any]]) -> None:
        """Values that are a share of another field's."""
        for path, all_given in self.reading.given.items():
            section, _, name = path.partition(".")
            share = data.get(section, {}).get(name)
            if not isinstance(share, ShareOf):
                continue
            of_section, _, of_name = share.path.partition(".")
            whole = data.get(of_section, {}).get(of_name)
            number, total = number_of(str(share.value)), number_of(str(whole))
            given = strongest(all_given)
            if isinstance(number, float) and isinstance(total, float) and total > 0:
                data[section][name] = number / total
            else:
                del data[section][name]
                self.reading.fault(given.place, f"{given.key} is a share of {share.path} here: give that too, or {path} itself")

    def check_sections(self, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Section]:
        reading = self.reading
        sections: dict[str, Section] = {}
        for name, cls in reading.classes.items():
            try:
                sections[name] = cls(**data[name])
            except ValidationError as error:
                for path, text in words(error):
                    field_name = path.partition(".")[0]
                    given = reading.given.get(f"{name}.{field_name}") or reading.given.get(f"{name}.{path}")
                    place = strongest(given).place if given else name
                    key = strongest(given).key if given else f"{name}.{path}"
                    reading.fault(place, text if normal(place).endswith(normal(key)) else f"{key} {text}")
        return sections

    def check_required(self, data: Mapping[str, Mapping[str, Any]], required: Sequence[str] | None) -> None:
        reading = self.reading
        if required is None:
            if reading.extra.get("resume") or reading.positional:
                required = ()
            elif reading.trains:
                named = reading.verb == "plan" or data.get("data", {}).get("task")  # the planner lists what serves the task
                required = ("model.id",) if named else ("model.id", "data.dataset")
            else:
                required = ("model.id",)
        examples = {
            "model.id": "--model Qwen/Qwen3-0.6B (a folder, a name of `swift list models`, or a hub id)",
            "data.dataset": "--dataset rows.jsonl (files, folders, or names of `swift list datasets`)",
        }
        for path in required:
            section, _, name = path.partition(".")
            if data.get(section, {}).get(name):
                continue
            example = examples.get(path, f"--{reading.words.spelling(path)}")
            if path == "model.id" and not reading.trains:
                reading.fault(
                    "",
                    f"nothing to {reading.verb}: name a run directory (swift {reading.verb} runs/a), or give {example}",
                )
            else:
                reading.fault("", f"{name if section != 'model' else 'model'} is missing: give {example}")
