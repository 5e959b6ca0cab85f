"""Answering from Python, by ms-swift's names: `TransformersEngine`, `InferRequest`, `RequestConfig`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from swift.api.contracts.inference import Generation, GenerationResult
from swift.cli.infer import settings_by_owner
from swift.config.loader import load
from swift.data.formats.media_items import fit_tags, media_list
from swift.data.media import resolve_media
from swift.data.media_rows import with_files
from swift.errors import ConfigError, Unsupported
from swift.facade import adapters_here, take_live
from swift.plugins.loading import load_object
from swift.plugins.registry import discover


@dataclass
class InferRequest:
    """One conversation to answer: OpenAI messages."""

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Any] = ()
    audios: Sequence[Any] = ()
    videos: Sequence[Any] = ()
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass
class RequestConfig:
    """How to decode. temperature 0 (or None) always takes the likeliest token."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    stream: bool = False
    num_beams: int = 1
    n: int = 1
    logprobs: bool = False

    def generation(self) -> Generation:
        """Raises `Unsupported` for what no engine does yet."""
        for name, off in (("num_beams", 1), ("n", 1), ("logprobs", False)):
            if getattr(self, name) != off:
                raise Unsupported(f"RequestConfig: {name}={getattr(self, name)} is not built yet", fix=f"leave {name} out")
        chosen: dict[str, Any] = {
            "max_new_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p,
            "top_k": None if (self.top_k or 0) < 0 else self.top_k, "repetition_penalty": self.repetition_penalty,
            "seed": self.seed, "stop": tuple(self.stop),
        }  # fmt: skip
        return Generation(**{name: value for name, value in chosen.items() if value is not None})


@dataclass
class Message:
    content: str
    role: str = "assistant"


@dataclass
class Choice:
    """`message` of a whole answer; `delta` of a piece of one."""

    index: int
    message: Message | None = None
    delta: Message | None = None
    finish_reason: str | None = None


@dataclass
class Usage:
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Response:
    """An answer, in the shape of OpenAI's."""

    model: str
    choices: list[Choice]
    usage: Usage | None = None
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))


class TransformersEngine:
    """A loaded model that answers requests in batches.

    Args:
        model: A run directory, a model or adapter folder, a catalog name or a hub id; or a model object of transformers.
        tokenizer: Of a model object that does not say from which folder it is.
        adapters: Adapter that answers: a run directory or a folder in PEFT's format. Several by name: {"a": "runs/a"};
            `infer(..., adapter="a")` chooses.
        max_batch_size: Requests at once.
        **values: Further keywords of `swift infer`: dtype, attention, device, system, template, ...

    Raises:
        SwiftError: It cannot be loaded.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        *,
        adapters: Any = None,
        max_batch_size: int = 1,
        torch_dtype: Any = None,
        tokenizer: Any = None,
        **values: Any,
    ) -> None:
        registry = discover()
        base, live = "", None
        if not isinstance(model, (str, Path)):
            live = take_live(model, tokenizer, adapters_here())
            model = live.folder
        if isinstance(adapters, Mapping):
            values["adapters"] = {str(name): str(path) for name, path in adapters.items()}
        elif adapters:
            several = [adapters] if isinstance(adapters, str) or not isinstance(adapters, Sequence) else list(adapters)
            if len(several) > 1:
                raise ConfigError("several adapters have names", fix='adapters={"a": "runs/a", "b": "runs/b"}')
            base, model = str(model), several[0]
        if torch_dtype is not None:
            values["dtype"] = str(torch_dtype).removeprefix("torch.")
        given = {"engine": self.name, **values, **({"model": base} if base else {})}
        resolved = load("infer", values=given, registry=registry, required=())
        self.model_name = str(base or model)
        self.max_batch_size = max_batch_size
        self._stack = ExitStack()
        opened = load_object("swift.inference.open:open_model")(
            str(model),
            sections=resolved.sections,
            registry=registry,
            settings=settings_by_owner(resolved),
            loaded=live.loaded if live is not None else None,
        )
        self._open = self._stack.enter_context(opened)

    def infer(
        self, infer_requests: Sequence[Any], request_config: RequestConfig | None = None, *, adapter: str = "", **_: Any
    ) -> list[Any]:
        """One `Response` per request, in order; with `RequestConfig(stream=True)` one iterator of pieces per request."""
        config = request_config or RequestConfig()
        requests = [self._request(request, config.generation(), adapter) for request in infer_requests]
        if config.stream:
            return [self._stream(request) for request in requests]
        answers: list[Any] = [None] * len(requests)
        for start in range(0, len(requests), self.max_batch_size):
            part = requests[start : start + self.max_batch_size]
            for index, result in self._open.engine.generate(part):
                answers[start + index] = self._response(result)
        return answers

    def _request(self, request: Any, generation: Generation, adapter: str) -> Any:
        request = InferRequest(**request) if isinstance(request, Mapping) else request
        media = [name for name in ("audios", "videos") if getattr(request, name, None)]
        if media:
            raise Unsupported(f"{' and '.join(media)} in a request: answering takes text and images yet", fix="leave them out")
        messages = [dict(message) for message in request.messages]
        if getattr(request, "images", None):
            record = {"messages": messages, "images": media_list(list(request.images), "images")}
            fit_tags(record, [messages], strict=True)
            messages = with_files(resolve_media(record, base=Path.cwd()))
        return self._open.request(tuple(messages), generation, adapter=adapter, tools=tuple(request.tools or ()))

    def _response(self, result: GenerationResult) -> Response:
        choice = Choice(0, message=Message(result.text), finish_reason=result.finish_reason)
        return Response(self.model_name, [choice], Usage(result.prompt_tokens, result.completion_tokens))

    def _stream(self, request: Any) -> Iterator[Response]:
        for piece in self._open.stream(request):
            yield Response(self.model_name, [Choice(0, delta=Message(piece))])

    def close(self) -> None:
        """Free the model."""
        self._stack.close()

    def __enter__(self) -> TransformersEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


PtEngine = TransformersEngine
