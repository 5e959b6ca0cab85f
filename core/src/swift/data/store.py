"""Canonical records on disk: written once per source, read row by row. Left of the torch line.

A record file is a folder KEY.records of `rows.bin` (one JSON value after another), `index.bin` (28 bytes a row: end, hash,
line, file), `rejects.jsonl`, `media.jsonl` (of each row with local media: the number of its file, and what it names) and
`info.json`; it is filled under a temporary name and renamed when whole. The names of the source's files are not kept in it:
whoever opens it says what they are called here, so that it can move between machines.
"""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import itertools
import json
import os
import secrets
import shutil
import struct
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from swift.api.contracts.data import Record
from swift.data.rejects import Rejects, StoredRejects, discard
from swift.data.sources import CutOff, Reject
from swift.errors import DataError

_ENTRY = struct.Struct("<QQqi")
_INDEX = np.dtype([("end", "<u8"), ("hash", "<u8"), ("line", "<i8"), ("file", "<i4")])
_BYTES = "__bytes__"
_SEEKING = threading.Lock()
RACY_S = 2.0
"""A file changed so shortly ago could change again without its time changing: its digest is not remembered."""


class Finish(Protocol):
    """Done to each record when it is written and read: its media are found here. Picklable."""

    def __call__(self, record: Record) -> Record:
        """Raises `DataError`."""

    def local(self, record: Record) -> list[str]:
        """What the record names of local media."""

    def state(self, item: str, file: str) -> tuple[int, int]:
        """Of a local medium that a row of `file` names: changes when it is replaced."""


def dump(record: Mapping[str, Any]) -> bytes:
    """JSON without keys that begin with "_"; bytes become {"__bytes__": base64}, dates and the like text."""
    values = {key: value for key, value in record.items() if not key.startswith("_")}
    return _ENCODER.encode(values).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), default=_plain)


def _unwrapped(values: dict[str, Any]) -> Any:
    return base64.b64decode(values[_BYTES]) if len(values) == 1 and _BYTES in values else values


def load(data: bytes) -> Record:
    """What `dump` wrote."""
    hook = _unwrapped if b'"__bytes__"' in data else None
    return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=hook)


def content_hash(data: bytes) -> int:
    """64 bits of a record's content."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class RecordFile(Sequence[Record]):
    """Records of one source, read from the disk when they are asked for. Pickles as its place.

    Args:
        folder: As `RecordFile.write` made it.
        names: What the source's files are called here.
        finish: Done to each record that is read.

    Raises:
        ValueError: It is not whole.
        OSError: It is not there.
    """

    def __init__(self, folder: Path, names: Sequence[str] = (), finish: Finish | None = None) -> None:
        self.folder, self.finish = folder, finish
        self.info: dict[str, Any] = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        rows, size = self.info["rows"], self.info["bytes"]
        self.names = [*names, *self.info["further_files"]]
        self._given = tuple(names)
        sizes = {"rows.bin": size, "index.bin": rows * _ENTRY.size, "rejects.jsonl": self.info["rejects_bytes"]}
        for name, wanted in sizes.items():
            if (found := (folder / name).stat().st_size) != wanted:
                raise ValueError(f"{name} has {found} bytes of {wanted}")
        index = np.asarray(np.memmap(folder / "index.bin", _INDEX, "r")) if rows else np.zeros(0, _INDEX)
        self.cut_off = [self._reject(item) for item in self.info.get("cut_off", ())]
        """Where files end damaged: nobody knows how many rows follow."""
        self.hashes: np.ndarray = index["hash"]
        """uint64 [rows], of each row's content; equal rows have equal ones."""
        self.ends: np.ndarray = index["end"]
        """uint64 [rows], bytes up to the end of each row."""
        self.media: str = self.info["media"]
        """Digest of the states of its local media when it was written; "" where it names none."""
        self._lines, self._files = index["line"], index["file"]
        self._data = os.open(folder / "rows.bin", os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._data)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_records, (self.folder, self._given, self.finish)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = range(len(self))[index]
        begin = int(self.ends[row - 1]) if row else 0
        data = read_at(self._data, begin, int(self.ends[row]) - begin)
        if content_hash(data) != self.hashes[row]:
            raise DataError(f"{self.folder} is damaged: row {row} is not what was written", fix="swift data cache clear --all")
        record = load(data)
        record["_origin"] = self.origin(row)
        return self.finish(record) if self.finish else record

    def origin(self, row: int) -> str:
        """ "file:line" """
        return f"{self.names[self._files[row]]}:{self._lines[row]}"

    @property
    def is_current(self) -> bool:
        """No medium was replaced, added or taken away since it was written, when each was looked at."""
        return not self.media or self.finish is None or self.media == _media_state(self.folder, self.names, self.finish)

    @property
    def rejects(self) -> Rejects:
        return StoredRejects(self.folder / "rejects.jsonl", self.info["rejects"], self._reject)

    def _reject(self, item: list[Any]) -> Reject:
        file, line, reason, suggestion = item
        return Reject(self.names[file], line, reason, suggestion)

    @classmethod
    def write(
        cls, folder: Path, items: Iterable[tuple[Record, str, int] | Reject], info: Callable[[], Mapping[str, Any]],
        names: Sequence[str], *, finish: Finish | None = None,
    ) -> RecordFile:  # fmt: skip
        """Keep all `items` (record, file, line).

        Args:
            info: Called when all are written; what else to keep, as JSON data.
            names: The source's files in their order.

        Raises:
            DataError: It cannot be written.
        """
        temporary = folder.with_name(f"{folder.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            temporary.mkdir(parents=True)
            _fill(temporary, items, info, names, finish)
            move_into_place(temporary, folder)
            return cls(folder, names, finish)
        except OSError as error:
            raise cannot_write(f"the record cache {folder}", error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@functools.lru_cache(maxsize=64)
def open_records(folder: Path, names: tuple[str, ...], finish: Finish | None) -> RecordFile:
    """Opened once per process: worker processes are sent it with every piece of work."""
    return RecordFile(folder, names, finish)


def _fill(
    folder: Path, items: Iterable[tuple[Record, str, int] | Reject], info: Callable[[], Mapping[str, Any]],
    names: Sequence[str], finish: Finish | None,
) -> None:  # fmt: skip
    numbers = {name: number for number, name in reversed(list(enumerate(names)))}
    rows = rejects = end = 0
    cut_off: list[list[Any]] = []
    with (
        (folder / "rows.bin").open("wb", buffering=1 << 20) as data,
        (folder / "index.bin").open("wb", buffering=1 << 16) as index,
        (folder / "rejects.jsonl").open("w", encoding="utf-8") as rejected,
        (folder / "media.jsonl").open("w", encoding="utf-8") as media,
    ):
        for given in items:
            item = given
            if finish is not None and not isinstance(item, Reject):
                record, file, line = item
                if local := finish.local(record):
                    media.write(json.dumps([numbers.setdefault(file, len(numbers)), *local]) + "\n")
                try:
                    finish(record)  # kept as the row names them; what is missing is found out now
                except DataError as error:
                    item = Reject(file, line, error.message, error.fix)
            if isinstance(item, Reject):
                number = numbers.setdefault(item.file, len(numbers))
                kept_as = [number, item.line, item.reason, item.suggestion]
                rejected.write(json.dumps(kept_as) + "\n")
                if isinstance(item, CutOff):
                    cut_off.append(kept_as)
                rejects += 1
                continue
            record, file, line = item
            text = dump(record)
            data.write(text)
            end += len(text)
            index.write(_ENTRY.pack(end, content_hash(text), line, numbers.setdefault(file, len(numbers))))
            rows += 1
        for stream in (data, index, rejected, media):
            stream.flush()
            os.fsync(stream.fileno())
    known = set(names)
    further = [name for name in numbers if name not in known]
    kept = {
        **info(), "rows": rows, "bytes": end, "rejects": rejects, "cut_off": cut_off,
        "rejects_bytes": (folder / "rejects.jsonl").stat().st_size, "created": time.time(), "further_files": further,
        "media": _media_state(folder, [*names, *further], finish) if finish is not None else "",
    }  # fmt: skip
    (folder / "info.json").write_text(json.dumps(kept, default=_plain), encoding="utf-8")


def _media_state(folder: Path, names: Sequence[str], finish: Finish) -> str:
    digest, some = hashlib.sha256(), False
    with (folder / "media.jsonl").open(encoding="utf-8") as media:
        for line in media:
            some = True
            number, *items = json.loads(line)
            digest.update(repr([finish.state(item, names[number]) for item in items]).encode())
    return digest.hexdigest() if some else ""


def move_into_place(temporary: Path, folder: Path) -> None:
    """Rename a folder; where another process was faster its result, which is as good, stays. A broken one makes room."""
    try:
        os.rename(temporary, folder)
    except OSError:
        if (folder / "info.json").is_file():
            return
        aside = folder.with_name(f"{folder.stem}.{secrets.token_hex(4)}.tmp")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(temporary, folder)


def read_at(file: int, begin: int, size: int) -> bytes:
    """`size` bytes of a file descriptor.

    Plain reads and not a memory map: pages of a map would count as this process's memory for as long as it runs.
    """
    if hasattr(os, "pread"):
        return os.pread(file, size, begin)
    with _SEEKING:
        os.lseek(file, begin, os.SEEK_SET)
        return os.read(file, size)


class RecordSlice(Sequence[Record]):
    """Some rows of record files, in any order. Pickles as places and row numbers, so that another process reads them.

    Args:
        files: Their rows are numbered through.
        rows: int64, numbers of the rows.
    """

    def __init__(self, files: Sequence[RecordFile], rows: np.ndarray) -> None:
        self.files, self.rows = tuple(files), rows
        self._first = np.cumsum([0, *map(len, files)])

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordSlice, (self.files, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return RecordSlice(self.files, self.rows[index])
        file, row = self._place(index)
        return file[row]

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def origin(self, index: int) -> str:
        file, row = self._place(index)
        return file.origin(row)

    def _place(self, index: int) -> tuple[RecordFile, int]:
        row = int(self.rows[index])
        if len(self.files) == 1:
            return self.files[0], row
        file = int(np.searchsorted(self._first, row, side="right")) - 1
        return self.files[file], row - int(self._first[file])

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [rows]"""
        return self._gather([file.hashes for file in self.files], np.uint64)

    @property
    def sizes(self) -> np.ndarray:
        """int64 [rows], bytes of each."""
        return self._gather([np.diff(file.ends, prepend=np.uint64(0)) for file in self.files], np.int64)

    def _gather(self, columns: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
        found = np.empty(len(self.rows), dtype)
        for column, (begin, end) in zip(columns, itertools.pairwise(self._first), strict=True):
            here = (self.rows >= begin) & (self.rows < end)
            found[here] = column[self.rows[here] - begin]
        return found


# ----------------------------------------------------------------------------------------------------------------- digests


class FileDigests:
    """Digests of files, remembered by place, size, time and inode, as git's index does; a difference reads the files again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fresh: dict[str, list[Any]] = {}
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, files: Sequence[Path], what: str, compute: Callable[[], str]) -> str:
        """`compute()`, which reads `files`, or what it was the last time. `what` is all else that it depends on."""
        places = [str(path.resolve()) for path in files]
        key = hashlib.sha256(json.dumps([what, places]).encode("utf-8", "surrogatepass")).hexdigest()
        before = [_state(path) for path in files]
        if key in self._known and self._known[key][:2] == [places[0], before]:
            return str(self._known[key][2])
        digest = compute()
        newest = max(changed for _, changed, _ in before) / 1e9
        if time.time() - newest > RACY_S and [_state(path) for path in files] == before:
            self._fresh[key] = [places[0], before, digest]
        return digest

    def save(self) -> None:
        """Remember what was read. A folder that cannot be written only costs reading the files again."""
        if not self._fresh:
            return
        known = {**self._known, **self._fresh}
        if len(known) > 2000:
            known = {key: value for key, value in known.items() if os.path.exists(value[0])}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            discard(temporary)


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


# --------------------------------------------------------------------------------------------------------- derived results


def cannot_write(cache: str, error: OSError) -> DataError:
    """A disk may be full, or a shared cache be for reading only."""
    room = "" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "make room there, or "
    return DataError(f"{cache} cannot be written: {error.strerror or error}",
                     fix=f"{room}name another folder: --cache_dir DIR")  # fmt: skip


def remembered(path: Path, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, computed where it is missing or damaged."""
    try:
        with np.load(path) as found:
            return dict(found)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        arrays = dict(compute())
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(f"the record cache {path}", error) from error
    finally:
        discard(temporary)
    return arrays
