"""Records to a memory-mapped set of token rows, tokenized once and kept in a content-addressed cache.

KEY.tokens is a folder of shards (`swift.data.shards`), of arrays over all rows (`lengths.npy`, ...) and of `info.json`, which
is written last. Rows are whole; `max_length` and what happens to longer rows are a view over them, so that changing them
tokenizes nothing anew. A build that is killed leaves whole shards, and the next one goes on from them. Several processes may
build the same folder: each file appears whole, and is as good whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from swift.api.contracts.data import Record
from swift.api.contracts.models import MediaProcessor
from swift.data import shards, token_folder
from swift.data.cache import remove_leftovers
from swift.data.media_rows import RowMedia
from swift.data.records import RecordSet
from swift.data.rejects import MadeRejects, Rejects, StoredRejects, TooManyRejects, check_rejects, discard, reject_at
from swift.data.shards import CachedEncoder, Encode, TokenShard, bounds, write_shard
from swift.data.sources import Reject
from swift.data.store import cannot_write, remembered
from swift.data.token_folder import TokenFolder, finish, shard_path
from swift.data.workers import Job, Team
from swift.errors import DataError
from swift.plugins import index as plugin_index

__all__ = ["CachedEncoder", "Encode", "Overlong", "Report", "TokenDataset", "tokenize"]

Report = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""
Overlong = Literal["ask", "error", "drop", "truncate_left", "truncate_right", "split"]

SHARD_ROWS = 2000
SHARD_BYTES = 8 << 20
"""A shard holds so many rows, or rows of so many bytes of records, whichever is less. What a kill loses, and a helper does."""
EARLY_BYTES = 32 << 20
"""With more bytes of data than this, helpers are started while the records are still being read."""
ASK_SHARE = 0.01
"""`ask` drops up to this share of over-long rows and stops above it."""
REMEMBERED_FIT = 1000
"""With more over-long rows than this, how they were cut is kept for the next start."""


# ----------------------------------------------------------------------------------------------------------------- dataset


class _Origin:
    """What is known of the records that tokens were made of; read only when it is asked for."""

    def __init__(self, records: RecordSet | Sequence[Record]) -> None:
        self.records = records

    @cached_property
    def _distinct(self) -> Sequence[Record]:
        return _distinct(self.records)[0]

    def of(self, record: int) -> str:
        """ "file:line" """
        if isinstance(self.records, RecordSet):
            return self._distinct.origin(record)  # type: ignore[attr-defined]
        return str(self.records[record].get("_origin", ""))

    def record(self, record: int) -> Record:
        return self._distinct[record]

    def reject(self, record: int, reason: str, suggestion: str = "") -> Reject:
        return reject_at(self.of(record), reason, suggestion)


def _distinct(records: RecordSet | Sequence[Record]) -> tuple[Sequence[Record], np.ndarray | None]:
    """(records without repetitions in the order of their files, for each row the number of its record or None: its own)."""
    if not isinstance(records, RecordSet):
        return records, None
    chosen = records.records
    if bool(np.all(chosen.rows[1:] > chosen.rows[:-1])):
        return chosen, None
    rows, order = np.unique(chosen.rows, return_inverse=True)
    return type(chosen)(chosen.files, rows), order


class TokenDataset:
    """Token rows within `max_length`: `len()`, `[i] -> (ids int32 [S], weights float32 [S])`.

    Attributes:
        key: Changes when any row does.
        lengths: int32 [rows], tokens of each row.
        rejects: Rows that could not be encoded or are too long.
        from_cache: The tokens were there already.
    """

    def __init__(
        self, file: TokenFolder, origin: _Origin, *, key: str, max_length: int | None = None, overlong: Overlong = "ask",
        from_cache: bool = False, notes: Sequence[str] = (), processor: MediaProcessor | None = None,
    ) -> None:  # fmt: skip
        self._file, self._origin, self.processor = file, origin, processor
        self.key = f"{key}:{max_length}:{overlong}"
        self.from_cache = from_cache
        self.rejects: Rejects = encoding_rejects(file, origin)
        self._before, self._after = list(notes), list[str]()
        self._rows = file.order
        self._begin: np.ndarray | None = None
        self.lengths: np.ndarray = file.lengths if self._rows is None else file.lengths[self._rows]
        self._trained = file.trained if self._rows is None else file.trained[self._rows]
        if max_length is not None:
            self._fit(max_length, overlong)
        if not len(self.lengths):
            raise TooManyRejects("no row is left to train on", fix="give a larger --max_length", rejects=self.rejects)

    def __len__(self) -> int:
        return len(self.lengths)

    def _place(self, index: int) -> tuple[TokenShard, int]:
        return self._file.row(index if self._rows is None else int(self._rows[index]))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        index = range(len(self))[index]
        shard, row = self._place(index)
        ids, weights = shard.ids(row), shard.weights(row)
        if self._begin is None:
            return ids, weights
        begin, length = self._begin[index], self.lengths[index]
        return ids[begin : begin + length], weights[begin : begin + length]

    def segments(self, index: int) -> np.ndarray:
        """int32, tokens of each document of the row, in order; a plain row is one document."""
        shard, row = self._place(index)
        documents = shard.segments(row)
        return documents if len(documents) else np.array([self.lengths[index]], np.int32)

    def values(self, index: int) -> dict[str, float]:
        """Numbers that belong to the row as a whole."""
        shard, row = self._place(index)
        return shard.values(row)

    def media(self, index: int) -> RowMedia | None:
        """Where the row's media are; None for text models."""
        if self.processor is None:
            return None
        record = partial(self._origin.record, self._record(index if self._rows is None else int(self._rows[index])))
        return RowMedia(self.processor, record, partial(self.origin, index))

    def origin(self, index: int) -> str:
        """ "file:line" of a row."""
        return self._origin.of(self._record(index if self._rows is None else int(self._rows[index])))

    def _record(self, row: int) -> int:
        return row if self._file.records is None else int(self._file.records[row])

    @property
    def source_rejects(self) -> Sequence[Reject]:
        """Rows that could not be read or converted (also where the tokens came from the cache)."""
        return self._origin.records.rejects if isinstance(self._origin.records, RecordSet) else []

    @property
    def guesses(self) -> list[str]:
        """How each reference was understood."""
        return [str(guess) for guess in self._origin.records.guesses] if isinstance(self._origin.records, RecordSet) else []

    @property
    def notes(self) -> list[str]:
        """Lines for the user."""
        source = self._origin.records.notes if isinstance(self._origin.records, RecordSet) else []
        return [*self._before, *source, *self._after]

    @property
    def stats(self) -> dict[str, int]:
        """rows, tokens, trained_tokens (labels that count), length_p50, length_p90, length_p99, length_max, rejects."""
        percentiles = {f"length_p{p}": int(np.percentile(self.lengths, p, method="higher")) for p in (50, 90, 99)}
        return {
            "rows": len(self), "tokens": int(self.lengths.sum(dtype=np.int64)),
            "trained_tokens": int(self._trained.sum(dtype=np.int64)), **percentiles,
            "length_max": int(self.lengths.max()), "rejects": len(self.rejects),
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
        lengths = self._longest_documents(max_length)
        over = np.flatnonzero(lengths > max_length)
        if not len(over):
            return
        share = len(over) / len(lengths)
        longest = int(lengths.max())
        found = (
            f"{len(over)} of {len(lengths)} rows ({100 * share:.3g} %) are longer than max_length {max_length}; "
            f"the longest has {longest} tokens"
        )
        if overlong == "error" or (overlong == "ask" and share > ASK_SHARE):
            first = ", ".join(self.origin(int(i)) for i in over[:3])
            within = int(np.percentile(lengths, 99, method="higher"))
            raise TooManyRejects(
                f"{found}, 99 % are within {within} (first: {first})",
                fix=f"--max_length {longest} keeps all, --max_length {within} nearly all; or --overlong drop, truncate_right, "
                "truncate_left or split",
                rejects=Rejects(self.rejects, self._too_long(over, lengths, max_length)),
            )
        cut = {"truncate_right": "cut at the end", "truncate_left": "cut at the start", "split": "split"}.get(overlong, "")
        made: Mapping[str, np.ndarray] = {name: np.zeros(0, np.int64) for name in ("index", "begin", "length", "trained")}
        if cut:
            compute = partial(self._pieces, over, max_length, overlong)
            path = self._file.path / f"fit-{max_length}-{overlong}.npz"
            made = remembered(path, compute) if len(over) > REMEMBERED_FIT else compute()
        lost = np.setdiff1d(over, made["index"])
        why = f"; nothing that is trained on is left after {overlong}" if cut else ""
        self.rejects = Rejects(self.rejects, self._too_long(lost, lengths, max_length, why))
        done = [f"{len(over) - len(lost)} {cut}"] * bool(cut) + [f"{len(lost)} dropped"] * bool(len(lost))
        self._after.append(f"{found}: {', '.join(done)}")
        fits = np.flatnonzero(lengths <= max_length)
        order = np.argsort(np.concatenate([fits, made["index"]]), kind="stable")
        chosen = np.concatenate([fits, made["index"]])[order]
        self._begin = np.concatenate([np.zeros(len(fits), np.int32), made["begin"]])[order].astype(np.int32)
        self.lengths = np.concatenate([self.lengths[fits], made["length"]])[order].astype(np.int32)
        self._trained = np.concatenate([self._trained[fits], made["trained"]])[order].astype(np.int32)
        self._rows = chosen if self._rows is None else self._rows[chosen]

    def _longest_documents(self, max_length: int) -> np.ndarray:
        """int32 [rows], tokens of the longest document; of rows that as a whole are within `max_length`, of the row."""
        documents = self._file.documents
        if documents is None:
            return self.lengths
        lengths = self.lengths.copy()
        several = documents if self._rows is None else documents[self._rows]
        for index in np.flatnonzero((lengths > max_length) & (several > 1)).tolist():
            lengths[index] = self.segments(index).max()
        return lengths

    def _pieces(self, over: np.ndarray, max_length: int, overlong: Overlong) -> dict[str, np.ndarray]:
        """Pieces of over-long rows in which something is trained on. Rows of several documents, or with media, have none."""
        pieces: list[tuple[int, int, int, int]] = []
        media = sorted(self.processor.placeholder_ids) if self.processor else []
        for index in map(int, over):
            shard, row = self._place(index)
            if len(shard.segments(row)) or (media and np.isin(shard.ids(row), media).any()):
                continue
            length, weights = int(self.lengths[index]), shard.weights(row)
            for begin, end in spans(length, max_length, overlong):
                if trained := int(np.count_nonzero(weights[begin + 1 : end])):
                    pieces.append((index, begin, end - begin, trained))
        columns = np.array(pieces, np.int64).reshape(-1, 4).T
        return dict(zip(("index", "begin", "length", "trained"), columns, strict=True))

    def _too_long(self, indices: np.ndarray, lengths: np.ndarray, max_length: int, why: str = "") -> Rejects:
        rows, documents = self._rows, self._file.documents

        def reject(index: int) -> Reject:
            row = index if rows is None else int(rows[index])
            count = 0 if documents is None else int(documents[row])
            several = f" in the longest of {count} documents that belong together, which are not cut" if count else ""
            reason = f"{lengths[index]} tokens{several}, max_length is {max_length}{'' if several else why}"
            return self._origin.reject(self._record(row), reason, f"--max_length {lengths[index]}")

        return MadeRejects(indices, reject)


def encoding_rejects(file: TokenFolder, origin: _Origin) -> Rejects:
    return Rejects(StoredRejects(file.path / "rejects.jsonl", file.info["rejects"], lambda item: origin.reject(*item)))


def spans(length: int, max_length: int, overlong: Overlong) -> list[tuple[int, int]]:
    """(begin, end) of what is kept of a row that is too long."""
    if overlong == "split":
        return [(begin, min(begin + max_length, length)) for begin in range(0, length, max_length)]
    return {"truncate_right": [(0, max_length)], "truncate_left": [(length - max_length, length)]}.get(overlong, [])


# ---------------------------------------------------------------------------------------------------------------- tokenize


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
    """Encode all records, or take them from the cache (then no row of a `RecordSet` is read).

    Args:
        encode: The objective's `encode`.
        encoder: A `swift.api.Encoder` that is a `CachedEncoder` too.
        key_parts: What else the tokens depend on (objective, its version and settings), as JSON data.
        cache_dir: Folder of the cache; None is $SWIFT_HOME/tokens.
        max_length: Longest row in tokens; None takes rows as they are.
        overlong: What happens to longer rows: error stops, ask drops up to 1 % and stops above, drop, truncate_left,
            truncate_right, or split into several rows. Rows of several documents are never cut, but dropped.
        workers: Processes, this one included; 0 is one per core. They are started only for sets that take long.
        progress: True shows a bar on standard error; a function is called with (rows done, rows in all).
        max_bad_fraction: More rows that cannot be encoded than this share stop.

    Raises:
        TooManyRejects: Too many rows that cannot be encoded or are too long, or nothing left.
        DataError: The cache cannot be written.
    """
    folder = Path(cache_dir) if cache_dir else Path(plugin_index.home()) / "tokens"
    key = cache_key(records, encoder, key_parts)
    path = folder / f"{key}.tokens"
    origin = _Origin(records)
    notes: list[str] = []

    def mend(number: int) -> None:
        rows, _ = _distinct(records)
        begin, end = list(_shard_bounds(rows))[number]
        write_shard(shard_path(path, number), rows[begin:end], encode, encoder, begin, lambda rows: None)

    file: TokenFolder | None = None
    if (path / "info.json").exists():
        try:
            file = TokenFolder(path, mend)
        except (ValueError, OSError, KeyError) as error:
            notes.append(f"the token cache {path} was damaged ({error}) and is built again")
    from_cache = file is not None
    if file is None:
        with Team(encode, encoder, workers or _cores()) as team:
            if isinstance(records, RecordSet) and records.bytes > EARLY_BYTES:
                team.start()
            if not len(records):
                raise DataError("no row is left to train on", fix="check the dataset")
            remove_leftovers(folder)
            try:
                _build(path, records, team, encoder, progress, notes)
                file = TokenFolder(path, mend)
            except OSError as error:
                raise cannot_write(f"the token cache {path}", error) from error
    encoder.counters += Counter(file.info["counters"])
    check_rejects(encoding_rejects(file, origin), len(file), max_bad_fraction)
    return TokenDataset(
        file, origin, key=key, max_length=max_length, overlong=overlong, from_cache=from_cache, notes=notes,
        processor=getattr(encoder, "media", None),
    )  # fmt: skip


def _shard_bounds(rows: Sequence[Record]) -> Iterator[tuple[int, int]]:
    return bounds(len(rows), getattr(rows, "sizes", None), SHARD_ROWS, SHARD_BYTES)


def _build(
    path: Path, records: RecordSet | Sequence[Record], team: Team, encoder: Any, progress: bool | Report, notes: list[str]
) -> None:
    """Write the shards that are not there yet, then what stands beside them."""
    path.mkdir(parents=True, exist_ok=True)
    discard(path / "info.json")
    rows, order = _distinct(records)
    parts = list(_shard_bounds(rows))
    old = set()
    for number, (begin, end) in enumerate(parts):
        try:
            info = TokenShard(shard_path(path, number)).info
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            info = {}
        if (info.get("first"), info.get("records")) == (begin, end - begin):
            old.add(number)
        else:
            discard(shard_path(path, number))
    if old and not notes:
        notes.append(f"went on from {len(old)} of {len(parts)} parts that an earlier start had tokenized")
    jobs = [Job(shard_path(path, n), rows[begin:end], begin) for n, (begin, end) in enumerate(parts) if n not in old]
    done = len(rows) - sum(len(job.records) for job in jobs)
    with _reporting(progress, len(rows), done) as report:
        met = team.run(jobs, report)
    encoder.counters += met
    about = {
        "refs": list(records.refs) if isinstance(records, RecordSet) else [],
        "model": Path(str(getattr(getattr(encoder, "tokenizer", None), "name_or_path", ""))).name,
    }
    finish(path, len(parts), order, len(rows), about)


@contextmanager
def _reporting(progress: bool | Report, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A function that is called with the number of rows that were done since its last call."""
    if callable(progress):

        def call(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, total)

        yield call
    elif progress:
        columns = (
            SpinnerColumn(), TextColumn("tokenizing"), BarColumn(), TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("tokenizing", total=total, completed=done, rate="")
            began, start = time.monotonic(), done

            def show(rows: int) -> None:
                nonlocal done
                done += rows
                rate = (done - start) / max(time.monotonic() - began, 1e-9)
                bar.update(task, completed=done, rate=f"{rate:,.0f} rows/s")

            yield show
    else:
        yield lambda rows: None


def cache_key(records: RecordSet | Sequence[Record], encoder: Any, key_parts: Any) -> str:
    """Hex digest of everything the tokens depend on."""
    if isinstance(records, RecordSet):
        content = records.fingerprint + records.media
    else:
        content = hashlib.sha256(json.dumps(list(records), sort_keys=True, default=repr).encode()).hexdigest()
    modules = (__file__, shards.__file__, token_folder.__file__)
    code = [hashlib.sha256(Path(str(module)).read_bytes()).hexdigest() for module in modules]
    key = {"content": content, "encoder": encoder.digest(), "parts": key_parts, "code": code}
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=repr).encode()).hexdigest()[:40]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
