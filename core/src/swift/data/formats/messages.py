"""Lists of messages, in every spelling, to {"role", "content", ...}."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from swift.api.contracts.data import Record
from swift.data.formats.columns import MEDIA
from swift.data.formats.media_items import media_item
from swift.data.formats.values import kind, parsed, text_of, tool_calls
from swift.errors import DataError

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "human": "user", "prompter": "user", "instruction": "user",
    "gpt": "assistant", "chatgpt": "assistant", "gpt4": "assistant", "gpt-4": "assistant", "gpt-3.5-turbo": "assistant",
    "model": "assistant", "ai": "assistant", "claude": "assistant", "bing": "assistant", "bard": "assistant",
    "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool", "tool_result": "tool",
    "tool-response": "tool", "tool_output": "tool", "tool_outputs": "tool", "function_result": "tool", "ipython": "tool",
    "function_call": "tool_call", "tool_call": "tool_call", "function-call": "tool_call", "tool-call": "tool_call",
    "tool_calls": "tool_call",
}  # fmt: skip
LOST_THINKING = "messages hold encrypted (redacted) reasoning, which cannot be learnt and was left out"
MISPLACED_LOSS = "messages that are not the assistant's ask for a loss; only the assistant's are trained on"

_ROLE_KEYS = ("role", "from", "speaker", "sender")
_CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
_EXTRAS = {
    "reasoning_content": "reasoning_content", "thinking": "reasoning_content", "reasoning": "reasoning_content",
    "name": "name", "tool_call_id": "tool_call_id",
}  # fmt: skip
_LOSS_KEYS = ("loss_weight", "loss_scale", "loss", "weight", "train")
_MEDIA_BLOCKS = {
    "image": "images", "image_url": "images", "input_image": "images", "video": "videos", "video_url": "videos",
    "audio": "audios", "audio_url": "audios", "input_audio": "audios",
}  # fmt: skip
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")


class MessageReader:
    """Reads lists of messages.

    Args:
        roles: Spelling of a role (lower case) -> role, or tool_call.

    Attributes:
        counters: What was met on the way, for the user.
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        self.roles = roles
        self.counters: Counter[str] = Counter()

    def read(self, value: Any, column: str, record: Record) -> list[Message]:
        """Media of content blocks are appended to `record`."""
        items = parsed(value)
        if isinstance(items, str) and (turns := hh_turns(items)):
            return turns
        if not isinstance(items, list):
            raise DataError(f"{column} is {kind(items)}; it is a list of messages",
                            fix='write [{"role": "user", "content": ...}, ...]')  # fmt: skip
        if not items:
            raise DataError(f"{column} is empty", fix="fill it in, or remove the row")
        if all(isinstance(item, str) for item in items):
            items = [{"role": ("user", "assistant")[i % 2], "content": item} for i, item in enumerate(items)]
        elif all(isinstance(item, (list, tuple)) and len(item) == 2 for item in items):
            items = [{"role": role, "content": text} for pair in items for role, text in zip(("user", "assistant"), pair)]
        messages: list[Message] = []
        for number, item in enumerate(items, 1):
            if not isinstance(item, Mapping):
                raise DataError(f"message {number} is {kind(item)}; it is an object with role and content",
                                fix='write {"role": "user", "content": ...}')  # fmt: skip
            try:
                self._append(messages, {k: v for k, v in item.items() if v is not None}, record)
            except DataError as error:
                raise DataError(f"message {number}: {error.message}", fix=error.fix) from None
        return messages

    def holds_messages(self, value: Any) -> list[Any] | None:
        """The items where `value` is a message or a list of them (perhaps as JSON text); None for anything else, like an
        answer that happens to be JSON."""
        found = parsed(value)
        items = [found] if isinstance(found, Mapping) else found
        if isinstance(items, list) and items and all(isinstance(i, Mapping) and self._spoken(i) for i in items):
            return items
        return None

    @staticmethod
    def _spoken(item: Mapping[str, Any]) -> bool:
        return any(key in item for key in _ROLE_KEYS) and any(key in item for key in (*_CONTENT_KEYS, "tool_calls"))

    def answer(self, value: Any, column: str, record: Record) -> list[Message]:
        """Messages that end with the assistant's, from a text, a message or a list of messages."""
        items = self.holds_messages(value)
        if items is not None:
            messages = self.read(items, column, record)
        elif isinstance(value, str) and (turns := hh_turns(value)):
            messages = turns
        else:
            messages = [{"role": "assistant", "content": text_of(value, column)}]
        last = messages[-1]
        if last["role"] != "assistant" or not (last["content"].strip() or last.get("tool_calls")):
            raise DataError(f"{column} is empty or does not end with the assistant", fix="fill it in, or remove the row")
        return messages

    def history(self, value: Any, record: Record) -> list[Message]:
        history = parsed(value)
        if not history:
            return []
        if not isinstance(history, list):
            raise DataError(f"history is {kind(history)}; it is a list of [query, response] pairs")
        return self.read(history, "history", record)

    def _append(self, messages: list[Message], item: dict[str, Any], record: Record) -> None:
        spoken = next((item[key] for key in _ROLE_KEYS if key in item), None)
        if spoken is None:
            self._append_pair(messages, item, record)
            return
        role = self.roles.get(str(spoken).strip().lower())
        if role is None:
            raise DataError(
                f"role {spoken!r} is unknown; roles are {', '.join(ROLES)} (or human, gpt, function_call, observation)",
                fix=f'map it: --columns \'{{"{spoken}": "{_nearest_role(str(spoken))}"}}\'',
            )
        content = next((item[k] for k in _CONTENT_KEYS if k in item), item.get("refusal"))
        if content is None:
            if role in ("user", "assistant") and not {"tool_calls", "function_call"} & item.keys() and len(item) > 1:
                raise DataError(
                    f"has no content; its keys are {', '.join(item)}", fix="name the text content, or remove the message"
                )
            content = ""
        message: Message = {"role": role, "content": ""}
        if role == "tool_call":
            message = {"role": "assistant", "content": "", "tool_calls": tool_calls(content)}
        elif isinstance(content, str):
            message["content"] = content
        elif isinstance(content, list) and (role != "tool" or _are_blocks(content)):
            self._blocks(messages, message, content, record)
        elif role == "tool":
            message["content"] = json.dumps(content, ensure_ascii=False)
        else:
            message["content"] = text_of(content, "content")
        if len(item) > 2 or not content:
            if calls := parsed(item.get("tool_calls", item.get("function_call"))):
                message["tool_calls"] = tool_calls(calls)
            for own, key in _EXTRAS.items():
                if isinstance(item.get(own), str) and item[own]:
                    message.setdefault(key, item[own])
            self._weigh(message, item)
        last = messages[-1] if messages else None
        if (
            role == "tool_call"
            and last
            and last["role"] == "assistant"
            and last.get("loss_weight") == message.get("loss_weight")
        ):
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
        elif message["role"]:
            messages.append(message)

    def _append_pair(self, messages: list[Message], item: dict[str, Any], record: Record) -> None:
        """{"human": ..., "assistant": ...}: roles as keys."""
        turns = [(key, self.roles[key.lower()]) for key in item if key.lower() in self.roles]
        turns += [(k, "user") for k in ("query", "question", "input", "prompt") if k in item] + [
            (k, "assistant") for k in ("response", "answer", "output", "completion") if k in item
        ]
        if not turns:
            raise DataError(f"has the keys {', '.join(item)}; it needs role and content (or from and value)",
                            fix='write {"role": "user", "content": ...}')  # fmt: skip
        order = {role: i for i, role in enumerate(("system", "developer", "tool", "user", "assistant", "tool_call"))}
        for key, role in sorted(turns, key=lambda turn: order[turn[1]]):
            self._append(messages, {"role": role, "content": item[key]}, record)

    def _blocks(self, messages: list[Message], message: Message, blocks: list[Any], record: Record) -> None:
        """Content blocks of OpenAI and Anthropic: text is joined, media become tags, tool use and results their own fields."""
        parts: list[str] = []
        thoughts: list[str] = []
        results = False
        for block in blocks:
            if isinstance(block, str):
                parts.append(block)
                continue
            if not isinstance(block, Mapping):
                raise DataError(f"a content block is {kind(block)}; it is an object with a type",
                                fix='write {"type": "text", "text": ...}')  # fmt: skip
            name = block.get("type") or ("text" if "text" in block else "")
            if name in ("text", "input_text", "output_text", "refusal"):
                parts.append(_block_text(block, name))
            elif name in ("thinking", "reasoning"):
                thoughts.append(text_of(block.get(name, block.get("text", "")), name))
            elif name == "redacted_thinking":
                self.counters[LOST_THINKING] += 1
            elif name in ("tool_use", "server_tool_use"):
                call = {"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input", {})}
                message["tool_calls"] = [*message.get("tool_calls", ()), *tool_calls([call])]
            elif name == "tool_result":
                results = True
                messages.append(self._tool_result(messages, block, record))
            elif media := _MEDIA_BLOCKS.get(name):
                parts.append(MEDIA[media])
                keys = (name, "url", "path", "image", "video", "audio", "source", "bytes", "data")
                medium = next((block[k] for k in keys if block.get(k)), None)
                if medium is not None:
                    record.setdefault(media, []).append(media_item(medium, media))
            else:
                raise DataError(
                    f"content blocks of type {name!r} are unknown; known are text, image, video, audio, thinking, tool_use, "
                    "tool_result", fix='write {"type": "text", "text": ...}'
                )  # fmt: skip
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
        message["content"] = "".join(parts)
        if results and not parts:
            message["role"] = ""  # it held nothing else

    def _tool_result(self, messages: list[Message], block: Mapping[str, Any], record: Record) -> Message:
        result: Message = {"role": "tool", "content": ""}
        inner = block.get("content") or ""
        if isinstance(inner, list):
            self._blocks(messages, result, inner, record)
        else:
            result["content"] = text_of(inner, "content")
        if block.get("tool_use_id"):
            result["tool_call_id"] = block["tool_use_id"]
        return result

    def _weigh(self, message: Message, item: Mapping[str, Any]) -> None:
        value = next((item[key] for key in _LOSS_KEYS if key in item), None)
        if value is None:
            return
        try:
            weight = float(value)
        except (TypeError, ValueError):
            raise DataError(f"loss is {value!r}; it is true, false or a number") from None
        if not 0.0 <= weight < float("inf"):
            raise DataError(f"loss is {value!r}; it cannot be negative or infinite")
        if message["role"] == "assistant":
            message["loss_weight"] = weight
        elif weight:
            self.counters[MISPLACED_LOSS] += 1


def hh_turns(text: str) -> list[Message]:
    """Turns of "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic's HH-RLHF); empty where `text` is none.

    A last turn that is empty, as prompts end with, is left out.
    """
    start = text[:9].lstrip()
    if not start.startswith("Human:"):
        return []
    pieces = _HH_TURN.split("\n\n" + text.lstrip())[1:]
    turns = [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if not any(turn["role"] == "assistant" for turn in turns):
        return []
    return turns if turns[-1]["content"] else turns[:-1]


def after_common(messages: list[Message], prefix: list[Message]) -> list[Message]:
    """`messages` without what they repeat of `prefix` (at least the last one stays)."""
    common = 0
    while common < min(len(messages) - 1, len(prefix)) and _same(messages[common], prefix[common]):
        common += 1
    return messages[common:]


def _same(a: Message, b: Message) -> bool:
    return a["role"] == b["role"] and a["content"] == b["content"] and a.get("tool_calls") == b.get("tool_calls")


def _nearest_role(name: str) -> str:
    near = difflib.get_close_matches(name.strip().lower(), ROLES, n=1, cutoff=0.5)
    return near[0] if near else "assistant"


def _are_blocks(content: list[Any]) -> bool:
    return bool(content) and all(isinstance(block, Mapping) and "type" in block for block in content)


def _block_text(block: Mapping[str, Any], name: str) -> str:
    value = block.get("text", block.get(name))
    if value is None and "content" in block:
        raise DataError("a text block has content where text was meant", fix='write {"type": "text", "text": ...}')
    return text_of("" if value is None else value, "text")
