"""From what the user names (files, folders, patterns, registered names, hub ids) to raw rows with their origin.

A row that cannot be read becomes a `Reject` with file, line and reason, and reading goes on. Left of the torch line.
"""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import hashlib
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from swift.api.contracts import DatasetReader
from swift.errors import DataError, PluginNotFound
from swift.plugins.loading import load_impl, package_path

_GZIP_FAULTS = (EOFError, zlib.error, gzip.BadGzipFile)
_UNDECODED = re.compile("[\udc80-\udcff]")
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "configuration.json", "config.json"}
_DECODER = json.JSONDecoder(strict=False)
_WRAPPER = re.compile(r'\s*\{\s*"(?:data|rows|train|examples|instances)"\s*:\s*(?=\[)')


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row. `line` counts from 1; in parquet and arrow files it is the number of the row."""

    values: dict[str, Any]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not trained on, and why."""

    file: str
    line: int
    reason: str
    suggestion: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" + (f" ({self.suggestion})" if self.suggestion else "")


RowOrReject: TypeAlias = Row | Reject


class DatasetRegistry(Protocol):
    """What is asked of a plugin registry; entries carry `.spec`."""

    def find(self, kind: str, name: str) -> Any: ...

    def entries(self, kind: str | None = None) -> list[Any]: ...


@dataclass(frozen=True)
class Source:
    """One resolved reference.

    Args:
        ref: As the user wrote it.
        files: What is read, in this order.
        columns: Own column -> canonical column, from the dataset's registration.
        take: Rows to take (`#N`), or None for all.
        reader: Yields the rows instead of files.
        notes: Lines for the user.
    """

    ref: str
    files: tuple[Path, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    take: int | None = None
    reader: DatasetReader | None = None
    notes: tuple[str, ...] = ()

    def rows(self, *, seed: int) -> Iterator[RowOrReject]:
        if self.reader is not None:
            for number, values in enumerate(self.reader.rows(seed=seed), 1):
                yield Row(dict(values), self.ref, number)
        for path in self.files:
            yield from read_file(path)

    def digest(self, *, seed: int) -> str:
        """sha256 over the content; names and places of files do not count."""
        digest = hashlib.sha256()
        if self.reader is not None:
            for item in self.rows(seed=seed):
                values = item.values if isinstance(item, Row) else str(item)
                digest.update(json.dumps(values, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
        for path in self.files:
            digest.update(_kind(path).encode())
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ references


def resolve(ref: str, *, registry: DatasetRegistry | None = None, hub: str = "auto") -> Source:
    """Find what `ref` stands for: an existing path, a glob pattern, a registered name, or a hub id; `#N` takes N rows.

    Raises:
        DataError: Nothing of that name, or nothing readable in it; near names are listed.
    """
    path = Path(ref).expanduser()
    take = None
    if not path.exists() and (found := re.fullmatch(r"(.+)#(\d+)", ref)):
        take = int(found[2])
        path = Path(found[1]).expanduser()
        if take == 0:
            raise DataError(f"{ref} asks for 0 rows", fix=f"{found[1]}#100 takes 100 rows; {found[1]} takes all")
    name = ref if take is None else ref.rpartition("#")[0]

    if path.is_file():
        _kind(path)
        return Source(ref, (path,), take=take)
    if path.is_dir():
        return _folder(ref, path, take=take)
    if glob.has_magic(name):
        files = tuple(sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()))
        if not files:
            raise DataError(f"no file matches {name}", fix="check the pattern (quote it, so that the shell leaves it alone)")
        for file in files:
            _kind(file)
        return Source(ref, files, take=take)
    if registry is not None:
        try:
            entry = registry.find("dataset", name)
        except PluginNotFound:
            pass
        else:
            return _registered(ref, entry, registry, hub=hub, take=take)
        if "::" in name or (re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", name) and not _looks_like_file(name)):
            return _from_hub(ref, name, registry, hub=hub, take=take)
    raise _missing(name, path, registry)


def _folder(ref: str, folder: Path, *, take: int | None, split: str = "", columns: Mapping[str, str] | None = None) -> Source:
    """All readable files below `folder`, sorted; of a hub's repository only those of `split`, where names tell."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder))
    files = [p for p in found if _suffix(p) in READERS and p.name not in _NOT_DATA]
    if not files:
        kinds = ", ".join(sorted({p.suffix or p.name for p in found})) or "nothing"
        raise DataError(f"the folder {folder} holds no readable file (it holds {kinds})", fix=f"readable are {readable()}")
    notes = []
    if split:
        pattern = re.compile(rf"(^|[^a-z]){re.escape(split)}([^a-z]|$)", re.IGNORECASE)
        of_split = [p for p in files if pattern.search(str(p.relative_to(folder)))]
        if of_split and len(of_split) < len(files):
            notes.append(f"{ref}: {len(of_split)} of {len(files)} files belong to the split {split}")
            files = of_split
    elif len(files) < len(found):
        left = [p.name for p in found if p not in files]
        notes.append(f"{ref}: {len(left)} files that hold no rows were left out ({', '.join(left[:3])})")
    return Source(ref, tuple(files), columns or {}, take, notes=tuple(notes))


def _registered(ref: str, entry: Any, registry: DatasetRegistry, *, hub: str, take: int | None) -> Source:
    spec = entry.spec
    if spec.impl:
        return Source(ref, columns=spec.columns, take=take, reader=_implementation(entry))
    if spec.files:
        files = tuple(package_path(f) for f in spec.files)
        if missing := [str(f) for f in files if not f.is_file()]:
            raise DataError(f"dataset {spec.name}: its plugin lacks {', '.join(missing)}", fix="reinstall that plugin")
        return Source(ref, files, spec.columns, take)
    for entry in _hubs(registry, hub):
        if repo_id := spec.hub_ids.get(entry.spec.name):
            folder = _implementation(entry).resolve_dataset(
                repo_id, subset=spec.subsets[0] if spec.subsets else "", split=spec.split
            )
            return _folder(ref, folder, take=take, split=spec.split, columns=spec.columns)
    raise DataError(
        f"dataset {spec.name} is kept on {', '.join(spec.hub_ids) or 'no hub'}; installed hubs: "
        f"{', '.join(e.spec.name for e in registry.entries('hub')) or 'none'}",
        fix="swift list hubs",
    )


def _from_hub(ref: str, name: str, registry: DatasetRegistry, *, hub: str, take: int | None) -> Source:
    prefix, _, rest = name.rpartition("::")
    repo_id, _, subset = rest.partition(":")
    entries = _hubs(registry, prefix or hub)
    if not entries:
        raise DataError(
            f"{name} is no file here, and no hub is installed to look it up on"
            if not prefix
            else f"{name}: no hub has the prefix {prefix!r}; installed: "
            f"{', '.join(e.spec.prefix or e.spec.name for e in registry.entries('hub')) or 'none'}",
            fix="swift list hubs",
        )
    try:
        folder = _implementation(entries[0]).resolve_dataset(repo_id, subset=subset, split="train")
    except DataError as error:
        if prefix:
            raise
        raise DataError(f"{name} is no file here, and on the hub: {error.message}", fix=error.fix) from error
    return _folder(ref, folder, take=take, split="train")


def _implementation(entry: Any) -> Any:
    return load_impl(getattr(entry, "component", entry))()  # an entry of a plan wraps its component


def _hubs(registry: DatasetRegistry, hub: str) -> list[Any]:
    entries = sorted(registry.entries("hub"), key=lambda e: (-e.spec.priority, e.spec.name))
    return entries if hub == "auto" else [e for e in entries if hub in (e.spec.name, e.spec.prefix, *e.spec.aliases)]


def _missing(name: str, path: Path, registry: DatasetRegistry | None) -> DataError:
    parent = path.parent
    if not parent.is_dir():
        return DataError(f"no such file: {name} (there is no folder {parent})", fix="check the path")
    here = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    near = [str(parent / n) for n in difflib.get_close_matches(path.name, here, n=3, cutoff=0.5)]
    registered = [e.spec.name for e in registry.entries("dataset")] if registry is not None else []
    near += difflib.get_close_matches(name, registered, n=3, cutoff=0.6)
    message = f"no such file or dataset: {name}"
    if near:
        return DataError(f"{message}; near names: {', '.join(near)}", fix=f"--dataset {near[0]}")
    data = [n for n in here if _suffix(Path(n)) in READERS][:5]
    there = f"; {parent.resolve()} holds {', '.join(data)}" if data else f"; {parent.resolve()} holds no data file"
    return DataError(message + there, fix="give a file, a folder, a pattern, or a name of `swift list datasets`")


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _looks_like_file(name: str) -> bool:
    return _suffix(Path(name)) in READERS or name.startswith((".", "/", "~"))


def _kind(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in READERS:
        raise DataError(f"{path}: cannot read files of kind {path.suffix or '(none)'}", fix=f"readable are {readable()}")
    return suffix


def readable() -> str:
    return ", ".join(READERS) + ", each also as .gz"


# ----------------------------------------------------------------------------------------------------------------- files


def read_file(path: Path) -> Iterator[RowOrReject]:
    """Rows of one file, in order. Raises `DataError` where the file as a whole cannot be opened."""
    try:
        yield from READERS[_kind(path)](path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", fix="check that the file is there and may be read") from error


def _open(path: Path) -> Any:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, str] | Reject]:
    """(number, line with its end). Bytes that are not UTF-8 stay as lone surrogates for the caller to report."""
    number = 0
    try:
        with _open(path) as stream:
            start = stream.peek(4)[:4] if hasattr(stream, "peek") else b""
            utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
            encoding, errors = ("utf-16", "replace") if utf16 else ("utf-8-sig", "surrogateescape")
            with io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="\n") as text:
                for line in text:
                    number += 1
                    yield number, line
    except _GZIP_FAULTS as error:
        reason = f"the compressed file is cut off or damaged after line {number}: {error}"
        yield Reject(str(path), number + 1, reason, "fetch or compress it again")


def _undecoded(text: str) -> str:
    found = _UNDECODED.search(text)
    return f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}" if found else ""


def _json_row(text: str, values: Any, file: str, line: int) -> RowOrReject:
    """`text` is what `values` was parsed from."""
    if reason := "" if text.isascii() else _undecoded(text):
        return Reject(file, line, reason, "convert the file: iconv -f latin1 -t utf-8")
    if not isinstance(values, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(values), "a number or boolean")
        return Reject(file, line, f"a row is a JSON object, this is {kind}", 'write {"text": ...} or {"messages": [...]}')
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return Reject(file, line, "holds half of a \\u surrogate pair, which is no character", "write the whole character")
    return Row(values, file, line)


def _json_advice(text: str, error: json.JSONDecodeError) -> str:
    stripped = text.strip()
    if stripped.endswith(("},", "],")):
        return "remove the comma at the end of the line"
    if re.match(r"\{\s*'", stripped):
        return "JSON wants double quotes, this has single ones"
    if stripped in ("{", "["):
        return "this is one JSON value over several lines: name the file .json"
    if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
        return "the row is cut off"
    return ""


def _read_jsonl(path: Path) -> Iterator[RowOrReject]:
    file = str(path)
    lines = _lines(path)
    for item in lines:
        if isinstance(item, Reject):
            yield item
            continue
        number, line = item
        if not line.strip():
            continue
        if line.lstrip()[0] == "[" or line.strip() == "{":  # a whole JSON document in spite of its name
            rest = list(itertools.chain([item], lines))
            yield from _parse_json("\n" * (number - 1) + _join(rest), file)
            yield from (r for r in rest if isinstance(r, Reject))
            return
        yield _jsonl_row(line, file, number)
        break
    for item in lines:
        if isinstance(item, Reject):
            yield item
        elif item[1].strip():
            yield _jsonl_row(item[1], file, item[0])


def _jsonl_row(line: str, file: str, number: int) -> RowOrReject:
    try:
        values = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return Reject(file, number, f"not JSON: {error.msg} at column {error.colno}", _json_advice(line, error))
    except RecursionError:
        return Reject(file, number, "not JSON: nested too deeply")
    return _json_row(line, values, file, number)


def _join(items: Iterable[tuple[int, str] | Reject]) -> str:
    return "".join(item[1] for item in items if not isinstance(item, Reject))


def _read_json(path: Path) -> Iterator[RowOrReject]:
    items = list(_lines(path))
    yield from _parse_json(_join(items), str(path))
    yield from (item for item in items if isinstance(item, Reject))


class _Lines:
    """Line number of growing positions in a text, each newline counted once."""

    def __init__(self, text: str) -> None:
        self._text, self._position, self._line = text, 0, 1

    def at(self, position: int) -> int:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_NEXT_IN_ARRAY = re.compile(r"\s*,\s*(?=\{)")
_END_OF_ARRAY = re.compile(r"\s*\]\s*$")


def _parse_json(text: str, file: str) -> Iterator[RowOrReject]:
    """An array of objects (or one under "data", "rows", ...), one object, or objects one after another."""
    lines = _Lines(text)
    position = _skip(text, 0)
    if wrapper := _WRAPPER.match(text):
        position = wrapper.end()
    array = text[position : position + 1] == "["
    position = _skip(text, position + 1) if array else position
    before = text[text.rfind("\n", 0, position) + 1 : position]
    row_start = f"\n{before}{{" if not before.strip() and "\n" in text[:position] else "\n{"
    while position < len(text):
        if array and text[position] == "]":
            rest = _skip(text, position + 1)
            if rest < len(text) and not wrapper:
                yield Reject(file, lines.at(rest), "text after the end of the array was not read", "keep one array per file")
            return
        line = lines.at(position)
        try:
            values, end = _DECODER.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            following = _next_row(text, position, row_start, array=array)
            reason, advice = "nested too deeply", ""
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} at line {line + text.count(chr(10), position, error.pos)} column {error.colno}"
                if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
                    advice = "the file is cut off here; the rows above are kept" if following is None else ""
            yield Reject(file, line, f"not JSON: {reason}", advice)
            if following is None:
                return
            position = following
            continue
        yield _json_row(text[position:end], values, file, line)
        position = _skip(text, end)
        if array and position < len(text):
            if text[position] == ",":
                position = _skip(text, position + 1)
            elif text[position] == "{":
                yield Reject(file, lines.at(position), "a comma is missing before this row; it was read all the same")
            elif text[position] != "]":
                yield Reject(file, lines.at(position), f"expected a comma or ] after a row, found {text[position]!r}")
                following = _next_row(text, position, row_start, array=True)
                if following is None:
                    return
                position = following
        elif not array and position < len(text) and text[position] == ",":
            position = _skip(text, position + 1)
    if array:
        yield Reject(file, lines.at(len(text)), "the array is not closed: the file is cut off", "rows above are kept")


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _next_row(text: str, position: int, row_start: str, *, array: bool) -> int | None:
    """Start of the row after the broken one at `position`: by layout, else by counting brackets. None: there is none."""
    following = text.find(row_start, position + 1)
    if following >= 0:
        return following + len(row_start) - 1
    depth = 0
    for token in _TOKEN.finditer(text, position) if array else ():
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > 0:
            continue
        if found := _NEXT_IN_ARRAY.match(text, token.end()):
            return found.end()
        if depth < 0 or _END_OF_ARRAY.match(text, token.end()):
            return token.start() if depth < 0 else _skip(text, token.end())
    return None


def _read_csv(path: Path) -> Iterator[RowOrReject]:
    file = str(path)
    items = list(_lines(path))
    lines = [item[1] for item in items if not isinstance(item, Reject)]
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    start = next((i for i, line in enumerate(lines) if line.strip()), None)
    if start is not None:
        delimiter = "\t" if _suffix(path) == ".tsv" else _delimiter(lines[start])
        header_reader = csv.reader(lines[start:], delimiter=delimiter)
        header = [name.strip() for name in next(header_reader)]
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(f"{file}: the header names {', '.join(map(repr, repeated))} twice", fix="rename one of them")
        yield from _csv_rows(lines, start + header_reader.line_num, header, delimiter, file)
    yield from (item for item in items if isinstance(item, Reject))


def _delimiter(header: str) -> str:
    return next((d for d in (",", "\t", ";") if d in header), ",")


def _csv_rows(lines: list[str], start: int, header: list[str], delimiter: str, file: str) -> Iterator[RowOrReject]:
    while start < len(lines):
        reader = csv.reader(itertools.islice(lines, start, None), delimiter=delimiter, strict=True)
        begin = 0
        while True:
            number = start + begin + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                unclosed = "unexpected end" in str(error)
                reason = "a quote is opened here and never closed" if unclosed else f"not CSV: {error}"
                yield Reject(file, number, reason, 'a quote inside a quoted field is written ""')
                if unclosed:  # what was swallowed up to the end of the file is read again from the next line
                    start = number
                    break
                begin = reader.line_num
                continue
            begin = reader.line_num
            if not fields:
                continue
            if reason := next(filter(None, map(_undecoded, fields)), ""):
                yield Reject(file, number, reason, "convert the file: iconv -f latin1 -t utf-8")
            elif len(fields) != len(header):
                yield Reject(file, number, f"{len(fields)} fields, but the header names {len(header)} columns",
                             "quote fields that hold the separator")  # fmt: skip
            else:
                yield Row(dict(zip(header, fields, strict=True)), file, number)


def _read_text(path: Path) -> Iterator[RowOrReject]:
    """Documents: blocks between blank lines; where there is no blank line, each line is a document."""
    file = str(path)
    items = list(_lines(path))
    lines = [(item[0], item[1].rstrip("\r\n")) for item in items if not isinstance(item, Reject)]
    while lines and not lines[-1][1].strip():
        lines.pop()
    while lines and not lines[0][1].strip():
        lines.pop(0)
    by_block = any(not line.strip() for _, line in lines)
    groups = (
        itertools.groupby(lines, key=lambda item: bool(item[1].strip())) if by_block else ((True, [item]) for item in lines)
    )
    for full, group in groups:
        if not full:
            continue
        block = list(group)
        text = "\n".join(line for _, line in block)
        if reason := _undecoded(text):
            yield Reject(file, block[0][0], reason, "convert the file: iconv -f latin1 -t utf-8")
        else:
            yield Row({"text": text}, file, block[0][0])
    yield from (item for item in items if isinstance(item, Reject))


def _read_parquet(path: Path) -> Iterator[RowOrReject]:
    try:
        with _open(path) as stream:
            file = pa.parquet.ParquetFile(pa.BufferReader(stream.read()) if path.suffix.lower() == ".gz" else path)
    except (pa.ArrowInvalid, *_GZIP_FAULTS) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}", fix="fetch or write it again") from error
    yield from _batches(path, file.iter_batches(batch_size=1024))


def _read_arrow(path: Path) -> Iterator[RowOrReject]:
    """IPC in either form: stream (as `datasets` writes it) or file."""
    try:
        with _open(path) as stream:
            source = pa.BufferReader(stream.read()) if path.suffix.lower() == ".gz" else pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(source)
            batches: Iterable[pa.RecordBatch] = (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            batches = pa.ipc.open_stream(source)
    except (pa.ArrowInvalid, *_GZIP_FAULTS) as error:
        raise DataError(f"{path}: not a readable arrow file: {error}", fix="fetch or write it again") from error
    yield from _batches(path, batches)


def _batches(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[RowOrReject]:
    number = 0
    try:
        for batch in batches:
            for values in _pylist(batch):
                number += 1
                if isinstance(values, str):
                    yield Reject(str(path), number, values)
                else:
                    yield Row(values, str(path), number)
    except (pa.ArrowException, OSError) as error:
        yield Reject(str(path), number + 1, f"the file is damaged from row {number + 1} on: {error}", "fetch or write it again")


def _pylist(batch: pa.RecordBatch) -> list[Any]:
    """Rows; a string is the reason why that row cannot be had."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return ["not UTF-8 text in a string column"]
        middle = batch.num_rows // 2
        return _pylist(batch.slice(0, middle)) + _pylist(batch.slice(middle))


READERS: dict[str, Callable[[Path], Iterator[RowOrReject]]] = {
    ".json": _read_json, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv,
    ".parquet": _read_parquet, ".arrow": _read_arrow, ".txt": _read_text,
}  # fmt: skip
