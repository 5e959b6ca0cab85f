"""Canonical records of a run's data, with everything that was rejected. Left of the torch line."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swift.api.contracts import Record
from swift.data import formats, sources
from swift.data.formats import Converter, Guess
from swift.data.sources import DatasetRegistry, Reject, Source, resolve
from swift.errors import DataError


class TooManyRejects(DataError):
    """More rows are rejected than allowed, or nothing is left; `rejects` are all of them."""

    def __init__(self, message: str, *, fix: str = "", rejects: Sequence[Reject] = ()) -> None:
        super().__init__(message, fix=fix)
        self.rejects = list(rejects)


@dataclass(frozen=True)
class Loaded:
    """What reading gave."""

    records: list[Record]
    rejects: list[Reject] = field(default_factory=list)
    guesses: list[Guess] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class RecordSet(Sequence[Record]):
    """Records, read when they are first asked for; `fingerprint` is known without reading them.

    Attributes:
        fingerprint: Hex digest over file contents, mapping, seed and the code that converts. Places of files do not count.
    """

    def __init__(self, fingerprint: str, load: Callable[[], Loaded]) -> None:
        self.fingerprint = fingerprint
        self._load = load

    @cached_property
    def _loaded(self) -> Loaded:
        return self._load()

    @property
    def records(self) -> list[Record]:
        return self._loaded.records

    @property
    def rejects(self) -> list[Reject]:
        """Rows that cannot be used, in the order of the files."""
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
        return {"records": len(self.records), "rejects": len(self.rejects)}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def split(self, val_split: float, seed: int) -> tuple[RecordSet, RecordSet]:
        """(training, held-out). A row's side follows from its content and the seed alone: rows that come or go move no other
        row, and equal rows stay on one side. With more than one distinct row, neither side is empty.

        Args:
            val_split: Share held out, 0 < val_split < 1.
        """

        def part(held: bool) -> Callable[[], Loaded]:
            def load() -> Loaded:
                places = [_place(record, seed) for record in self.records]
                held_out = [p < val_split for p in places]
                if len(set(places)) > 1 and len(set(held_out)) == 1:  # all on one side: move the nearest row over
                    bound = max(places) if held_out[0] else min(places)
                    held_out = [(p < bound) if held_out[0] else (p <= bound) for p in places]
                chosen = [r for r, h in zip(self.records, held_out, strict=True) if h == held]
                return Loaded(chosen, [] if held else self.rejects, self.guesses, [] if held else self.notes)

            return load

        names = (f"{self.fingerprint} {side} {val_split!r} {seed}" for side in ("train", "held-out"))
        train, val = (hashlib.sha256(name.encode()).hexdigest() for name in names)
        return RecordSet(train, part(False)), RecordSet(val, part(True))

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
) -> RecordSet:
    """Read datasets one after another into canonical records.

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

    Raises:
        DataError: A reference that is missing, empty or unreadable.
        TooManyRejects: Too many bad rows, or nothing left.
    """
    if not refs:
        raise DataError("no dataset was given", fix="--dataset FILE, or a name of `swift list datasets`")
    found = [resolve(ref, registry=registry, hub=hub) for ref in refs]
    for source in found:
        for path in source.files:
            if len(source.files) == 1 and path.stat().st_size == 0:
                raise DataError(f"{path} is empty", fix="give a file with at least one row")
    key = {
        "columns": dict(columns or {}), "names": dict(names or {}), "seed": seed, "need_answer": need_answer,
        "code": code_version(),
        "sources": [(s.digest(seed=seed), s.take, dict(s.columns)) for s in found],
    }  # fmt: skip
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()

    def load() -> Loaded:
        loaded = _read(found, columns or {}, names or {}, seed=seed, need_answer=need_answer)
        check_rejects(loaded.rejects, len(loaded.records), max_bad_fraction, rejects_file)
        return loaded

    records = RecordSet(fingerprint, load)
    if not lazy:
        len(records)
    return records


def _read(found: list[Source], columns: Mapping[str, str], names: Mapping[str, str], *, seed: int, need_answer: bool) -> Loaded:
    result = Loaded([])
    seen: set[str] = set()
    for source in found:
        convert = Converter(source.ref, columns={**source.columns, **columns}, names=names, need_answer=need_answer)
        kept: list[Record] = []
        empty = True
        for item in source.rows(seed=seed):
            empty = False
            if isinstance(item, Reject):
                result.rejects.append(item)
                continue
            try:
                kept.append(convert(item))
            except DataError as error:
                result.rejects.append(Reject(item.file, item.line, error.message, error.fix))
        if empty:
            raise DataError(f"{source.ref} holds no rows", fix="give a file with at least one row")
        seen |= convert.seen
        if convert.unfilled:
            result.notes.append(
                f"{source.ref}: {convert.unfilled} texts hold {{{{name}}}} or {{{{author}}}} as it stands; "
                "fill them with --model_name NAME --model_author AUTHOR"
            )
        if convert.misplaced_loss:
            result.notes.append(f"{source.ref}: {convert.misplaced_loss} messages that are not the assistant's ask for a loss; "
                                "only the assistant's are trained on")  # fmt: skip
        result.notes.extend(source.notes)
        result.guesses.extend(convert.guesses)
        result.records.extend(kept if source.take is None else _take(kept, source.take, seed))
    roles = set(formats.ROLES) | {"tool_call"}
    if unknown := [own for own, target in columns.items() if own not in seen and target not in roles]:
        raise DataError(
            f"columns maps {', '.join(map(repr, unknown))}, but no row has it; columns are {', '.join(sorted(seen)) or 'none'}",
            fix="correct --columns",
        )
    return result


def _take(records: list[Record], number: int, seed: int) -> list[Record]:
    """A random `number` of the records in their order; whole copies first where there are fewer."""
    if not records:
        return []
    copies, rest = divmod(number, len(records))
    picked = np.sort(np.random.default_rng(seed).permutation(len(records))[:rest])
    return records * copies + [records[i] for i in picked]


def check_rejects(rejects: Sequence[Reject], kept: int, max_bad_fraction: float, rejects_file: Path | None = None) -> None:
    """Raise `TooManyRejects` where nothing is kept, or more than the allowed share is rejected."""
    total = kept + len(rejects)
    if kept and len(rejects) <= max_bad_fraction * total:
        return
    if not rejects:
        raise TooManyRejects("no row is left to train on", fix="check the dataset")
    if rejects_file is not None:
        write_rejects(rejects_file, rejects)
    reasons = Counter(r.reason for r in rejects).most_common()
    lines = []
    for reason, count in reasons[:5]:
        first = next(r for r in rejects if r.reason == reason)
        lines.append(f"  {first}" + (f" - and {count - 1} more like it" if count > 1 else ""))
    if len(reasons) > 5:
        lines.append(f"  ... and {sum(count for _, count in reasons[5:])} rows with other reasons")
    if rejects_file is not None:
        lines.append(f"  all of them: {rejects_file}")
    share = len(rejects) / total
    message = f"{len(rejects)} of {total} rows ({100 * share:.1f} %) cannot be used; allowed are {100 * max_bad_fraction:g} %"
    advice = next((r.suggestion for r in rejects if r.reason == reasons[0][0] and r.suggestion), "")
    if kept and not (len(reasons) == 1 and advice):
        advice = f"mend the rows, or allow more: --max_bad_fraction {min(1.0, share + 0.01):.2f}"
    raise TooManyRejects("\n".join([message, *lines]), fix=advice or "mend the rows", rejects=rejects)


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """One JSON object a line: file, line, reason, suggestion. Raises `DataError` where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            for reject in rejects:
                stream.write(json.dumps(asdict(reject), ensure_ascii=False).encode("utf-8", "replace").decode("utf-8") + "\n")
        os.replace(temporary, path)
    except OSError as error:
        discard(temporary)
        raise DataError(
            f"the list of rejected rows cannot be written to {path}: {error.strerror}", fix="give another folder"
        ) from error


def discard(path: Path) -> None:
    """Remove a file that may not be there, where an error is already on its way."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # its folder is out of reach; the first error tells


def prompt_of(record: Record) -> list[dict[str, Any]]:
    """The messages up to (without) the answer at the end: what a model is asked."""
    messages = record["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def code_version() -> str:
    """Digest of the code that turns files into records."""
    digest = hashlib.sha256()
    for module in (sources, formats):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _place(record: Record, seed: int) -> float:
    """A number in [0, 1) that depends on the content and the seed only."""
    content = {key: value for key, value in record.items() if not key.startswith("_")}
    text = json.dumps([seed, content], sort_keys=True, ensure_ascii=False, default=repr)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56
