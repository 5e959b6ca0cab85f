"""Rows of tokens in files: encoding some records into one, and reading it memory-mapped.

A shard is an Arrow IPC file, a JSON trailer (counts, rejected rows, crc32 of what stands before), its length and a mark. It
is written under a temporary name and renamed when whole. It names no files: rows are numbers of the records it was made of.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from swift.api.contracts.data import Encoder, Example, Record
from swift.data.rejects import discard
from swift.errors import DataError

Encode = Callable[[Record, Encoder], Example]

CHUNK_ROWS = 500
CHUNK_BYTES = 1 << 20
"""Rows that are encoded together: so many, or so many bytes of records, whichever is less (a larger row stands alone)."""

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("run_lengths", pa.list_(pa.int32())),  # loss weights, run-length coded
        ("run_weights", pa.list_(pa.float32())),
        ("segments", pa.list_(pa.int32())),  # empty: one document
        ("values", pa.string()),  # JSON, or empty
        ("trained", pa.int32()),
        ("row", pa.int64()),
    ]
)
_MAGIC = b"SWSHARD1"


class CachedEncoder(Protocol):
    """What `tokenize` asks of an encoder beyond `swift.api.Encoder`."""

    counters: Counter[str]
    """Things met while encoding, by the line that tells the user about them."""

    def digest(self) -> str:
        """Changes whenever the ids or weights of any row could."""

    def prepare(self, records: Sequence[Record]) -> None:
        """Encode many records at once; the following calls for them are answered from memory."""


# ---------------------------------------------------------------------------------------------------------------- encoding


@dataclass
class Chunk:
    """Some rows, encoded. `rejects` are (row, reason, suggestion)."""

    batch: pa.RecordBatch
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)


def encode_chunk(records: Sequence[Record], encode: Encode, encoder: Any, first: int = 0) -> Chunk:
    """`first`: number of the first record."""
    found: list[tuple[int, Record]] = []
    rejects: list[tuple[int, str, str]] = []
    for row in range(len(records)):
        try:
            found.append((first + row, records[row]))
        except DataError as error:  # its media are not there any more
            rejects.append((first + row, error.message, error.fix))
    before, encoder.counters = encoder.counters, Counter()
    placeholders = sorted(getattr(encoder, "placeholder_ids", ()))
    encoder.prepare([record for _, record in found])
    numbers: list[int] = []
    rows: list[_Row] = []
    for row, record in found:
        try:
            checked = _checked(encode(record, encoder))
            if placeholders:
                checked = _unlearnt(checked, placeholders)
            rows.append(checked)
            numbers.append(row)
        except DataError as error:
            rejects.append((row, error.message, error.fix))
    labels = _labels(rows)
    for i in np.flatnonzero(labels == 0).tolist():
        rejects.append((numbers[i], "no token is trained on: all labels are masked", "give an answer a loss weight above 0"))
    kept = np.flatnonzero(labels)
    batch = _batch([rows[i] for i in kept.tolist()], labels[kept], np.array(numbers, np.int64)[kept])
    counters, encoder.counters = encoder.counters, before
    return Chunk(batch, sorted(rejects), counters)


_Row = tuple[np.ndarray, np.ndarray, np.ndarray, str]
"""(ids int32, weights float32, documents int32, values as JSON)"""
_ONE_DOCUMENT = np.zeros(0, np.int32)


def _checked(example: Example) -> _Row:
    ids = np.asarray(example["input_ids"], np.int32)
    weights = np.asarray(example["loss_weight"], np.float32)
    if ids.shape != weights.shape or ids.ndim != 1:
        raise DataError(f"{ids.shape} input_ids but {weights.shape} loss weights")
    if not len(ids):
        raise DataError("the row has no tokens", fix="fill it in, or remove the row")
    documents = np.asarray(example["segments"], np.int32) if "segments" in example else _ONE_DOCUMENT
    if len(documents) and (documents.min() < 1 or documents.sum() != len(ids)):
        raise DataError(f"segments {documents.tolist()} do not part {len(ids)} tokens")
    return ids, weights, documents, json.dumps(values) if (values := example.get("values")) else ""


def _unlearnt(row: _Row, ids: Sequence[int]) -> _Row:
    """The row, where nothing is learnt of these tokens."""
    tokens, weights, documents, values = row
    return tokens, np.where(np.isin(tokens, ids), np.float32(0), weights), documents, values


def _labels(rows: Sequence[_Row]) -> np.ndarray:
    """int32 [rows], tokens of each that are trained on; the first one of a document is predicted from nothing."""
    if not rows:
        return np.zeros(0, np.int32)
    firsts = _offsets([ids for ids, *_ in rows])[:-1]
    trained = np.concatenate([weights for _, weights, *_ in rows]) != 0
    trained[firsts] = False
    for first, (_, _, documents, _) in zip(firsts, rows, strict=True):
        if len(documents):
            trained[first + np.cumsum(documents[:-1])] = False
    return np.add.reduceat(trained, firsts, dtype=np.int32)


def _batch(rows: Sequence[_Row], labels: np.ndarray, numbers: np.ndarray) -> pa.RecordBatch:
    ids, weights, documents, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    row_ends = _offsets(ids)
    whole = _joined(weights)
    begins = np.ones(len(whole), bool)
    begins[1:] = whole[1:] != whole[:-1]
    begins[row_ends[:-1]] = True
    runs = np.flatnonzero(begins)
    run_ends = np.searchsorted(runs, row_ends)
    columns = [
        _lists(row_ends, _joined(ids), pa.int32()), _lists(run_ends, np.diff(runs, append=len(whole)), pa.int32()),
        _lists(run_ends, whole[runs], pa.float32()), _lists(_offsets(documents), _joined(documents), pa.int32()),
        pa.array(values, pa.string()), _array(labels, pa.int32()), _array(numbers, pa.int64()),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _offsets(rows: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [rows + 1], where each begins among the values of all, and the end."""
    return np.cumsum([0, *map(len, rows)])


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if len(rows) else np.zeros(0)


def _lists(offsets: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(_array(offsets, pa.int32()), _array(values, kind))


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """`pa.array` of a numpy array imports pandas where that is installed, which costs more than a small data set takes."""
    stored = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(stored), [None, pa.py_buffer(stored)])


def chunks(records: Sequence[Record]) -> Iterator[tuple[int, Sequence[Record]]]:
    """(number of the first, records): what is encoded at a time."""
    for begin, end in bounds(len(records), getattr(records, "sizes", None), CHUNK_ROWS, CHUNK_BYTES):
        yield begin, records[begin:end]


def bounds(rows: int, sizes: np.ndarray | None, max_rows: int, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `max_rows` rows and `max_bytes` bytes; at least one row each."""
    ends = None if sizes is None else np.cumsum(sizes)
    begin = 0
    while begin < rows:
        end = min(begin + max_rows, rows)
        if ends is not None:
            before = int(ends[begin - 1]) if begin else 0
            end = min(end, max(begin + 1, int(np.searchsorted(ends, before + max_bytes, side="right"))))
        yield begin, end
        begin = end


# ----------------------------------------------------------------------------------------------------------------- writing


def write_shard(
    path: Path, records: Sequence[Record], encode: Encode, encoder: Any, first: int, report: Callable[[int], None]
) -> None:
    """Encode `records` into a file.

    Args:
        first: Number of the first record.
        report: Called with the number of records that were done since the last call.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    tokens = rows = 0
    rejects: list[tuple[int, str, str]] = []
    counters: Counter[str] = Counter()
    try:
        with temporary.open("w+b") as sink:
            with pa.ipc.new_file(sink, SCHEMA) as writer:
                for begin, part in chunks(records):
                    chunk = encode_chunk(part, encode, encoder, first + begin)
                    writer.write_batch(chunk.batch)
                    rows += chunk.batch.num_rows
                    tokens += len(chunk.batch.column(0).values)
                    rejects += chunk.rejects
                    counters += chunk.counters
                    report(len(part))
            sink.seek(0)
            crc = 0
            while block := sink.read(1 << 20):
                crc = zlib.crc32(block, crc)
            info = {"first": first, "records": len(records), "rows": rows, "tokens": tokens, "rejects": rejects,
                    "counters": dict(counters), "crc32": crc}  # fmt: skip
            trailer = json.dumps(info, ensure_ascii=True).encode()
            sink.write(trailer + struct.pack("<IQ", zlib.crc32(trailer), len(trailer)) + _MAGIC)
            sink.flush()
            os.fsync(sink.fileno())
        try:
            os.replace(temporary, path)
        except PermissionError:  # Windows: another process has the same file open; its content is as good
            if not path.exists():
                raise
    finally:
        discard(temporary)


# ----------------------------------------------------------------------------------------------------------------- reading


def shard_info(path: Path) -> dict[str, Any]:
    """The trailer: first, records, rows, tokens, rejects, counters, crc32.

    Raises:
        ValueError: The file is not whole.
        OSError: It is not there.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 20))
        tail = stream.read(20)
        if len(tail) < 20 or tail[12:] != _MAGIC:
            raise ValueError("its end is missing")
        crc, length = struct.unpack("<IQ", tail[:12])
        if length > size - 20:
            raise ValueError("its trailer is damaged")
        stream.seek(size - 20 - length)
        trailer = stream.read(length)
        if zlib.crc32(trailer) != crc:
            raise ValueError("its trailer is damaged")
        return {**json.loads(trailer), "data_bytes": size - 20 - length}


class TokenTable:
    """Encoded rows (`Chunk.batch`), without copying them.

    Attributes:
        lengths: int32 [rows], tokens of each.
        documents: int32 [rows], segments of each; 0 is one document.
        trained: int32 [rows], labels of each.
        rows: int64 [rows], numbers of the records.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._ids = [_split(b.column(0)) for b in batches]
        self._run_lengths = [_split(b.column(1)) for b in batches]
        self._run_weights = [_split(b.column(2)) for b in batches]
        self._segments = [_split(b.column(3)) for b in batches]
        self._values = [b.column(4) for b in batches]
        self._first = np.cumsum([0, *(b.num_rows for b in batches)])
        self.lengths = np.concatenate([np.diff(o) for o, _ in self._ids] or [np.zeros(0)]).astype(np.int32)
        self.documents = np.concatenate([np.diff(o) for o, _ in self._segments] or [np.zeros(0)]).astype(np.int32)
        self.trained = np.concatenate([b.column(5).to_numpy() for b in batches] or [np.zeros(0)]).astype(np.int32)
        self.rows = np.concatenate([b.column(6).to_numpy() for b in batches] or [np.zeros(0)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def _place(self, row: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._first, row, side="right")) - 1
        return batch, row - int(self._first[batch])

    def ids(self, row: int) -> np.ndarray:
        """int32; a view into the file."""
        batch, local = self._place(row)
        return _item(self._ids[batch], local)

    def weights(self, row: int) -> np.ndarray:
        """float32, as long as `ids`."""
        batch, local = self._place(row)
        return np.repeat(_item(self._run_weights[batch], local), _item(self._run_lengths[batch], local))

    def segments(self, row: int) -> np.ndarray:
        """int32; empty for a row of one document."""
        batch, local = self._place(row)
        return _item(self._segments[batch], local)

    def values(self, row: int) -> dict[str, float]:
        batch, local = self._place(row)
        text = self._values[batch][local].as_py()
        return json.loads(text) if text else {}


class TokenShard(TokenTable):
    """Rows of a shard, without copying them.

    Args:
        verify: Read all of it and compare its checksum.

    Raises:
        ValueError: The file is not whole, or not what was written.
        OSError: It is not there.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.info = shard_info(path)
        size = self.info["data_bytes"]
        if verify:
            crc = 0
            with path.open("rb") as stream:  # plain reads: pages of a map would count as memory of this process
                left = size
                while left and (block := stream.read(min(left, 1 << 20))):
                    crc = zlib.crc32(block, crc)
                    left -= len(block)
            if crc != self.info["crc32"]:
                raise ValueError("its checksum is not that of what was written")
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source.read_buffer(size))
            if reader.schema != SCHEMA:
                raise ValueError("its columns are of another version")
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        super().__init__(batches)
        if len(self) != self.info["rows"]:
            raise ValueError("rows are missing")


def _split(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, values) of a list column."""
    return column.offsets.to_numpy(), column.values.to_numpy()


def _item(lists: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
    offsets, values = lists
    return values[offsets[row] : offsets[row + 1]]
