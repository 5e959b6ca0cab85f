"""Canonical records of a run's data, with everything that was rejected. Left of the torch line."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from swift.api.contracts.data import Record
from swift.data import duplicates, formats, mixing, sources
from swift.data.cache import remove
from swift.data.formats import Converter, Guess, Schema
from swift.data.media import KINDS, is_local, local_path, resolve_media, state_of
from swift.data.rejects import (
    MadeRejects,
    Rejects,
    TooManyRejects,
    check_cut_off,
    check_rejects,
    discard,
    reject_at,
    write_rejects,
)
from swift.data.sources import DatasetRegistry, Reject, Source, resolve
from swift.data.store import FileDigests, RecordFile, RecordSlice, remembered
from swift.errors import DataError
from swift.plugins import index as plugin_index

__all__ = ["RecordSet", "TooManyRejects", "check_rejects", "discard", "load_records", "prompt_of", "write_rejects"]

Deduplicate = Literal["no", "exact", "near"]
Contamination = Literal["off", "warn", "drop", "error"]


@dataclass(frozen=True)
class Loaded:
    """What reading gave.

    Args:
        files: Record files; their rows are numbered through.
        rows: int64, numbers of the rows in their order.
        train_only: Of each file, whether its rows are kept out of held-out data.
    """

    files: Sequence[RecordFile]
    rows: np.ndarray
    rejects: Rejects = field(default_factory=Rejects)
    guesses: list[Guess] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    train_only: Sequence[bool] = ()

    @property
    def records(self) -> RecordSlice:
        return RecordSlice(self.files, self.rows)

    @property
    def kept_back(self) -> np.ndarray:
        """bool [rows], rows that are never held out."""
        ends = np.cumsum([len(file) for file in self.files])
        return np.array([*self.train_only, False])[np.searchsorted(ends, self.rows, side="right")]


class RecordSet(Sequence[Record]):
    """Records on the disk, found when they are first asked for; `fingerprint` is known without reading them.

    Memory is 8 bytes a row: subsets, mixtures and repetitions are row numbers over the same record files.

    Attributes:
        fingerprint: Hex digest over file contents, mapping, seed and the code that converts. Places of files do not count.
        refs: The datasets as the user wrote them.
        folder: Of the record files.
    """

    def __init__(
        self, fingerprint: str, load: Callable[[], Loaded], media: Callable[[], str], *, refs: Sequence[str] = (),
        folder: Path | None = None, bytes: int = 0,
    ) -> None:  # fmt: skip
        self.fingerprint, self.refs, self.folder = fingerprint, tuple(refs), folder
        self.bytes = bytes
        self._load, self._media = load, media

    @cached_property
    def _loaded(self) -> Loaded:
        return self._load()

    @cached_property
    def records(self) -> RecordSlice:
        """Sequence of the records; pickles as a place."""
        return self._loaded.records

    @property
    def media(self) -> str:
        """Digest of the states of local media (size and time of each file) when they were last looked at; "" without any."""
        return self._media()

    @property
    def rejects(self) -> Rejects:
        """Rows that cannot be used, in the order of the files, and rows that were left out as repetitions."""
        return self._loaded.rejects

    @property
    def guesses(self) -> list[Guess]:
        """How each reference was understood."""
        return self._loaded.guesses

    @property
    def notes(self) -> list[str]:
        """Lines for the user."""
        return self._loaded.notes

    @property
    def counts(self) -> dict[str, int]:
        return {"records": len(self), "rejects": len(self.rejects)}

    def __len__(self) -> int:
        return len(self._loaded.rows)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return list(self.records[index]) if isinstance(index, slice) else self.records[index]

    def origin(self, index: int) -> str:
        """ "file:line" of a row."""
        return self.records.origin(index)

    def derive(self, name: str, load: Callable[[], Loaded]) -> RecordSet:
        """A set made from this one; `name` says how."""
        fingerprint = hashlib.sha256(f"{self.fingerprint} {name}".encode()).hexdigest()
        return RecordSet(fingerprint, load, self._media, refs=self.refs, folder=self.folder, bytes=self.bytes)

    def split(self, val_split: float, seed: int) -> tuple[RecordSet, RecordSet]:
        """(training, held-out). A row's side follows from its content and the seed alone: rows that come or go move no other
        row, and equal rows stay on one side. With more than one distinct row, neither side is empty.

        Args:
            val_split: Share held out, 0 < val_split < 1.
        """

        def part(held: bool) -> Callable[[], Loaded]:
            def load() -> Loaded:
                whole = self._loaded
                places = _places(self.records.hashes, seed)
                free = places[~whole.kept_back]
                bound = val_split
                if len(free) and free.max() > free.min():  # neither side is empty: the nearest row moves over
                    bound = min(max(bound, np.nextafter(free.min(), 1)), free.max())
                held_out = (places < bound) & ~whole.kept_back
                return replace(whole, rows=whole.rows[held_out == held], rejects=Rejects() if held else whole.rejects,
                               notes=[] if held else whole.notes)  # fmt: skip

            return load

        sides = ((f"{side} {val_split!r} {seed}", side == "held-out") for side in ("train", "held-out"))
        train, val = (self.derive(name, part(held)) for name, held in sides)
        return train, val

    def write_rejects(self, path: Path) -> None:
        write_rejects(path, self.rejects)


def load_records(
    refs: Sequence[str],
    *,
    registry: DatasetRegistry | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 42,
    names: Mapping[str, str] | None = None,
    max_bad_fraction: float = 0.05,
    need_answer: bool = True,
    hub: str = "auto",
    rejects_file: Path | None = None,
    lazy: bool = False,
    cache_dir: Path | str | None = None,
    mix: mixing.Mix = "concat",
    weights: Sequence[float] = (),
    mix_stop: mixing.MixStop = "first_exhausted",
    deduplicate: Deduplicate = "no",
    media_folder: Path | str | None = None,
    media_urls: bool = False,
) -> RecordSet:
    """Datasets as canonical records on the disk, converted once.

    Args:
        refs: Files, folders, patterns, registered names or hub ids. `X#N` takes a random (by `seed`) N of the usable rows,
            in file order; where N is more than there are, rows repeat.
        registry: Looks up registered datasets and hubs; None knows files only.
        columns: Own column -> canonical column, over what a registration says.
        names: {"name": ..., "author": ...} put in for `{{name}}` and `{{author}}`.
        max_bad_fraction: More unusable rows than this share stop with a `DataError`.
        need_answer: The last message must be the assistant's; False also takes prompts alone.
        hub: Name or prefix of the hub that ids are looked up on.
        rejects_file: jsonl file that gets all rejected rows where there are too many.
        lazy: Find the files and take their fingerprint now, read rows when they are asked for (the same errors come then).
        cache_dir: Folder of the record files; None is $SWIFT_HOME/records.
        mix, weights, mix_stop: How several datasets become one, see `mixing.mix`.
        deduplicate: Leave out rows that repeat an earlier one: exact compares whole records, near their texts.
        media_folder: Relative paths of media start here; None: at the data file.
        media_urls: Media may be named by http(s) URL.

    Raises:
        ConfigError: The weights do not fit.
        DataError: A reference that is missing, empty or unreadable, or the cache cannot be written.
        TooManyRejects: Too many bad rows, or nothing left.
    """
    if not refs:
        raise DataError("no dataset was given", fix="--dataset FILE, or a name of `swift list datasets`")
    mixing.check_weights(weights, len(refs))
    folder = Path(cache_dir) if cache_dir else Path(plugin_index.home()) / "records"
    found = [resolve(ref, registry=registry, hub=hub) for ref in refs]
    for source in found:
        if len(source.files) == 1 and not source.remote and source.files[0].stat().st_size == 0:
            raise DataError(f"{source.files[0]} is empty", fix="give a file with at least one row")
    settings = {"columns": dict(columns or {}), "names": dict(names or {}), "need_answer": need_answer, "code": code_version()}
    digests = FileDigests(folder / "digests.json")
    keys = [
        _digest([_source_digest(source, seed, digests), dict(source.columns), settings, str(media_folder or ""), media_urls])
        for source in found
    ]
    digests.save()
    takes = [source.take for source in found]
    media = FindMedia(str(media_folder) if media_folder else None, media_urls)
    fingerprint = _digest([keys, takes, seed, mix, list(weights), mix_stop, deduplicate])

    @cache
    def opened() -> list[RecordFile]:
        return [
            _open(folder / f"{key[:40]}.records", source, settings, seed=seed, media=media)
            for key, source in zip(keys, found, strict=True)
        ]  # fmt: skip

    @cache
    def media_state() -> str:
        states = [file.media for file in opened()]
        return _digest(states) if any(states) else ""

    def load() -> Loaded:
        files = opened()
        _check_columns(files, columns or {})
        rejects = Rejects(*(file.rejects for file in files))
        guesses = [_guess(source.ref, g) for source, file in zip(found, files, strict=True) for g in file.info["guesses"]]
        notes = [
            line
            for source, file in zip(found, files, strict=True)
            for line in (*(f"{source.ref}: {note}" for note in file.info["notes"]), *source.notes)
        ]
        first = np.cumsum([0, *map(len, files)])
        parts = [
            begin + (np.arange(len(file), dtype=np.int64) if number is None else mixing.take(len(file), number, seed))
            for begin, file, number in zip(first[:-1], files, takes, strict=True)
        ]
        if deduplicate != "no":
            key = _digest([fingerprint, media_state()])[:40]
            parts, repeats = _without_repeats(files, parts, deduplicate, folder / f"{key}.repeats")
            rejects = Rejects(rejects, repeats)
            notes.append(f"{len(repeats)} rows repeat an earlier one and are left out ({deduplicate})")
        rows = mixing.mix(parts, mix, weights, mix_stop, seed=seed)
        usable = sum(map(len, files)) if len(rows) else 0  # the share is of what was read, however little of it is taken
        check_rejects(Rejects(*(file.rejects for file in files)), usable, max_bad_fraction, rejects_file)
        cut_off = [cut for file in files for cut in file.cut_off]
        check_cut_off(cut_off, max_bad_fraction, rejects_file)
        notes += [f"{cut.file} is cut off at line {cut.line}: the rows after it are lost" for cut in cut_off]
        if mix == "interleave":
            shares = [np.count_nonzero((rows >= a) & (rows < b)) for a, b in itertools.pairwise(first)]
            taken = ", ".join(f"{n} of {s.ref} ({len(f)} rows)" for n, s, f in zip(shares, found, files, strict=True))
            notes.append(f"interleaved {len(rows)} rows: {taken}")
        return Loaded(files, rows, rejects, guesses, notes, [source.train_only for source in found])

    records = RecordSet(
        fingerprint, load, media_state, refs=[source.ref for source in found], folder=folder,
        bytes=sum(path.stat().st_size for source in found for path in source.files),
    )  # fmt: skip
    if not lazy:
        len(records)
    return records


# ------------------------------------------------------------------------------------------------------- reading a source


@dataclass(frozen=True)
class FindMedia:
    """Paths of a record's media on this machine, as `media.resolve_media` finds them: records are kept without them, so that
    they can move."""

    media_folder: str | None
    media_urls: bool

    def __call__(self, record: Record) -> Record:
        if not any(record.get(name) for name in KINDS):
            return record
        file = record["_origin"].rpartition(":")[0]
        return resolve_media(record, base=Path(file).parent, media_folder=self.media_folder, media_urls=self.media_urls)

    def local(self, record: Record) -> list[str]:
        return [item for name in KINDS for item in record.get(name) or () if isinstance(item, str) and is_local(item)]

    def state(self, item: str, file: str) -> tuple[int, int]:
        return state_of(local_path(item, os.path.expanduser(self.media_folder or os.path.dirname(file))))


def _open(folder: Path, source: Source, settings: Mapping[str, Any], *, seed: int, media: FindMedia) -> RecordFile:
    names = _names(source)
    with suppress(OSError, ValueError, KeyError):
        file = RecordFile(folder, names, media)
        if file.is_current:
            return file
    with suppress(OSError):  # not there, damaged, or of other media; where it cannot be replaced, writing will say so
        remove(folder)
    columns = {**source.columns, **settings["columns"]}
    convert = Converter(source.ref, columns=columns, names=settings["names"], need_answer=settings["need_answer"])
    return RecordFile.write(
        folder, _converted(source, convert, seed), partial(_told, source, convert), names, finish=media
    )  # fmt: skip


def _converted(source: Source, convert: Converter, seed: int) -> Iterator[tuple[Record, str, int] | Reject]:
    empty = True
    for item in source.rows(seed=seed):
        empty = False
        if isinstance(item, Reject):
            yield item
            continue
        try:
            record = convert(item)
        except DataError as error:
            yield Reject(item.file, item.line, error.message, error.fix)
        else:
            yield record, item.file, item.line
    if empty:
        raise DataError(f"{source.ref} holds no rows", fix="give a file with at least one row")


def _told(source: Source, convert: Converter) -> dict[str, Any]:
    """What is kept beside the rows of a source; without its name, which may differ on another machine."""
    guesses = [{**asdict(guess), "ref": ""} for guess in convert.guesses]
    return {"kind": "records", "ref": source.ref, "seen": sorted(map(str, convert.seen)), "notes": convert.notes,
            "guesses": guesses}  # fmt: skip


def _guess(ref: str, info: Mapping[str, Any]) -> Guess:
    schema: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in info["schema"].items()}
    return Guess(**{**info, "ref": ref, "schema": Schema(**schema)})


def _check_columns(files: Sequence[RecordFile], columns: Mapping[str, str]) -> None:
    seen = {name for file in files for name in file.info["seen"]}
    roles = set(formats.ROLES) | {"tool_call"}
    if unknown := [own for own, target in columns.items() if own not in seen and target not in roles]:
        raise DataError(
            f"columns maps {', '.join(map(repr, unknown))}, but no row has it; columns are {', '.join(sorted(seen)) or 'none'}",
            fix="correct --columns",
        )


def _names(source: Source) -> list[str]:
    return [*map(str, source.files), *(file.name for file in source.remote)] or [source.ref]


def _source_digest(source: Source, seed: int, digests: FileDigests) -> str:
    if source.reader is not None or source.remote or not source.files:
        return source.digest(seed=seed)
    rewrite = source.rewrite.key if source.rewrite is not None else ""
    return digests.of(source.files, f"{rewrite} {code_version()}", partial(source.digest, seed=seed))


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- repetitions


def _without_repeats(
    files: Sequence[RecordFile], parts: Sequence[np.ndarray], how: Deduplicate, path: Path
) -> tuple[list[np.ndarray], Rejects]:
    """Parts without rows that repeat an earlier one (a row that is taken twice on purpose repeats nothing)."""
    rows = np.unique(np.concatenate(parts))
    records = RecordSlice(files, rows)

    def compute() -> dict[str, np.ndarray]:
        if how == "exact":
            _, first, inverse = np.unique(records.hashes, return_index=True, return_inverse=True)
            earlier = first[inverse]
            return {"earlier": np.where(earlier < np.arange(len(rows)), earlier, -1)}
        texts = (duplicates.record_text(record) for record in records)
        return {"earlier": duplicates.find_duplicates(texts, near=True)}

    earlier = remembered(path, compute)["earlier"]
    repeats = np.flatnonzero(earlier >= 0)
    gone = np.zeros(sum(map(len, files)), bool)
    gone[rows[repeats]] = True

    def reject(row: int) -> Reject:
        alike = "repeats" if how == "exact" else "nearly repeats"
        return reject_at(records.origin(row), f"{alike} {records.origin(int(earlier[row]))}")

    return [part[~gone[part]] for part in parts], MadeRejects(repeats, reject)


def without_held_out(train: RecordSet, held_out: RecordSet, how: Contamination) -> RecordSet:
    """`train`, compared with the held-out data when it is read.

    Args:
        how: off compares nothing, warn adds a note, drop leaves such rows out as rejects.

    Raises:
        DataError: (when it is read) how is error, and training rows stand in the held-out data.
    """
    if how == "off":
        return train
    folder = train.folder or Path(plugin_index.home()) / "records"

    def compute() -> dict[str, np.ndarray]:
        texts = [(duplicates.record_text(record) for record in part) for part in (train.records, held_out.records)]
        found = duplicates.contaminated(*texts)
        return {"train": np.array(list(found), np.int64), "held_out": np.array(list(found.values()), np.int64)}

    def load() -> Loaded:
        whole = train._loaded
        if not len(held_out):
            return whole
        of_both = [(part.fingerprint, part.media) for part in (train, held_out)]
        found = remembered(folder / f"{_digest([of_both, code_version()])[:40]}.held_out", compute)
        rows = found["train"]
        if not len(rows):
            return whole
        first = f"{train.origin(int(rows[0]))} as {held_out.origin(int(found['held_out'][0]))}"
        what = f"{len(rows)} training rows also stand in the held-out data (the first: {first})"
        if how == "error":
            raise DataError(what, fix="remove them, or --contamination drop")
        if how == "warn":
            advice = "; evaluation is too good by that much: --contamination drop leaves them out"
            return replace(whole, notes=[*whole.notes, what + advice])
        of = dict(zip(rows.tolist(), found["held_out"].tolist(), strict=True))

        def reject(row: int) -> Reject:
            return reject_at(train.origin(row), f"stands in the held-out data too: {held_out.origin(of[row])}")

        return replace(
            whole, rows=np.delete(whole.rows, rows), rejects=Rejects(whole.rejects, MadeRejects(rows, reject)),
            notes=[*whole.notes, f"{what} and are left out"],
        )  # fmt: skip

    if how == "drop":
        return train.derive(f"without {held_out.fingerprint}", load)
    return RecordSet(train.fingerprint, load, train._media, refs=train.refs, folder=train.folder, bytes=train.bytes)


def prompt_of(record: Record) -> list[dict[str, Any]]:
    """The messages up to (without) the answer at the end: what a model is asked."""
    messages = record["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


@lru_cache(maxsize=1)
def code_version() -> str:
    """Digest of the code that turns files into records: this module and what of `swift.data` it uses, directly or not."""
    found: dict[str, ModuleType] = {}
    waiting = [sys.modules[__name__], *sources.MODULES]
    while waiting:
        module = waiting.pop()
        if module.__name__ in found or not module.__name__.startswith("swift.data."):
            continue
        found[module.__name__] = module
        used = (v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in vars(module).values())
        waiting += [sys.modules[name] for name in used if isinstance(name, str) and name in sys.modules]
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(Path(str(found[name].__file__)).read_bytes())
    return digest.hexdigest()


def _places(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on content and seed only: splitmix64 of the content's hash."""
    mixed = hashes + np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53
