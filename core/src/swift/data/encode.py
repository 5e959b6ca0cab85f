"""Text and conversations to token ids and loss weights, with the tokenizer's own chat template. Right of the torch line."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import jinja2
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from swift.api.contracts import Encoder, Example, MediaProcessor, Record
from swift.data import conversations, media_rows, offsets, words
from swift.data.conversations import Conversation, Refused, as_object, as_text, with_argument
from swift.data.sources import DatasetRegistry
from swift.data.templates import template_text
from swift.errors import DataError, ModelError

History = Literal["all", "last", "split"]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError)
_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
_PROBE = "\u2063probe"
_USUALLY_SPELLED = 20
"""Rows after which a tokenizer whose tokens mostly do not spell the text is asked for offsets at once."""

REWRITES = (
    "the chat template rewrites earlier turns (as thinking templates do when they strip reasoning): there, only the turns "
    "that stand in the text as the model would have written them are trained on; --template.history split trains on all"
)
SPLIT = (
    "the chat template rewrites earlier turns (as thinking templates do when they strip reasoning): such a conversation became "
    "several documents of one row, so that each turn is trained on after the prompt that the model sees"
)
LAST = "of several rounds only the last one is trained on, as --template.history last says"
NO_END = "the chat template ends the last answer without a special token, so that the model does not learn to stop"
TOOLS_LOST = "the chat template leaves definitions of tools out: the model does not see them"
REASONING_LOST = "the chat template leaves the reasoning of the answer out: it is not learnt"


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
        self.media = media
        self._takes_parts: dict[str, bool] = {}
        self.chat_template = template_text(template, registry)
        self.system = system
        self.options = dict(options or {})
        self.history = history
        self.counters: Counter[str] = Counter()
        self._prepared: dict[int | str, tuple[Any, Example | DataError]] = {}
        self._string_arguments: dict[str, bool] = {}
        self._spelled: Counter[bool] = Counter()
        self._end_ids: set[int | None] | None = None

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """Tokens that stand for media: never trained on, and rows that have them are never cut."""
        return self.media.placeholder_ids if self.media else frozenset()

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was met while encoding."""
        return [f"{text} ({count} rows)" for text, count in self.counters.items()]

    # -------------------------------------------------------------------------------------------------------------- contract

    def chat(self, record: Record) -> Example:
        """Raises `DataError` for a conversation that the template refuses, `ModelError` where there is no template."""
        prepared, example = self._prepared.pop(id(record), (None, None))
        if prepared is not record or example is None:
            example = self._encode_rendered([self._render(record)])[0]
        if isinstance(example, DataError):
            raise example
        return example

    def text(self, text: str) -> Example:
        _, example = self._prepared.pop(text, (None, None))
        if example is None:
            example = self._encode_texts([text])[0]
        if self.media and not self.placeholder_ids.isdisjoint(example["input_ids"]):  # type: ignore[index]
            raise DataError(f"the text holds a word that stands for media ({' '.join(self.media.placeholders.values())})",
                            fix="remove it; media are for conversations (swift sft)")  # fmt: skip
        return example  # type: ignore[return-value]

    def prepare(self, records: Sequence[Record]) -> None:
        """Tokenize many records in one call; `chat` and `text` then answer for them from memory."""
        self._prepared.clear()
        rendered: list[tuple[Record, list[Rendered]]] = []
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
            vocabulary, tokenizer.chat_template, self.chat_template, self.system, self.options, self.history,
            tokenizer.special_tokens_map,
            tokenizer.init_kwargs.get("add_bos_token"), tokenizer.init_kwargs.get("add_eos_token"),
            transformers.__version__, tokenizers.__version__,
            *(Path(str(module.__file__)).read_text(encoding="utf-8") for module in _CODE),
        ]  # fmt: skip
        if self.media:
            parts += [self.media.digest(), Path(media_rows.__file__).read_text(encoding="utf-8")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        made_anew = ("_token_bytes", "_words")
        kept = {name: value for name, value in self.__dict__.items() if name not in made_anew}
        return {**kept, "_prepared": {}, "counters": Counter()}

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
        chat = [{key: value for key, value in m.items() if value is not None} for m in messages]
        chat = self._with_arguments(chat, template)
        return self._run(Conversation(template, tools, options, chat, []), chat, prompt=prompt)

    def _run(self, c: Conversation, messages: Sequence[Mapping[str, Any]], *, prompt: bool = False) -> str:
        """As `apply_chat_template(tokenize=False)`, without what it does to find out what is known here."""
        return self._jinja(c, messages, add_generation_prompt=prompt)[0]

    def _jinja(self, c: Conversation, messages: Sequence[Mapping[str, Any]], **how: bool) -> tuple[str, list[tuple[int, int]]]:
        options = {**self._special_tokens, **self.options, **c.options}
        if self.media:
            messages = self._for_media(c.template, messages, options)
        try:
            if _DIRECT is not None and not c.tools and "documents" not in options:
                return _DIRECT(c.template, messages, options, **how)
            texts, marks = chat_template_utils.render_jinja_template(
                conversations=[messages], tools=c.tools, chat_template=c.template, **options, **how
            )
        except _TEMPLATE_FAULTS as error:
            raise Refused(error) from error
        return texts[0], marks[0] if marks else []

    def _for_media(self, template: str, messages: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Contents as parts, where the template of a multimodal model reads them; else as text with placeholders."""
        if template not in self._takes_parts:
            probe = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
            try:
                text = chat_template_utils.render_jinja_template(conversations=[probe], chat_template=template, **options)[0][0]
            except _TEMPLATE_FAULTS:
                text = ""
            self._takes_parts[template] = _PROBE in text and "'type'" not in text
        assert self.media is not None
        return media_rows.as_parts(messages) if self._takes_parts[template] else media_rows.as_strings(messages, self.media)

    def _with_media(self, documents: list[Rendered], record: Record, marks: int) -> list[Rendered]:
        """Placeholders as long as their media; the last document is the whole conversation."""
        assert self.media is not None
        wanted = [None] * (len(documents) - 1) + [marks]
        return [
            Rendered(*media_rows.expanded(d.text, d.spans, record, self.media, wanted=n))
            for d, n in zip(documents, wanted, strict=True)
        ]

    def _render(self, record: Record) -> list[Rendered]:
        """One document, or several with `history="split"`."""
        media = [name for name in ("images", "videos", "audios") if record.get(name)]
        if media and self.media is None:
            raise DataError(f"the row has {', '.join(media)}; this model is trained on text only",
                            fix="take a dataset without media, or a multimodal model")  # fmt: skip
        messages = [{key: m[key] for key in _MESSAGE_KEYS if m.get(key) is not None} for m in record.get("messages", ())]
        if not messages:
            raise DataError("the row has no messages", fix="text rows are for swift pt")
        weights = [float(m.get("loss_weight", 1.0)) if m["role"] == "assistant" else 0.0 for m in record["messages"]]
        if self.system is not None and messages[0]["role"] not in conversations.SYSTEM_ROLES:
            messages.insert(0, {"role": "system", "content": self.system})
            weights.insert(0, 0.0)
        if self.history == "last":
            asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=0)
            if any(weights[:asked]):
                weights[:asked] = [0.0] * asked
                self.counters[LAST] += 1
        if self.media:
            messages = media_rows.with_marks(messages, record, self.media)
        tools = record.get("tools") or None
        template = self.template(tools)
        messages = self._with_arguments(messages, template)
        given = Conversation(template, tools, record.get("chat_template_kwargs") or {}, messages, weights)
        try:
            documents = self._documents(given)
        except Refused as refused:
            documents = self._mended(given, refused)
        if tools or any("tool_calls" in m for m in messages):
            self._check_tools(documents, tools or [], messages, weights)
        if any("reasoning_content" in m and w for m, w in zip(messages, weights, strict=True)):
            self._check_reasoning(documents, messages, weights)
        if self.media:
            documents = self._with_media(documents, record, media_rows.number_of_marks(messages))
        return documents

    def _documents(self, c: Conversation) -> list[Rendered]:
        if _is_marked(c.template):
            return [self._marked(c)]
        rendered, rewritten = self._located(c)
        documents = [rendered] if rendered.spans else []
        while rewritten and self.history == "split":
            shorter, left = self._located(c.upto(rewritten))
            if not shorter.spans or len(left) == len(rewritten):
                break
            documents.insert(0, shorter)
            rewritten = left
        if not documents and not (c.dropped_system or not rewritten):
            raise Refused(None)
        if rewritten:
            self.counters[REWRITES] += 1
        if len(documents) > 1:
            self.counters[SPLIT] += 1
        return documents or [rendered]

    def _mended(self, given: Conversation, refused: Refused) -> list[Rendered]:
        """What a template refuses for its system message or for the ids of its tool calls, put in the way that it takes."""
        for notes, changed in given.mended(dropped=refused.unlocated):
            try:
                documents = self._documents(changed)
            except Refused as error:
                refused = error  # what the changed conversation still fails for says more
                continue
            if not documents[-1].spans and any(given.weights):
                continue
            for note in notes:
                self.counters[note] += 1
            return documents
        raise refused

    def _marked(self, c: Conversation) -> Rendered:
        """Spans from the template's own `{% generation %}` marks."""
        text, marks = self._jinja(c, c.messages, return_assistant_tokens_mask=True, add_generation_prompt=False)
        spoken = [w for w, m in zip(c.weights, c.messages, strict=True) if m["role"] == "assistant"]
        if len(spoken) != len(marks):
            if len(set(spoken)) > 1:
                raise DataError(f"the chat template marks {len(marks)} turns of {len(spoken)}: whose loss weight is which?")
            spoken = spoken[:1] * len(marks)
        return Rendered(text, [(start, stop, w) for (start, stop), w in zip(marks, spoken, strict=True)])

    def _located(self, c: Conversation) -> tuple[Rendered, list[int]]:
        """Spans by rendering up to each turn, which counts where that is a prefix of the whole text; and the other turns."""
        text = self._run(c, c.messages)
        spans, rewritten = [], []
        for i, weight in enumerate(c.weights):
            if not weight:
                continue
            upto = text if i == len(c.weights) - 1 else self._closed(self._run(c, c.messages[: i + 1]), text)
            start = self._header(c, i, upto) if text.startswith(upto) else None
            if start is None:
                rewritten.append(i)
            else:
                spans.append((start, start + len(upto[start:].rstrip()), weight))
        return Rendered(text, spans), rewritten

    def _closed(self, upto: str, text: str) -> str:
        """`upto` without the eos token that some templates write once, after the end-of-turn token of the last message."""
        eos = self.tokenizer.eos_token
        if text.startswith(upto) or not eos or not upto.rstrip().endswith(eos):
            return upto
        open_end = upto.rstrip().removesuffix(eos)
        return open_end if open_end.rstrip().endswith(tuple(self.tokenizer.get_added_vocab())) else upto

    def _header(self, c: Conversation, i: int, upto: str) -> int | None:
        """Where in `upto` the assistant begins to speak."""
        before = c.messages[:i]
        if before:
            prompt = self._run(c, c.prompt(i), prompt=True)
            if upto.startswith(prompt):
                return len(prompt)
            if c.dropped_system:
                return None
        # The generation prompt holds what the finished turn does not (an opened <think>), or there is nothing before:
        # what is common to this turn and to one that says something else is the header.
        probe = self._run(c, [*before, {"role": "assistant", "content": _PROBE}])
        common = _common(upto, probe)
        plain = self._run(c, before) if before else ""
        return common if upto.startswith(plain) and common >= len(plain) else None

    def _with_arguments(self, messages: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
        """Arguments of tool calls as the template wants them: an object (most do), or its JSON text."""
        if not any("tool_calls" in m for m in messages):
            return messages
        if template not in self._string_arguments:
            self._string_arguments[template] = self._wants_strings(template)
        convert = as_text if self._string_arguments[template] else as_object
        return [
            m if "tool_calls" not in m else {**m, "tool_calls": [with_argument(call, convert) for call in m["tool_calls"]]}
            for m in messages
        ]

    def _wants_strings(self, template: str) -> bool:
        """Whether an object fails or comes out as Python writes it, while its JSON text comes out as it is."""

        def call(arguments: Any) -> str:
            call = {"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            chat: list[dict[str, Any]] = [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            try:
                return self._run(Conversation(template, None, {}, chat, []), chat)
            except DataError:
                return ""

        as_object, as_text = call({"swift_probe": "x"}), call('{"swift_probe": "x"}')
        return ("swift_probe" not in as_object or "'swift_probe'" in as_object) and '{"swift_probe"' in as_text

    def _check_tools(
        self, documents: list[Rendered], tools: list[Any], messages: list[dict[str, Any]], weights: list[float]
    ) -> None:
        """Many templates know no tools, and would train an empty answer where the call stood."""
        text = "\0".join(d.text for d in documents)
        called = [c["function"]["name"] for m, w in zip(messages, weights, strict=True) if w for c in m.get("tool_calls", ())]
        if lost := [name for name in called if name not in text]:
            raise DataError(f"the chat template leaves tool calls out: that of {lost[0]} would not be learnt",
                            fix="--template with one that knows tools (swift list templates)")  # fmt: skip
        if any(tool["function"]["name"] not in text for tool in tools):
            self.counters[TOOLS_LOST] += 1

    def _check_reasoning(self, documents: list[Rendered], messages: list[dict[str, Any]], weights: list[float]) -> None:
        spoken = "\0".join(d.text[start:stop] for d in documents for start, stop, _ in d.spans)
        last = max(i for i, w in enumerate(weights) if w)
        thought = messages[last].get("reasoning_content")
        if isinstance(thought, str) and thought.strip() not in spoken:
            self.counters[REASONING_LOST] += 1

    # ------------------------------------------------------------------------------------------------------------ tokenizing

    def _encode_rendered(self, rows: list[list[Rendered]]) -> list[Example]:
        documents = [document for row in rows for document in row]
        if not documents:
            return []
        encoded = self._encode_fast(documents) if self.tokenizer.is_fast else map(self._encode_slow, documents)
        examples = [_joined(parts) for parts in _grouped(list(encoded), [len(row) for row in rows])]
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

    def _encode_fast(self, documents: list[Rendered]) -> list[Example]:
        """Ids first; weights from the bytes that the tokens stand for, or from offsets where those do not settle it."""
        texts = [d.text for d in documents]
        if not self._reads_bytes():
            return self._encode_by_offsets(documents)
        examples: list[Any] = []
        for document, (ids, anchors) in zip(documents, self._ids(texts, special=False), strict=True):
            weights = self._token_bytes.weights(document.text, ids, document.spans, anchors)
            self._spelled[weights is not None] += 1
            examples.append(None if weights is None else {"input_ids": ids, "loss_weight": weights})
        open_rows = [i for i, example in enumerate(examples) if example is None]
        for i, example in zip(open_rows, self._encode_by_offsets([documents[i] for i in open_rows]), strict=True):
            examples[i] = example
        return examples

    def _reads_bytes(self) -> bool:
        return _is_plain(self.tokenizer) and self._spelled[False] <= max(self._spelled[True], _USUALLY_SPELLED)

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        return dict(self.tokenizer.special_tokens_map)

    @cached_property
    def _token_bytes(self) -> offsets.TokenBytes:
        return offsets.TokenBytes(self.tokenizer.backend_tokenizer)

    @cached_property
    def _words(self) -> words.WordIds | None:
        return words.WordIds.of(self.tokenizer.backend_tokenizer)

    def _ids(self, texts: list[str], *, special: bool) -> Iterator[tuple[list[int], Sequence[offsets.Anchor]]]:
        """As the tokenizer's own call, without offsets and attention masks; with anchors where the ids spell the text."""
        if not _is_plain(self.tokenizer):
            batch = self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
            yield from ((ids, ()) for ids in batch["input_ids"])
            return
        backend = self.tokenizer.backend_tokenizer
        remembered = self._words
        if self.tokenizer.split_special_tokens or (special and backend.num_special_tokens_to_add(False)):
            remembered = None
        known = [remembered.ids(text) if remembered else None for text in texts]
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        others = [text for text, found in zip(texts, known, strict=True) if found is None]
        encodings = iter(backend.encode_batch_fast(others, add_special_tokens=special))
        yield from ((next(encodings).ids, ()) if found is None else found for found in known)

    def _encode_by_offsets(self, documents: list[Rendered]) -> list[Example]:
        if not documents:
            return []
        batch = self.tokenizer(
            [d.text for d in documents], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
            verbose=False,
        )  # fmt: skip
        return [
            {"input_ids": ids, "loss_weight": offsets.weights_by_offsets(places, document.spans)}
            for document, ids, places in zip(documents, batch["input_ids"], batch["offset_mapping"], strict=True)
        ]

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
        rows = self._ids(texts, special=True)
        ends = [ids if eos is None or ids[-1:] == [eos] else [*ids, eos] for ids, _ in rows]
        return [{"input_ids": ids, "loss_weight": [1.0] * len(ids)} for ids in ends]


def _grouped(items: list[Example], sizes: list[int]) -> Iterator[list[Example]]:
    begin = 0
    for size in sizes:
        yield items[begin : begin + size]
        begin += size


def _joined(documents: list[Example]) -> Example:
    if len(documents) == 1:
        return documents[0]
    keys = ("input_ids", "loss_weight")
    joined: Example = {key: [x for document in documents for x in document[key]] for key in keys}
    return {**joined, "segments": [len(document["input_ids"]) for document in documents]}


def _direct() -> Callable[..., tuple[str, list[tuple[int, int]]]] | None:
    """`render_jinja_template` for one conversation of plain data, without its copying of everything: half of its time. None
    where this release of transformers is built in another way."""
    parts = [getattr(chat_template_utils, name, None) for name in ("_compile_jinja_template", "_render_with_assistant_indices")]
    alias = getattr(chat_template_utils, "_alias_reasoning_fields", list)
    if None in parts:
        return None
    compiled, tracked = cast("list[Any]", parts)

    def render(
        template: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], *,
        add_generation_prompt: bool = False, return_assistant_tokens_mask: bool = False,
    ) -> tuple[str, list[tuple[int, int]]]:  # fmt: skip
        chat = alias(list(messages))
        if return_assistant_tokens_mask:
            return tracked(compiled(template), chat, None, None, add_generation_prompt, **options)
        text = compiled(template).render(
            messages=chat, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **options
        )
        return text, []

    return render


_DIRECT = _direct()
_CODE = (sys.modules[__name__], conversations, offsets, words)
"""All code that decides what becomes of a text."""


@lru_cache
def _is_marked(template: str) -> bool:
    return _GENERATION.search(template) is not None


def _is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether calling the tokenizer is calling its backend: no class in between changes it."""
    names = ("__call__", "_encode_plus", "set_truncation_and_padding")
    cls, base = type(tokenizer), PreTrainedTokenizerFast
    return issubclass(cls, base) and all(getattr(cls, name, None) is getattr(base, name, None) for name in names)


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
