"""From what the user names (files, folders, patterns, URLs, registered names, hub ids) to what rows are read from."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from swift.api.contracts.data import DatasetReader
from swift.data.rewrite import Rewrite
from swift.data.sources.files import READERS, holds_rows, kind_of, read_file, readable
from swift.data.sources.opening import DataFile, is_url, list_url, redacted, suffix_of, translated
from swift.data.sources.rows import Reject, Row, RowOrReject
from swift.errors import DataError, PluginNotFound
from swift.plugins.loading import load_impl, package_path


class DatasetRegistry(Protocol):
    """What is asked of a plugin registry; entries carry `.spec`."""

    def find(self, kind: str, name: str) -> Any: ...

    def entries(self, kind: str | None = None) -> list[Any]: ...


@dataclass(frozen=True)
class Source:
    """One resolved reference.

    Args:
        ref: As the user wrote it (of a URL without user, password and query).
        files: Local files, read in this order.
        columns: Own column -> canonical column, from the dataset's registration.
        take: Rows to take (`#N`), or None for all.
        reader: Yields the rows instead of files.
        notes: Lines for the user.
        rewrite: What its registration does to each row.
        train_only: Its registration keeps its rows out of held-out data.
        remote: Files behind URLs, read after the local ones.
    """

    ref: str
    files: tuple[Path, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    take: int | None = None
    reader: DatasetReader | None = None
    notes: tuple[str, ...] = ()
    rewrite: Rewrite | None = None
    train_only: bool = False
    remote: tuple[DataFile, ...] = ()

    def rows(self, *, seed: int) -> Iterator[RowOrReject]:
        """Read as they are asked for; memory does not grow with the number of rows."""
        for item in self._raw(seed=seed):
            if self.rewrite is None or isinstance(item, Reject):
                yield item
                continue
            try:
                rows = self.rewrite(item.values)
            except DataError as error:
                yield Reject(item.file, item.line, error.message, error.fix)
            else:
                yield from (Row(dict(values), item.file, item.line) for values in rows)

    def _raw(self, *, seed: int) -> Iterator[RowOrReject]:
        if self.reader is not None:
            for number, values in enumerate(self.reader.rows(seed=seed), 1):
                yield Row(dict(values), self.ref, number)
        files: tuple[Path | DataFile, ...] = (*self.files, *self.remote)
        for file in files:
            yield from read_file(file)

    def digest(self, *, seed: int) -> str:
        """sha256 over the content; names and places of files do not count. Where an object store vouches for the content of
        a file by a tag, that tag stands for it."""
        digest = hashlib.sha256((self.rewrite.key if self.rewrite is not None else "").encode())
        if self.reader is not None:
            for item in self.rows(seed=seed):
                values = item.values if isinstance(item, Row) else str(item)
                digest.update(json.dumps(values, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
        for file in (*map(DataFile.local, self.files), *self.remote):
            with translated(file):
                file.update(digest)
        return digest.hexdigest()


def resolve(ref: str, *, registry: DatasetRegistry | None = None, hub: str = "auto") -> Source:
    """Find what `ref` stands for: an existing path, a glob pattern, a URL, a registered name, or a hub id.

    `X#N` takes N rows of X; of a registered name or a hub id, `X:SUBSET#N` names the subset.

    Raises:
        DataError: Nothing of that name, or nothing readable in it; near names are listed.
    """
    path = Path(ref).expanduser()
    take = None
    if (is_url(ref) or not path.exists()) and (found := re.fullmatch(r"(.+)#(\d+)", ref)):
        take = int(found[2])
        path = Path(found[1]).expanduser()
        if take == 0:
            raise DataError(f"{ref} asks for 0 rows", fix=f"{found[1]}#100 takes 100 rows; {found[1]} takes all")
    name = ref if take is None else ref.rpartition("#")[0]

    if is_url(name):
        files = list_url(name, readable=holds_rows)
        for file in files:
            kind_of(file.name)
        return Source(redacted(name) + (f"#{take}" if take is not None else ""), take=take, remote=tuple(files))
    if path.is_file():
        kind_of(path.name)
        return Source(ref, (path,), take=take)
    if path.is_dir():
        return _folder(ref, path, take=take)
    if glob.has_magic(name):
        matches = tuple(sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()))
        if not matches:
            raise DataError(f"no file matches {name}", fix="check the pattern (quote it, so that the shell leaves it alone)")
        for match in matches:
            kind_of(str(match))
        return Source(ref, matches, take=take)
    if registry is not None:
        entry, subset = _find(name, registry)
        if entry is not None:
            source = _registered(ref, entry, registry, hub=hub, take=take, subset=subset)
            return replace(source, rewrite=Rewrite.of(entry.spec), train_only=entry.spec.train_only)
        if "::" in name or (re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", name) and not _looks_like_file(name)):
            return _from_hub(ref, name, registry, hub=hub, take=take)
    raise _missing(name, path, registry)


def _find(name: str, registry: DatasetRegistry) -> tuple[Any, str]:
    """(entry of a registered dataset, subset), or (None, "")."""
    whole, _, subset = name.rpartition(":")
    for candidate, part in ((name, ""), (whole, subset)):
        try:
            if candidate and not candidate.endswith(":"):
                return registry.find("dataset", candidate), part
        except PluginNotFound:
            continue
    return None, ""


def _folder(ref: str, folder: Path, *, take: int | None, split: str = "", columns: Mapping[str, str] | None = None) -> Source:
    """All readable files below `folder`, sorted; of a hub's repository only those of `split`, where names tell."""
    found = sorted(p for p in _walk(folder) if p.is_file() and not _hidden(p, folder))
    files = [p for p in found if holds_rows(p.name)]
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


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}", fix=f"chmod u+rx {error.filename}") from error

    for root, _, names in os.walk(folder, onerror=fail):
        yield from (Path(root, name) for name in names)


def _registered(ref: str, entry: Any, registry: DatasetRegistry, *, hub: str, take: int | None, subset: str) -> Source:
    spec = entry.spec
    if subset and spec.subsets and subset not in spec.subsets:
        near = difflib.get_close_matches(subset, spec.subsets, n=1, cutoff=0.4) or spec.subsets[:1]
        raise DataError(f"dataset {spec.name} has no subset {subset!r}; it has {', '.join(spec.subsets)}",
                        fix=f"--dataset {spec.name}:{near[0]}")  # fmt: skip
    if subset and (spec.impl or spec.files):
        raise DataError(f"dataset {spec.name} has no subsets", fix=f"--dataset {spec.name}")
    if spec.impl:
        return Source(ref, columns=spec.columns, take=take, reader=_implementation(entry))
    if spec.files:
        files = tuple(package_path(f) for f in spec.files)
        if missing := [str(f) for f in files if not f.is_file()]:
            raise DataError(f"dataset {spec.name}: its plugin lacks {', '.join(missing)}", fix="reinstall that plugin")
        return Source(ref, files, spec.columns, take)
    for found in _hubs(registry, hub):
        if repo_id := spec.hub_ids.get(found.spec.name):
            folder = _implementation(found).resolve_dataset(
                repo_id, subset=subset or (spec.subsets[0] if spec.subsets else ""), split=spec.split
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
    data = [n for n in here if holds_rows(n)][:5]
    there = f"; {parent.resolve()} holds {', '.join(data)}" if data else f"; {parent.resolve()} holds no data file"
    return DataError(message + there, fix="give a file, a folder, a pattern, or a name of `swift list datasets`")


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _looks_like_file(name: str) -> bool:
    return suffix_of(name) in READERS or name.startswith((".", "/", "~"))
