"""What the implementation of each kind must be able to do. Heavy types appear in annotations only.

Shapes: B rows of a batch, S positions, T label positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from swift.errors import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Record = dict[str, Any]
"""One canonical row: `messages` (list of {"role", "content", ...}) or `text`, plus `tools`, `rejected`, `label`, `images`,
... and `_origin` = "file:line"."""

Example = dict[str, Any]
"""One tokenized row: `input_ids` (list of int) and `loss_weight` (list of float, same length; 0 = not trained on).

A row of several documents that belong together (chosen and rejected answer, query and passages) also has `segments`, the
tokens of each document in order (their sum is the length); the documents stay in one micro-batch and never see each other.
Numbers that belong to the row as a whole (KTO's label, a margin) stand in `values`: {name: float}.
"""


# --------------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class LoadRequest:
    """What a model loader is asked for."""

    folder: Path
    """Local folder with config.json, tokenizer and weights."""
    device: Device
    """`device.setup(local_rank)` gives the torch device."""
    dtype: str = "auto"
    """auto (as in config.json), float32, bfloat16 or float16."""
    attention: str = "auto"
    """auto, or transformers' name of an implementation; another one is refused, not replaced."""
    init: str = "pretrained"
    """pretrained, or random (weights drawn from the config; the folder needs none)."""
    trust_remote_code: bool = False
    """Code inside the folder may run."""
    training: bool = True
    """The mode that the model is returned in."""
    seed: int = 42
    """Of random weights."""
    local_rank: int = 0
    """Number of the device on this machine."""
    autocast: str = ""
    """dtype that products of float32 weights are computed in; "": their own."""
    documents: bool = False
    """Documents will share rows, as in training: an attention that keeps them apart by their bounds is worth while."""


@dataclass
class LoadedModel:
    model: nn.Module
    """On the device, in the mode that was asked for."""
    tokenizer: PreTrainedTokenizerBase
    """As `load_tokenizer` gives it."""
    attention: str
    """The implementation that was taken."""
    keeps_documents_apart: bool
    """Restarting position ids, without a mask, isolate documents that share a row (with bounds, where it takes them)."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user: what was chosen and why."""
    takes_bounds: bool = False
    """The model shall also be called with `Batch.bounds`, under transformers' names (`cu_seq_lens_q`, ...)."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of multimodal models: `vit`, `aligner` and `llm` -> paths of modules. One inside another one belongs to its own part."""
    processor: MediaProcessor | None = None
    """As `load_processor` gives it; None for text models."""


@dataclass(frozen=True)
class Medium:
    """One image (video, audio) as the model takes it."""

    tokens: int
    """Placeholders that stand for it in `input_ids`."""
    tensors: Mapping[str, torch.Tensor]
    """Inputs of the model, e.g. `pixel_values`; those of a batch are joined along their first axis, in order."""


class MediaProcessor(ABC):
    """What a multimodal model makes of media: placeholders in the text, and tensors of a batch. Picklable, as helpers tokenize
    with it; works without weights.

    Attributes:
        kinds: Columns of records that the model takes: images (videos, audios).
        placeholders: Column -> what the chat template writes for one medium. A medium's text consists of such tokens, one
            for each position that it takes, and maybe of others around them.
        placeholder_ids: Their token ids. Nothing is ever trained to write them.
        axes: Position ids that the model has beside those of the text (3 for M-RoPE: time, height, width).
    """

    kinds: tuple[str, ...] = ("images",)
    placeholders: Mapping[str, str]
    placeholder_ids: frozenset[int]
    axes: int = 0

    @abstractmethod
    def text(self, kind: str, size: tuple[int, int]) -> str:
        """What stands in the place of a placeholder, for a medium of (height, width) pixels. Raises `DataError`."""

    @abstractmethod
    def medium(self, kind: str, item: Any) -> Medium:
        """An opened medium (images: upright PIL images) as tensors on the CPU."""

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[list[int], dict[str, torch.Tensor]]:
        """A conversation to be answered, through the chat template: (ids, tensors that `generate` is called with besides).

        Args:
            messages: Contents are text, or lists of {"type": "text", "text": ...} and {"type": "image", "path": ...}.
            options: Of the chat template, and `add_generation_prompt`, `continue_final_message`, `tools`.
        """
        raise Unsupported(f"{type(self).__name__} answers nothing")

    def positions(self, input_ids: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[axes, S] int64 of a document of its own.

        Args:
            input_ids: [S].
            tensors: Of its media, joined.
        """
        raise Unsupported(f"{type(self).__name__} has no further axes")

    @abstractmethod
    def digest(self) -> str:
        """Changes whenever the text of any medium could."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write it and its tokenizer, as transformers reads them."""


class ModelLoader(ABC):
    """Turns a local folder into a model and a tokenizer. Raises `ModelError`."""

    @abstractmethod
    def load(self, request: LoadRequest) -> LoadedModel: ...

    @abstractmethod
    def load_tokenizer(self, folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase: ...

    def load_processor(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False,
        files: Path | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
    ) -> MediaProcessor | None:  # fmt: skip
        """For models that take media, with that tokenizer (which may get the processor's chat template); None for text models.

        Args:
            folder: The model's.
            files: Folder of the processor's files, where it is another one.
            min_pixels, max_pixels: Smaller and larger images are scaled to these; None is the model's own.
        """
        return None

    def adopt(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, request: LoadRequest) -> LoadedModel:
        """A model that the caller holds, as `load` would have returned it: the same object, on the device, in its own dtype.

        Raises:
            ModelError: It is no model that this loader could have loaded.
        """
        raise Unsupported(f"{type(self).__name__} loads folders, no models that are loaded already")


class Hub(ABC):
    """Finds models and datasets by id.

    Args:
        token: Access token; None leaves it to the hub's own environment. It stands in no message.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    @abstractmethod
    def resolve_model(self, repo_id: str, *, revision: str | None = None, weights: bool = True) -> Path:
        """Local folder of the model, downloaded if need be. `weights=False` fetches config and tokenizer only.

        Raises:
            ModelError: Unknown id, no network, or offline and not in the cache.
        """

    @abstractmethod
    def resolve_dataset(self, repo_id: str, *, revision: str | None = None, subset: str = "", split: str = "") -> Path:
        """Local folder of the dataset's files. Raises `DataError`."""


class DatasetReader(ABC):
    """Optional `impl` of a dataset: yields raw rows where files alone do not do."""

    @abstractmethod
    def rows(self, *, seed: int) -> Iterator[Mapping[str, Any]]: ...


# --------------------------------------------------------------------------------------------------------------- tuners


class Tuner(ABC):
    """Decides what is trained and how it is parametrized.

    Args:
        settings: Instance of the spec's settings class.
        name: Name under which the component was chosen (one class may serve several specs).
    """

    frozen: str = ""
    """Regular expression of modules (whole dotted paths) that are not trained: parts of multimodal models (`tuner.freeze_vit`,
    ...). Set before `apply`; what a tuner opens there all the same is closed again."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @classmethod
    def library(cls) -> AdapterLibrary:
        """What Python users prepare models of their own with (`swift.Swift`). Only where there is such a library."""
        raise Unsupported(f"{cls.__name__} has no adapters for models of one's own")

    @abstractmethod
    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Prepare a freshly loaded model for training: `requires_grad` is set on exactly what trains."""

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what `load` (adapter) or a model loader (whole model) reads back, in the field's own format."""

    @abstractmethod
    def restore(self, model: nn.Module, folder: Path) -> None:
        """Put the trained tensors that `save` wrote into a model that `apply` has just prepared, bit by bit (resume)."""

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """For inference: a freshly loaded base plus the saved adapter. Only where the artifact is an adapter.

        Raises:
            ModelError: The adapter does not belong to this model.
        """
        raise Unsupported(f"tuner {self.name} saves whole models; load the folder itself")

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into the base weights and return the plain model. Only where the spec says `mergeable`."""
        raise Unsupported(f"tuner {self.name} cannot be merged")

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        """The base model's answers, for as long as the context is open. Only where the spec says `switchable`."""
        raise Unsupported(f"tuner {self.name} cannot be switched off")

    def parameter_groups(self, model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer: weight decay on matrices, none on vectors (norms, biases)."""
        matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
        groups = [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        ]
        return [g for g in groups if g["params"]]


class AdapterLibrary(ABC):
    """Adapters on models that a Python user holds. Configurations are the library's own objects.

    Models may be any `nn.Module`; what comes back has `print_trainable_parameters` and `save_pretrained`. Faults of a
    configuration are `ConfigError`, of a model `ModelError`.
    """

    @abstractmethod
    def fields(self, method: str) -> frozenset[str]:
        """Names that a method's configuration knows."""

    @abstractmethod
    def config(self, method: str, values: Mapping[str, Any]) -> Any:
        """A configuration, checked."""

    @abstractmethod
    def describe(self, config: Any) -> tuple[str, dict[str, Any]]:
        """(method, the values that say something) of a configuration, or of the one that a prepared model carries.

        Raises:
            ConfigError: It is neither.
        """

    @abstractmethod
    def is_prepared(self, model: nn.Module) -> bool:
        """The model carries adapters of this library already."""

    @abstractmethod
    def prepare(self, model: nn.Module, config: Any, *, adapter_name: str = "default") -> nn.Module:
        """Put a fresh adapter on a plain model, or a further one on a prepared model, and make it the active one."""

    @abstractmethod
    def attach(self, model: nn.Module, folder: Path, *, adapter_name: str = "default", trainable: bool = False) -> nn.Module:
        """Put a saved adapter on, as `prepare`."""

    @abstractmethod
    def activate(self, model: nn.Module, names: Sequence[str]) -> None:
        """Exactly these adapters answer and train."""

    @abstractmethod
    def deactivate(self, model: nn.Module) -> None:
        """The base model answers, until `activate`."""

    @abstractmethod
    def merge(self, model: nn.Module, *, unload: bool) -> nn.Module:
        """Fold the active adapters into the weights; `unload` also takes the adapters away and returns the plain model."""

    @abstractmethod
    def unmerge(self, model: nn.Module) -> nn.Module:
        """Undo a `merge` that did not unload."""


# ----------------------------------------------------------------------------------------------------------- objectives


class Encoder(ABC):
    """Given to `Objective.encode`: text and conversations to token ids, with what is trained on."""

    tokenizer: PreTrainedTokenizerBase

    @abstractmethod
    def chat(self, record: Record) -> Example:
        """The conversation through the chat template; `loss_weight` is 1 on assistant turns (or as the message says)."""

    @abstractmethod
    def text(self, text: str) -> Example:
        """Plain text, with the tokenizer's begin and end tokens; `loss_weight` is 1 everywhere."""


@dataclass
class Batch:
    """One micro-batch on the device.

    Args:
        inputs: What the model is called with: `input_ids` [B, S], `position_ids` [B, S], and `attention_mask` [B, S] only
            for padded batches. Of multimodal models also the tensors of the media, in the order of their placeholders, and
            where the model has further axes of positions, `position_ids` [1 + axes, B, S], those of the text first.
        labels: [B, S], already shifted: `labels[b, s]` is the token that position s must predict, or -100.
        loss_weight: [B, S] float, or None where every label counts 1.
        num_labels: Labels that count, i.e. `(labels != -100).sum()` (a plain int: no device sync).
        num_tokens: Real tokens (without padding).
        documents: [B, S] int64, the number of the document that each position belongs to, counted through the micro-batch
            from 0; -1 on padding. Batches of the loader always have it.
        document_rows: [documents] int64, the row (0, 1, ...) of the micro-batch that each document is part of; documents of
            a row stand in the order of the example's `segments`.
        values: name -> [rows] float32, numbers of the rows; empty unless examples have them.
        num_rows: Rows (examples), of which each may be several documents.
        reference: name -> tensor, what `Objective.reference` found out about the batch; empty where no reference model is used.
        label_positions: [num_labels] int64, positions in the flattened [B * S] that have a label, ascending, so that nobody has
            to ask the device which; None for batches that the loader did not make.
        bounds: [documents + 1] int32, where the documents of the single row end, first 0 (`cu_seqlens` of attention kernels);
            None for padded batches and those that the loader did not make.
        longest_document: Tokens of the longest document; 0: unknown.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    loss_weight: torch.Tensor | None
    num_labels: int
    num_tokens: int
    documents: torch.Tensor | None = None
    document_rows: torch.Tensor | None = None
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    num_rows: int = 0
    reference: dict[str, torch.Tensor] = field(default_factory=dict)
    label_positions: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    longest_document: int = 0


@dataclass
class LossSum:
    """Sum (never mean) over the labels of a micro-batch; the loop divides by the global count of the step."""

    total: torch.Tensor
    """0-d, with a gradient."""
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further sums over labels, logged divided by the same count."""


class Objective(ABC):
    """What is minimised."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def encode(self, record: Record, encoder: Encoder) -> Example:
        """One canonical record to one example. Raises `DataError` with the reason where the record does not fit."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> LossSum:
        """`memory_budget`: bytes that logits may take at once."""

    def reference(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> dict[str, torch.Tensor]:
        """What `loss` reads from `batch.reference`: facts that the frozen reference model gives about the batch.

        Called before `loss`, where the spec says `requires_reference`; without gradients, the model in evaluation mode. It is
        the base model with the adapter switched off, a frozen copy, or another model (`objective.reference`); with
        `--objective.reference none` it is not called.
        """
        return {}

    def count(self, batch: Batch) -> int:
        """By the sum of this over an optimizer step the loop divides the loss: labels, unless overridden (pairs, rows)."""
        return batch.num_labels


# -------------------------------------------------------------------------------------------------- devices and parallel


@dataclass(frozen=True)
class DeviceInfo:
    """Answer of a device's probe, without torch."""

    count: int
    """Devices present."""
    names: tuple[str, ...] = ()
    """One per device, for `swift doctor`."""
    memory: int = 0
    """Bytes of memory of the smallest device."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the plan (`device.dtypes`, ...)."""


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    used: int
    peak: int
    total: int


class Device(ABC):
    """One kind of accelerator."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def setup(self, local_rank: int) -> torch.device:
        """Make this process use device `local_rank` and return it. Raises `ModelError` where it is absent."""

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that can be trained in, best first; checked on the hardware that is there."""

    def fast_dtypes(self) -> tuple[str, ...]:
        """Those of `dtypes()` that the hardware has arithmetic for; the others are slower than float32."""
        return self.dtypes()

    def choose_kernels(self, dtypes: Collection[torch.dtype]) -> str:
        """Make ready for matrix products in these dtypes, once a model is loaded: a device may have better kernels for
        some. Returns what was chosen, in a sentence for the log; "" where nothing was."""
        return ""

    @abstractmethod
    def attention(self) -> tuple[str, ...]:
        """transformers' names of attention implementations, and torch_varlen, best first; loaders pass over those that they,
        the model or the installed packages do not know."""

    @abstractmethod
    def collective_backend(self) -> str:
        """torch.distributed backend."""

    def synchronize(self) -> None:
        """Wait for queued work."""

    def empty_cache(self) -> None:
        """Give unused memory back."""

    def rng_state(self) -> dict[str, torch.Tensor]:
        """State of generators beyond torch's CPU one."""
        return {}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None: ...


class Strategy(ABC):
    """Wraps the trained module for one or many processes.

    The module that is wrapped is the loss itself: `forward(batch) -> LossSum.total` and metrics, so that whatever a
    strategy hooks on `forward` sees the whole computation.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    def __init__(self, settings: Any, name: str, device: Device) -> None:
        self.settings = settings
        self.name = name
        self.device = device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def start(self, *, timeout_s: float) -> torch.device:
        """Join the process group, if any, and return this rank's device."""
        return self.device.setup(self.local_rank)

    @abstractmethod
    def wrap(self, module: nn.Module) -> nn.Module: ...

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        """Open for every micro-batch but the last of a step: gradients stay local."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """`loss` is this rank's share, already divided by the global label count.

        After the last micro-batch, each gradient is the sum of the ranks' shares."""
        loss.backward()

    @abstractmethod
    def clip_gradients(self, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Clip to `max_norm` (0: do not clip) and return the global norm before clipping, a 0-d tensor."""

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Sum over ranks."""
        return list(values)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable object, on every rank."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable object, in rank order, on every rank."""
        return [value]

    def barrier(self) -> None: ...

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes through the block first, then the others."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def unwrapped(self, module: nn.Module) -> AbstractContextManager[nn.Module | None]:
        """The whole module ready to be saved, on rank 0; None elsewhere. A collective: every rank enters."""
        return nullcontext(module if self.is_main else None)

    @abstractmethod
    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        """A collective. Writes into an existing folder; loadable on another number of ranks."""

    @abstractmethod
    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None: ...

    def stop(self) -> None:
        """Leave the process group."""


class OptimizerFactory(ABC):
    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """`groups` carry `params`, `lr` and `weight_decay`."""


class Launcher(ABC):
    """Starts the worker processes of a run and waits for them."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def launch(self, plan_file: Path, *, nproc_per_node: int, nnodes: int, node_rank: int, master_addr: str,
               master_port: int, env: Mapping[str, str]) -> int:  # fmt: skip
        """Run `python -m swift.worker PLAN_FILE` on every rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
        environment) and return the exit code: 0, or the first failing rank's."""


# ------------------------------------------------------------------------------------------------------------- inference


@dataclass(frozen=True)
class Generation:
    """How to decode. Unsupported options raise `Unsupported`; none is ignored."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """1 switches it off."""
    top_k: int = 0
    """0 switches it off."""
    repetition_penalty: float = 1.0
    """1 switches it off."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of it."""
    seed: int | None = None
    """Of sampling; None draws another answer each time."""


@dataclass(frozen=True)
class GenerationRequest:
    """`messages` (through the chat template) or `prompt` (as it is), never both.

    The content of a message is text, or for models that take images a list of {"type": "text", "text": ...} and
    {"type": "image", "path": ...}.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    generation: Generation = field(default_factory=Generation)
    adapter: str = ""
    """Name of a loaded adapter; "" is the run's own model."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template."""


@dataclass(frozen=True)
class GenerationResult:
    text: str
    """Without special tokens and stop strings."""
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    """stop or length. A prompt that leaves no room in the model's context gives "length" and 0 completion tokens."""


@dataclass(frozen=True)
class EngineContext:
    """What an engine may ask core for."""

    model_folder: Path
    """The base model's folder, or the whole model's."""
    device: Device
    load: Callable[[], LoadedModel]
    """In-process engines: the model with the run's adapter on top, in evaluation mode."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Further adapters by name."""
    chat_template: str | None = None
    dtype: str = "auto"


class Engine(ABC):
    def __init__(self, settings: Any, name: str, context: EngineContext) -> None:
        self.settings = settings
        self.name = name
        self.context = context

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, GenerationResult]]:
        """(index of the request, result), as they are ready."""

    def stream(self, request: GenerationRequest) -> Iterator[str]:
        """Pieces that join to the text `generate` would give. Only where the spec says `streaming`.

        Best a generator that returns the `GenerationResult`; a plain iterator leaves token counts untold."""
        raise Unsupported(f"engine {self.name} cannot stream")

    def close(self) -> None:
        """Free what it holds."""


# ---------------------------------------------------------------------------------------------------- trackers, exporters


class Tracker(ABC):
    def __init__(self, settings: Any, name: str, run_dir: Path) -> None:
        self.settings = settings
        self.name = name
        self.run_dir = run_dir

    def start(self, config: Mapping[str, Any]) -> None:
        """The resolved config, without secrets."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, summary: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class ExportContext:
    """A run, opened for export."""

    run_dir: Path
    output: Path
    """A new folder to fill; core renames it into place when `export` returns."""
    tuner: Tuner | None
    """None where the source is a plain model folder."""
    load_tuned: Callable[[], LoadedModel]
    """The run's model with its tuner applied, on the device."""
    load_folder: Callable[[Path], LoadedModel]
    """Loads the written result, for the proof."""
    prompts: Sequence[Record]
    """Held prompts for the proof."""
    max_shard_size: str = "5GB"
    """Of one file of weights, as transformers spells sizes."""
    dtype: str = ""
    """dtype that written weights have; "": as loaded. It differs from that only where the device cannot compute in it."""


@dataclass(frozen=True)
class ExportReport:
    files: tuple[str, ...]
    """Names of what was written, relative to the output."""
    checks: Mapping[str, float] = field(default_factory=dict)
    """What was measured between the source and the result, e.g. `kl_mean`, `logit_max_difference`."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Stated bound for each check; above it core refuses the result unless forced."""


class Exporter(ABC):
    format: ClassVar[str] = ""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def export(self, context: ExportContext) -> ExportReport: ...


CONTRACTS: dict[str, type] = {
    "model": ModelLoader, "dataset": DatasetReader, "tuner": Tuner, "objective": Objective, "parallel": Strategy,
    "device": Device, "engine": Engine, "optimizer": OptimizerFactory, "hub": Hub, "tracker": Tracker,
    "launcher": Launcher, "exporter": Exporter,
}  # fmt: skip
"""Kind -> what `Spec.impl` must be a subclass of."""


def describe(items: Iterable[str]) -> str:
    """`a, b and c`, for messages."""
    words = list(items)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}" if words else "none"
