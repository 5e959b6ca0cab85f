"""Every row of a dataset, looked at as a run would: what is bad, why, and what would mend it. Left of the torch line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.api.contracts.data import Encoder, Example, Record
from swift.api.specs import TaskSpec
from swift.data.formats import Converter
from swift.data.media import resolve_media
from swift.data.mend import Lines, mend, read_line, strings
from swift.data.row_writer import RowWriter
from swift.data.shards import encode_chunk
from swift.data.sources import Row, Source
from swift.data.tasks import lacks
from swift.errors import DataError

CHUNK_ROWS, CHUNK_CHARACTERS = 200, 4_000_000
"""Rows that are held at once, by number and by the length of their texts."""
MAX_REASONS = 500
"""Kinds of reasons that are counted apart."""
MEDIA = ("images", "videos", "audios")
_UNREADABLE = ("not JSON", "not UTF-8")
_ADVICE = {
    "messages": "give messages, or instruction and output; plain text is for --objective pt",
    "text|messages": "give a column text, or messages",
    "rejected": "a preference row has chosen and rejected, or messages and rejected_response",
    "label": 'a KTO row has "label": true or false',
}
"""Part of a record -> what to write where it is missing."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """Args:
    line: From 1; 0 where a whole file is meant.
    mend: What `--fix` changes so that the row can be used; "" where nothing does.
    """

    file: str
    line: int
    reason: str
    suggestion: str = ""
    mend: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        advice = "; ".join(part for part in (self.suggestion, f"--fix mends it: {self.mend}" if self.mend else "") if part)
        return f"{place}: {self.reason}" + (f"\n    {advice}" if advice else "")


@dataclass(frozen=True)
class Rules:
    """What a row must be.

    Args:
        columns, names: As `load_records` takes them.
        encode, encoder: An objective's `encode` and the encoder; None: rows are not tokenized.
        max_length: Tokens that the model takes; 0: any number.
        media: Look for media, and open images.
        encoding: What lines that are not UTF-8 are written in, for mending.
    """

    task: TaskSpec
    columns: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    encode: Callable[[Record, Encoder], Example] | None = None
    encoder: Any = None
    max_length: int = 0
    media: bool = True
    media_folder: str | None = None
    media_urls: bool = False
    encoding: str = ""
    seed: int = 42


@dataclass
class Report:
    """What was found.

    Attributes:
        bad: Rows that cannot be used as they are; `mendable` of them can be mended.
        reasons: Reason, without the numbers and names of a single row -> rows.
        shapes: One line for each way in which rows of a reference were understood.
        longest: Tokens of the longest row, where rows were tokenized.
    """

    rows: int = 0
    bad: int = 0
    mendable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    shapes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    longest: int = 0

    @property
    def good(self) -> int:
        return self.rows - self.bad


@dataclass
class _Seen:
    """One row on its way: `record` is what it became, `bad` why it cannot be used as it came."""

    file: str
    line: int
    values: dict[str, Any]
    record: Record | None = None
    bad: BadRow | None = None

    @property
    def characters(self) -> int:
        return sum(map(len, strings(self.values)))


def check(
    sources: Iterable[Source],
    rules: Rules,
    *,
    on_bad: Callable[[BadRow], None],
    writer: RowWriter | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Report:
    """Look at every row; memory stays flat.

    Args:
        on_bad: Gets bad rows in the order of the files.
        writer: Gets good rows as they came and mended ones, in order.
        progress: Called with the number of rows that are done.

    Raises:
        DataError: A mapping of columns that names nothing known, or the output cannot be written.
        ModelError: There is no chat template.
    """
    report = Report()
    for source in sources:
        converter = Converter(source.ref, columns={**source.columns, **rules.columns}, names=rules.names,
                              need_answer=rules.task.answer)  # fmt: skip
        before = report.rows
        for chunk in _chunks(_look(source, converter, rules)):
            if rules.encode is not None:
                _tokenize(chunk, rules, report)
            for seen in chunk:
                report.rows += 1
                if seen.bad is not None:
                    _count(report, seen.bad)
                    on_bad(seen.bad)
                if writer is not None and seen.record is not None:
                    writer.write(seen.values)
            progress(report.rows)
        if report.rows == before:
            report.rows += 1
            nothing = BadRow(source.ref, 0, "holds no rows", "give a file with at least one row")
            _count(report, nothing)
            on_bad(nothing)
        report.notes += source.notes
        for guess in converter.guesses:
            columns = ", ".join(f"{canonical} <- {own}" for canonical, own in guess.schema.columns.items())
            unused = f"; not used: {', '.join(guess.schema.unused)}" if guess.schema.unused else ""
            report.shapes.append(f"{source.ref}: {guess.schema.shape}, {guess.rows} rows: {columns}{unused}")
        if converter.unfilled:
            report.notes.append(f"{source.ref}: {converter.unfilled} texts hold {{{{name}}}} or {{{{author}}}}; fill them with "
                                "--model_name NAME --model_author AUTHOR")  # fmt: skip
    return report


def kind_of(reason: str) -> str:
    """The reason without what belongs to one row: numbers, names in quotes, paths."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reason.splitlines()[0] if reason else "").partition(";")[0]
    text = re.sub(r"(?<!\w)[\w.~-]*/[^\s,;:]+", "...", text)
    return re.sub(r"(?<![\w-])(?:0x[0-9a-f]+|\d+(?:[.,]\d+)*)", "N", text)


def _count(report: Report, bad: BadRow) -> None:
    report.bad += 1
    report.mendable += bool(bad.mend)
    kind = kind_of(bad.reason)
    report.reasons[kind if kind in report.reasons or len(report.reasons) < MAX_REASONS else "other reasons"] += 1


# -------------------------------------------------------------------------------------------------------------- one row


def _look(source: Source, converter: Converter, rules: Rules) -> Iterator[_Seen]:
    """Rows of one reference as they can be judged without tokens."""
    raw: Lines | None = None
    raw_file = ""

    def usable(values: dict[str, Any], file: str, line: int) -> Record:
        record = converter(Row(values, file, line))
        if reason := lacks(record, rules.task):
            raise DataError(reason, fix=next((advice for part, advice in _ADVICE.items() if part in reason), ""))
        _judge(record, rules)
        if rules.media and any(record.get(name) for name in MEDIA):
            record = resolve_media(record, base=Path(file).parent, media_folder=rules.media_folder, media_urls=rules.media_urls)
        return record

    def judged(values: dict[str, Any], file: str, line: int, why: BadRow | None, what: str = "") -> _Seen:
        """`why`: the line itself could not be read, and `values` is what it was mended to by `what`."""
        try:
            return _Seen(file, line, values, usable(values, file, line), why and replace(why, mend=what))
        except DataError as error:
            bad = why or BadRow(file, line, error.message, error.fix)
        mended = mend(values, lambda row: usable(row, file, line))
        if mended is None:
            return _Seen(file, line, values, None, bad)
        bad = replace(bad, mend="; ".join(filter(None, (what, mended.what))))
        return _Seen(file, line, mended.values, mended.record, bad)

    try:
        for item in source.rows(seed=rules.seed):
            if isinstance(item, Row):
                yield judged(dict(item.values), item.file, item.line, None)
                continue
            bad = BadRow(item.file, item.line, item.reason, item.suggestion)
            if item.reason.startswith(_UNREADABLE):
                if raw_file != item.file:
                    if raw is not None:
                        raw.close()
                    raw, raw_file = Lines.of(item.file), item.file
                read = read_line(raw.at(item.line), rules.encoding) if raw is not None else None
                if read is not None:
                    yield judged(read[0], item.file, item.line, bad, read[1])
                    continue
                if item.reason.startswith("not UTF-8") and raw is not None:
                    bad = replace(bad, suggestion=f"{bad.suggestion}, or --fix with --encoding".lstrip(", "))
            yield _Seen(item.file, item.line, {}, None, bad)
    except DataError as error:  # a file that cannot be read as a whole
        yield _Seen(source.ref, 0, {}, None, BadRow(source.ref, 0, error.message, error.fix))
    finally:
        if raw is not None:
            raw.close()


def _judge(record: Record, rules: Rules) -> None:
    """What no shape forbids, and no training survives."""
    if "rejected" in rules.task.columns and record.get("rejected"):
        answer = record["messages"][-len(record["rejected"]) :]
        if [m.get("content") for m in answer] == [m.get("content") for m in record["rejected"]] and not any(
            m.get("tool_calls") for m in (*answer, *record["rejected"])
        ):
            raise DataError("chosen and rejected are the same: there is nothing to prefer", fix="remove the row")
    if rules.task.objective == "kto" and record.get("label") not in (True, False, 0, 1):
        raise DataError(f"label is {record.get('label')!r}; it is true (wanted) or false", fix=_ADVICE["label"])


def _chunks(rows: Iterator[_Seen]) -> Iterator[list[_Seen]]:
    chunk: list[_Seen] = []
    characters = 0
    for seen in rows:
        chunk.append(seen)
        characters += seen.characters
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _tokenize(chunk: list[_Seen], rules: Rules, report: Report) -> None:
    """Render and tokenize what is usable so far; what fails there becomes bad."""
    usable = [seen for seen in chunk if seen.record is not None]
    if not usable or rules.encode is None:
        return
    encoded = encode_chunk([seen.record or {} for seen in usable], rules.encode, rules.encoder)
    report.counters += encoded.counters
    faults = {row: (reason, advice) for row, reason, advice in encoded.rejects}
    rows, lengths = encoded.batch.column("row").to_pylist(), encoded.batch.column("input_ids").value_lengths().to_pylist()
    for row, length in zip(rows, lengths, strict=True):
        report.tokens += length
        report.longest = max(report.longest, length)
        if rules.max_length and length > rules.max_length:
            advice = f"shorten it, --max_length {length}, or --overlong truncate_right, split or drop"
            faults[row] = (f"{length} tokens, the longest allowed are {rules.max_length}", advice)
    for row, (reason, advice) in faults.items():
        seen = usable[row]
        seen.bad = replace(seen.bad, mend="") if seen.bad else BadRow(seen.file, seen.line, reason, advice)
        seen.record = None
