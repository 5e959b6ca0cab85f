"""Messages to text, by a tokenizer's own chat template. Right of the torch line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from swift.api.contracts.models import MediaProcessor
from swift.data import media_rows
from swift.data.conversations import Conversation, Refused, as_object, as_text, with_argument
from swift.errors import DataError, ModelError

PROBE = "\u2063probe"
"""A text that no conversation holds, to be looked for in what a template makes of it."""
_FAULTS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError)
_Rendering = tuple[str, list[tuple[int, int]]]
"""(text, its (start, stop) inside `{% generation %}`)"""


class ChatTemplate:
    """The chat template of a tokenizer, or another one with that tokenizer's special tokens.

    Args:
        given: Jinja; None is the tokenizer's own.
        options: Variables handed to it.
        media: Of a model that takes images.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        given: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        media: MediaProcessor | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.given = given
        self.options = dict(options or {})
        self.media = media
        self._takes_parts: dict[str, bool] = {}
        self._takes_strings: dict[str, bool] = {}

    def text(self, tools: Any = None) -> str:
        """Text of the template in use. Raises `ModelError` where there is none."""
        if self.given is not None:
            return self.given
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {self.tokenizer.name_or_path or 'this model'} has no chat template, so conversations "
                "cannot be rendered (it seems to be a base model)",
                fix="--template FILE.jinja, or a template of `swift list templates`; or train on plain text with swift pt",
            )
        return self.tokenizer.get_chat_template(None, tools)

    def render(self, c: Conversation, messages: Sequence[Mapping[str, Any]], *, prompt: bool = False) -> str:
        """Text of these messages, which are some of the conversation's; `prompt` adds the header of the assistant's turn.

        As `apply_chat_template(tokenize=False)`, without what it does to find out what is known here. Raises `Refused`.
        """
        return self._jinja(c, messages, add_generation_prompt=prompt)[0]

    def render_marked(self, c: Conversation) -> _Rendering:
        """Text of the conversation, and what stands inside `{% generation %}`. Raises `Refused`."""
        return self._jinja(c, c.messages, return_assistant_tokens_mask=True)

    def with_arguments(self, messages: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
        """Arguments of tool calls as the template wants them: an object (most do), or its JSON text."""
        if not any("tool_calls" in m for m in messages):
            return messages
        if template not in self._takes_strings:
            self._takes_strings[template] = self._wants_strings(template)
        convert = as_text if self._takes_strings[template] else as_object
        return [
            m if "tool_calls" not in m else {**m, "tool_calls": [with_argument(call, convert) for call in m["tool_calls"]]}
            for m in messages
        ]

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        return dict(self.tokenizer.special_tokens_map)

    def _jinja(self, c: Conversation, messages: Sequence[Mapping[str, Any]], **how: bool) -> _Rendering:
        options = {**self._special_tokens, **self.options, **c.options}
        if self.media:
            messages = self._for_media(self.media, c.template, messages, options)
        return _rendered(c.template, messages, c.tools, options, **how)

    def _for_media(
        self, media: MediaProcessor, template: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Contents as parts, where the template of a multimodal model reads them; else as text with placeholders."""
        if template not in self._takes_parts:
            probe = {"role": "user", "content": [{"type": "text", "text": PROBE}]}
            try:
                text, _ = _rendered(template, [probe], None, options)
            except Refused:
                text = ""
            self._takes_parts[template] = PROBE in text and "'type'" not in text
        return media_rows.as_parts(messages) if self._takes_parts[template] else media_rows.as_strings(messages, media)

    def _wants_strings(self, template: str) -> bool:
        """Whether an object fails or comes out as Python writes it, while its JSON text comes out as it is."""

        def call(arguments: Any) -> str:
            call = {"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            chat: list[dict[str, Any]] = [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            try:
                return self.render(Conversation(template, None, {}, chat, []), chat)
            except DataError:
                return ""

        as_object, as_text = call({"swift_probe": "x"}), call('{"swift_probe": "x"}')
        return ("swift_probe" not in as_object or "'swift_probe'" in as_object) and '{"swift_probe"' in as_text


def _rendered(
    template: str, messages: Sequence[Mapping[str, Any]], tools: Any, options: Mapping[str, Any], **how: bool
) -> _Rendering:
    try:
        if _DIRECT is not None and not tools and "documents" not in options:
            return _DIRECT(template, messages, options, **how)
        texts, marks = chat_template_utils.render_jinja_template(
            conversations=[messages], tools=tools, chat_template=template, **options, **how
        )
    except _FAULTS as error:
        raise Refused(error) from error
    return texts[0], marks[0] if marks else []


def _direct() -> Callable[..., _Rendering] | None:
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
    ) -> _Rendering:  # fmt: skip
        chat = alias(list(messages))
        if return_assistant_tokens_mask:
            return tracked(compiled(template), chat, None, None, add_generation_prompt, **options)
        text = compiled(template).render(
            messages=chat, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **options
        )
        return text, []

    return render


_DIRECT = _direct()
