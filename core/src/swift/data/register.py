"""Datasets that a script registers for its own runs: `register_dataset`, `HFDataset`. Left of the torch line.

    @register_dataset(name="my_sft_data", train_only=True)
    def my_data():
        return HFDataset.from_file("x.jsonl")

    train(model="tiny", dataset="my_sft_data")

A plan must be a value that every worker can read, so what is no file, hub id or importable reader is written to a jsonl file
below $SWIFT_HOME/registered when a plan first names it; the name of the file follows from its content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, TypeVar

from swift.api.contracts.data import DatasetReader
from swift.api.specs import DatasetSpec
from swift.config.spelling import did_you_mean
from swift.data.sources import Reject, resolve
from swift.errors import DataError, PluginConflict
from swift.plugins import index, registered
from swift.plugins.collect import spec_fault
from swift.plugins.info import Entry
from swift.plugins.registry import discover

logger = logging.getLogger("swift")
T = TypeVar("T")
Row = Mapping[str, Any]


class HFDataset:
    """Rows from anywhere, read anew each time that they are iterated over.

    Args:
        rows: Any iterable of mappings that can be gone through again: a list, a `datasets.Dataset`, ...
    """

    file: Path | None = None
    """Where the rows stand, if they are those of one file."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: Callable[[], Iterable[Row]] = lambda: rows

    @classmethod
    def from_generator(cls, function: Callable[[], Iterable[Row]]) -> HFDataset:
        """`function()` gives the rows; it is called for each pass."""
        made = cls(())
        made._rows = function
        return made

    @classmethod
    def from_list(cls, rows: Iterable[Row]) -> HFDataset:
        if not isinstance(rows, Iterable) or isinstance(rows, (str, Mapping)):
            raise DataError(f"rows are given as a {type(rows).__name__}", fix="HFDataset.from_list([{...}, {...}])")
        return cls(list(rows))

    @classmethod
    def from_file(cls, path: str | Path) -> HFDataset:
        """A file of any kind that `--dataset` reads.

        Raises:
            DataError: It is missing, or of an unknown kind.
        """
        if not isinstance(path, (str, Path)):
            raise DataError(f"a file is given as {path!r}", fix="HFDataset.from_file('rows.jsonl')")
        made = cls.from_generator(_reader(str(path)))
        made.file = Path(path).expanduser().resolve()
        resolve(str(path))
        return made

    @classmethod
    def from_hub(cls, id: str) -> HFDataset:
        """A registered name or a hub id, `X:SUBSET#N` as for `--dataset`; fetched when it is first iterated over."""
        return cls.from_generator(_reader(id))

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows())

    def __len__(self) -> int:
        rows = self._rows()
        return len(rows) if isinstance(rows, Sized) else sum(1 for _ in rows)

    def select(self, indices: Iterable[int]) -> HFDataset:
        """The rows of these numbers, in their own order."""
        wanted = set(indices)
        return type(self).from_generator(lambda: (row for number, row in enumerate(self) if number in wanted))

    def take(self, number: int) -> HFDataset:
        """The first rows."""
        return type(self).from_generator(lambda: itertools.islice(self, number))

    def map(self, function: Callable[[Row], Row]) -> HFDataset:
        return type(self).from_generator(lambda: map(function, self))

    def filter(self, function: Callable[[Row], bool]) -> HFDataset:
        return type(self).from_generator(lambda: filter(function, self))

    def save(self, path: str | Path) -> Path:
        """Write the rows as jsonl.

        Raises:
            DataError: A row is no object, or holds what JSON cannot say.
        """
        return write_rows(self, Path(path), what=str(path))[0]


def _reader(ref: str) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for item in resolve(ref, registry=None if Path(ref).expanduser().exists() else discover()).rows(seed=0):
            if isinstance(item, Reject):
                raise DataError(str(item), fix=item.suggestion)
            yield item.values

    return rows


# ----------------------------------------------------------------------------------------------------------- registration


_FIELDS = [field.name for field in dataclasses.fields(DatasetSpec)]


def register_dataset(target: Any = None, /, *, name: str = "", **values: Any) -> Any:
    """Make a dataset known to the runs of this process, as a decorator or by a plain call.

    Args:
        target: A name, as `name`; or a function that returns or yields rows, a `swift.api.DatasetReader` class, an
            `HFDataset` (object or class),
            or a whole `swift.api.DatasetSpec`. None: `files` or `hub_ids` say where the rows are, or this is a decorator.
        name: As which runs know it; default: that of the function or class.
        **values: Fields of `swift.api.DatasetSpec`: files, hub_ids, subsets, split, columns, rewrite, convert, tasks,
            train_only (keep it out of held-out data), summary, licence, source, aliases, ...

    Returns:
        The target, unchanged; for files and hub ids the spec.

    Raises:
        DataError: The values do not make a dataset.
        PluginConflict: Another function of this process has registered the name.
    """
    if isinstance(target, str):
        target, name = None, name or target
    if unknown := [key for key in values if key not in _FIELDS]:
        raise DataError(
            "register_dataset: " + "; ".join(f"{key} is unknown{did_you_mean(key, _FIELDS)}" for key in unknown),
            fix="help(swift.api.DatasetSpec) lists the fields",
        )
    if isinstance(target, DatasetSpec):
        return _add(Entry(target, source="registered by this process"), target)
    if target is None and not (values.get("files") or values.get("hub_ids")):
        return lambda decorated: register_dataset(decorated, name=name, **values)
    named = inspect.isroutine(target) or inspect.isclass(target)
    home = f"{target.__module__}:{target.__qualname__}" if named else ""
    name = name or home.rpartition(":")[2].rpartition(".")[2].lower()
    for field in ("aliases", "subsets", "tasks", "files"):
        given = values.get(field, ())
        values[field] = (given,) if isinstance(given, (str, Path)) else tuple(given)
    values = {key: value for key, value in values.items() if value not in ((), None)}
    if isinstance(target, HFDataset) and target.file is not None:
        values["files"] = (target.file,)
    if "files" in values:
        values["files"] = tuple(f if _in_package(str(f)) else str(Path(f).expanduser().resolve()) for f in values["files"])
    if inspect.isclass(target) and issubclass(target, DatasetReader) and _importable(target):
        values["impl"] = home
    try:
        spec = DatasetSpec(**{"name": name, "summary": _first_line(target) if home else "", **values})
    except TypeError as error:
        raise DataError(f"register_dataset: {error}", fix="help(swift.api.DatasetSpec) lists the fields") from None
    source = f"registered by {home or 'this process'}"
    if spec.files or spec.impl or spec.hub_ids:
        _add(Entry(spec, source=source), spec)
    else:
        _add(_Written(spec, target, source), spec)
    return spec if target is None else target


def _first_line(target: Any) -> str:
    return (target.__doc__ or "").strip().partition("\n")[0]


def _in_package(file: str) -> bool:
    package, colon, _ = file.partition(":")
    return bool(colon) and all(part.isidentifier() for part in package.split(".")) and len(package) > 1


def _importable(target: Any) -> bool:
    """A worker finds it again: not in a script, a notebook, or inside a function."""
    module = target.__module__
    if module == "__main__" or "<locals>" in target.__qualname__:
        return False
    known = sys.modules.get(module)
    return bool(getattr(known, "__file__", None)) and importlib.util.find_spec(module) is not None


def _add(entry: Entry, spec: T) -> T:
    if fault := spec_fault(spec):  # type: ignore[arg-type]
        raise DataError(f"register_dataset: {fault}", fix="register_dataset(name='my-data', ...)")
    earlier = registered.get(entry.id)
    if earlier is not None and earlier.source != entry.source:
        raise PluginConflict(
            f"dataset {entry.name!r} is already {earlier.source}; now it is {entry.source}", fix="give one of them another name"
        )
    registered.add(entry)
    return spec


class _Written(Entry):
    """A dataset whose rows are written to a file when its spec is first asked for."""

    __slots__ = ("_target",)

    def __init__(self, spec: DatasetSpec, target: Any, source: str) -> None:
        super().__init__(spec, source=source)
        self.data = {**self.data, "impl": source}  # listings: its rows are here
        self._target = target

    @property
    def spec(self) -> Any:
        found = self._spec
        if isinstance(found, DatasetSpec) and not found.files:
            folder = Path(index.home()) / "registered"
            path, number = write_rows(_rows(self._target), folder, what=f"dataset {self.name}", stem=self.name)
            logger.info("dataset %s: its %d rows are written to %s, which the run reads", self.name, number, path)
            self._spec = found = DatasetSpec(
                **{f.name: getattr(found, f.name) for f in dataclasses.fields(found)} | {"files": (str(path),)}
            )
        return found


def _rows(target: Any) -> Iterable[Row]:
    if inspect.isclass(target) and issubclass(target, DatasetReader):
        return target().rows(seed=0)
    made = target() if callable(target) else target
    if isinstance(made, DatasetReader):
        return made.rows(seed=0)
    if isinstance(made, (str, Path)):
        return HFDataset.from_file(made)
    if not isinstance(made, Iterable) or isinstance(made, Mapping):
        raise DataError(f"it gives a {type(made).__name__}, not rows", fix="return a list of dicts, or yield them")
    return made


def write_rows(rows: Iterable[Row], path: Path, *, what: str, stem: str = "") -> tuple[Path, int]:
    """(file, number of rows): rows as jsonl, put in place when all are there.

    Args:
        path: The file; with `stem` the folder, in which the file is named by stem and content.
        what: Begins the messages.

    Raises:
        DataError: No rows, a row that is no object or holds what JSON cannot say, or the file cannot be written.
    """
    folder = path if stem else path.parent
    temporary = folder / f".{stem or path.name}.{os.getpid()}"
    digest, number = hashlib.sha256(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            for number, row in enumerate(rows, 1):
                line = _line(row, number, what)
                digest.update(line)
                stream.write(line)
        if not number:
            raise DataError(f"{what} gives no rows", fix="return a list of dicts, or yield them")
        target = folder / f"{stem}-{digest.hexdigest()[:16]}.jsonl" if stem else path
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(
            f"{what}: {folder} cannot be written: {error.strerror}", fix="set SWIFT_HOME to a folder of yours"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target, number


def _line(row: Any, number: int, what: str) -> bytes:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{what}: row {number} is a {type(row).__name__}, not a dict", fix='yield {"query": ..., "response": ...}'
        )
    try:
        return (json.dumps(dict(row), ensure_ascii=False) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        advice = "use text, numbers, lists and dicts; save media as files and give their paths"
        raise DataError(f"{what}: row {number}: {error}", fix=advice) from error
