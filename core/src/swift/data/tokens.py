"""Records to a memory-mapped set of token rows, tokenized once and kept in a content-addressed cache.

A cache file holds the full rows; `max_length` and what happens to longer rows are a view over it, so that changing them
tokenizes nothing anew. It is an Arrow IPC file with a JSON trailer (counts, rejected rows), written under a temporary
name and renamed when whole: several processes may build the same one, the last rename wins, and readers keep theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import secrets
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from rich.console import Console
from rich.progress import Progress, SpinnerColumn

from swift.api.contracts import Encoder, Example, Record
from swift.data.records import RecordSet, TooManyRejects, check_rejects, discard
from swift.data.sources import Reject
from swift.errors import DataError
from swift.plugins import index

Encode = Callable[[Record, Encoder], Example]
Report = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""
Overlong = Literal["ask", "error", "drop", "truncate_left", "truncate_right", "split"]

CHUNK_ROWS = 500
WORKERS_PAY_AFTER_S = 20.0
"""Worker processes are started where one process would need longer than this."""
ASK_SHARE = 0.01
"""`ask` drops up to this share of over-long rows and stops above it."""

_MAGIC = b"SWTOKEN1"
_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("run_lengths", pa.list_(pa.int32())),  # loss weights, run-length coded
        ("run_weights", pa.list_(pa.float32())),
        ("trained", pa.int32()),
        ("origin", pa.string()),
    ]
)


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
    """Some rows, encoded."""

    batch: pa.RecordBatch
    rejects: list[Reject] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)


def encode_chunk(records: Sequence[Record], encode: Encode, encoder: Any) -> Chunk:
    rows: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    rejects = []
    encoder.prepare(records)
    for record in records:
        origin = record.get("_origin", "")
        try:
            example = encode(record, encoder)
            ids = np.asarray(example["input_ids"], np.int32)
            weights = np.asarray(example["loss_weight"], np.float32)
            if ids.shape != weights.shape or ids.ndim != 1:
                raise DataError(f"{ids.shape} input_ids but {weights.shape} loss weights")
            trained = int(np.count_nonzero(weights[1:]))
            if not trained:
                raise DataError("no token is trained on: all labels are masked", fix="give an answer a loss weight above 0")
        except DataError as error:
            rejects.append(_reject(origin, error.message, error.fix))
            continue
        starts = np.flatnonzero(np.diff(weights, prepend=np.nan))
        rows["input_ids"].append(ids)
        rows["run_lengths"].append(np.diff(starts, append=len(weights)).astype(np.int32))
        rows["run_weights"].append(weights[starts])
        rows["trained"].append(trained)
        rows["origin"].append(origin)
    counters, encoder.counters = encoder.counters, Counter()
    return Chunk(pa.RecordBatch.from_pydict(rows, schema=_SCHEMA), rejects, counters)


def _reject(origin: str, reason: str, suggestion: str = "") -> Reject:
    file, _, line = origin.rpartition(":")
    return Reject(file or origin, int(line) if line.isdigit() else 0, reason, suggestion)


def _chunks(records: Sequence[Record], start: int = 0) -> Iterator[Sequence[Record]]:
    for begin in range(start, len(records), CHUNK_ROWS):
        yield records[begin : begin + CHUNK_ROWS]


def encode_all(records: Sequence[Record], encode: Encode, encoder: Any, *, workers: int) -> Iterator[Chunk]:
    """Chunks in order. Worker processes are started only where the first chunk shows that they pay."""
    began = time.monotonic()
    first = next(_chunks(records))
    yield encode_chunk(first, encode, encoder)
    expected_s = (time.monotonic() - began) * (len(records) / len(first) - 1)
    rest = _chunks(records, CHUNK_ROWS)
    if workers > 1 and expected_s > WORKERS_PAY_AFTER_S:
        yield from encode_in_processes(rest, encode, encoder, workers=workers)
    else:
        yield from (encode_chunk(chunk, encode, encoder) for chunk in rest)


def encode_in_processes(
    chunks: Iterable[Sequence[Record]], encode: Encode, encoder: Any, *, workers: int, command: Sequence[str] = ()
) -> Iterator[Chunk]:
    """Chunks in order, encoded by worker processes.

    The workers are plain subprocesses and not `multiprocessing`: the user's main module is not run again, threads and
    locks are not inherited, and a worker that is killed is seen at once as the end of its pipe. Its chunk, and what
    follows for it, is then encoded here.
    """
    try:
        task = pickle.dumps((encode, encoder))
    except (pickle.PicklingError, AttributeError, TypeError):
        yield from (encode_chunk(chunk, encode, encoder) for chunk in chunks)
        return
    local = threading.local()
    started: list[_Worker] = []
    here = threading.Lock()  # the encoder of this process is not shared by two threads at once

    def run(chunk: Sequence[Record]) -> Chunk:
        if not hasattr(local, "worker"):
            local.worker = _Worker(task, command or (sys.executable, "-m", "swift.data.token_worker"))
            started.append(local.worker)
        answer = local.worker.ask(chunk)
        if answer is not None:
            return answer
        with here:
            done = encode_chunk(chunk, encode, encoder)
        done.counters["a tokenizing process ended early; its rows were tokenized in the main process"] += 1
        return done

    pool = ThreadPoolExecutor(workers)
    waiting: deque[Any] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(run, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for worker in started:
            worker.stop()
        pool.shutdown()


class _Worker:
    """One subprocess, asked over pipes with length-prefixed pickles."""

    def __init__(self, task: bytes, command: Sequence[str]) -> None:
        threads = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads})
        self._task: bytes | None = task

    def ask(self, chunk: Sequence[Record]) -> Chunk | None:
        """None once the process is gone. Errors of the encoding code are raised here."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        try:
            if self._task is not None:
                write_frame(stdin, self._task)
                self._task = None
            write_frame(stdin, pickle.dumps(chunk))
            answer = read_frame(stdout)
        except (OSError, ValueError):
            return None
        if answer is None:
            return None
        result = pickle.loads(answer)
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # unsent bytes for a process that is gone


def write_frame(stream: Any, data: bytes) -> None:
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: Any) -> bytes | None:
    """None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    return data if len(data) == size else None


# ------------------------------------------------------------------------------------------------------------------- cache


class TokenFile:
    """Read access to the rows of a cache file (or of the same bytes in memory), without copying them.

    Raises:
        ValueError: Not a whole cache file.
    """

    def __init__(self, buffer: pa.Buffer) -> None:
        size = buffer.size
        tail = buffer.slice(max(0, size - 16)).to_pybytes()
        if len(tail) < 16 or tail[8:] != _MAGIC:
            raise ValueError("the end of the file is missing")
        (length,) = struct.unpack("<Q", tail[:8])
        if length > size - 16:
            raise ValueError("the trailer is damaged")
        self.info: dict[str, Any] = json.loads(buffer.slice(size - 16 - length, length).to_pybytes())
        reader = pa.ipc.open_file(buffer.slice(0, size - 16 - length))
        if reader.schema != _SCHEMA:
            raise ValueError("its columns are of another version")
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ids = [_lists(b.column(0)) for b in batches]
        self._run_lengths = [_lists(b.column(1)) for b in batches]
        self._run_weights = [_lists(b.column(2)) for b in batches]
        self._origins = [b.column(4) for b in batches]
        self._first = np.cumsum([0, *(b.num_rows for b in batches)])
        self.lengths = np.concatenate([np.diff(o) for o, _ in self._ids] or [np.zeros(0, np.int32)]).astype(np.int32)
        self.trained = np.concatenate([b.column(3).to_numpy() for b in batches] or [np.zeros(0, np.int32)])
        if [len(self.lengths), int(self.lengths.sum(dtype=np.int64))] != [self.info["rows"], self.info["tokens"]]:
            raise ValueError("rows are missing")

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        try:
            with pa.memory_map(str(path)) as source:
                return cls(source.read_buffer())
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(str(error)) from error

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

    def origin(self, row: int) -> str:
        batch, local = self._place(row)
        return str(self._origins[batch][local].as_py())


def _lists(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, values) of a list column."""
    return column.offsets.to_numpy(), column.values.to_numpy()


def _item(lists: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
    offsets, values = lists
    return values[offsets[row] : offsets[row + 1]]


def _write(sink: Any, chunks: Iterator[Chunk], source: Mapping[str, Any], report: Callable[[int], None]) -> None:
    rows = tokens = 0
    rejects: list[Reject] = []
    counters: Counter[str] = Counter()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        for chunk in chunks:
            writer.write_batch(chunk.batch)
            rows += chunk.batch.num_rows
            tokens += len(chunk.batch.column(0).values)
            rejects += chunk.rejects
            counters += chunk.counters
            report(rows + len(rejects))
    info = {**source, "rows": rows, "tokens": tokens, "rejects": [_plain(r) for r in rejects], "counters": dict(counters)}
    trailer = json.dumps(info, ensure_ascii=True).encode()
    sink.write(trailer + struct.pack("<Q", len(trailer)) + _MAGIC)


def _plain(reject: Reject) -> list[Any]:
    return [reject.file, reject.line, reject.reason, reject.suggestion]


def _build(path: Path, chunks: Iterator[Chunk], source: Mapping[str, Any], report: Callable[[int], None]) -> TokenFile:
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as sink:
            _write(sink, chunks, source, report)
            sink.flush()
            os.fsync(sink.fileno())
        try:
            os.replace(temporary, path)
        except PermissionError:  # Windows: another process has the same file open; its content is as good
            if not path.exists():
                raise
        return TokenFile.open(path)
    except OSError as error:
        raise DataError(
            f"the token cache {path} cannot be written: {error.strerror or error}",
            fix="make room there, or name another folder: --cache_dir DIR",
        ) from error
    finally:
        discard(temporary)


def remove_leftovers(cache_dir: Path, older_than_s: float = 86_400.0) -> None:
    """Delete unfinished files of processes that were killed."""
    for path in cache_dir.glob("*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()
        except OSError:
            continue  # another process was faster


# ----------------------------------------------------------------------------------------------------------------- dataset


class TokenDataset:
    """Token rows within `max_length`: `len()`, `[i] -> (ids int32 [S], weights float32 [S])`.

    Attributes:
        key: Changes when any row does.
        lengths: int32 [rows], tokens of each row.
        rejects: Rows that could not be encoded or are too long.
        source_rejects, guesses: What reading the sources said (also where the tokens came from the cache).
        notes: Lines for the user.
        from_cache: The tokens were there already.
    """

    def __init__(
        self, file: TokenFile, *, key: str, max_length: int | None = None, overlong: Overlong = "ask", from_cache: bool = False
    ) -> None:
        self._file = file
        self.key = f"{key}:{max_length}:{overlong}"
        self.from_cache = from_cache
        self.rejects = [Reject(*reject) for reject in file.info["rejects"]]
        self.source_rejects = [Reject(*reject) for reject in file.info["source_rejects"]]
        self.guesses: list[str] = list(file.info["guesses"])
        self.notes: list[str] = list(file.info["notes"])
        self._rows = np.arange(len(file))
        self._begin = np.zeros(len(file), np.int32)
        self._end = file.lengths.copy()
        self._trained = file.trained.astype(np.int64)
        if max_length is not None:
            self._fit(max_length, overlong)
        self.lengths: np.ndarray = (self._end - self._begin).astype(np.int32)
        if not len(self.lengths):
            raise TooManyRejects("no row is left to train on", fix="give a larger --max_length", rejects=self.rejects)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        row, begin, end = int(self._rows[index]), self._begin[index], self._end[index]
        return self._file.ids(row)[begin:end], self._file.weights(row)[begin:end]

    def origin(self, index: int) -> str:
        """ "file:line" of a row."""
        return self._file.origin(int(self._rows[index]))

    @property
    def stats(self) -> dict[str, int]:
        """rows, tokens, trained_tokens (labels that count), length_p50, length_p90, length_p99, length_max, rejects."""
        percentiles = {f"length_p{p}": int(np.percentile(self.lengths, p, method="higher")) for p in (50, 90, 99)}
        return {
            "rows": len(self), "tokens": int(self.lengths.sum(dtype=np.int64)), "trained_tokens": int(self._trained.sum()),
            **percentiles, "length_max": int(self.lengths.max()), "rejects": len(self.rejects),
        }  # fmt: skip

    def describe(self) -> str:
        """`999 rows, 212,345 tokens (61 % trained on); lengths: half within 190, ..., longest 812`, and notes."""
        s = self.stats
        lines = [
            f"{s['rows']:,} rows, {s['tokens']:,} tokens ({100 * s['trained_tokens'] / s['tokens']:.0f} % trained on); "
            f"lengths: half within {s['length_p50']}, 99 % within {s['length_p99']}, longest {s['length_max']}"
            + ("; from the cache" if self.from_cache else "")
        ]
        return "\n".join(lines + self.notes)

    def _fit(self, max_length: int, overlong: Overlong) -> None:
        lengths = self._file.lengths
        over = np.flatnonzero(lengths > max_length)
        if not len(over):
            return
        share = len(over) / len(lengths)
        longest = int(lengths.max())
        found = (
            f"{len(over)} of {len(lengths)} rows ({100 * share:.2g} %) are longer than max_length {max_length}; "
            f"the longest has {longest} tokens"
        )
        if overlong == "error" or (overlong == "ask" and share > ASK_SHARE):
            first = ", ".join(self._file.origin(int(i)) for i in over[:3])
            within = int(np.percentile(lengths, 99, method="higher"))
            raise TooManyRejects(
                f"{found}, 99 % are within {within} (first: {first})",
                fix=f"--max_length {longest} keeps all, --max_length {within} nearly all; or --overlong drop, truncate_right, "
                "truncate_left or split",
                rejects=self.rejects + [self._too_long(int(row), max_length) for row in over],
            )
        pieces: list[tuple[int, int, int]] = []
        lost = 0
        for row in map(int, over):
            length = int(lengths[row])
            spans = {
                "truncate_right": [(0, max_length)],
                "truncate_left": [(length - max_length, length)],
                "split": [(i, min(i + max_length, length)) for i in range(0, length, max_length)],
            }.get(overlong, [])
            weights = self._file.weights(row)
            kept = [(row, begin, end) for begin, end in spans if np.any(weights[begin + 1 : end])]
            pieces += kept
            if not kept:
                why = f"; nothing that is trained on is left after {overlong}" if spans else ""
                self.rejects.append(self._too_long(row, max_length, why))
                lost += 1
        what = {"truncate_right": "cut at the end", "truncate_left": "cut at the start", "split": "split"}.get(overlong, "")
        done = [f"{len(over) - lost} {what}"] * bool(what) + [f"{lost} dropped"] * bool(lost)
        self.notes.append(f"{found}: {', '.join(done)}")
        fits = np.flatnonzero(lengths <= max_length)
        rows, begin, end = (np.array(column, np.int64) for column in zip(*pieces, strict=True)) if pieces else ([], [], [])
        order = np.argsort(np.concatenate([fits, rows]), kind="stable")
        self._rows = np.concatenate([fits, rows]).astype(np.int64)[order]
        self._begin = np.concatenate([np.zeros(len(fits)), begin]).astype(np.int32)[order]
        self._end = np.concatenate([lengths[fits], end]).astype(np.int32)[order]
        cut = [np.count_nonzero(self._file.weights(row)[begin + 1 : end]) for row, begin, end in pieces]
        self._trained = np.concatenate([self._file.trained[fits], cut]).astype(np.int64)[order]

    def _too_long(self, row: int, max_length: int, why: str = "") -> Reject:
        length = int(self._file.lengths[row])
        reason = f"{length} tokens, max_length is {max_length}{why}"
        return _reject(self._file.origin(row), reason, f"--max_length {length}")


def tokenize(
    records: RecordSet | Sequence[Record],
    encode: Encode,
    encoder: Any,
    *,
    key_parts: Any = (),
    cache_dir: Path | str | None = None,
    max_length: int | None = None,
    overlong: Overlong = "ask",
    workers: int = 0,
    progress: bool | Report = False,
    max_bad_fraction: float = 0.05,
) -> TokenDataset:
    """Encode all records, or take them from the cache (then a lazy `RecordSet` is not read at all).

    Args:
        encode: The objective's `encode`.
        encoder: A `swift.api.Encoder` that is a `CachedEncoder` too.
        key_parts: What else the tokens depend on (objective, its version and settings), as JSON data.
        cache_dir: Folder of the cache; None is $SWIFT_HOME/tokens.
        max_length: Longest row in tokens; None takes rows as they are.
        overlong: What happens to longer rows: error stops, ask drops up to 1 % and stops above, drop, truncate_left,
            truncate_right, or split into several rows.
        workers: Processes; 0 is one per core. They are started only for sets that take long.
        progress: True shows a bar on standard error; a function is called with (rows done, rows in all).
        max_bad_fraction: More rows that cannot be encoded than this share stop.

    Raises:
        TooManyRejects: Too many rows that cannot be encoded or are too long, or nothing left.
        DataError: The cache cannot be written.
    """
    folder = Path(cache_dir) if cache_dir else Path(index.home()) / "tokens"
    key = cache_key(records, encoder, key_parts)
    path = folder / f"{key}.tokens"
    notes: list[str] = []
    file: TokenFile | None = None
    if path.exists():
        try:
            file = TokenFile.open(path)
        except (ValueError, OSError) as error:
            notes.append(f"the token cache {path} was damaged ({error}) and is built again")
    from_cache = file is not None
    if file is None:
        if not len(records):
            raise DataError("no row is left to train on", fix="check the dataset")
        source: dict[str, Any] = {"source_rejects": [], "guesses": [], "notes": []}
        rows = records
        if isinstance(records, RecordSet):
            rows = records.records
            source = {
                "source_rejects": [_plain(r) for r in records.rejects], "guesses": [str(g) for g in records.guesses],
                "notes": records.notes,
            }  # fmt: skip
        remove_leftovers(folder)
        with _reporting(progress, len(rows)) as report:
            file = _build(path, encode_all(rows, encode, encoder, workers=workers or _cores()), source, report)
    encoder.counters += Counter(file.info["counters"])
    check_rejects([Reject(*reject) for reject in file.info["rejects"]], len(file), max_bad_fraction)
    dataset = TokenDataset(file, key=key, max_length=max_length, overlong=overlong, from_cache=from_cache)
    dataset.notes[:0] = notes
    return dataset


@contextmanager
def _reporting(progress: bool | Report, total: int) -> Iterator[Callable[[int], None]]:
    if callable(progress):
        yield lambda done: progress(done, total)
    elif progress:
        with Progress(SpinnerColumn(), *Progress.get_default_columns(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("tokenizing", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield lambda done: None


def cache_key(records: RecordSet | Sequence[Record], encoder: Any, key_parts: Any) -> str:
    """Hex digest of everything the tokens depend on."""
    if isinstance(records, RecordSet):
        content = records.fingerprint
    else:
        content = hashlib.sha256(json.dumps(list(records), sort_keys=True, default=repr).encode()).hexdigest()
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    key = {"content": content, "encoder": encoder.digest(), "parts": key_parts, "code": code}
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=repr).encode()).hexdigest()[:40]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
