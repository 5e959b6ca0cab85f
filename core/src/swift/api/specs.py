"""Frozen descriptions of what a plugin offers. Standard library only: this file is read before anything is imported.

A spec is cheap: names, a dotted path to the implementation, and facts. The heavy object behind `impl` is imported only
when a plan names it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union

from swift.api.version import API_VERSION_TEXT

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda function: function


FactValue = Union[bool, int, float, str, None, "tuple[str, ...]"]
Level = Literal["impossible", "unsupported", "unverified"]


@dataclass(frozen=True, slots=True)
class Need:
    """A condition over the facts of the whole plan that a component cannot do without.

    Args:
        condition: One comparison over a fact: `"quant.bits == 4"`, `"device.collectives"` (set and not empty),
            `"device.collectives contains gloo"`, `"parallel.world_size >= 2"`.
        why: The reason, in one sentence that a user understands.
        fix: What to type instead. Empty lets the resolver search.
        level: impossible (cannot be overridden), unsupported (nobody built it), unverified (a warning).
        code: Stable id, e.g. "SW101"; `--allow CODE` lowers an unsupported one to a warning.
    """

    condition: str
    why: str
    fix: str = ""
    level: Level = "impossible"
    code: str = ""


@dataclass(frozen=True, slots=True)
class Clash:
    """A conjunction that must not hold.

    Args:
        when: Selectors that must all match: `"device:npu"`, `"quantizer:*"`, or a condition as in `Need`.
        why, fix, level, code: As in `Need`.
    """

    when: tuple[str, ...]
    why: str
    fix: str = ""
    level: Level = "impossible"
    code: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A word of the vocabulary that needs and clashes are written over.

    Args:
        name: `prefix.word`; the prefix of a plugin's own fact is its own name.
        type: bool, int, float, str or str list.
        meaning: One line for `swift list facts`.
    """

    name: str
    type: str
    meaning: str


T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def specification(cls: type[T]) -> type[T]:
    """A frozen dataclass with keywords only, whose methods all come from `Spec`.

    `@dataclass(frozen=True)` would compile six methods for each of the kinds, which was half the price of finding plugins.
    """
    return dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(cls)


_FIELDS: dict[type[Spec], tuple[tuple[str, Any, Callable[[], Any] | None], ...]] = {}


def fields_of(cls: type[Spec]) -> tuple[tuple[str, Any, Callable[[], Any] | None], ...]:
    """(name, default, factory of the default) of each field. Asked for each of hundreds of specs, so it is kept."""
    found = _FIELDS.get(cls)
    if found is None:
        none = dataclasses.MISSING
        found = tuple(
            (f.name, f.default, None if f.default_factory is none else f.default_factory) for f in dataclasses.fields(cls)
        )
        _FIELDS[cls] = found
    return found


@specification
class Spec:
    """What every component tells about itself.

    Args:
        name: Lower-case id, unique within the kind: `[a-z0-9][a-z0-9-_.]*`.
        impl: Dotted path `"package.module:Class"` of the implementation (a subclass of the kind's contract).
        settings: Dotted path of the pydantic settings class (a `swift.api.settings.Settings`), or "".
        summary: One line for listings.
        aliases: Other names under which users know it.
        docs: Link or path to more.
        api: Plugin API version it was written for.
        status: stable | beta | experimental | deprecated.
        requires: Requirement strings (`"bitsandbytes>=0.45"`) checked from metadata before any import.
        facts: What it contributes to the plan (see `swift.api.facts`).
        needs: Conditions it cannot do without.
        clashes: Conjunctions that must not hold.
        declares: Facts of its own, for others' needs and clashes too; Swift's are in `swift.api.FACTS`.
    """

    kind: ClassVar[str] = ""

    name: str
    impl: str = ""
    settings: str = ""
    summary: str = ""
    aliases: tuple[str, ...] = ()
    docs: str = ""
    api: str = API_VERSION_TEXT
    status: str = "stable"
    requires: tuple[str, ...] = ()
    facts: Mapping[str, FactValue] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    clashes: tuple[Clash, ...] = ()
    declares: tuple[Fact, ...] = ()

    def __init__(self, **values: Any) -> None:
        left = len(values)
        for name, default, factory in fields_of(type(self)):
            if name in values:
                value, left = values[name], left - 1
            elif factory is not None:
                value = factory()
            elif default is not dataclasses.MISSING:
                value = default
            else:
                raise TypeError(f"{type(self).__name__}() missing the keyword argument {name!r}")
            object.__setattr__(self, name, value)
        if left:
            unknown = next(name for name in values if name not in {known for known, _, _ in fields_of(type(self))})
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def __eq__(self, other: object) -> bool:
        if self.__class__ is not other.__class__:
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash((self.kind, self.name, self.impl))

    def __repr__(self) -> str:
        values = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value, default in values if value != default)})"

    @classmethod
    def of(cls, **values: Any) -> Spec:
        """Build from keywords, dropping (with a warning) fields of a newer minor API."""
        known = {f.name for f in dataclasses.fields(cls)}
        extra = sorted(set(values) - known)
        if extra:
            warnings.warn(f"{cls.__name__} {values.get('name')!r}: fields {extra} are unknown to plugin API {API_VERSION_TEXT}")
        return cls(**{k: v for k, v in values.items() if k in known})

    @classmethod
    def catalog(cls: type[T], door: str, **common: Any) -> list[T]:
        """The specs in `catalog.json` beside a door: a list of objects, whose lists become tuples.

        Args:
            door: The door's `__file__`.
            common: Fields that all of them share.
        """
        with open(os.path.join(os.path.dirname(door), "catalog.json"), encoding="utf-8") as stream:
            entries = json.load(stream)
        return [cls(**common, **{key: _freeze(value) for key, value in entry.items()}) for entry in entries]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict` after a JSON round trip (lists become tuples again)."""
        data = {k: _freeze(v) for k, v in values.items()}
        data["needs"] = tuple(Need(**n) for n in values.get("needs", ()))
        data["clashes"] = tuple(Clash(**{**c, "when": tuple(c["when"])}) for c in values.get("clashes", ()))
        data["declares"] = tuple(Fact(**fact) for fact in values.get("declares", ()))
        return cls.of(**data)


def _rebuild(cls: type[Spec], values: dict[str, Any]) -> Spec:
    return cls(**values)


def _freeze(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, dict):
        return {k: _freeze(v) for k, v in value.items()}
    return value


@specification
class ModelSpec(Spec):
    """A loader, or one entry of a vendor's catalog.

    A loader has `impl`; a catalog entry is pure data and names its `loader`. `generic=True` marks a loader that takes any
    folder whose config.json it understands.
    """

    kind: ClassVar[str] = "model"

    loader: str = ""
    """Name of the loader that opens a catalog entry."""
    generic: bool = False
    """A loader for any folder whose config.json it understands."""
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    """Hub name -> repository id, e.g. {"huggingface": "Qwen/Qwen3-8B", "modelscope": "Qwen/Qwen3-8B"}."""
    architecture: str = ""
    """The string in config.json's `architectures`, e.g. "Qwen3ForCausalLM"."""
    parameters: int = 0
    """Number of weights; 0: not known."""
    context_length: int = 0
    """Positions the model was trained for; 0: not known."""
    modality: tuple[str, ...] = ("text",)
    """What it takes: any of "text", "image", "video", "audio"."""
    chat: bool = True
    """It was tuned to answer; False for base models."""
    thinking: bool = False
    """The chat template has a thinking switch."""
    folder: str = ""
    """Dotted path `"package:relative/folder"` of weights that ship inside the plugin."""
    linear_modules: tuple[str, ...] = ()
    """Names of the linear layers of one block, for adapters."""
    image_tokens: str = ""
    """Of a loader: dotted path of `counter(folder, *, min_pixels, max_pixels)`, which plans call, without torch. It gives a
    function from (height, width) of an image to the tokens that stand for it (0: the run rejects the row), or None where the
    folder's files do not say."""


@specification
class DatasetSpec(Spec):
    """A registered dataset: files inside the plugin, or a hub id. `impl` may name a `swift.api.DatasetReader`.

    A row passes `convert`, then `rewrite`, then `columns`; where none is given, its shape is recognised by its columns.
    """

    kind: ClassVar[str] = "dataset"

    files: tuple[str, ...] = ()
    """`"package:relative/file.jsonl"` paths that ship inside the plugin."""
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    """Hub name -> repository id."""
    subsets: tuple[str, ...] = ()
    """Names of subsets that users may ask for."""
    split: str = "train"
    """Split that is read unless the user names one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Own column -> canonical column."""
    rewrite: Mapping[str, str] = field(default_factory=dict)
    """Canonical column -> text with own columns in braces: {"query": "Translate: {source}", "images": "{photos[0]}"}. A text
    that is one pair of braces gives the value itself. Of other columns only those that `columns` names are kept."""
    convert: str = ""
    """Dotted path of a function `row -> row | list of rows`, for what `rewrite` cannot say. A ValueError rejects the row."""
    tasks: tuple[str, ...] = ("sft",)
    """Names of task types (`swift list tasks`) that its rows serve."""
    train_only: bool = False
    """Never held out, neither by val_split nor as a val_dataset."""
    rows: int = 0
    """Of the default subset and split; 0: not known."""
    licence: str = ""
    """As its publishers name it; "": not known."""
    source: str = ""
    """Where the rows come from: a link, a paper, "written for this package"."""
    sample: str = ""
    """`"package:relative/file.jsonl"` of lines {"dataset": name, "row": {...}}: rows with the dataset's own columns, by which
    the contract test checks columns, rewrite, convert and tasks without fetching anything."""


@specification
class TaskSpec(Spec):
    """A task type: what a row must hold to serve it, and what is trained on it. Pure data."""

    kind: ClassVar[str] = "task"

    objective: str = "sft"
    """Objective that `--task` takes where none is named."""
    loss: str = ""
    """Loss by name where the objective offers several; "": the objective's own."""
    metrics: tuple[str, ...] = ()
    """What is measured on held-out data."""
    columns: tuple[str, ...] = ("messages",)
    """Parts of a record that must be there; `"messages|text"` means one of them."""
    media: tuple[str, ...] = ()
    """Kinds of media that must be there: "images", "videos", "audios"; `"images|videos"` means one of them."""
    general: bool = False
    """Rows of any task of the same objective or shape serve it too (sft, dpo), not only those that name it (vqa, code)."""
    answer: bool = True
    """The last message must be the assistant's; False also takes prompts alone."""


@specification
class TemplateSpec(Spec):
    """Overrides the tokenizer's chat template for a family that needs it. `file` is `"package:relative/file.jinja"`."""

    kind: ClassVar[str] = "template"

    file: str = ""
    """Dotted path `"package:relative/file.jinja"`."""
    architectures: tuple[str, ...] = ()
    """Architectures that it is meant for."""


@specification
class TunerSpec(Spec):
    """`impl` is a `swift.api.Tuner`."""

    kind: ClassVar[str] = "tuner"

    artifact: Literal["adapter", "model"] = "adapter"
    """What `save` writes: an adapter on top of the base, or a whole model folder."""
    mergeable: bool = False
    """`merge` gives a plain model that answers as the tuned one."""
    identity_at_init: bool = False
    """The tuned model answers exactly as the base before the first step."""
    switchable: bool = False
    """`disabled` gives the base's answers back, so that the model can be its own reference."""
    trainable: Literal["low-rank", "all", "part"] = "low-rank"
    """How much trains: all weights of the model; or not all, by low-rank factors or else (part): these two are words for people
    and conditions, which no test tells apart."""
    learning_rate: float = 1e-4
    """Default when the user gives none."""


@specification
class ObjectiveSpec(Spec):
    """`impl` is a `swift.api.Objective`."""

    kind: ClassVar[str] = "objective"

    chat_template: bool = True
    """Rows are conversations that go through the chat template."""
    columns: tuple[str, ...] = ("messages",)
    """Parts of a record that `encode` needs."""
    verbs: tuple[str, ...] = ()
    """Commands that stand for `swift train --objective NAME`."""
    requires_reference: bool = False
    """Needs a frozen reference model."""
    learning_rate_factor: float = 1.0
    """The default learning rate is the tuner's times this."""


@specification
class ParallelSpec(Spec):
    """`impl` is a `swift.api.Strategy`."""

    kind: ClassVar[str] = "parallel"

    multi_process: bool = False
    """Works over more than one process."""
    launcher: str = ""
    """Launcher used for more than one process."""
    shards: tuple[str, ...] = ()
    """What is split over ranks: any of "weights", "gradients", "optimizer", "activations"."""


@specification
class DeviceSpec(Spec):
    """`impl` is a `swift.api.Device`; `probe` is `"module:function"` that answers without torch in under 50 ms."""

    kind: ClassVar[str] = "device"

    probe: str = ""
    """`"module:function"` that answers with a `DeviceInfo` or None, without torch, in under 50 ms."""
    priority: int = 0
    """`--device auto` takes the present device with the highest priority."""


@specification
class QuantizerSpec(Spec):
    """Quantization of weights, on load or on export."""

    kind: ClassVar[str] = "quantizer"

    bits: tuple[int, ...] = ()
    """Bits per weight that can be chosen."""
    trainable: bool = False
    """Gradients flow through the quantized base, so that adapters can be trained over it."""


@specification
class EngineSpec(Spec):
    """`impl` is a `swift.api.Engine`."""

    kind: ClassVar[str] = "engine"

    streaming: bool = False
    """`stream` gives text as it is made."""
    multi_adapter: bool = False
    """Serves several adapters at once."""
    in_process: bool = True
    """Computes in Swift's own process."""


@specification
class OptimizerSpec(Spec):
    """`impl` is a `swift.api.OptimizerFactory`."""

    kind: ClassVar[str] = "optimizer"

    state_bytes_per_parameter: float = 8.0
    """Bytes of state per trained parameter in float32, for the memory estimate (AdamW: 8)."""
    fixed_state: bool = False
    """The state takes that much whatever the dtype of the parameters; False: it has their dtype."""


@specification
class LossSpec(Spec):
    """A loss function that an objective may take by name."""

    kind: ClassVar[str] = "loss"


@specification
class RewardSpec(Spec):
    """A reward function."""

    kind: ClassVar[str] = "reward"


@specification
class MetricSpec(Spec):
    """A metric."""

    kind: ClassVar[str] = "metric"


@specification
class HubSpec(Spec):
    """`impl` is a `swift.api.Hub`."""

    kind: ClassVar[str] = "hub"

    prefix: str = ""
    """Short prefix of ids, e.g. "hf" for `hf::org/name`."""
    priority: int = 0
    """Ids without a prefix are looked up at the hub with the highest one."""


@specification
class TrackerSpec(Spec):
    """`impl` is a `swift.api.Tracker`."""

    kind: ClassVar[str] = "tracker"


@specification
class EvaluatorSpec(Spec):
    """A benchmark."""

    kind: ClassVar[str] = "evaluator"


@specification
class LauncherSpec(Spec):
    """`impl` is a `swift.api.Launcher`."""

    kind: ClassVar[str] = "launcher"


@specification
class ExporterSpec(Spec):
    """`impl` is a `swift.api.Exporter`."""

    kind: ClassVar[str] = "exporter"


@specification
class CommandSpec(Spec):
    """A verb of the command line. `impl` is `"module:main"`, called as `main(argv: list[str]) -> int`."""

    kind: ClassVar[str] = "command"

    group: str = "Plugins"
    """Heading under which `swift --help` lists it."""
    help: str = ""
    """Full help text, shown by `swift NAME --help` without importing `impl`. Empty passes --help on."""


@specification
class RuleSpec(Spec):
    """Needs and clashes about components that this plugin did not write. Has no `impl`."""

    kind: ClassVar[str] = "rule"


SPECS: tuple[type[Spec], ...] = (
    ModelSpec, DatasetSpec, TaskSpec, TemplateSpec, TunerSpec, ObjectiveSpec, ParallelSpec, DeviceSpec, QuantizerSpec,
    EngineSpec, OptimizerSpec, LossSpec, RewardSpec, MetricSpec, HubSpec, TrackerSpec, EvaluatorSpec, LauncherSpec,
    ExporterSpec, CommandSpec, RuleSpec,
)  # fmt: skip
KINDS: dict[str, type[Spec]] = {spec.kind: spec for spec in SPECS}


def plural(kind: str) -> str:
    """`tuner` -> `tuners`; the word in hook names, `swift list` and docs."""
    return "losses" if kind == "loss" else "parallels" if kind == "parallel" else kind + "s"
