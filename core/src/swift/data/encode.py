"""Text and conversations to token ids and loss weights, with the tokenizer's own chat template. Right of the torch line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from swift.api.contracts.data import Encoder, Example, Record
from swift.api.contracts.models import MediaProcessor
from swift.data import conversations, media_rows, offsets, rendering, tokenizing, turns, words
from swift.data.rendering import ChatTemplate
from swift.data.sources import DatasetRegistry
from swift.data.templates import template_text
from swift.data.tokenizing import SpanTokenizer
from swift.data.turns import History, Rendered, TurnFinder
from swift.errors import DataError

NO_END = "the chat template ends the last answer without a special token, so that the model does not learn to stop"


class ChatEncoder(Encoder):
    """Encodes with a tokenizer and its chat template.

    Ids are those of `tokenizer.apply_chat_template(messages, tools=...)`, exactly. Loss weights are 1 on what the assistant
    says, up to and with its end-of-turn token, or what the message's `loss_weight` says; `TurnFinder` finds it.

    Args:
        tokenizer: A transformers tokenizer.
        template: auto is the tokenizer's own; else a .jinja file, or a template plugin's name.
        system: System message for conversations that have none.
        options: Variables handed to the template.
        registry: Looks up template plugins.
        history: Which of several rounds are trained on. all: every turn that stands in the text as the model would have
            written it. last: what follows the last user's turn. split: as all, and a turn that the template rewrites later
            (a thinking template strips its reasoning) is trained on in a document of its own, which ends with it; the row
            then has `segments`.
        media: Of a model that takes images; ids are then those of its processor, `processor(text=..., images=...)`.

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
        history: History = "all",
        media: MediaProcessor | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, template_text(template, registry), options=options, media=media)
        self.turns = TurnFinder(self.template, system=system, history=history)
        self.span_tokenizer = SpanTokenizer(tokenizer)
        self.counters: Counter[str] = Counter()
        self._prepared_chats: dict[int, tuple[Record, Example | DataError]] = {}
        self._prepared_texts: dict[str, Example] = {}
        self._end_ids: set[int | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared_chats": {}, "_prepared_texts": {}, "counters": Counter()}

    @property
    def chat_template(self) -> str | None:
        """The template that was named; None: the tokenizer's own."""
        return self.template.given

    @property
    def media(self) -> MediaProcessor | None:
        return self.template.media

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """Tokens that stand for media: never trained on, and rows that have them are never cut."""
        return self.media.placeholder_ids if self.media else frozenset()

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was met while encoding."""
        return [f"{text} ({count} rows)" for text, count in self.counters.items()]

    def chat(self, record: Record) -> Example:
        """Raises `DataError` for a conversation that the template refuses, `ModelError` where there is no template."""
        prepared, example = self._prepared_chats.pop(id(record), (None, None))
        if prepared is not record or example is None:
            example = self._encode_rows([self.turns.documents(record, self.counters)])[0]
        if isinstance(example, DataError):
            raise example
        return example

    def text(self, text: str) -> Example:
        example = self._prepared_texts.pop(text, None) or self._encode_texts([text])[0]
        if self.media and not self.placeholder_ids.isdisjoint(example["input_ids"]):
            raise DataError(f"the text holds a word that stands for media ({' '.join(self.media.placeholders.values())})",
                            fix="remove it; media are for conversations (swift sft)")  # fmt: skip
        return example

    def prepare(self, records: Sequence[Record]) -> None:
        """Tokenize many records in one call; `chat` and `text` then answer for them from memory."""
        self._prepared_chats.clear()
        self._prepared_texts.clear()
        rows: list[tuple[Record, list[Rendered]]] = []
        for record in records:
            if record.get("messages"):
                try:
                    rows.append((record, self.turns.documents(record, self.counters)))
                except DataError as error:
                    self._prepared_chats[id(record)] = (record, error)
        for (record, _), example in zip(rows, self._encode_rows([row for _, row in rows]), strict=True):
            self._prepared_chats[id(record)] = (record, example)
        texts = [r["text"] for r in records if "messages" not in r and isinstance(r.get("text"), str)]
        self._prepared_texts.update(zip(texts, self._encode_texts(texts), strict=True))

    def digest(self) -> str:
        tokenizer, template = self.tokenizer, self.template
        if tokenizer.is_fast:
            state = tokenizer.backend_tokenizer.to_str()
            vocabulary = state[state.index('"added_tokens"') :]  # before it stands padding, which every call may change
        else:
            vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__qualname__
        parts = [
            vocabulary, tokenizer.chat_template, template.given, self.turns.system, template.options, self.turns.history,
            tokenizer.special_tokens_map,
            tokenizer.init_kwargs.get("add_bos_token"), tokenizer.init_kwargs.get("add_eos_token"),
            transformers.__version__, tokenizers.__version__,
            *(Path(str(module.__file__)).read_text(encoding="utf-8") for module in _CODE),
        ]  # fmt: skip
        if self.media:
            parts += [self.media.digest(), Path(media_rows.__file__).read_text(encoding="utf-8")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()

    def _encode_rows(self, rows: list[list[Rendered]]) -> list[Example]:
        encoded = iter(self.span_tokenizer.encode([document for row in rows for document in row]))
        examples = [_joined(list(islice(encoded, len(row)))) for row in rows]
        self._check_ends(examples)
        return examples

    def _check_ends(self, examples: list[Example]) -> None:
        if self._end_ids is None:
            self._end_ids = set(self.tokenizer.added_tokens_decoder) | {self.tokenizer.eos_token_id}
        for example in examples:
            weights = example["loss_weight"]
            last = next((i for i in range(len(weights) - 1, -1, -1) if weights[i]), None)
            if last is not None and example["input_ids"][last] not in self._end_ids:
                self.counters[NO_END] += 1

    def _encode_texts(self, texts: list[str]) -> list[Example]:
        eos = self.tokenizer.eos_token_id
        rows = self.span_tokenizer.ids(texts, special=True)
        ends = [ids if eos is None or ids[-1:] == [eos] else [*ids, eos] for ids, _ in rows]
        return [{"input_ids": ids, "loss_weight": [1.0] * len(ids)} for ids in ends]


def _joined(documents: list[Example]) -> Example:
    if len(documents) == 1:
        return documents[0]
    keys = ("input_ids", "loss_weight")
    joined: Example = {key: [x for document in documents for x in document[key]] for key in keys}
    return {**joined, "segments": [len(document["input_ids"]) for document in documents]}


_CODE = (sys.modules[__name__], rendering, turns, tokenizing, conversations, offsets, words)
"""All code that decides what becomes of a text."""
