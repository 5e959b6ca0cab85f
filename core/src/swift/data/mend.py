"""Small, certain repairs of raw rows. What would have to be guessed (lost text, missing answers) stays broken.

Left of the torch line.
"""

from __future__ import annotations

import ast
import difflib
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from swift.api.contracts.data import Record
from swift.data.formats import ROLES, nearest_column, spellings
from swift.errors import DataError

LINE_FILES = (".jsonl", ".ndjson")
_ROLE_SPELLINGS = (*ROLES, "human", "gpt", "observation", "function_call", "tool_call", "tool_response")
_ROLES_MEANT = {"bot": "assistant", "chatbot": "assistant", "assistent": "assistant", "customer": "user", "client": "user"}
_CONTENT = ("content", "value", "text")
_CONTENT_MEANT = ("message", "msg", "body", "utterance", "contents", "texts", "values")
_ANSWER = {"assistant", "gpt", "chatgpt", "model", "ai", "function_call", "tool_call"}
LITERAL_LIMIT = 2**20
"""Characters of a row that is read as a Python literal; the parser takes much memory."""


class Mended(NamedTuple):
    """A row that can be used now. `what` says what was changed."""

    values: dict[str, Any]
    record: Record
    what: str


def mend(values: Mapping[str, Any], usable: Callable[[dict[str, Any]], Record]) -> Mended | None:
    """Try one repair after another until the row can be used; None where none helps.

    Args:
        usable: Gives the record of a row, or raises `DataError`.
    """
    row, done = dict(values), list[str]()
    for step in STEPS:
        changed = step(row)
        if changed is None:
            continue
        row, what = changed
        done.append(what)
        try:
            return Mended(row, usable(row), "; ".join(done))
        except DataError:
            continue
    return None


def read_line(line: bytes, encoding: str = "") -> tuple[dict[str, Any], str] | None:
    """(row, what was changed) of a line that is no JSON, or not UTF-8.

    Args:
        encoding: What lines that are not UTF-8 are written in; "" leaves them unread.
    """
    done = []
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        try:
            text = line.decode(encoding) if encoding else ""
        except (UnicodeDecodeError, LookupError):
            return None
        done.append(f"read as {encoding}")
    text = text.strip()
    if not text:
        return None
    for attempt, what in ((text, ""), (re.sub(r",\s*$", "", text), "comma after the row removed")):
        try:
            found = json.loads(attempt, strict=False)
        except (ValueError, RecursionError):
            continue
        return (found, "; ".join([*done, *[what] * bool(what)])) if isinstance(found, dict) else None
    if len(text) > LITERAL_LIMIT:
        return None
    try:  # {'role': ...}: what print() of a Python row gives
        found = ast.literal_eval(re.sub(r",\s*$", "", text))
        json.dumps(found)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        return None
    return found, "; ".join([*done, "Python's quotes and words turned into JSON's"])


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


class Lines:
    """Raw lines of a line-by-line file by growing number, so that a broken one can be looked at again."""

    def __init__(self, path: Path) -> None:
        self._stream = _opened(path)
        self._number = 0

    @classmethod
    def of(cls, file: str) -> Lines | None:
        """None where lines are no rows (or no bytes of ASCII at their ends), or the file is gone."""
        path = Path(file)
        suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
        if suffix.lower() not in LINE_FILES or not path.is_file():
            return None
        try:
            with _opened(path) as head:
                utf16 = head.read(2) in (b"\xff\xfe", b"\xfe\xff")
        except (OSError, EOFError):
            return None
        return None if utf16 else cls(path)

    def at(self, number: int) -> bytes:
        """b"" for a line that was passed, or that cannot be read."""
        line = b""
        try:
            while self._number < number:
                line = self._stream.readline()
                self._number += 1
                if not line:
                    break
        except (OSError, EOFError):
            return b""
        return line

    def close(self) -> None:
        self._stream.close()


# ------------------------------------------------------------------------------------------------------------ repairs


def rename_columns(row: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    known = spellings()
    meant: dict[str, str] = {}
    for name in row:
        near = nearest_column(name) if name.strip().lower() not in known else ""
        if near and near not in row and near not in meant.values():
            meant[name] = near
    if not meant:
        return None
    return {meant.get(k, k): v for k, v in row.items()}, ", ".join(f"column {a!r} renamed to {b!r}" for a, b in meant.items())


def mend_messages(row: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Role names and the key of the content."""
    done: dict[str, None] = {}

    def message(item: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(item)
        key = "role" if "role" in item else "from"
        spoken = str(item.get(key, ""))
        if key in item and spoken.strip().lower() not in _ROLE_SPELLINGS:
            near = difflib.get_close_matches(spoken.strip().lower(), _ROLE_SPELLINGS, n=1, cutoff=0.75)
            role = _ROLES_MEANT.get(spoken.strip().lower()) or (near[0] if near else "")
            if role:
                new[key] = role
                done[f"role {spoken!r} changed to {role!r}"] = None
        if key in item and not any(k in item for k in (*_CONTENT, "tool_calls")):
            texts = [k for k, v in item.items() if k != key and isinstance(v, str)]
            own = [
                k for k in texts if k.lower() in _CONTENT_MEANT or difflib.get_close_matches(k.lower(), _CONTENT, cutoff=0.7)
            ]
            if len(own) == 1:
                new = {("content" if k == own[0] else k): v for k, v in new.items()}
                done[f"key {own[0]!r} of a message renamed to 'content'"] = None
        return new

    changed = {
        name: [message(item) for item in value] if _is_conversation(value) else value for name, value in row.items()
    }  # fmt: skip
    return (changed, ", ".join(done)) if done else None


def end_with_answer(row: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Leave out what follows the last answer: nothing comes after it that could be learned."""
    changed, left = dict(row), 0
    for name, value in row.items():
        if not _is_conversation(value):
            continue
        spoken = [str(item.get("role", item.get("from", ""))).strip().lower() for item in value]
        last = max((i for i, role in enumerate(spoken) if role in _ANSWER), default=None)
        if last is not None and last < len(value) - 1:
            left += len(value) - 1 - last
            changed[name] = value[: last + 1]
    return (changed, f"{left} message{'s' * (left > 1)} after the last answer left out") if left else None


STEPS: Sequence[Callable[[Mapping[str, Any]], tuple[dict[str, Any], str] | None]] = (
    rename_columns, mend_messages, end_with_answer,
)  # fmt: skip


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def strings(value: Any) -> Iterator[str]:
    """Every text in a row, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)
