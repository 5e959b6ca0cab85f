"""Raw rows of any known shape to the canonical record (`swift.api.Record`). Left of the torch line.

A record holds `messages` (each {"role", "content"} and, where there, "tool_calls", "tool_call_id", "name",
"reasoning_content", "loss_weight") or `text`; beside them `tools`, `rejected` (messages that stand for the answer that
was not wanted), `label`, `images`, `videos`, `audios`, `objects`, `channel`, `margin`, `chat_template_kwargs`; and
`_origin` = "file:line". Roles are system, developer, user, assistant and tool.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.api.contracts import Record, describe
from swift.data.sources import Row
from swift.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE_NAMES = {
    **{role: role for role in ROLES},
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "ai": "assistant",
    "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool", "tool_result": "tool",
    "ipython": "tool",
    "function_call": "tool_call", "tool_call": "tool_call", "function-call": "tool_call", "tool-call": "tool_call",
    "tool-response": "tool",
}  # fmt: skip

# Canonical column -> spellings, best first. The lists of query and response are those of ms-swift.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog"),
    "query": ("query", "prompt", "input", "instruction", "question", "problem"),
    "response": ("response", "answer", "output", "targets", "target", "answer_key", "answers", "solution", "text",
                 "completion", "content"),
    "text": ("text", "content"),
    "history": ("history",),
    "system": ("system", "system_prompt", "system_message"),
    "tools": ("tools", "functions"),
    "chosen": ("chosen", "chosen_response", "chosen_messages"),
    "rejected": ("rejected", "rejected_response", "rejected_messages"),
    "label": ("label", "kto_tag"),
    "images": ("images", "image"),
    "videos": ("videos", "video"),
    "audios": ("audios", "audio"),
    "objects": ("objects",),
    "channel": ("channel",),
    "margin": ("margin",),
    "chat_template_kwargs": ("chat_template_kwargs",),
}  # fmt: skip
_PASSED_ON = ("label", "objects", "channel", "margin", "chat_template_kwargs")
_MEDIA = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}
_SYNONYMS = {
    "reply": "response", "result": "response", "assistant": "response", "gpt": "response", "bot": "response",
    "instruct": "instruction", "request": "query", "user": "query", "human": "query",
    "body": "text", "sentence": "text", "document": "text", "chat": "messages", "chats": "messages", "turns": "messages",
}  # fmt: skip
_MESSAGE_EXTRAS = {
    "reasoning_content": "reasoning_content", "thinking": "reasoning_content", "reasoning": "reasoning_content",
    "name": "name", "tool_call_id": "tool_call_id",
}  # fmt: skip
_LOSS_KEYS = ("loss_weight", "loss_scale", "loss", "weight", "train")
_PLACEHOLDER = re.compile(r"\{\{\s*(name|author)\s*\}\}", re.IGNORECASE)


def spellings() -> set[str]:
    """Every column name that is understood."""
    return {name for names in _COLUMNS.values() for name in names} | set(_COLUMNS)


@dataclass(frozen=True)
class Schema:
    """What the columns of a row are taken for.

    Args:
        shape: Alpaca, ShareGPT, messages, query/response, prompt/completion, preference, prompt or text.
        columns: Canonical column -> own column.
        unused: Own columns that nothing reads.
    """

    shape: str
    columns: Mapping[str, str]
    unused: tuple[str, ...] = ()


@dataclass
class Guess:
    """How the rows of one reference were understood, for the user to check."""

    ref: str
    schema: Schema
    rows: int = 0
    sample: Record = field(default_factory=dict)

    def describe(self) -> str:
        """`identity.json: Alpaca, 91 rows: query <- instruction, response <- output`, and a sample row below."""
        taken = ", ".join(f"{canonical} <- {own}" for canonical, own in self.schema.columns.items())
        unused = f"; not used: {', '.join(self.schema.unused)}" if self.schema.unused else ""
        sample = "\n".join("    " + line for line in preview(self.sample))
        return f"{self.ref}: {self.schema.shape}, {self.rows} rows: {taken}{unused}\n{sample}"

    def __str__(self) -> str:
        return self.describe()


def preview(record: Record, width: int = 100) -> list[str]:
    """The turns of a record, one line each."""
    turns = [
        (m["role"], m.get("content") or json.dumps(m.get("tool_calls", ""), ensure_ascii=False))
        for m in record.get("messages", ())
    ]
    turns = turns or [("text", record.get("text", ""))]
    lines = [f"{role}: {' '.join(content.split())}" for role, content in turns]
    return [line if len(line) <= width else line[: width - 3] + "..." for line in lines]


def recognise(columns: Iterable[str], mapping: Mapping[str, str] | None = None, *, need_answer: bool = True) -> Schema:
    """Decide by the column names what a row is.

    Args:
        columns: Names of the columns that hold something.
        mapping: Own column -> canonical column or spelling; wins over names.
        need_answer: False also takes rows that hold a prompt only.

    Raises:
        DataError: No shape fits; says which columns came and what was probably meant.
    """
    columns = list(columns)
    mapping = mapping or {}
    own: dict[str, str] = {}
    for name in sorted(columns, key=lambda name: name in mapping):  # mapped ones last: they win
        own[mapping.get(name, name).strip().lower()] = name

    def first(canonical: str, *, but: Iterable[str] = ()) -> str | None:
        return next((own[s] for s in (canonical, *_COLUMNS[canonical]) if s in own and own[s] not in but), None)

    taken: dict[str, str] = {}

    def take(**found: str | None) -> None:
        taken.update({canonical: name for canonical, name in found.items() if name is not None})

    messages, chosen, rejected = first("messages"), first("chosen"), first("rejected")
    query = own.get("instruction") or first("query")
    response = first("response", but=[query] if query else [])
    text = first("text")
    if messages:
        shape = "messages" if own.get("messages") == messages else "ShareGPT"
        take(messages=messages, chosen=chosen, rejected=rejected)
        shape = "preference" if chosen and rejected else shape
    elif chosen and rejected:
        shape = "preference"
        take(query=query, input=own.get("input") if "instruction" in own else None, history=first("history"))
        take(chosen=chosen, rejected=rejected)
    elif "instruction" in own and response and response != own.get("input"):
        shape = "Alpaca"
        take(query=query, input=own.get("input"), response=response, history=first("history"), rejected=rejected)
    elif query and response:
        shape = "prompt/completion" if {"prompt", "completion"} <= set(own) else "query/response"
        take(query=query, response=response, history=first("history"), rejected=rejected)
    elif text and not query:
        shape = "text"
        take(text=text)
    elif query and not need_answer:
        shape = "prompt"
        take(query=query, input=own.get("input") if "instruction" in own and query != own.get("input") else None)
        take(history=first("history"))
    else:
        raise _unrecognised(columns, query)
    if shape != "text":
        take(system=first("system"), tools=first("tools"))
    take(**{name: first(name) for name in (*_PASSED_ON, *_MEDIA)})
    return Schema(shape, taken, tuple(c for c in columns if c not in taken.values()))


def _unrecognised(columns: list[str], query: str | None) -> DataError:
    names = ", ".join(columns) or "none"
    meant = {c: near for c in columns if c.strip().lower() not in spellings() and (near := nearest_column(c))}
    if meant:
        unknown = next(iter(meant))
        mapped = json.dumps(meant, ensure_ascii=False)
        return DataError(
            f"column {unknown!r} is unknown; columns are {names}; did you mean {meant[unknown]}?",
            fix=f"use --columns '{mapped}'",
        )
    if query:
        return DataError(f"no column holds the answer to {query!r}; columns are {names}",
                         fix="name it: --columns '{\"COLUMN\": \"response\"}'")  # fmt: skip
    return DataError(
        f"no known shape has the columns {names}; a row needs messages, or conversations, or instruction and output, or "
        "query and response, or prompt and completion, or text",
        fix='map them: --columns \'{"COLUMN": "query", "OTHER": "response"}\'',
    )


def nearest_column(name: str) -> str:
    """The column that was probably meant, or ""."""
    name = name.strip().lower()
    if name in _SYNONYMS:
        return _SYNONYMS[name]
    near = difflib.get_close_matches(name, sorted(spellings()), n=1, cutoff=0.7)
    return near[0] if near else ""


class Converter:
    """Rows of one reference to records; remembers what it guessed.

    Args:
        ref: As the user wrote it.
        columns: Own column -> canonical column. An entry whose value is a role also maps that role (`{"bot": "assistant"}`).
        names: Replacements for `{{name}}` and `{{author}}`.
        need_answer: The last message must be the assistant's.

    Raises:
        DataError: A mapping names no canonical column or role.
    """

    def __init__(
        self,
        ref: str,
        *,
        columns: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        need_answer: bool = True,
    ) -> None:
        self.ref = ref
        self.columns = dict(columns or {})
        self.names = {k.lower(): v for k, v in (names or {}).items() if v}
        self.need_answer = need_answer
        self.seen: set[str] = set()
        self.unfilled = 0
        self.misplaced_loss = 0
        known = spellings() | set(ROLES) | {"tool_call"}
        for own, target in self.columns.items():
            if target.strip().lower() not in known:
                near = difflib.get_close_matches(target, sorted(known), n=3)
                raise DataError(
                    f"columns maps {own!r} to {target!r}, which is no column; canonical columns are {', '.join(_COLUMNS)}",
                    fix=f"did you mean {describe(near)}?" if near else '--columns \'{"own": "query"}\'',
                )
        self._roles = {**_ROLE_NAMES, **{k.lower(): v for k, v in self.columns.items() if v in (*ROLES, "tool_call")}}
        self._guesses: dict[tuple[str, ...], Guess | DataError] = {}

    @property
    def guesses(self) -> list[Guess]:
        """One for each set of columns that was met, the most frequent first."""
        guesses = [g for g in self._guesses.values() if isinstance(g, Guess) and g.rows]
        return sorted(guesses, key=lambda g: -g.rows)

    def __call__(self, row: Row) -> Record:
        """Raises `DataError` with the reason (and, as `fix`, a suggestion) for a row that cannot be used."""
        values = {k: v for k, v in row.values.items() if v is not None}
        columns = tuple(values)
        guess = self._guesses.get(columns)
        if guess is None:
            guess = self._guesses[columns] = self._guess(row, columns)
        if isinstance(guess, DataError):
            raise guess
        record = self._convert(values, guess.schema)
        record["_origin"] = f"{row.file}:{row.line}"
        guess.rows += 1
        if not guess.sample:
            guess.sample = record
        return record

    def _guess(self, row: Row, columns: tuple[str, ...]) -> Guess | DataError:
        self.seen.update(row.values)
        try:
            return Guess(self.ref, recognise(columns, self.columns, need_answer=self.need_answer))
        except DataError as error:
            return error  # kept, so that a million rows of an unknown shape are not a million searches for near names

    def _convert(self, values: Mapping[str, Any], schema: Schema) -> Record:
        cell = {canonical: values[own] for canonical, own in schema.columns.items()}
        record: Record = {}
        for name in _MEDIA:
            if name in cell and (media := _media(cell[name])):
                record[name] = media
        if schema.shape == "text":
            text = cell["text"]
            if not isinstance(text, str):
                raise DataError(f"{schema.columns['text']} is {_kind(text)}, not text")
            if not text.strip():
                raise DataError(f"{schema.columns['text']} is empty")
            record["text"] = self._fill(text)
        else:
            self._chat(record, cell, schema)
        if tools := _tools(cell.get("tools")):
            record["tools"] = tools
        for name in _PASSED_ON:
            if name in cell:
                record[name] = _parsed(cell[name]) if name in ("objects", "chat_template_kwargs") else cell[name]
        return record

    def _chat(self, record: Record, cell: Mapping[str, Any], schema: Schema) -> None:
        need_answer = self.need_answer
        messages: list[dict[str, Any]]
        if "messages" in cell:
            messages = self._messages(cell["messages"], schema.columns["messages"], record)
        else:
            messages = self._turns(cell, schema, record)
        if cell.get("system") and not (messages and messages[0]["role"] in ("system", "developer")):
            if not isinstance(cell["system"], str):
                raise DataError(f"{schema.columns['system']} is {_kind(cell['system'])}, not text")
            messages.insert(0, {"role": "system", "content": cell["system"]})
        if "chosen" in cell and "rejected" in cell:
            messages, record["rejected"] = self._pair(messages, cell, schema, record)
        elif "rejected" in cell:
            wrong = self._answer(cell["rejected"], schema.columns["rejected"], record)
            record["rejected"] = _after_common(wrong, messages)
        for message in (*messages, *record.get("rejected", ())):
            message["content"] = self._fill(message["content"])
        messages = [m for m in messages if m["role"] not in ("system", "developer") or m["content"].strip()]
        self._check(messages, need_answer=need_answer)
        record["messages"] = messages

    def _turns(self, cell: Mapping[str, Any], schema: Schema, record: Record) -> list[dict[str, Any]]:
        """Messages of a row with a query, an answer and perhaps a history."""
        messages = self._history(cell["history"], record) if "history" in cell else []
        if "query" in cell:
            query = _parsed(cell["query"]) if schema.shape == "prompt/completion" else cell["query"]
            if isinstance(query, list):
                turns = self._messages(query, schema.columns["query"], record)
                messages += [{**m, "loss_weight": 0.0} if m["role"] == "assistant" else m for m in turns]
            else:
                prompt = _text(query, schema.columns["query"])
                extra = _text(cell["input"], schema.columns["input"]) if "input" in cell else ""
                joined = "\n".join(part for part in (prompt, extra) if part.strip())
                if not joined:
                    raise DataError(f"{schema.columns['query']} is empty")
                messages.append({"role": "user", "content": joined})
        if "response" in cell:
            completion = _parsed(cell["response"]) if schema.shape == "prompt/completion" else cell["response"]
            if isinstance(completion, (list, dict)) and schema.shape == "prompt/completion":
                messages += self._messages(completion if isinstance(completion, list) else [completion], "completion", record)
            else:
                answer = _text(completion, schema.columns["response"])
                if answer.strip():
                    messages.append({"role": "assistant", "content": answer})
                elif self.need_answer:
                    raise DataError(f"{schema.columns['response']} is empty", fix="fill it in, or remove the row")
        return messages

    def _history(self, value: Any, record: Record) -> list[dict[str, Any]]:
        history = _parsed(value)
        if not history:
            return []
        if not isinstance(history, list):
            raise DataError(f"history is {_kind(history)}; it is a list of [query, response] pairs")
        if all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            turns = [(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
            return [{"role": role, "content": _text(text, "history")} for role, text in turns]
        return self._messages(history, "history", record)

    def _pair(self, prompt: list[dict[str, Any]], cell: Mapping[str, Any], schema: Schema, record: Record) -> tuple[list, list]:
        """(messages with the chosen answer, messages of the rejected answer)."""
        chosen = self._answer(cell["chosen"], schema.columns["chosen"], record)
        rejected = self._answer(cell["rejected"], schema.columns["rejected"], record)
        if not prompt and chosen[0]["role"] == "assistant":
            raise DataError(
                "no column holds the prompt of chosen and rejected", fix='name it: --columns \'{"COLUMN": "query"}\''
            )
        messages = prompt + _after_common(chosen, prompt)
        return messages, _after_common(rejected, messages)

    def _answer(self, value: Any, column: str, record: Record) -> list[dict[str, Any]]:
        value = _parsed(value)
        if isinstance(value, dict):
            value = [value]
        messages = self._messages(value, column, record) if isinstance(value, list) else []
        messages = messages or [{"role": "assistant", "content": _text(value, column)}]
        if messages[-1]["role"] != "assistant" or not (messages[-1]["content"].strip() or messages[-1].get("tool_calls")):
            raise DataError(f"{column} is empty or does not end with the assistant")
        return messages

    def _messages(self, value: Any, column: str, record: Record) -> list[dict[str, Any]]:
        items = _parsed(value)
        if not isinstance(items, list):
            raise DataError(f"{column} is {_kind(items)}; it is a list of messages")
        if not items:
            raise DataError(f"{column} is empty")
        if all(isinstance(item, str) for item in items):
            items = [{"role": ("user", "assistant")[i % 2], "content": item} for i, item in enumerate(items)]
        messages: list[dict[str, Any]] = []
        for number, item in enumerate(items, 1):
            if not isinstance(item, Mapping):
                raise DataError(f"message {number} is {_kind(item)}; it is an object with role and content")
            try:
                self._append(messages, {k: v for k, v in item.items() if v is not None}, record)
            except DataError as error:
                raise DataError(f"message {number}: {error.message}", fix=error.fix) from None
        return messages

    def _append(self, messages: list[dict[str, Any]], item: dict[str, Any], record: Record) -> None:
        spoken = item.get("role", item.get("from"))
        if spoken is None:
            self._append_pair(messages, item, record)
            return
        role = self._roles.get(str(spoken).strip().lower())
        if role is None:
            raise DataError(
                f"role {spoken!r} is unknown; roles are {', '.join(ROLES)} (or human, gpt, function_call, observation)",
                fix=f'map it: --columns \'{{"{spoken}": "assistant"}}\'',
            )
        content = next((item[k] for k in ("content", "value", "text") if k in item), "")
        message: dict[str, Any] = {"role": role, "content": ""}
        if role == "tool_call":
            message = {"role": "assistant", "content": "", "tool_calls": _tool_calls(content)}
        elif isinstance(content, list):
            self._blocks(messages, message, content, record)
        elif role == "tool" and not isinstance(content, str):
            message["content"] = json.dumps(content, ensure_ascii=False)
        else:
            message["content"] = _text(content, "content")
        if calls := _parsed(item.get("tool_calls")):
            message["tool_calls"] = _tool_calls(calls)
        for own, key in _MESSAGE_EXTRAS.items():
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

    def _append_pair(self, messages: list[dict[str, Any]], item: dict[str, Any], record: Record) -> None:
        """{"human": ..., "assistant": ...}: roles as keys."""
        turns = [(key, self._roles[key.lower()]) for key in item if key.lower() in self._roles]
        turns += [(k, "user") for k in ("query", "question") if k in item] + [
            (k, "assistant") for k in ("response", "answer") if k in item
        ]
        if not turns:
            raise DataError(f"has the keys {', '.join(item)}; it needs role and content (or from and value)")
        order = {role: i for i, role in enumerate(("system", "developer", "tool", "user", "assistant", "tool_call"))}
        for key, role in sorted(turns, key=lambda turn: order[turn[1]]):
            self._append(messages, {"role": role, "content": item[key]}, record)

    def _blocks(self, messages: list[dict[str, Any]], message: dict[str, Any], blocks: list[Any], record: Record) -> None:
        """Content blocks of OpenAI and Anthropic: text is joined, media become tags, tool use and results their own fields."""
        parts: list[str] = []
        for block in blocks:
            if isinstance(block, str):
                parts.append(block)
                continue
            if not isinstance(block, Mapping):
                raise DataError(f"a content block is {_kind(block)}; it is an object with a type")
            kind = block.get("type", "text" if "text" in block else "")
            if kind in ("text", "input_text", "output_text"):
                parts.append(_text(block.get("text", ""), "text"))
            elif kind in ("thinking", "reasoning"):
                message["reasoning_content"] = _text(block.get(kind, block.get("text", "")), kind)
            elif kind == "tool_use":
                call = {"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input", {})}
                message["tool_calls"] = [*message.get("tool_calls", ()), *_tool_calls([call])]
            elif kind == "tool_result":
                result: dict[str, Any] = {"role": "tool", "content": ""}
                inner = block.get("content", "")
                if isinstance(inner, list):
                    self._blocks(messages, result, inner, record)
                else:
                    result["content"] = _text(inner, "content")
                if block.get("tool_use_id"):
                    result["tool_call_id"] = block["tool_use_id"]
                messages.append(result)
            elif name := {"image": "images", "image_url": "images", "video": "videos", "video_url": "videos", "audio": "audios",
                          "audio_url": "audios", "input_audio": "audios"}.get(kind):  # fmt: skip
                parts.append(_MEDIA[name])
                medium = next(
                    (block[k] for k in (kind, "url", "path", "image", "video", "audio", "source") if block.get(k)), None
                )
                if isinstance(medium, Mapping) and "url" in medium:
                    medium = medium["url"]
                if medium is not None:
                    record.setdefault(name, []).append(medium)
            else:
                raise DataError(
                    f"content blocks of type {kind!r} are unknown; known are text, image, video, audio, tool_use, tool_result"
                )
        message["content"] = "".join(parts)
        if not parts and any(isinstance(b, Mapping) and b.get("type") == "tool_result" for b in blocks):
            message["role"] = ""  # it held nothing else

    def _weigh(self, message: dict[str, Any], item: Mapping[str, Any]) -> None:
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
            self.misplaced_loss += 1

    def _fill(self, text: str) -> str:
        if "{{" not in text:
            return text
        filled = _PLACEHOLDER.sub(lambda found: self.names.get(found[1].lower(), found[0]), text)
        self.unfilled += bool(_PLACEHOLDER.search(filled))
        return filled

    @staticmethod
    def _check(messages: list[dict[str, Any]], *, need_answer: bool) -> None:
        for number, message in enumerate(messages, 1):
            empty = not message["content"].strip() and not message.get("tool_calls")
            if empty and message["role"] in ("user", "assistant"):
                raise DataError(
                    f"message {number} ({message['role']}): content is empty", fix="fill it in, or remove the message"
                )
        roles = [message["role"] for message in messages]
        if need_answer and "assistant" not in roles:
            raise DataError(
                "no message of the assistant: there is nothing to learn", fix="add an answer, or use text rows and swift pt"
            )
        if need_answer and roles[-1] != "assistant":
            raise DataError(f"the last message is of the {roles[-1]}; training needs an answer after it",
                            fix="remove it, or add the answer")  # fmt: skip
        if not need_answer and not set(roles) - {"system", "developer"}:
            raise DataError("no message to answer")


def _after_common(messages: list[dict[str, Any]], prefix: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`messages` without what they repeat of `prefix` (at least the last one stays)."""
    common = 0
    while common < min(len(messages) - 1, len(prefix)) and _same(messages[common], prefix[common]):
        common += 1
    return messages[common:]


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a["role"] == b["role"] and a["content"] == b["content"] and a.get("tool_calls") == b.get("tool_calls")


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        dict: "an object",
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        bytes: "bytes",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _text(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    raise DataError(f"{column} is {_kind(value)}, not text")


def _parsed(value: Any) -> Any:
    """JSON inside a cell (csv files, `tools` strings) is read; anything else stays."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _media(value: Any) -> list[Any]:
    value = _parsed(value)
    return [m for m in value if m is not None] if isinstance(value, list) else [value] if value else []


def _tool_calls(value: Any) -> list[dict[str, Any]]:
    """Calls as chat templates expect them: {"type": "function", "function": {"name", "arguments": object}}."""
    calls = _parsed(value)
    calls = calls if isinstance(calls, list) else [calls]
    found = []
    for call in calls:
        if not isinstance(call, Mapping):
            raise DataError(f"a tool call is {_kind(call)}", fix='write {"name": ..., "arguments": {...}} as JSON')
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError("a tool call has no name", fix='write {"name": ..., "arguments": {...}}')
        arguments = _parsed(function.get("arguments", function.get("parameters", {})))
        entry: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
        found.append({"id": call["id"], **entry} if call.get("id") else entry)
    return found


def _tools(value: Any) -> list[dict[str, Any]]:
    """Tool definitions in OpenAI's form, from a list or a JSON string."""
    tools = _parsed(value)
    if not tools:
        return []
    tools = tools if isinstance(tools, list) else [tools]
    found = []
    for tool in map(_parsed, tools):
        if not isinstance(tool, Mapping):
            raise DataError(
                f"a tool is {_kind(tool)}; it is a JSON schema of a function", fix='write {"name": ..., "parameters": {...}}'
            )
        found.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)})
    return found
