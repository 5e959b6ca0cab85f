"""What turns a folder into a model, a tokenizer and a processor of media.

Shapes: S positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.api.contracts.devices import Device
from swift.errors import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase


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
