"""Rows of messages to texts, and which parts of them are trained on. Right of the torch line."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from swift.api.contracts.data import Record
from swift.api.contracts.models import MediaProcessor
from swift.data import conversations, media_rows
from swift.data.conversations import Conversation, Refused
from swift.data.offsets import Span
from swift.data.rendering import PROBE, ChatTemplate
from swift.errors import DataError

History = Literal["all", "last", "split"]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")

REWRITES = (
    "the chat template rewrites earlier turns (as thinking templates do when they strip reasoning): there, only the turns "
    "that stand in the text as the model would have written them are trained on; --template.history split trains on all"
)
SPLIT = (
    "the chat template rewrites earlier turns (as thinking templates do when they strip reasoning): such a conversation became "
    "several documents of one row, so that each turn is trained on after the prompt that the model sees"
)
LAST = "of several rounds only the last one is trained on, as --template.history last says"
TOOLS_LOST = "the chat template leaves definitions of tools out: the model does not see them"
REASONING_LOST = "the chat template leaves the reasoning of the answer out: it is not learnt"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and what of it is trained on."""

    text: str
    spans: list[Span]


class TurnFinder:
    """Renders conversations and finds the turns of the assistant in their texts.

    Where the template marks them with `{% generation %}`, the marks count; else each turn is located by rendering the
    conversation up to it, and only where that is a prefix of the whole text.

    Args:
        system: System message for conversations that have none.
        history: As of `ChatEncoder`.
    """

    def __init__(self, template: ChatTemplate, *, system: str | None = None, history: History = "all") -> None:
        self.template = template
        self.system = system
        self.history = history

    def documents(self, record: Record, counters: Counter[str]) -> list[Rendered]:
        """One document, or several with `history="split"`.

        Args:
            counters: Gets one more for each line that the user should read about the row.

        Raises:
            DataError: The template refuses the conversation, or loses what would be learnt.
            ModelError: There is no template.
        """
        processor = self.template.media
        media = [name for name in ("images", "videos", "audios") if record.get(name)]
        if media and processor is None:
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
                counters[LAST] += 1
        if processor:
            messages = media_rows.with_marks(messages, record, processor)
        tools = record.get("tools") or None
        template = self.template.text(tools)
        messages = self.template.with_arguments(messages, template)
        given = Conversation(template, tools, record.get("chat_template_kwargs") or {}, messages, weights)
        try:
            documents = self._split(given, counters)
        except Refused as refused:
            documents = self._mended(given, refused, counters)
        if tools or any("tool_calls" in m for m in messages):
            _check_tools(documents, given, counters)
        if any("reasoning_content" in m and w for m, w in zip(messages, weights, strict=True)):
            _check_reasoning(documents, given, counters)
        if processor:
            documents = _with_media(documents, record, processor, media_rows.number_of_marks(messages))
        return documents

    def _split(self, c: Conversation, counters: Counter[str]) -> list[Rendered]:
        """The whole conversation last, before it those that end with a turn which it rewrites, where these are wanted."""
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
            counters[REWRITES] += 1
        if len(documents) > 1:
            counters[SPLIT] += 1
        return documents or [rendered]

    def _mended(self, given: Conversation, refused: Refused, counters: Counter[str]) -> list[Rendered]:
        """What a template refuses for its system message or for the ids of its tool calls, put in the way that it takes."""
        for notes, changed in given.mended(dropped=refused.unlocated):
            try:
                documents = self._split(changed, counters)
            except Refused as error:
                refused = error  # what the changed conversation still fails for says more
                continue
            if not documents[-1].spans and any(given.weights):
                continue
            counters.update(notes)
            return documents
        raise refused

    def _marked(self, c: Conversation) -> Rendered:
        """Spans from the template's own `{% generation %}` marks."""
        text, marks = self.template.render_marked(c)
        spoken = [w for w, m in zip(c.weights, c.messages, strict=True) if m["role"] == "assistant"]
        if len(spoken) != len(marks):
            if len(set(spoken)) > 1:
                raise DataError(f"the chat template marks {len(marks)} turns of {len(spoken)}: whose loss weight is which?")
            spoken = spoken[:1] * len(marks)
        return Rendered(text, [(start, stop, w) for (start, stop), w in zip(marks, spoken, strict=True)])

    def _located(self, c: Conversation) -> tuple[Rendered, list[int]]:
        """Spans by rendering up to each turn, which counts where that is a prefix of the whole text; and the other turns."""
        text = self.template.render(c, c.messages)
        spans, rewritten = [], []
        for i, weight in enumerate(c.weights):
            if not weight:
                continue
            upto = text if i == len(c.weights) - 1 else self._closed(self.template.render(c, c.messages[: i + 1]), text)
            start = self._header(c, i, upto) if text.startswith(upto) else None
            if start is None:
                rewritten.append(i)
            else:
                spans.append((start, start + len(upto[start:].rstrip()), weight))
        return Rendered(text, spans), rewritten

    def _closed(self, upto: str, text: str) -> str:
        """`upto` without the eos token that some templates write once, after the end-of-turn token of the last message."""
        tokenizer = self.template.tokenizer
        eos = tokenizer.eos_token
        if text.startswith(upto) or not eos or not upto.rstrip().endswith(eos):
            return upto
        open_end = upto.rstrip().removesuffix(eos)
        return open_end if open_end.rstrip().endswith(tuple(tokenizer.get_added_vocab())) else upto

    def _header(self, c: Conversation, i: int, upto: str) -> int | None:
        """Where in `upto` the assistant begins to speak."""
        before = c.messages[:i]
        if before:
            prompt = self.template.render(c, c.prompt(i), prompt=True)
            if upto.startswith(prompt):
                return len(prompt)
            if c.dropped_system:
                return None
        # The generation prompt holds what the finished turn does not (an opened <think>), or there is nothing before:
        # what is common to this turn and to one that says something else is the header.
        probe = self.template.render(c, [*before, {"role": "assistant", "content": PROBE}])
        common = _common(upto, probe)
        plain = self.template.render(c, before) if before else ""
        return common if upto.startswith(plain) and common >= len(plain) else None


@lru_cache
def _is_marked(template: str) -> bool:
    return _GENERATION.search(template) is not None


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _check_tools(documents: list[Rendered], given: Conversation, counters: Counter[str]) -> None:
    """Many templates know no tools, and would train an empty answer where the call stood."""
    text = "\0".join(d.text for d in documents)
    learnt = [m for m, w in zip(given.messages, given.weights, strict=True) if w]
    called = [call["function"]["name"] for m in learnt for call in m.get("tool_calls", ())]
    if lost := [name for name in called if name not in text]:
        raise DataError(f"the chat template leaves tool calls out: that of {lost[0]} would not be learnt",
                        fix="--template with one that knows tools (swift list templates)")  # fmt: skip
    if any(tool["function"]["name"] not in text for tool in given.tools or ()):
        counters[TOOLS_LOST] += 1


def _check_reasoning(documents: list[Rendered], given: Conversation, counters: Counter[str]) -> None:
    spoken = "\0".join(d.text[start:stop] for d in documents for start, stop, _ in d.spans)
    last = max(i for i, w in enumerate(given.weights) if w)
    thought = given.messages[last].get("reasoning_content")
    if isinstance(thought, str) and thought.strip() not in spoken:
        counters[REASONING_LOST] += 1


def _with_media(documents: list[Rendered], record: Record, processor: MediaProcessor, marks: int) -> list[Rendered]:
    """Placeholders as long as their media; the last document is the whole conversation."""
    wanted = [None] * (len(documents) - 1) + [marks]
    return [
        Rendered(*media_rows.expanded(d.text, d.spans, record, processor, wanted=n))
        for d, n in zip(documents, wanted, strict=True)
    ]
