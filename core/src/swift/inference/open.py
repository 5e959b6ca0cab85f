"""Opening a model to answer with, and answering: what `swift infer` and `swift chat` do, and Python can do too.

with open_model("runs/a", sections=..., registry=...) as model:
    print(model.ask([{"role": "user", "content": "Who are you?"}]).text)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from swift.api import (
    Device,
    Engine,
    EngineContext,
    Generation,
    GenerationRequest,
    GenerationResult,
    LoadedModel,
    LoadRequest,
    ModelLoader,
    Tuner,
)  # fmt: skip
from swift.errors import ModelError, PluginNotFound, Unsupported
from swift.inference.source import Source, has_tokenizer, resolve_source
from swift.plan.plan import Component
from swift.plugins.devices import choose_device
from swift.plugins.loading import component_of, instantiate


@dataclass
class OpenModel:
    """A loaded model behind an engine, with the run's way of talking to it."""

    source: Source
    engine: Engine
    streams: bool
    """The engine gives text out as it is made."""

    def request(
        self, messages: Sequence[Mapping[str, Any]], generation: Generation, *, adapter: str = "", tools: Sequence[Any] = ()
    ) -> GenerationRequest:
        """Messages as the model was trained to see them: with the system message where there is none, through the template.

        For a model of plain text the contents are joined and continued.
        """
        if not self.source.chat:
            text = "\n".join(str(m["content"]) for m in messages)
            return GenerationRequest(prompt=text, generation=generation, adapter=adapter)
        if self.source.system and not any(m["role"] == "system" for m in messages):
            messages = [{"role": "system", "content": self.source.system}, *messages]
        return GenerationRequest(
            messages=tuple(messages), tools=tuple(tools), generation=generation, adapter=adapter,
            template_options=self.source.template_options,
        )  # fmt: skip

    def overflowed(self, result: GenerationResult) -> bool:
        """The prompt alone fills the model's context."""
        return result.finish_reason == "length" and result.completion_tokens == 0

    def ask(self, messages: Sequence[Mapping[str, Any]], generation: Generation | None = None) -> GenerationResult:
        return next(iter(self.engine.generate([self.request(messages, generation or Generation())])))[1]

    def stream(self, request: GenerationRequest) -> Generator[str, None, GenerationResult | None]:
        """Pieces of the answer, whole at once where the engine cannot stream. Returns the result, where the engine tells it."""
        if not self.streams:
            result = next(iter(self.engine.generate([request])))[1]
            yield result.text
            return result
        pieces: Any = self.engine.stream(request)  # a generator's return value is not part of Iterator's type
        return (yield from pieces)


@contextmanager
def open_model(
    given: str | Path,
    *,
    sections: Mapping[str, Any],
    registry: Any,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    source: Source | None = None,
    loaded: Callable[[], LoadedModel] | None = None,
) -> Iterator[OpenModel]:
    """Load a run, model, adapter, catalog name or hub id behind an engine.

    Args:
        given: As the user wrote it; ignored where `source` is decided already.
        sections: `model`, `engine`, `device` and `template` of the config.
        settings: Settings of components by `kind:name`, e.g. {"engine:transformers": {...}}.
        loaded: Gives a model that is loaded already, and was made from the source.

    Raises:
        SwiftError: As `resolve_source`; `ModelError` where weights, tokenizer and adapter do not fit each other.
    """
    source = source or resolve_source(str(given), sections=sections, registry=registry)
    settings = settings or {}
    device = open_device(sections["device"].name, registry, settings)
    entry = choose_engine(sections["engine"].name, registry)
    if source.adapters and not entry.spec.multi_adapter:
        raise Unsupported(
            f"engine {entry.spec.name} serves one adapter only", fix="`swift list engines` shows which serve several"
        )
    context = EngineContext(
        model_folder=source.model_folder,
        device=device,
        load=loaded or (lambda: load(source, device)),
        adapters=source.adapters,
        chat_template=source.chat_template,
        dtype=source.dtype,
    )
    engine: Engine = instantiate(with_settings(entry, settings), context)
    try:
        yield OpenModel(source, engine, entry.spec.streaming)
    finally:
        engine.close()


def load(source: Source, device: Device, *, with_adapter: bool = True) -> LoadedModel:
    """The model in evaluation mode on its device, the adapter (if any) on top, with the tokenizer of training.

    Raises:
        ModelError: As the loader; or the adapter belongs to another model.
    """
    loader: ModelLoader = instantiate(source.loader)
    torch_device = device.setup(0)
    loaded = loader.load(
        LoadRequest(
            folder=source.model_folder, device=device, dtype=source.dtype, attention=source.attention, init=source.init,
            trust_remote_code=source.trust_remote_code, training=False, seed=source.seed,
        )
    )  # fmt: skip
    folder = source.tokenizer_folder
    if folder is not None and folder != source.model_folder and has_tokenizer(folder):
        loaded.tokenizer = load_tokenizer(loader, folder, trust_remote_code=source.trust_remote_code)
    if loaded.processor is not None and folder is not None:  # as it was in training, with the sizes of images of that time
        loaded.processor = loader.load_processor(
            source.model_folder, loaded.tokenizer, files=folder if any(folder.glob("*processor_config.json")) else None,
            trust_remote_code=source.trust_remote_code, **source.pixels,
        )  # fmt: skip
    if with_adapter and source.adapter is not None and source.tuner is not None:
        tuner: Tuner = instantiate(source.tuner)
        loaded.model = tuner.load(loaded.model, source.adapter)
    loaded.model.to(torch_device).eval()
    device.choose_kernels({parameter.dtype for parameter in loaded.model.parameters()})
    if source.chat_template is not None:
        loaded.tokenizer.chat_template = source.chat_template
    add_stop_ids(loaded)
    return loaded


def load_tokenizer(loader: ModelLoader, folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, or one beside an adapter, where there is no config.json. Raises `ModelError`."""
    if (folder / "config.json").is_file():
        return loader.load_tokenizer(folder, trust_remote_code=trust_remote_code)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}", fix="save the adapter again") from error


def add_stop_ids(loaded: LoadedModel) -> None:
    """Have answers end where turns end in the chat template too.

    A base model tuned on ChatML says `<|im_end|>` while its generation config names `<|endoftext|>`: without this it never
    stops, here or, once exported, elsewhere.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    config = getattr(model, "generation_config", None) or GenerationConfig()
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    wanted = [i for i in dict.fromkeys([*known, tokenizer.eos_token_id, end_of_turn(tokenizer)]) if i is not None]
    if wanted and wanted != known:
        config.eos_token_id = wanted if len(wanted) > 1 else wanted[0]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an assistant's words, if there is one."""
    if not tokenizer.chat_template:
        return None
    probe = "swiftprobe"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": probe}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.TemplateError, ValueError, TypeError, KeyError):
        return None
    _, found, tail = text.rpartition(probe)
    ids = tokenizer(tail.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    return ids[0] if ids and ids[0] in special else None


def open_device(name: str, registry: Any, settings: Mapping[str, Mapping[str, Any]]) -> Device:
    entry, _ = choose_device(registry, name)
    return instantiate(with_settings(entry, settings))


def with_settings(entry: Any, settings: Mapping[str, Mapping[str, Any]]) -> Component:
    return component_of(entry, dict(settings.get(f"{entry.kind}:{entry.name}", {})))


def choose_engine(name: str, registry: Any) -> Any:
    """`auto` is the engine that runs in this process and streams; there is one in every default installation."""
    if name != "auto":
        return registry.find("engine", name)
    entries = registry.entries("engine")
    if not entries:
        raise PluginNotFound("no inference engine is installed", fix="pip install swift-llm-engine-transformers")
    return min(entries, key=lambda e: (not e.spec.in_process, not e.spec.streaming))


def generation_of(section: Any) -> Generation:
    return Generation(
        max_new_tokens=section.max_new_tokens, temperature=section.temperature, top_p=section.top_p, top_k=section.top_k,
        repetition_penalty=section.repetition_penalty, stop=tuple(section.stop), seed=section.generation_seed,
    )  # fmt: skip
