"""Raw rows of any known shape to the canonical record."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swift.api.contracts.data import Record
from swift.data.formats.columns import ANSWERED, COLUMNS, IGNORE, MEDIA, Schema, recognise, spellings
from swift.data.formats.compare import candidates, chosen_first, number_of, pair
from swift.data.formats.media_items import check_objects, fit_tags, media_list
from swift.data.formats.messages import MISPLACED_LOSS, ROLE_NAMES, ROLES, Message, MessageReader, after_common, hh_turns
from swift.data.formats.values import kind, parsed, text_of, tool_calls, tools
from swift.data.sources.rows import Row
from swift.errors import DataError
from swift.wording import listed

_PLACEHOLDER = re.compile(r"\{\{\s*(name|author)\s*\}\}", re.IGNORECASE)
_CHOICE = re.compile(r"\s*\(?([A-Za-z]|\d)\)?\.?\s*")
_SYSTEM = ("system", "developer")
_MEDIA_COLUMNS = frozenset(name for canonical in MEDIA for name in COLUMNS[canonical])
_LABELS = {
    "true": True, "desirable": True, "good": True, "chosen": True, "yes": True, "thumbs_up": True,
    "false": False, "undesirable": False, "bad": False, "rejected": False, "no": False, "thumbs_down": False,
}  # fmt: skip
_COMPARED = ("positive", "negative", "candidates")
TAGS_ADDED = "rows have media without a tag in the text; the tags were put in front of the first user's turn"
MAX_SCHEMAS = 4096
"""Sets of columns that are remembered."""
MAX_UNUSED = 100
"""Columns that a guess names at most."""


@dataclass
class Guess:
    """How the rows of one reference were understood, for the user to check."""

    ref: str
    schema: Schema
    rows: int = 0
    sample: Record = field(default_factory=dict)

    def describe(self) -> str:
        """`identity.json: Alpaca, 91 rows: query <- instruction, response <- output`, and a sample row below."""
        taken = [f"{canonical} <- {own}" for canonical, own in self.schema.columns.items()]
        if self.schema.choice:
            taken.append("chosen, rejected <- {} and {} by {}".format(*self.schema.choice))
        if self.schema.negatives:
            taken.append(f"negative <- {', '.join(self.schema.negatives)}")
        unused = f"; not used: {', '.join(self.schema.unused)}" if self.schema.unused else ""
        sample = "\n".join("    " + line for line in preview(self.sample))
        return f"{self.ref}: {self.schema.shape}, {self.rows} rows: {', '.join(taken)}{unused}\n{sample}"

    def __str__(self) -> str:
        return self.describe()


def preview(record: Record, width: int = 100) -> list[str]:
    """The parts of a record, one line each."""
    turns = _spoken(record.get("messages", ()))
    turns = turns or [("text", record.get("text", ""))]
    turns += [(f"rejected {role}", said) for role, said in _spoken(record.get("rejected", ()))]
    scores = record.get("scores") or []
    for name in _COMPARED:
        for number, messages in enumerate(record.get(name, ())):
            score = f" ({scores[number]:g})" if name == "candidates" and number < len(scores) else ""
            turns.append((f"{name.removesuffix('s')}{score}", " ".join(said for _, said in _spoken(messages))))
    turns += [(name, ", ".join(map(_short, record[name]))) for name in MEDIA if record.get(name)]
    turns += [(name, json.dumps(record[name], ensure_ascii=False, default=str)) for name in
              ("label", "margin", "objects", "columns") if name in record]  # fmt: skip
    lines = [f"{role}: {' '.join(content.split())}" for role, content in turns]
    return [line if len(line) <= width else line[: width - 3] + "..." for line in lines]


def _spoken(messages: Any) -> list[tuple[str, str]]:
    return [(m["role"], m.get("content") or json.dumps(m.get("tool_calls", ""), ensure_ascii=False)) for m in messages]


def _short(medium: str) -> str:
    if not medium.startswith("data:"):
        return medium
    head, _, content = medium.partition(",")
    return f"{head.partition(';')[0]} ({len(content) * 3 // 4} bytes)"


class Converter:
    """Rows of one reference to records; remembers what it guessed.

    Args:
        ref: As the user wrote it.
        columns: Own column -> canonical column, or "ignore". An entry whose value is a role also maps that role
            (`{"bot": "assistant"}`).
        names: Replacements for `{{name}}` and `{{author}}`.
        need_answer: The last message must be the assistant's. Where it need not be (rewards check what the model says), all
            columns that the prompt is not made of are kept in `record["columns"]`, for reward functions.

    Attributes:
        seen: All columns that were met.
        unfilled: Texts that hold a `{{name}}` or `{{author}}` for which there is no replacement.

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
        known = spellings() | set(ROLES) | {"tool_call", IGNORE}
        for own, target in self.columns.items():
            if target.strip().lower() not in known:
                near = difflib.get_close_matches(target, sorted(known), n=3)
                raise DataError(
                    f"columns maps {own!r} to {target!r}, which is no column; canonical columns are {', '.join(COLUMNS)}",
                    fix=f"did you mean {listed(near)}?" if near else '--columns \'{"own": "query"}\'',
                )
        roles = {**ROLE_NAMES, **{k.lower(): v for k, v in self.columns.items() if v in (*ROLES, "tool_call")}}
        self._reader = MessageReader(roles)
        self._media_columns = _MEDIA_COLUMNS | {k for k, v in self.columns.items() if v in _MEDIA_COLUMNS}
        self._by_columns: dict[tuple[str, ...], tuple[Schema, Guess] | DataError] = {}
        self._guesses: dict[Any, Guess] = {}

    @property
    def guesses(self) -> list[Guess]:
        """One for each way in which columns were understood, the most frequent first."""
        return sorted((g for g in self._guesses.values() if g.rows), key=lambda g: -g.rows)

    @property
    def counters(self) -> Counter[str]:
        """Line for the user -> how many rows or messages it is about."""
        return self._reader.counters

    @property
    def misplaced_loss(self) -> int:
        """Messages that are not the assistant's and ask for a loss."""
        return self.counters[MISPLACED_LOSS]

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what was left out or put in."""
        lines = [f"{count} {line}" for line, count in self.counters.items() if count]
        if self.unfilled:
            lines.insert(0, f"{self.unfilled} texts hold {{{{name}}}} or {{{{author}}}} as it stands; "
                            "fill them with --model_name NAME --model_author AUTHOR")  # fmt: skip
        return lines

    def __call__(self, row: Row) -> Record:
        """Raises `DataError` with the reason (and, as `fix`, a suggestion) for a row that cannot be used."""
        values = row.values
        lost_media = False
        if None in values.values():
            lost_media = any(v is None and k.strip().lower() in self._media_columns for k, v in values.items())
            values = {k: v for k, v in values.items() if v is not None}
        columns = tuple(values)
        found = self._by_columns.get(columns)
        if found is None:
            found = self._remember(row, columns)
        if isinstance(found, DataError):
            raise found
        schema, guess = found
        record = self._convert(values, schema, strict_tags=lost_media)
        record["_origin"] = f"{row.file}:{row.line}"
        guess.rows += 1
        if not guess.sample:
            guess.sample = record
        return record

    def _remember(self, row: Row, columns: tuple[str, ...]) -> tuple[Schema, Guess] | DataError:
        self.seen.update(row.values)
        if len(self._by_columns) >= MAX_SCHEMAS:
            self._by_columns.clear()
        found: tuple[Schema, Guess] | DataError
        try:
            schema = recognise(columns, self.columns, need_answer=self.need_answer)
        except DataError as error:
            found = error  # kept, so that a million rows of an unknown shape are not a million searches for near names
        else:
            key = (schema.shape, tuple(sorted(schema.columns.items())), schema.choice)
            guess = self._guesses.setdefault(key, Guess(self.ref, schema))
            if guess.schema is not schema:  # rows whose other columns differ are one kind of row
                unused = tuple(dict.fromkeys((*guess.schema.unused, *schema.unused)))[:MAX_UNUSED]
                negatives = tuple(dict.fromkeys((*guess.schema.negatives, *schema.negatives)))[:MAX_UNUSED]
                guess.schema = replace(guess.schema, unused=unused, negatives=negatives)
            found = schema, guess
        self._by_columns[columns] = found
        return found

    def _convert(self, values: Mapping[str, Any], schema: Schema, *, strict_tags: bool) -> Record:
        cell = {canonical: values[own] for canonical, own in schema.columns.items()}
        record: Record = {}
        for name in MEDIA:
            if name in cell:
                strict_tags = True
                if media := media_list(cell[name], schema.columns[name]):
                    record[name] = media
        if "text" in cell:
            self._text(record, cell["text"], schema)
        else:
            self._chat(record, values, cell, schema)
            self._check_parts(record, cell, strict_tags=strict_tags)
        if "tools" in cell and (found := tools(cell["tools"])):
            record["tools"] = found
        if "label" in cell and "label" not in record:
            record["label"] = _label(cell["label"], record)
        if "channel" in cell:
            record["channel"] = cell["channel"]
        if "margin" in cell:
            record["margin"] = number_of(cell["margin"], "margin")
        elif "score_chosen" in cell and "score_rejected" in cell:
            record["margin"] = number_of(cell["score_chosen"], "score_chosen") - number_of(
                cell["score_rejected"], "score_rejected"
            )
        if "chat_template_kwargs" in cell:
            record["chat_template_kwargs"] = parsed(cell["chat_template_kwargs"])
        if not self.need_answer and (kept := [*schema.unused, *([schema.columns["response"]] if "response" in cell else ())]):
            record["columns"] = {name: values[name] for name in kept}
        return record

    def _text(self, record: Record, text: Any, schema: Schema) -> None:
        if not isinstance(text, str):
            raise DataError(f"{schema.columns['text']} is {kind(text)}, not text", fix="write one text per row")
        if not text.strip():
            raise DataError(f"{schema.columns['text']} is empty", fix="fill it in, or remove the row")
        record["text"] = self._fill(text)

    def _chat(self, record: Record, values: Mapping[str, Any], cell: dict[str, Any], schema: Schema) -> None:
        reader = self._reader
        if "messages" in cell:
            messages = reader.read(cell["messages"], schema.columns["messages"], record)
        else:
            messages = self._turns(cell, schema, record)
        if "system" in cell and not (messages and messages[0]["role"] in _SYSTEM):
            messages = self._system(cell["system"], schema, record) + messages
        if schema.choice:
            cell["chosen"], cell["rejected"] = chosen_first(values, schema.choice)
        if "chosen" in cell and "rejected" in cell:
            messages, record["rejected"] = pair(reader, messages, cell, schema, record)
        elif "rejected" in cell:
            wrong = reader.answer(cell["rejected"], schema.columns["rejected"], {})
            record["rejected"] = after_common(wrong, messages)
        if schema.shape in ("embedding", "ranking") or "positive" in cell or "negative" in cell:
            self._compared(record, values, cell, schema)
        if self.need_answer and schema.shape in ANSWERED:
            _check_choices(values, cell, schema)
        empty_system = False
        for part in (messages, record.get("rejected", ()), *(m for name in _COMPARED for m in record.get(name, ()))):
            for message in part:
                if "{{" in message["content"]:
                    message["content"] = self._fill(message["content"])
                empty_system |= message["role"] in _SYSTEM and not message["content"].strip()
        if empty_system:
            messages = [m for m in messages if m["role"] not in _SYSTEM or m["content"].strip()]
        needed = self.need_answer and schema.shape != "classification" and not any(name in record for name in _COMPARED)
        _check(messages, need_answer=needed)
        record["messages"] = messages

    def _system(self, value: Any, schema: Schema, record: Record) -> list[Message]:
        """One message, from a text or (Anthropic) content blocks."""
        column = schema.columns["system"]
        if isinstance(value, list):
            return self._reader.read([{"role": "system", "content": value}], column, record)
        if not isinstance(value, str):
            raise DataError(f"{column} is {kind(value)}, not text", fix=f"write {column} as one text")
        return [{"role": "system", "content": value}] if value else []

    def _check_parts(self, record: Record, cell: Mapping[str, Any], *, strict_tags: bool) -> None:
        """Tags and objects fit."""
        messages = record["messages"]
        if strict_tags or any(name in record for name in MEDIA):
            others = [messages for name in _COMPARED for messages in record.get(name, ())]
            if fit_tags(record, [messages, *others], strict=strict_tags):
                self.counters[TAGS_ADDED] += 1
        if cell.get("objects"):
            record["objects"] = check_objects(cell["objects"], messages)

    def _compared(self, record: Record, values: Mapping[str, Any], cell: Mapping[str, Any], schema: Schema) -> None:
        """positive, negative, and candidates with their scores."""
        reader, columns = self._reader, schema.columns
        for name in ("positive", "negative"):
            if name in cell and cell[name] not in ([], ""):
                record[name] = candidates(reader, cell[name], None, "user", columns[name], record)[0]
        for own in schema.negatives:
            record.setdefault("negative", []).extend(candidates(reader, values[own], None, "user", own, record)[0])
        if "candidates" in cell:
            role = "assistant" if columns["candidates"].lower() in ("responses", "completions") else "user"
            lists, scores = candidates(reader, cell["candidates"], cell.get("scores"), role, columns["candidates"], record)
            if scores is None:
                raise DataError(f"{columns['candidates']} have no scores", fix='add "scores": one number for each entry')
            if role == "user" and set(scores) <= {0.0, 1.0}:
                for name, wanted in (("positive", 1.0), ("negative", 0.0)):
                    if found := [c for c, score in zip(lists, scores, strict=True) if score == wanted]:
                        record[name] = found
            else:
                record["candidates"], record["scores"] = lists, scores
        if "label" in cell and "positive" in record:
            record["label"] = number_of(cell["label"], columns["label"])

    def _turns(self, cell: Mapping[str, Any], schema: Schema, record: Record) -> list[Message]:
        """Messages of a row with a query, an answer and perhaps a history."""
        reader, columns = self._reader, schema.columns
        messages = reader.history(cell["history"], record) if "history" in cell else []
        if "query" in cell:
            query = cell["query"]
            if isinstance(query, str):
                extra = _extra(cell, columns)
                joined = f"{query}\n{extra}" if extra.strip() and query.strip() else query if query.strip() else extra
                if not joined.strip():
                    raise DataError(f"{columns['query']} is empty", fix="fill it in, or remove the row")
                items = reader.holds_messages(query) if joined[0] in "[{" else None
                if items is None and (turns := hh_turns(query) if query[:9].lstrip().startswith("Human:") else []):
                    messages += turns
                elif items is None:
                    messages.append({"role": "user", "content": joined})
            elif (items := reader.holds_messages(query)) is None:
                extra = _extra(cell, columns)
                asked = text_of(query, columns["query"])
                messages.append({"role": "user", "content": f"{asked}\n{extra}" if extra.strip() else asked})
            if items is not None:
                turns = reader.read(items, columns["query"], record)
                if (extra := _extra(cell, columns)).strip() and turns[-1]["role"] == "user":
                    turns[-1]["content"] += f"\n{extra}"
                messages += [{**m, "loss_weight": 0.0} if m["role"] == "assistant" else m for m in turns]
        if "response" in cell:
            response = cell["response"]
            if not isinstance(response, str) or response[:1] in ("[", "{"):
                items = reader.holds_messages(response)
                if items is not None:
                    return messages + reader.read(items, columns["response"], record)
                if "tools" in cell and self.need_answer and _are_calls(response):
                    return [*messages, {"role": "assistant", "content": "", "tool_calls": tool_calls(response)}]
            answer = text_of(response, columns["response"])
            if answer.strip():
                messages.append({"role": "assistant", "content": answer})
                reasoning = cell.get("reasoning_content")
                if isinstance(reasoning, str) and reasoning.strip() and "<think>" not in answer:
                    messages[-1]["reasoning_content"] = reasoning
            elif self.need_answer:
                raise DataError(f"{columns['response']} is empty", fix="fill it in, or remove the row")
        return messages

    def _fill(self, text: str) -> str:
        if "{{" not in text:
            return text
        filled = _PLACEHOLDER.sub(lambda found: self.names.get(found[1].lower(), found[0]), text)
        self.unfilled += bool(_PLACEHOLDER.search(filled))
        return filled


def _label(value: Any, record: Record) -> Any:
    """A boolean where an answer is marked good or bad; else a class as it is (numbers in text become numbers)."""
    answered = bool(record.get("messages")) and record["messages"][-1]["role"] == "assistant"
    if isinstance(value, str):
        word = value.strip().lower()
        if answered and word in _LABELS:
            return _LABELS[word]
        try:
            value = int(word)
        except ValueError:
            return value
    if answered and value in (0, 1):
        return bool(value)
    return value


def _extra(cell: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """What stands below the question: Alpaca's input, a context."""
    if "input" not in cell:
        return ""
    try:
        return text_of(cell["input"], columns["input"])
    except DataError as error:
        own = columns["input"]
        raise DataError(
            error.message, fix=f'write {own} as one text, or leave it out: --columns \'{{"{own}": "{IGNORE}"}}\''
        ) from None


def _are_calls(value: Any) -> bool:
    calls = parsed(value)
    return (
        isinstance(calls, list)
        and bool(calls)
        and all(isinstance(c, Mapping) and "name" in c and ("arguments" in c or "parameters" in c) for c in calls)
    )


def _check_choices(values: Mapping[str, Any], cell: Mapping[str, Any], schema: Schema) -> None:
    """An answer that is the number or letter of a choice says nothing where the question does not show the choices."""
    own = next((name for name in schema.unused if name.strip().lower() in ("choices", "options")), None)
    if own is None or not (isinstance(cell["response"], int) or _CHOICE.fullmatch(str(cell["response"]))):
        return
    choices = parsed(values[own])
    if isinstance(choices, Mapping):
        choices = choices.get("text", list(choices.values()))
    asked = str(cell["query"])
    if isinstance(choices, (list, tuple)) and not all(str(choice) in asked for choice in choices):
        raise DataError(
            f"{schema.columns['response']} is {cell['response']!r}, one of the {own}, which stand nowhere in the question",
            fix=f"write the {own} into {schema.columns['query']}",
        )


def _check(messages: list[Message], *, need_answer: bool) -> None:
    last = ""
    answered = asked = False
    for number, message in enumerate(messages, 1):
        last = message["role"]
        answered |= last == "assistant"
        asked |= last not in _SYSTEM
        if last in ("user", "assistant") and not message.get("tool_calls") and not message["content"].strip():
            raise DataError(f"message {number} ({last}): content is empty", fix="fill it in, or remove the message")
    if need_answer and not answered:
        raise DataError("no message of the assistant: there is nothing to learn",
                        fix="add an answer, or use text rows and swift pt")  # fmt: skip
    if need_answer and last != "assistant":
        raise DataError(f"the last message is of the {last}; training needs an answer after it",
                        fix="remove it, or add the answer")  # fmt: skip
    if not need_answer and not asked:
        raise DataError("no message to answer", fix="add a user's message")
