"""Text and conversations to token ids and loss weights, with the tokenizer's own chat template. Right of the torch line."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from swift.api.contracts import Encoder, Example, Record
from swift.data.sources import DatasetRegistry
from swift.data.templates import template_text
from swift.errors import DataError, ModelError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError)
_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
_PROBE = "\u2063probe"
REWRITES = (
    "the chat template rewrites earlier turns (as thinking templates do when they strip reasoning): there, only the turns "
    "that stand in the text as the model would have written them are trained on"
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; `spans` are (start, stop, weight) in characters of what is trained on."""

    text: str
    spans: list[tuple[int, int, float]]


class ChatEncoder(Encoder):
    """Encodes with a tokenizer and its chat template.

    Ids are those of `tokenizer.apply_chat_template(messages, tools=...)`, exactly. Loss weights are 1 on what the assistant
    says, up to and with its end-of-turn token, or what the message's `loss_weight` says. Where the template marks that
    with `{% generation %}`, the marks count; else each turn is located by rendering the conversation up to it, and only
    where that is a prefix of the whole text.

    Args:
        tokenizer: A transformers tokenizer.
        template: auto is the tokenizer's own; else a .jinja file, or a template plugin's name.
        system: System message for conversations that have none.
        options: Variables handed to the template.
        registry: Looks up template plugins.

    Raises:
        ConfigError: No such template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str = "auto",
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        registry: DatasetRegistry | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = template_text(template, registry)
        self.system = system
        self.options = dict(options or {})
        self.counters: Counter[str] = Counter()
        self._prepared: dict[int | str, tuple[Any, Example | DataError]] = {}

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was met while encoding."""
        return [f"{text} ({count} rows)" for text, count in self.counters.items()]

    # -------------------------------------------------------------------------------------------------------------- contract

    def chat(self, record: Record) -> Example:
        """Raises `DataError` for a conversation that the template refuses, `ModelError` where there is no template."""
        prepared, example = self._prepared.pop(id(record), (None, None))
        if prepared is not record or example is None:
            rendered = self._render(record)
            example = self._encode_rendered([rendered])[0]
        if isinstance(example, DataError):
            raise example
        return example

    def text(self, text: str) -> Example:
        _, example = self._prepared.pop(text, (None, None))
        if example is None:
            example = self._encode_texts([text])[0]
        return example  # type: ignore[return-value]

    def prepare(self, records: Sequence[Record]) -> None:
        """Tokenize many records in one call; `chat` and `text` then answer for them from memory."""
        self._prepared.clear()
        rendered: list[tuple[Record, Rendered]] = []
        for record in records:
            if record.get("messages"):
                try:
                    rendered.append((record, self._render(record)))
                except DataError as error:
                    self._prepared[id(record)] = (record, error)
        for (record, _), example in zip(rendered, self._encode_rendered([r for _, r in rendered]), strict=True):
            self._prepared[id(record)] = (record, example)
        texts = [r["text"] for r in records if "messages" not in r and isinstance(r.get("text"), str)]
        for text, example in zip(texts, self._encode_texts(texts), strict=True):
            self._prepared[text] = (text, example)

    def digest(self) -> str:
        tokenizer = self.tokenizer
        if tokenizer.is_fast:
            state = tokenizer.backend_tokenizer.to_str()
            vocabulary = state[state.index('"added_tokens"') :]  # before it stands padding, which every call may change
        else:
            vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__qualname__
        parts = [
            vocabulary, tokenizer.chat_template, self.chat_template, self.system, self.options, tokenizer.special_tokens_map,
            tokenizer.init_kwargs.get("add_bos_token"), tokenizer.init_kwargs.get("add_eos_token"),
            transformers.__version__, tokenizers.__version__, Path(__file__).read_text(encoding="utf-8"),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}, "counters": Counter()}

    # ------------------------------------------------------------------------------------------------------------- rendering

    def template(self, tools: Any = None) -> str:
        """Text of the template in use. Raises `ModelError` where there is none."""
        if self.chat_template is not None:
            return self.chat_template
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {self.tokenizer.name_or_path or 'this model'} has no chat template, so conversations "
                "cannot be rendered (it seems to be a base model)",
                fix="--template FILE.jinja, or a template of `swift list templates`; or train on plain text with swift pt",
            )
        return self.tokenizer.get_chat_template(None, tools)

    def render(self, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, prompt: bool = False, **options: Any) -> str:
        """The text of `messages`; `prompt` adds the header of the assistant's turn. Raises `DataError` where it is refused."""
        template = self.template(tools)
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=tools, chat_template=template, tokenize=False, add_generation_prompt=prompt,
                **{**self.options, **options},
            )  # fmt: skip
        except _TEMPLATE_FAULTS as error:
            raise _refused(error) from error

    def _render(self, record: Record) -> Rendered:
        if media := [name for name in ("images", "videos", "audios") if record.get(name)]:
            raise DataError(f"the row has {', '.join(media)}; this model is trained on text only",
                            fix="take a dataset without media, or a multimodal model")  # fmt: skip
        messages = [{key: m[key] for key in _MESSAGE_KEYS if key in m} for m in record.get("messages", ())]
        if not messages:
            raise DataError("the row has no messages", fix="text rows are for swift pt")
        weights = [float(m.get("loss_weight", 1.0)) if m["role"] == "assistant" else 0.0 for m in record["messages"]]
        if self.system is not None and messages[0]["role"] not in ("system", "developer"):
            messages.insert(0, {"role": "system", "content": self.system})
            weights.insert(0, 0.0)
        tools = record.get("tools") or None
        options = record.get("chat_template_kwargs") or {}
        if _GENERATION.search(self.template(tools)):
            return self._marked(messages, weights, tools, options)
        return self._located(messages, weights, tools, options)

    def _marked(self, messages: list[dict[str, Any]], weights: list[float], tools: Any, options: Mapping[str, Any]) -> Rendered:
        """Spans from the template's own `{% generation %}` marks."""
        variables = {**self.tokenizer.special_tokens_map, **self.options, **options}
        try:
            texts, marks = render_jinja_template(
                conversations=[messages], tools=tools, chat_template=self.template(tools), return_assistant_tokens_mask=True,
                add_generation_prompt=False, **variables,
            )  # fmt: skip
        except _TEMPLATE_FAULTS as error:
            raise _refused(error) from error
        spoken = [w for w, m in zip(weights, messages, strict=True) if m["role"] == "assistant"]
        if len(spoken) != len(marks[0]):
            if len(set(spoken)) > 1:
                raise DataError(f"the chat template marks {len(marks[0])} turns of {len(spoken)}: whose loss weight is which?")
            spoken = spoken[:1] * len(marks[0])
        return Rendered(texts[0], [(start, stop, w) for (start, stop), w in zip(marks[0], spoken, strict=True)])

    def _located(
        self, messages: list[dict[str, Any]], weights: list[float], tools: Any, options: Mapping[str, Any]
    ) -> Rendered:
        """Spans by rendering up to each turn; a turn counts where that is a prefix of the whole text."""
        text = self.render(messages, tools=tools, **options)
        spans = []
        unproven = 0
        for i, weight in enumerate(weights):
            if not weight:
                continue
            upto = text if i == len(messages) - 1 else self.render(messages[: i + 1], tools=tools, **options)
            start = self._header(messages[:i], upto, tools, options) if text.startswith(upto) else None
            if start is None:
                unproven += 1
                continue
            spans.append((start, start + len(upto[start:].rstrip()), weight))
        if unproven:
            if not spans:
                raise DataError(
                    "the chat template renders the prompt differently once the answer is there, so that no turn of the "
                    "assistant can be located",
                    fix="leave the system message away (some templates drop it), or mark the turns with {% generation %}",
                )
            self.counters[REWRITES] += 1
        return Rendered(text, spans)

    def _header(self, before: list[dict[str, Any]], upto: str, tools: Any, options: Mapping[str, Any]) -> int | None:
        """Where in `upto` the assistant begins to speak."""
        if before:
            prompt = self.render(before, tools=tools, prompt=True, **options)
            if upto.startswith(prompt):
                return len(prompt)
        # The generation prompt holds what the finished turn does not (an opened <think>), or there is nothing before:
        # what is common to this turn and to one that says something else is the header.
        probe = self.render([*before, {"role": "assistant", "content": _PROBE}], tools=tools, **options)
        common = _common(upto, probe)
        plain = self.render(before, tools=tools, **options) if before else ""
        return common if upto.startswith(plain) and common >= len(plain) else None

    # ------------------------------------------------------------------------------------------------------------ tokenizing

    def _encode_rendered(self, rendered: list[Rendered]) -> list[Example]:
        if not rendered:
            return []
        if not self.tokenizer.is_fast:
            return [self._encode_slow(r) for r in rendered]
        batch = self.tokenizer(
            [r.text for r in rendered],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        examples = []
        for r, ids, offsets in zip(rendered, batch["input_ids"], batch["offset_mapping"], strict=True):
            places = np.asarray(offsets, np.int64).reshape(-1, 2)
            weights = np.zeros(len(ids), np.float32)
            for start, stop, weight in r.spans:
                # A whitespace token in front of the span may have been trimmed to the empty (start, start): the second
                # condition leaves it out.
                inside = (places[:, 0] >= start) & (places[:, 1] > start) & (places[:, 0] < stop)
                weights[inside] = weight
            examples.append({"input_ids": ids, "loss_weight": weights.tolist()})
        return examples

    def _encode_slow(self, rendered: Rendered) -> Example:
        """Without offsets: the tokens of each prefix must be a prefix of the tokens of the whole."""
        ids = self.tokenizer(rendered.text, add_special_tokens=False, verbose=False)["input_ids"]
        weights = [0.0] * len(ids)
        for start, stop, weight in rendered.spans:
            bounds = []
            for position in (start, stop):
                head = self.tokenizer(rendered.text[:position], add_special_tokens=False, verbose=False)["input_ids"]
                if ids[: len(head)] != head:
                    raise DataError("the tokenizer joins characters of the prompt and the answer, and gives no offsets",
                                    fix="use the model's fast tokenizer")  # fmt: skip
                bounds.append(len(head))
            weights[bounds[0] : bounds[1]] = [weight] * (bounds[1] - bounds[0])
        return {"input_ids": ids, "loss_weight": weights}

    def _encode_texts(self, texts: list[str]) -> list[Example]:
        if not texts:
            return []
        eos = self.tokenizer.eos_token_id
        rows = self.tokenizer(texts, add_special_tokens=True, return_attention_mask=False, verbose=False)["input_ids"]
        ends = [ids if eos is None or ids[-1:] == [eos] else [*ids, eos] for ids in rows]
        return [{"input_ids": ids, "loss_weight": [1.0] * len(ids)} for ids in ends]


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _refused(error: Exception) -> DataError:
    return DataError(f"the chat template refuses the conversation: {error}", fix="change the row's roles, or the template")
