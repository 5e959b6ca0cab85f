"""Every file kind is read row by row with its line, and what is broken is rejected alone."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from swift.api import DatasetReader, DatasetSpec, Hub, HubSpec, PluginNotFound
from swift.data.sources import Reject, Row, Source, read_file, resolve
from swift.errors import DataError

DATA = Path(__file__).parent / "data"
ROWS = [{"text": "one"}, {"text": "two\nlines"}, {"text": "drei: ä"}]


def read(path: Path) -> tuple[list[tuple[int, Any]], list[tuple[int, str]]]:
    """([(line, values)], [(line, reason)])."""
    items = list(read_file(path))
    assert {item.file for item in items} <= {str(path)}
    good = [(i.line, i.values) for i in items if isinstance(i, Row)]
    return good, [(i.line, f"{i.reason} | {i.suggestion}") for i in items if isinstance(i, Reject)]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_each_kind_gives_the_same_rows(tmp_path: Path, gz: str) -> None:
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    assert read(write(tmp_path / f"a.jsonl{gz}", jsonl)) == ([(1, ROWS[0]), (2, ROWS[1]), (3, ROWS[2])], [])
    pretty = json.dumps(ROWS, ensure_ascii=False, indent=2)
    assert read(write(tmp_path / f"a.json{gz}", pretty)) == ([(2, ROWS[0]), (5, ROWS[1]), (8, ROWS[2])], [])
    assert read(write(tmp_path / f"b.csv{gz}", 'text\none\n"two\nlines"\ndrei: ä\n'))[0] == [
        (2, ROWS[0]),
        (3, ROWS[1]),
        (5, ROWS[2]),
    ]
    assert read(write(tmp_path / f"b.tsv{gz}", "n\ttext\n1\tone\n"))[0] == [(2, {"n": "1", "text": "one"})]
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    assert read(write(tmp_path / f"a.parquet{gz}", sink.getvalue().to_pybytes()))[0] == [(i + 1, r) for i, r in enumerate(ROWS)]
    for name, new in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        sink = pa.BufferOutputStream()
        with new(sink, table.schema) as writer:
            writer.write_table(table)
        assert read(write(tmp_path / f"{name}.arrow{gz}", sink.getvalue().to_pybytes()))[0] == [
            (i + 1, r) for i, r in enumerate(ROWS)
        ]


def test_text_is_blocks_or_lines(tmp_path: Path) -> None:
    blocks = write(tmp_path / "a.txt", "one\ntwo\n\n\nthree\n\n")
    assert read(blocks)[0] == [(1, {"text": "one\ntwo"}), (5, {"text": "three"})]
    assert read(write(tmp_path / "b.txt", "one\ntwo\n"))[0] == [(1, {"text": "one"}), (2, {"text": "two"})]
    assert len(read(DATA / "wiki.txt")[0]) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + b'{"text": "one"}\r\n{"text": "x"}\r\n'),
        ("lines.json", b'{"text": "one"}\n{"text": "x"}'),
        ("joined.json", b'{"text": "one"} {"text": "x"}'),
        ("array.jsonl", b'[{"text": "one"},\n{"text": "x"}]'),
        ("wrapped.json", b'{"data": [{"text": "one"}, {"text": "x"}], "version": 1}'),
        ("utf16.jsonl", '{"text": "one"}\n{"text": "x"}\n'.encode("utf-16")),
        ("semicolon.csv", b"text;n\none;1\nx;2\n"),
        ("bom.csv", b"\xef\xbb\xbftext\r\none\r\nx\r\n"),
    ],
)
def test_variants_are_tolerated(tmp_path: Path, name: str, content: bytes) -> None:
    good, bad = read(write(tmp_path / name, content))
    assert [values["text"] for _, values in good] == ["one", "x"]
    assert not bad


@pytest.mark.parametrize(
    ("name", "content", "kept", "line", "reason"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": }\n{"text": "x"}\n', ["one", "x"], 2, "not JSON"),
        ("a.jsonl", b'{"text": "one"},\n{"text": "x"}\n', ["x"], 1, "remove the comma"),
        ("a.jsonl", b"{'text': 'one'}\n" b'{"text": "x"}\n', ["x"], 1, "double quotes"),
        ("a.jsonl", b'{"text": "one"}\n["x"]\n', ["one"], 2, "this is a list"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n{"text": "x"}\n', ["one", "x"], 2, "not UTF-8: byte 0xff"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n{"text": "x"}\n', ["x"], 1, "surrogate"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "x', ["one"], 2, "cut off"),
        ("a.json", b'[\n {"text": "one"},\n {"text": },\n {"text": "x"}\n]', ["one", "x"], 3, "not JSON"),
        ("a.json", b'[\n {"text": "one},\n {"text": "x"}\n]', ["x"], 2, "not JSON"),
        ("a.json", b'[{"text": "one"}, {"t": [{"text": }]}, {"text": "x"}]', ["one", "x"], 1, "not JSON"),
        ("a.json", b'[{"text": "one"},\n{"text": "x"},\n{"text": "cut', ["one", "x"], 3, "cut off"),
        ("a.json", b'[{"text": "one"},\n{"text": "x"},\n', ["one", "x"], 3, "not closed"),
        ("a.json", b'[{"text": "one"}\n{"text": "x"}]', ["one", "x"], 2, "comma is missing"),
        ("a.json", b'[{"text": "one"}]\n[{"text": "x"}]', ["one"], 2, "after the end"),
        ("a.json", b'{"text": "one"}\n{"text" "x"}\n{"text": "x"}', ["one", "x"], 2, "not JSON"),
        ("a.csv", b"text,n\none,1\ntwo\nx,2\n", ["one", "x"], 3, "1 fields, but the header names 2"),
        ("a.csv", b'text,n\none,1\n"open,1\nx,2\n', ["one", "x"], 3, "never closed"),
        ("a.txt", b"one\n\n\xff\n\nx\n", ["one", "x"], 3, "not UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_row_is_rejected_alone(
    tmp_path: Path, name: str, content: bytes, kept: list[str], line: int, reason: str
) -> None:
    good, bad = read(write(tmp_path / name, content))
    assert [values["text"] for _, values in good] == kept
    assert [at for at, _ in bad] == [line]
    assert reason in bad[0][1]


def test_a_cut_off_gzip_keeps_its_whole_rows(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f'{{"text": "{i} {i * i}"}}\n' for i in range(50_000)).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    good, bad = read(path)
    assert good[0] == (1, {"text": "0 0"}) and len(good) > 10_000
    assert len(bad) == 1 and "cut off" in bad[0][1] and bad[0][0] == len(good) + 1


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable parquet file"):
        list(read_file(write(tmp_path / "a.parquet", b"PAR1 but not really")))


def test_references(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    b = write(tmp_path / "d" / "b.jsonl", '{"text": "b"}')
    a = write(tmp_path / "d" / "sub" / "a.csv", "text\na")
    write(tmp_path / "d" / "README.md", "# no rows")
    write(tmp_path / "d" / ".hidden.json", "[]")
    folder = resolve(str(tmp_path / "d"))
    assert folder.files == (b, a) and "README.md" in folder.notes[0]
    assert resolve(str(tmp_path / "d" / "*.jsonl")).files == (b,)
    assert resolve(f"{b}#7") == Source(f"{b}#7", (b,), take=7)
    odd = write(tmp_path / "odd#7", "")  # a name that looks like a count
    with pytest.raises(DataError, match="cannot read files of kind"):
        resolve(str(odd))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("trian.jsonl", "near names: .*train.jsonl"),
        ("nothing/like/it.jsonl", "there is no folder"),
        ("x.xlsx", "cannot read files of kind .xlsx"),
        ("*.parquet", "no file matches"),
        ("train.jsonl#0", "asks for 0 rows"),
        ("docs", "holds no readable file"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", "{}")
    write(tmp_path / "x.xlsx", "")
    (tmp_path / "docs").mkdir()
    write(tmp_path / "docs" / "a.md", "")
    with pytest.raises(DataError, match=message) as caught:
        resolve(ref)
    assert caught.value.fix


class CountingReader(DatasetReader):
    def rows(self, *, seed: int) -> Any:
        return ({"text": str(seed + i)} for i in range(2))


class FolderHub(Hub):
    """A hub that is a folder, named by the environment of the test."""

    root = Path()

    def resolve_model(self, repo_id: str, *, revision: str | None = None, weights: bool = True) -> Path:
        raise NotImplementedError

    def resolve_dataset(self, repo_id: str, *, revision: str | None = None, subset: str = "", split: str = "") -> Path:
        if not (self.root / repo_id).is_dir():
            raise DataError(f"no dataset {repo_id}")
        return self.root / repo_id / subset


@dataclass(frozen=True)
class Chosen:
    """An entry as a plan's registry gives it."""

    spec: Any
    component: Any = field(default=None)


class SmallRegistry:
    def __init__(self, *specs: Any) -> None:
        from swift.plan.plan import Component

        self._entries = [Chosen(s, Component(s.kind, s.name, s.impl, spec=s.to_dict())) for s in specs]

    def entries(self, kind: str | None = None) -> list[Any]:
        return [e for e in self._entries if e.spec.kind == kind]

    def find(self, kind: str, name: str) -> Any:
        for entry in self.entries(kind):
            if entry.spec.name == name:
                return entry
        raise PluginNotFound(f"no {kind} {name}")


def here(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Dotted path of something in this file, for a loader that imports by name."""
    import sys

    monkeypatch.setitem(sys.modules, "data_sources_under_test", sys.modules[__name__])
    return f"data_sources_under_test:{name}"


def test_registered_names_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shipped_rows"
    package.mkdir()
    write(package / "__init__.py", "raise ImportError('a dataset is found without importing its package')")
    write(package / "rows.jsonl", '{"q": "a", "a": "b"}')
    monkeypatch.syspath_prepend(tmp_path)
    repo = tmp_path / "org" / "name"
    (repo / "small").mkdir(parents=True)
    write(repo / "train-00000.jsonl", '{"text": "train"}')
    write(repo / "test-00000.jsonl", '{"text": "test"}')
    write(repo / "small" / "train.jsonl", '{"text": "small"}')
    monkeypatch.setattr(FolderHub, "root", tmp_path)
    registry = SmallRegistry(
        DatasetSpec(name="shipped", files=("shipped_rows:rows.jsonl",), columns={"q": "query", "a": "response"}),
        DatasetSpec(name="counted", impl=here("CountingReader", monkeypatch)),
        DatasetSpec(name="remote", hub_ids={"folder": "org/name"}, subsets=("small",)),
        HubSpec(name="folder", prefix="fo", impl=here("FolderHub", monkeypatch)),
    )
    shipped = resolve("shipped#3", registry=registry)
    assert shipped.files == (package / "rows.jsonl",) and shipped.columns["q"] == "query" and shipped.take == 3
    assert [row.values for row in resolve("counted", registry=registry).rows(seed=5)] == [{"text": "5"}, {"text": "6"}]
    for ref, names in (
        ("org/name", ["train.jsonl", "train-00000.jsonl"]), ("fo::org/name:small", ["train.jsonl"]),
        ("remote", ["train.jsonl"]),
    ):  # fmt: skip
        assert [p.name for p in resolve(ref, registry=registry).files] == names
    with pytest.raises(DataError, match="is no file here, and on the hub: no dataset org/other"):
        resolve("org/other", registry=registry)
    with pytest.raises(DataError, match="no hub has the prefix 'xx'"):
        resolve("xx::org/name", registry=registry)
    with pytest.raises(DataError, match="near names: shipped"):
        resolve("shiped", registry=registry)
