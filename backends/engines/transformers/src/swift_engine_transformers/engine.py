"""transformers' `generate` behind Swift's engine contract. B rows of a batch, P padded prompt length, N new tokens."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jinja2
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList

from swift.api import (
    ConfigError,
    DataError,
    Engine,
    EngineContext,
    Generation,
    GenerationRequest,
    GenerationResult,
    ModelError,
    Unsupported,
)  # fmt: skip
from swift_engine_transformers.decoding import GrowingText, Sample, Stop, TokenQueue, cut, held_back, text_of
from swift_engine_transformers.settings import TransformersEngineSettings


@dataclass(frozen=True)
class _Prompt:
    """A request as token ids, with `max_new_tokens` cut to what the context still holds."""

    index: int
    ids: list[int]
    generation: Generation
    adapter: str
    media: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Further inputs of the model. A prompt with any is a batch of its own."""


class TransformersEngine(Engine):
    """Padded batches of requests that decode alike, in this process.

    A prompt that fills the model's whole context gives an empty answer of 0 tokens with `finish_reason` "length", so that a
    batch goes on. `stream` returns the `GenerationResult` as the value of its generator.
    """

    settings: TransformersEngineSettings

    def __init__(self, settings: TransformersEngineSettings, name: str, context: EngineContext) -> None:
        super().__init__(settings, name, context)
        loaded = context.load()
        self.model = loaded.model.eval()
        self.tokenizer = loaded.tokenizer
        self.processor = loaded.processor
        if context.chat_template is not None:
            self.tokenizer.chat_template = context.chat_template
        self.own_adapter = bool(getattr(self.model, "peft_config", None))
        """The model came with the run's adapter on top."""
        self.active = self.model.active_adapter if self.own_adapter else ""
        if context.adapters:
            self._add_adapters()
        self.device = next(self.model.parameters()).device
        config = self.model.config.get_text_config(decoder=True)
        self.context_length: int | None = getattr(config, "max_position_embeddings", None)
        self.stop_ids = stop_ids(self.model.generation_config, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else min(self.stop_ids, default=0)
        # `generate` fills what a call leaves open from the model's own sampling defaults; here the request alone decides.
        self.model.generation_config = GenerationConfig()

    def _add_adapters(self) -> None:
        if "default" in self.context.adapters and self.own_adapter:
            raise ConfigError("the name 'default' is the run's own adapter", fix="give the further adapter another name")
        try:
            from swift_engine_transformers.adapters import add_adapters
        except ImportError as error:
            raise ModelError(
                f"further adapters need PEFT: {error}", fix="pip install 'swift-llm-engine-transformers[adapters]'"
            ) from error
        self.model = add_adapters(self.model, self.context.adapters)
        if self.own_adapter:
            self.model.set_adapter(self.active)

    # ----------------------------------------------------------------------------------------------------------- requests

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, GenerationResult]]:
        prompts = [self.encode(index, request) for index, request in enumerate(requests)]
        for prompt in prompts:
            if self.context_length and len(prompt.ids) >= self.context_length:
                yield prompt.index, GenerationResult("", len(prompt.ids), 0, "length")
        fitting = [p for p in prompts if not self.context_length or len(p.ids) < self.context_length]
        for batch in batches(fitting, self.settings.max_batch_tokens):
            with self._adapter(batch[0].adapter):
                at_once = self.settings.continuous_batching and not batch[0].media
                results = self._continuous(batch) if at_once else self._padded(batch)
            yield from zip((p.index for p in batch), results, strict=True)

    def stream(self, request: GenerationRequest) -> Generator[str, None, GenerationResult]:
        prompt = self.encode(0, request)
        if self.context_length and len(prompt.ids) >= self.context_length:
            return GenerationResult("", len(prompt.ids), 0, "length")
        tokens = TokenQueue()
        stop = Stop(self.tokenizer, prompt.generation.stop, len(prompt.ids), rows=1)

        def work() -> None:
            try:
                with self._adapter(prompt.adapter):
                    self._call([prompt], stop, streamer=tokens)
                tokens.items.put(None)
            except BaseException as error:  # crosses to the reader, which must not wait for ever
                tokens.items.put(error)

        worker = threading.Thread(target=work, name="swift-generate", daemon=True)
        growing = GrowingText(self.tokenizer)
        made: list[int] = []
        shown = 0
        worker.start()
        try:
            while (item := tokens.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                made.extend(item)
                growing.push([i for i in item if i not in self.stop_ids])
                text, stopped = cut(growing.text, prompt.generation.stop)
                safe = len(text) if stopped else len(text) - held_back(text, prompt.generation.stop)
                if safe > shown:
                    piece, shown = text[shown:safe], safe
                    yield piece
        finally:
            stop.cancelled.set()
            worker.join()
        result = self._result(prompt, made, stop.lengths[0])
        if len(result.text) > shown:
            yield result.text[shown:]
        return result

    def close(self) -> None:
        self.model = None
        gc.collect()
        self.context.device.empty_cache()

    # ------------------------------------------------------------------------------------------------------------- inside

    def encode(self, index: int, request: GenerationRequest) -> _Prompt:
        """Raises `ModelError` for an unknown adapter or a missing chat template, `DataError` for messages that it refuses."""
        if request.adapter and request.adapter not in self.context.adapters:
            raise ModelError(
                f"there is no adapter {request.adapter!r}", fix=f"it has: {', '.join(self.context.adapters) or 'none'}"
            )
        media: Mapping[str, torch.Tensor] = {}
        if request.prompt is not None:
            ids = list(self.tokenizer(request.prompt)["input_ids"])
            if ids and ids[-1] == self.tokenizer.eos_token_id and not request.prompt.endswith(self.tokenizer.eos_token):
                ids.pop()  # a tokenizer that closes texts would have the model begin a new one
        else:
            ids, media = self._chat_ids(request)
        if not ids:
            raise DataError("the prompt is empty", fix="give at least one token of text")
        generation = request.generation
        if self.context_length:
            generation = replace(
                generation, max_new_tokens=max(1, min(generation.max_new_tokens, self.context_length - len(ids)))
            )
        return _Prompt(index, ids, generation, request.adapter, media)

    def _chat_ids(self, request: GenerationRequest) -> tuple[list[int], Mapping[str, torch.Tensor]]:
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {self.context.model_folder} has no chat template",
                fix="give one with --template FILE.jinja, or --template none to continue prompts as plain text",
            )
        messages = [dict(m) for m in request.messages]
        prefill = bool(messages) and messages[-1]["role"] == "assistant"
        if self.processor is None and any(part.get("type") != "text" for part in _parts(messages)):
            raise DataError("this model takes text only, and the request has media", fix="leave them out")
        try:
            if self.processor is not None:
                return self.processor.chat(
                    messages, tools=[dict(t) for t in request.tools] or None, add_generation_prompt=not prefill,
                    continue_final_message=prefill, **request.template_options,
                )  # fmt: skip
            encoded = self.tokenizer.apply_chat_template(
                messages, tools=[dict(t) for t in request.tools] or None, add_generation_prompt=not prefill,
                continue_final_message=prefill, tokenize=True, return_dict=True, **request.template_options,
            )  # fmt: skip
        except (jinja2.TemplateError, ValueError, TypeError, KeyError, OSError) as error:
            roles = ", ".join(str(m.get("role")) for m in messages)
            raise DataError(
                f"the chat template refuses this conversation ({roles}): {error}", fix="check the order of its roles"
            ) from error
        return list(encoded["input_ids"]), {}

    def _adapter(self, name: str) -> AbstractContextManager[None]:
        """The adapter that answers while the context is open."""
        if not self.context.adapters:
            return nullcontext()
        if name or self.own_adapter:
            self.model.set_adapter(name or self.active)
            return nullcontext()
        return self.model.disable_adapter()

    def _padded(self, batch: Sequence[_Prompt]) -> list[GenerationResult]:
        stop = Stop(self.tokenizer, batch[0].generation.stop, max(len(p.ids) for p in batch), rows=len(batch))
        new_BN = self._call(batch, stop).tolist()
        return [self._result(p, row, n) for p, row, n in zip(batch, new_BN, stop.lengths, strict=True)]

    def _call(self, batch: Sequence[_Prompt], stop: Stop, streamer: TokenQueue | None = None) -> torch.Tensor:
        """Ids after the prompts, [B, N]; a row that ended early goes on with anything."""
        longest = max(len(p.ids) for p in batch)
        ids_BP = torch.tensor([[self.pad_id] * (longest - len(p.ids)) + p.ids for p in batch], device=self.device)
        mask_BP = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in batch], device=self.device)
        generation = batch[0].generation
        sample = [Sample(generation, [p.generation.seed for p in batch])] if generation.temperature > 0 else []
        output_BS = self.model.generate(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            **{name: value.to(self.device) for name, value in batch[0].media.items()},
            generation_config=self._config(generation),
            logits_processor=LogitsProcessorList(sample),
            stopping_criteria=StoppingCriteriaList([stop]),
            streamer=streamer,
        )
        return output_BS[:, longest:]

    def _config(self, generation: Generation, **values: object) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=generation.max_new_tokens, repetition_penalty=generation.repetition_penalty, use_cache=True,
            eos_token_id=sorted(self.stop_ids) or None, pad_token_id=self.pad_id, **{"do_sample": False, **values},
        )  # fmt: skip

    def _continuous(self, batch: Sequence[_Prompt]) -> list[GenerationResult]:
        generation = batch[0].generation
        if generation.temperature > 0 and any(p.generation.seed is not None for p in batch):
            raise Unsupported(
                "continuous batching cannot sample with a seed", fix="leave out --generation_seed or continuous_batching"
            )
        if not hasattr(self.model, "generate_batch"):
            raise Unsupported(
                "this model has no continuous batching in transformers", fix="--transformers.continuous_batching false"
            )
        sampling = {}
        if generation.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": generation.temperature,
                "top_p": generation.top_p,
                "top_k": generation.top_k,
            }
        outputs = self.model.generate_batch([p.ids for p in batch], self._config(generation, **sampling), progress_bar=False)
        faults = [o.error for o in outputs.values() if o.error]
        if faults or len(outputs) != len(batch):
            raise ModelError(
                f"continuous batching failed: {faults[0] if faults else 'requests got lost'}",
                fix="--transformers.continuous_batching false",
            )
        return [self._result(p, o.generated_tokens, None) for p, o in zip(batch, outputs.values(), strict=True)]

    def _result(self, prompt: _Prompt, made: Sequence[int], stop_length: int | None) -> GenerationResult:
        """Cut what was made at the first end token or stop string.

        Args:
            made: New ids, perhaps with fillers behind the end.
            stop_length: Ids that had been made when a stop string was seen.
        """
        end = next((at for at, token in enumerate(made) if token in self.stop_ids), None)
        ends = [n for n in (None if end is None else end + 1, stop_length) if n is not None]
        length = min([*ends, len(made)])
        ids = [i for i in made[:length] if i not in self.stop_ids]
        text, stopped = cut(text_of(self.tokenizer, ids), prompt.generation.stop)
        return GenerationResult(text, len(prompt.ids), length, "stop" if ends or stopped else "length")


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (part for m in messages if isinstance(m.get("content"), (list, tuple)) for part in m["content"])


def batches(prompts: Sequence[_Prompt], max_tokens: int) -> Iterator[list[_Prompt]]:
    """Prompts that decode alike, of similar length, at most `max_tokens` (padding and answers included) at once."""
    groups: dict[object, list[_Prompt]] = {}
    for prompt in prompts:
        # transformers up to 5.16 at least penalises padding too, so penalised prompts share a batch only where none is padded.
        length = len(prompt.ids) if prompt.generation.repetition_penalty != 1.0 else 0
        alone = prompt.index if prompt.media else None
        groups.setdefault((prompt.adapter, replace(prompt.generation, seed=None), length, alone), []).append(prompt)
    for group in groups.values():
        group.sort(key=lambda p: len(p.ids))
        batch: list[_Prompt] = []
        for prompt in group:
            if batch and (len(batch) + 1) * (len(prompt.ids) + prompt.generation.max_new_tokens) > max_tokens:
                yield batch
                batch = []
            batch.append(prompt)
        yield batch


def stop_ids(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end an answer: of the generation config and of the tokenizer."""
    of_config = config.eos_token_id if config is not None else None
    ids = [*(of_config if isinstance(of_config, (list, tuple)) else [of_config]), tokenizer.eos_token_id]
    return frozenset(int(i) for i in ids if i is not None)
