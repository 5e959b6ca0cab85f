"""How many rows and tokens a dataset has, from the beginning of its files: a bounded look, never a full read.

Left of the torch line: the `tokenizers` library counts tokens where it is installed, else characters do.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = 8 * 2**20
"""Bytes of a file that are looked at; a smaller file is counted exactly."""
SAMPLE = 200
"""Rows that are tokenized."""
CHARACTERS_PER_TOKEN = 4
TURN_TOKENS = 5
"""What a chat template adds around one message (ChatML: start, role, newline, end, newline)."""
_TURNS = {
    "content", "value", "instruction", "input", "query", "prompt", "output", "response", "completion", "answer", "question",
    "system",
}  # fmt: skip
_NOT_TEXT = {
    "role", "from", "id", "source", "category", "images", "image", "videos", "video", "audios", "audio", "rejected", "kto_tag",
    "image_url", "input_image", "video_url", "audio_url", "input_audio",
}  # fmt: skip

_WRAPPERS = ("data", "rows", "train", "examples", "instances")


@dataclass(frozen=True)
class DataSize:
    """Of one or more datasets.

    Args:
        rows: Counted, or estimated where `exact` is false.
        tokens: Estimated from `sampled` rows.
        longest: Tokens of the longest sampled row.
        counted_by: "tokenizer" or "characters".
        unknown: References that could not be counted, each with the reason.
        documents: Of which a row consists, each within max_length: 2 for pairs.
        image_tokens: Those of `tokens` that stand for images.
    """

    rows: int = 0
    tokens: int = 0
    longest: int = 0
    sampled: int = 0
    exact: bool = True
    counted_by: str = ""
    unknown: tuple[str, ...] = ()
    documents: int = 1
    image_tokens: int = 0


@dataclass(frozen=True)
class _Head:
    rows: list[Mapping[str, Any]]
    total: int
    exact: bool


def measure(
    sources: Iterable[tuple[tuple[Path, ...], int | None]], tokenizer_file: Path | None, max_length: int | None, *,
    pairs: bool = False, images: Callable[[Mapping[str, Any], Path], int] | None = None,
) -> DataSize:  # fmt: skip
    """Size of the data; files that cannot be read are named in `unknown`.

    Args:
        sources: (files, rows to take or None) of each reference.
        pairs: A row is its prompt twice, once with each answer.
        images: Tokens of the images of a row of a file.
    """
    documents = 2 if pairs else 1
    tokenizer = load_tokenizer(tokenizer_file)
    rows = tokens = longest = sampled = image_tokens = 0
    exact, unknown = True, []
    for files, take in sources:
        heads: dict[Path, _Head] = {}
        for file in files:
            try:
                heads[file] = _head(file)
            except (OSError, ValueError, KeyError, EOFError, ImportError, csv.Error) as error:
                unknown.append(f"{file}: {error}")
        total = sum(head.total for head in heads.values())
        share = max(1, SAMPLE // max(len(heads), 1))
        sample = [(row, file) for file, head in heads.items() for row in _spread(head.rows, share)]
        if not sample:
            continue
        texts = [pair_tokens(row, tokenizer) if pairs else row_tokens(row, tokenizer) for row, _ in sample]
        seen = [documents * images(row, file) if images is not None else 0 for row, file in sample]
        lengths = [text + image for text, image in zip(texts, seen, strict=True)]
        if max_length:
            lengths = [min(n, documents * max_length) for n in lengths]
        is_exact = all(head.exact for head in heads.values())
        taken = total if take is None else min(take, total) if is_exact else take
        rows += taken
        tokens += round(taken * sum(lengths) / len(lengths))
        image_tokens += round(taken * sum(map(min, seen, lengths)) / len(lengths))
        longest = max(longest, *lengths)
        sampled += len(lengths)
        exact &= is_exact
    return DataSize(
        rows,
        tokens,
        longest,
        sampled,
        exact,
        "tokenizer" if tokenizer else "characters",
        tuple(unknown),
        documents,
        image_tokens,
    )


def load_tokenizer(file: Path | None) -> Any:
    """`tokenizers.Tokenizer`, or None where the library or a readable file is missing: then characters are counted."""
    if file is None or not file.is_file():
        return None
    try:
        return importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
    except Exception:  # a damaged file raises a bare Exception; loading the model will say it properly
        return None


def pair_tokens(row: Mapping[str, Any], tokenizer: Any) -> int:
    """Of the prompt with the chosen answer, and once more with the rejected one."""
    chosen = {key: value for key, value in row.items() if not key.startswith("rejected")}
    said = [{"answer": value} for key, value in row.items() if key.startswith("rejected")]
    texts = [text for _, text in _texts(row.get("chosen") or chosen)]
    return (
        2 * row_tokens(chosen, tokenizer)
        - row_tokens({"answer": texts[-1] if texts else ""}, tokenizer)
        + sum(row_tokens(one, tokenizer) for one in said)
    )


def row_tokens(row: Mapping[str, Any], tokenizer: Any) -> int:
    texts = list(_texts(row))
    turns = sum(1 for key, _ in texts if key in _TURNS)
    joined = "\n".join(text for _, text in texts)
    count = len(tokenizer.encode(joined).ids) if tokenizer else -(-len(joined) // CHARACTERS_PER_TOKEN)
    return max(count + TURN_TOKENS * turns, 1)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value:
            yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NOT_TEXT:
                yield from _texts(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, key)


def _spread(rows: list[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    step = max(len(rows) // count, 1)
    return rows[::step][:count]


def _head(file: Path) -> _Head:
    suffix = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_head(file)
    text, share = _prefix(file)
    rows, used = _PARSERS[suffix](text, share >= 1)
    if share >= 1:
        return _Head(rows, len(rows), True)
    total = round(len(rows) * len(text) / max(used, 1) / share) if rows else 0
    return _Head(rows, total, False)


def _prefix(file: Path) -> tuple[str, float]:
    """(text at the beginning, its share of the file)."""
    size = max(file.stat().st_size, 1)
    packed = file.suffix.lower() == ".gz"
    with file.open("rb") as raw, gzip.GzipFile(fileobj=raw) if packed else nullcontext(raw) as stream:
        data = stream.read(PREFIX)
        whole = not stream.read(1)
        share = 1.0 if whole else min(raw.tell() / size, 0.999)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace"), share


def _jsonl(text: str, whole: bool) -> tuple[list[Mapping[str, Any]], int]:
    if text.lstrip()[:1] == "[":
        return _json(text, whole)
    lines = text.splitlines(keepends=True)
    if not whole and len(lines) > 1:
        lines.pop()
    rows: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows, sum(map(len, lines))


def _json(text: str, whole: bool) -> tuple[list[Mapping[str, Any]], int]:
    """Objects one after another, inside an array or not; what stands around the array is skipped."""
    decoder = json.JSONDecoder(strict=False)
    rows: list[Mapping[str, Any]] = []
    start = text.find("[")
    first = text.find("{")
    wrapped = start >= 0 and (start < first or any(f'"{key}"' in text[first:start] for key in _WRAPPERS))
    position = used = text.find("{", start if wrapped else 0)
    while 0 <= position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict):
            rows.append(value)
        used = end
        position = text.find("{", end)
    return rows, used


def _csv(text: str, whole: bool) -> tuple[list[Mapping[str, Any]], int]:
    if not whole:
        text = text[: text.rfind("\n") + 1]
    first = text.partition("\n")[0]
    delimiter = next((d for d in ("\t", ",", ";") if d in first), ",")
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter, restkey="", restval="")), len(text)


def _text(text: str, whole: bool) -> tuple[list[Mapping[str, Any]], int]:
    """Blocks between blank lines; where there is no blank line, each line is a document."""
    text = text.replace("\r\n", "\n")
    parts = text.strip().split("\n\n") if "\n\n" in text.strip() else text.strip().split("\n")
    return [{"text": part} for part in parts if part.strip()], len(text)


def _parquet_head(file: Path) -> _Head:
    parquet = importlib.import_module("pyarrow.parquet")
    opened = parquet.ParquetFile(file)
    batch = next(opened.iter_batches(batch_size=SAMPLE), None)
    return _Head(batch.to_pylist() if batch is not None else [], opened.metadata.num_rows, True)


_PARSERS = {
    ".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".txt": _text, ".md": _text,
}  # fmt: skip
