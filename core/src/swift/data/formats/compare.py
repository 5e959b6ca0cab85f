"""Rows that compare: pairs of answers, ranked candidates, sentences that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.api.contracts.data import Record
from swift.data.formats.columns import Schema
from swift.data.formats.messages import Message, MessageReader, after_common
from swift.data.formats.values import kind, parsed, text_of
from swift.errors import DataError

_CANDIDATE_TEXTS = ("text", "response", "content", "document", "passage", "passage_text", "completion", "answer", "output")
_CANDIDATE_SCORES = ("score", "overall_score", "rating", "relevance", "is_selected", "label", "rank_score", "reward")
_FIRST = {"a", "model_a", "response_a", "conversation_a", "0", "response_0", "first", "left"}
_SECOND = {"b", "model_b", "response_b", "conversation_b", "1", "response_1", "second", "right"}


def pair(
    reader: MessageReader, prompt: list[Message], cell: Mapping[str, Any], schema: Schema, record: Record
) -> tuple[list[Message], list[Message]]:
    """(messages with the chosen answer, messages of the rejected answer).

    Args:
        prompt: What stands in columns of its own; chosen and rejected may repeat it, in whole or (a history) in part.
    """
    chosen = reader.answer(cell["chosen"], schema.columns.get("chosen", "the better answer"), record)
    rejected = reader.answer(cell["rejected"], schema.columns.get("rejected", "the worse answer"), {})
    if prompt and prompt[-1]["role"] == "assistant":  # messages that hold the chosen answer already
        prompt = prompt[:-1]
    system, rest = _without_system(prompt)
    if chosen[0]["role"] != "assistant":
        repeated = after_common(_without_system(chosen)[1], rest)
        whole = not rest or repeated[0]["role"] == "assistant" or len(_without_system(chosen)[1]) >= len(rest) + 1
        messages = [*([] if chosen[0]["role"] in ("system", "developer") else system), *chosen] if whole else prompt + chosen
    else:
        messages = prompt + chosen
    if messages[0]["role"] == "assistant" or not any(m["role"] == "user" for m in messages):
        raise DataError("no column holds the prompt of chosen and rejected", fix='name it: --columns \'{"COLUMN": "query"}\'')
    wrong = after_common(_without_system(rejected)[1], _without_system(messages)[1])
    if any(m["role"] == "user" for m in wrong[:-1]) and wrong[0]["role"] == "user":
        if _questions(wrong) != 1 or _questions(messages) != 1:
            raise DataError("chosen and rejected answer different prompts", fix="give both the same messages up to the answer")
        wrong = [m for m in wrong if m["role"] != "user"]
    return messages, wrong


def _questions(messages: list[Message]) -> int:
    return sum(m["role"] == "user" for m in messages)


def _without_system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    count = next((i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), len(messages))
    return messages[:count], messages[count:]


def chosen_first(values: Mapping[str, Any], choice: tuple[str, str, str]) -> tuple[Any, Any]:
    """(better, worse) of two answers by a column that names the better one."""
    a, b, selector = choice
    said = values[selector]
    word = str(said).strip().lower()
    names = {a.lower(): True, b.lower(): False, **dict.fromkeys(_FIRST, True), **dict.fromkeys(_SECOND, False)}
    if a.endswith("1"):  # answers 1 and 2
        names.update({"1": True, "2": False, "0": True} if b.endswith("2") else {})
    if a.lower() == "human_ref_a":  # SHP: labels is 1 where A is preferred
        names.update({"1": True, "0": False})
    if word not in names:
        tie = "tie" in word
        raise DataError(
            f"{selector} is {said!r}: neither answer is the better one" if tie
            else f"{selector} is {said!r}; it names {a} or {b}, or is 0 or 1",
            fix="remove the row" if tie else f"write {a} or {b}",
        )  # fmt: skip
    return (values[a], values[b]) if names[word] else (values[b], values[a])


def candidates(
    reader: MessageReader, values: Any, scores: Any, role: str, column: str, record: Record
) -> tuple[list[list[Message]], list[float] | None]:
    """(messages of each candidate, scores or None) of texts, messages or mappings with text and score.

    Args:
        role: Whose message a bare text is.
    """
    items = parsed(values)
    found_scores = parsed(scores)
    if isinstance(items, Mapping):  # columns of lists: {"passage_text": [...], "is_selected": [...]}
        own = next((items[k] for k in _CANDIDATE_SCORES if isinstance(items.get(k), list)), None)
        found_scores = own if found_scores is None else found_scores
        items = next((items[k] for k in _CANDIDATE_TEXTS if isinstance(items.get(k), list)), [items])
    elif isinstance(items, str):
        items = [items]
    if not isinstance(items, (list, tuple)):
        raise DataError(f"{column} is {kind(items)}; it is a list", fix=f"write a list of texts as {column}")
    if not items:
        raise DataError(f"{column} is empty", fix="fill it in, or remove the row")
    if reader.holds_messages(items) and all(isinstance(i, Mapping) and "score" not in i for i in items):
        items = [items]
    lists, inner = [], []
    for number, item in enumerate(items, 1):
        try:
            messages, score = _candidate(reader, item, role, column, record)
        except DataError as error:
            raise DataError(f"{column}, entry {number}: {error.message}", fix=error.fix) from None
        if not any(m["content"].strip() or m.get("tool_calls") for m in messages):
            raise DataError(f"{column}, entry {number} is empty", fix="fill it in, or remove the entry")
        lists.append(messages)
        inner.append(score)
    if found_scores is None and all(score is not None for score in inner):
        found_scores = inner
    if found_scores is None:
        return lists, None
    if not isinstance(found_scores, (list, tuple)) or len(found_scores) != len(lists):
        count = len(found_scores) if isinstance(found_scores, (list, tuple)) else kind(found_scores)
        raise DataError(f"{len(lists)} entries in {column}, but scores are {count}", fix="give one score for each entry")
    return lists, [number_of(score, "a score") for score in found_scores]


def _candidate(reader: MessageReader, item: Any, role: str, column: str, record: Record) -> tuple[list[Message], Any]:
    if isinstance(item, str):
        return [{"role": role, "content": item}], None
    if isinstance(item, list):
        return reader.read(item, column, record), None
    if isinstance(item, Mapping):
        score = next((item[k] for k in _CANDIDATE_SCORES if item.get(k) is not None), None)
        if reader.holds_messages(item):
            return reader.read([item], column, record), score
        if "messages" in item:
            return reader.read(item["messages"], column, record), score
        text = next((item[k] for k in _CANDIDATE_TEXTS if item.get(k) is not None), None)
        if text is None:
            raise DataError(f"has the keys {', '.join(item)}; it needs text", fix='write {"text": ..., "score": ...}')
        title = item.get("title")
        said = text_of(text, column)
        return [{"role": role, "content": f"{title}\n{said}" if isinstance(title, str) and title.strip() else said}], score
    return [{"role": role, "content": text_of(item, column)}], None


def number_of(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{what} is {value!r}; it is a number", fix="write a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise DataError(f"{what} is {value!r}; it must be finite", fix="write a number")
    return number
