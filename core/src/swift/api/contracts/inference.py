"""What answers: requests, results and engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.api.contracts.devices import Device
from swift.api.contracts.models import LoadedModel
from swift.errors import Unsupported


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
