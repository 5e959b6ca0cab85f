"""What the verbs of `swift data` are told: flags of their own, and settings of a run. Left of the torch line."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.api.contracts.data import Encoder, Example, Record
from swift.cli.flags import Flag
from swift.config.argv import BOOLEANS, parse
from swift.config.loader import Resolved, load, takes
from swift.config.spelling import did_you_mean, nearest
from swift.data import tasks, templates
from swift.data.records import RecordSet, load_records, prompt_of
from swift.errors import ConfigError, ModelError, SwiftError
from swift.plan.models import ModelSource, inspect, loader_entry, locate
from swift.plugins.loading import component_of, instantiate, load_object
from swift.plugins.registry import Registry, discover
from swift.run_dir import RunDir

CONFIG_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Words:
    """A command line, taken apart.

    Args:
        own: Path of an own flag -> value, in the type of the flag; defaults are filled in.
        positional: Arguments without a flag.
        rest: Flags of a run, as they came.
    """

    own: Mapping[str, Any]
    positional: Sequence[str]
    rest: Sequence[str]


def split(argv: Sequence[str], own: Sequence[Flag], run_flags: Callable[[str], str] | None) -> Words:
    """Take `argv` apart.

    Args:
        own: Flags of the verb; the value `N` in their help means an integer, `X` a number.
        run_flags: How many values a flag of a run takes; None where the verb reads no settings of a run.

    Raises:
        ConfigError: All faults in the own flags together.
    """
    known = {name.lstrip("-").replace("-", "_"): flag for flag in own for name in flag.name.split(", ")}
    shorts = {name[1:]: flag.path for flag in own for name in flag.name.split(", ") if not name.startswith("--")}
    by_path = {flag.path: flag for flag in own}

    def short(letter: str) -> str | None:
        return shorts.get(letter) or ({"c": "config"}.get(letter) if run_flags else None)

    def arity(key: str) -> str:
        flag = known.get(key) or by_path.get(key)
        return flag.takes if flag else run_flags(key) if run_flags else ""

    parsed = parse(argv, arity, short)
    # Whether a flag is known is the loader's to say, where one reads the rest.
    faults = [f"{place}: {text}" for place, text in parsed.errors]
    values: dict[str, Any] = {flag.path: read_default(flag) for flag in own}
    given: set[str] = set()
    rest: list[str] = []
    for item in parsed.flags:
        flag = known.get(item.key) or by_path.get(item.key)
        if flag is None:
            if run_flags is None or (not run_flags(item.key) and nearest(item.key, known)):
                faults.append(f"flag {item.shown}: unknown{did_you_mean(item.key, known, '--')}")
            joined = len(item.values) == 1 and item.shown.startswith("--")  # the value may begin with a dash
            rest += [f"{item.shown}={item.values[0]}"] if joined else [item.shown, *item.values]
            continue
        try:
            read = [read_text(flag, text) for text in item.values]
        except ValueError as error:
            faults.append(f"flag {item.shown}: {error}")
            continue
        if flag.takes == "many":
            values[flag.path] = [*(values[flag.path] if flag.path in given else ()), *read]
        else:
            values[flag.path] = not item.negated if not read else read[-1]
        given.add(flag.path)
    if faults:
        raise ConfigError("\n".join(faults))
    return Words(values, parsed.positional, rest)


def read_default(flag: Flag) -> Any:
    if flag.takes == "bool":
        return flag.default == "true"
    if flag.takes == "many":
        return [read_text(flag, text) for text in flag.default.split(",")] if flag.default else []
    return read_text(flag, flag.default) if flag.default else None


def read_text(flag: Flag, text: str) -> Any:
    """Raises `ValueError` with what is wrong."""
    if flag.takes == "bool":
        if text.lower() not in BOOLEANS:
            raise ValueError(f"{text!r} is neither true nor false")
        return BOOLEANS[text.lower()]
    if flag.choices and text not in flag.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(flag.choices)}")
    try:
        return {"N": int, "X": float}.get(flag.value.removesuffix(" ..."), str)(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


# ------------------------------------------------------------------------------------------------------- settings of a run


@dataclass(frozen=True)
class Settings:
    """Everything that a verb of `swift data` was told.

    Args:
        own: The verb's own flags.
        refs: What `--dataset` and the arguments name.
        data: The run's `DataSection`.
    """

    own: Mapping[str, Any]
    resolved: Resolved
    registry: Registry
    refs: Sequence[str]
    notes: list[str] = field(default_factory=list)

    @property
    def data(self) -> Any:
        return self.resolved.sections["data"]

    @property
    def objective_is_named(self) -> bool:
        """By the user, or by a task."""
        return bool(self.data.task) or self.resolved.provenance.get("objective.name", "default") != "default"

    @property
    def objective(self) -> str:
        """The one that is named, else that of the task."""
        name = str(self.resolved.sections["objective"].name)  # type: ignore[attr-defined]
        if self.data.task and self.resolved.provenance.get("objective.name", "default") == "default":
            return tasks.find(self.registry, self.data.task).objective
        return name

    def say(self, line: str) -> None:
        """Tell the user something that is not the result."""
        print(f"note: {line}", file=sys.stderr)

    def records(self) -> RecordSet:
        """The rows as a run would read them, but that bad ones stop nothing: `swift data check` is for those.

        Raises:
            DataError: A reference that is missing, empty or unreadable, or no row that can be used.
        """
        data = self.data
        names = {key: value for key, value in (("name", data.model_name), ("author", data.model_author)) if value is not None}
        return load_records(
            self.refs, registry=self.registry, columns=data.columns, seed=data.data_seed, names=names, max_bad_fraction=1.0,
            hub=self.resolved.sections["model"].hub, cache_dir=data.cache_dir,  # type: ignore[attr-defined]
            mix=data.mix, weights=data.weights, mix_stop=data.mix_stop, deduplicate=data.deduplicate,
            media_folder=data.media_folder, media_urls=data.media_urls, lazy=True,
        )  # fmt: skip


def read_settings(argv: Sequence[str], own: Sequence[Flag], *, need_data: bool = True) -> Settings:
    """Flags, `-c run.yaml` and run directories to what is to be done.

    Args:
        need_data: Some dataset must be named.

    Raises:
        ConfigError: All faults together.
        PluginError: A component that is named and cannot be used.
    """
    registry = discover()
    words = split(argv, own, takes("train", registry))
    files: list[str] = [word for word in words.positional if word.lower().endswith(CONFIG_FILES)]
    refs = [word for word in words.positional if word not in files]
    runs = [RunDir.open(word) for word in refs if RunDir.is_run(Path(word))]
    if len(runs) > 1 or (runs and len(refs) > 1):
        raise ConfigError(
            f"a run directory stands alone; {', '.join(map(str, refs))} were given", fix=f"swift data ... {runs[0]}"
        )
    values: dict[str, Any] = {"dataset": refs} if refs and not runs else {}
    if runs and (folder := runs[0].plan.model_folder) and Path(folder).is_dir():
        values["model.id"] = folder
    given = [word for file in files for word in ("--config", file)] + list(words.rest)
    resolved = load(
        "train", argv=given, config_file=runs[0].config_file if runs else None, values=values, registry=registry, required=()
    )
    named = list(resolved.sections["data"].dataset)  # type: ignore[attr-defined]
    named = list(dict.fromkeys([*([] if runs else refs), *named]))
    if need_data and not named:
        raise ConfigError("which data?", fix="name files, folders, a dataset of `swift list datasets`, or -c run.yaml")
    for note in resolved.notes:
        print(note, file=sys.stderr)
    return Settings(words.own, resolved, registry, named)


# --------------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Encoding:
    """What turns records into tokens, as a run would.

    Args:
        encode: The objective's `encode`.
        encoder: A `swift.data.encode.ChatEncoder`.
        context_length: Tokens that the model takes; 0 where its files do not say.
        key_parts: As `swift.data.tokens.tokenize` wants them, so that a run finds these tokens in the cache.
    """

    model: str
    tokenizer: Any
    encode: Callable[[Record, Encoder], Example]
    encoder: Any
    context_length: int
    key_parts: Any


def open_encoding(settings: Settings, *, objective: str = "") -> Encoding:
    """Tokenizer, template and objective. Imports transformers.

    Args:
        objective: Default: the configured one.

    Raises:
        ConfigError: No model is named.
        ModelError, PluginError: It cannot be used.
    """
    model: Any = settings.resolved.sections["model"]
    if not model.id:
        raise ConfigError("which model? Tokens depend on its tokenizer and template", fix="--model Qwen/Qwen3-0.6B, or tiny")
    source = locate(settings.registry, model, weights=False)
    if source.folder is None:
        raise source.fault or ModelError(f"{model.id} could not be fetched", fix="check the network, or give a local folder")
    load_object("swift.upstream:quiet_libraries")()
    loader = instantiate(component_of(loader_entry(settings.registry, source, architecture_of(source)), {}))
    tokenizer = loader.load_tokenizer(source.folder, trust_remote_code=model.trust_remote_code)
    template: Any = settings.resolved.sections["template"]
    media = loader.load_processor(
        source.folder, tokenizer, trust_remote_code=model.trust_remote_code, min_pixels=template.min_pixels,
        max_pixels=template.max_pixels,
    )  # fmt: skip
    encoder = load_object("swift.data.encode:ChatEncoder")(
        tokenizer, template=template_name(settings, source), system=template.system, options=template.options,
        registry=settings.registry, history=template.history, media=media,
    )  # fmt: skip
    name = objective or settings.objective
    encode: Callable[[Record, Encoder], Example] = encode_plainly
    parts: dict[str, Any] = {"objective": ""}
    if settings.registry.has("objective", name):
        entry = settings.registry.find("objective", name)
        component = component_of(entry, settings.resolved.settings_for(entry).model_dump(mode="json"))
        encode = instantiate(component).encode
        parts = {"objective": component.name, "settings": dict(component.settings)}
    else:
        settings.say(f"no installed plugin offers the objective {name}; its conversations are encoded as they are")
    return Encoding(str(model.id), tokenizer, encode, encoder, context_length(settings, source), parts)


def template_name(settings: Settings, source: ModelSource) -> str:
    """As a run chooses it: the tokenizer's own, or where it has none the installed one that fits."""
    name = str(settings.resolved.sections["template"].name)  # type: ignore[attr-defined]
    if name != "auto" or source.folder is None or templates.has_template(source.folder):
        return name
    return templates.fitting(settings.registry, source.folder, architecture_of(source)) or name


def architecture_of(source: ModelSource) -> str:
    config = inspect(source.folder).config if source.folder else {}
    return str(next(iter(config.get("architectures") or ()), ""))


def context_length(settings: Settings, source: ModelSource) -> int:
    """Of the run's `max_length`, the model's files, the catalog: the first that says."""
    if settings.data.max_length:
        return int(settings.data.max_length)
    try:
        shapes = inspect(source.folder).shapes if source.folder else None
    except SwiftError:
        shapes = None
    declared = getattr(source.entry.spec, "context_length", 0) if source.entry else 0
    return int((shapes.context_length if shapes else 0) or declared or 0)


def encode_plainly(record: Record, encoder: Encoder) -> Example:
    """Conversations and texts without an objective; a rejected answer is a document of its own after the chosen one."""
    if "messages" not in record:
        return encoder.text(record["text"])
    chosen = encoder.chat(record)
    if not record.get("rejected"):
        return chosen
    rejected = encoder.chat({**record, "messages": [*prompt_of(record), *record["rejected"]]})
    return {
        "input_ids": [*chosen["input_ids"], *rejected["input_ids"]],
        "loss_weight": [*chosen["loss_weight"], *rejected["loss_weight"]],
        "segments": [len(chosen["input_ids"]), len(rejected["input_ids"])],
    }


def said(counters: Counter[str]) -> list[str]:
    """What an encoder met, as lines for the user."""
    return [f"{text} ({count} rows)" for text, count in counters.items()]
