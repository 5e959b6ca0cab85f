"""Every file kind is read row by row with its line, and what is broken is rejected alone."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import sys
import threading
import tracemalloc
import zipfile
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from swift.api import DatasetReader, DatasetSpec, Hub, HubSpec, PluginNotFound
from swift.data.sources import Reject, Row, Source, read_file, resolve
from swift.data.sources import documents as json_documents
from swift.data.sources import lines as json_lines
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


@pytest.mark.parametrize("rows", [300, 20_000])
@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_rows_before_the_cut_are_read_as_a_decompressor_gives_them(tmp_path: Path, ending: str, rows: int) -> None:
    draw = random.Random(0)
    lines = "".join(json.dumps({"text": f"{i} {draw.random()}"}) + "\n" for i in range(rows)).encode()
    whole = gzip.compress(lines) if ending == ".gz" else lzma.compress(lines)
    cut = whole[: len(whole) * 2 // 3]
    oracle = zlib.decompressobj(wbits=31) if ending == ".gz" else lzma.LZMADecompressor()
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(cut)
    good, bad = read(path)
    complete = oracle.decompress(cut).count(b"\n")
    assert complete - 200 <= len(good) <= complete  # the decoder may hold its last block back
    assert len(bad) == 1


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
    write(tmp_path / "docs" / "README.md", "")
    write(tmp_path / "docs" / "a.pdf", "")
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


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"])
def test_compressed_files(tmp_path: Path, name: str, ending: str) -> None:
    texts = [f"row {i} {i * i}" for i in range(3000)]
    if name.endswith("parquet"):
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(pa.table({"text": texts}), sink)
        content = sink.getvalue().to_pybytes()
    else:
        content = {
            "a.jsonl": "".join(json.dumps({"text": t}) + "\n" for t in texts),
            "a.json": json.dumps([{"text": t} for t in texts]),
            "a.csv": "text\n" + "\n".join(texts) + "\n",
            "a.txt": "\n".join(texts),
        }[name].encode()
    squeezed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}[ending](content)
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(squeezed)
    good, bad = read(path)
    assert [values["text"] for _, values in good] == texts and not bad
    path.write_bytes(squeezed[: len(squeezed) // 2])
    if name.endswith("parquet"):
        with pytest.raises(DataError):
            read(path)
        return
    good, bad = read(path)
    assert len(good) < 3000 and all(values["text"] in texts[:-1] or i >= len(good) - 1 for i, (_, values) in enumerate(good))
    assert any("cut off or damaged" in reason for _, reason in bad)
    path.write_bytes(b"this is not compressed")
    assert "cut off or damaged" in read(path)[1][-1][1]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def test_a_zip_of_files_and_markdown(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d/a.jsonl", '{"text": "one"}\n{"text": \n')
        archive.writestr("b.csv", "text\nx\n")
        archive.writestr("README.md", "# not data")
        archive.writestr("__MACOSX/a.jsonl", "{}")
    items = list(read_file(path))
    assert [(i.file, i.line) for i in items if isinstance(i, Row)] == [(f"{path}/b.csv", 2), (f"{path}/d/a.jsonl", 1)]
    assert [(i.file, i.line) for i in items if isinstance(i, Reject)] == [(f"{path}/d/a.jsonl", 2)]
    assert read(write(tmp_path / "a.md", "# T\n\nwords\n"))[0] == [(1, {"text": "# T\n\nwords\n"})]
    assert resolve(str(tmp_path)).files == (tmp_path / "a.md", path)
    with pytest.raises(DataError, match="not a readable zip"):
        list(read_file(write(tmp_path / "b.zip", b"PK no")))


def test_windows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every broken document gives the same rows, lines and reasons, read at once or a few characters at a time."""
    rows = [json.dumps({"text": f'tëxt {i} " \\ {{}} [] \n', "n": [i, {"a": None}]}, ensure_ascii=False) for i in range(12)]
    documents = []
    for layout in ("[\n  {}\n]", "[{}]", '{{"data": [\n{}]}}', "{}", "  [\n\n{}"):
        joined = (",\n  " if "\n  " in layout else ",").join(rows) if layout != "{}" else "\n".join(rows)
        whole = layout.replace("{}", joined).replace("{{", "{").replace("}}", "}") if layout != "{}" else joined
        documents.append(whole)
        rng = random.Random(len(whole))
        for _ in range(25):
            at = rng.randrange(len(whole))
            documents.append(whole[:at] + rng.choice(["", "{", '"', "]", ",", "x", "\n"]) + whole[at + rng.randrange(4) :])
        documents += [whole[: len(whole) // 2], whole + "]", whole + "\n[1]"]
    path = tmp_path / "a.json"
    for document in documents:
        path.write_text(document, encoding="utf-8")
        whole_read = list(read_file(path))
        for window in (1, 7, 64):
            monkeypatch.setattr(json_documents, "WINDOW", window)
            assert list(read_file(path)) == whole_read, document
        monkeypatch.undo()


def test_ten_megabyte_rows(tmp_path: Path) -> None:
    big = {"text": "word " * 2_000_000}
    lines = json.dumps(big)
    for name, content in (("a.jsonl", f'{{"text": "x"}}\n{lines}\n'), ("a.json", f'[{{"text": "x"}},\n{lines}]'),
                          ("a.csv", f"text\nx\n{big['text']}\n")):  # fmt: skip
        assert [values for _, values in read(write(tmp_path / name, content))[0]] == [{"text": "x"}, big]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    row = {"text": "some words " * 40}
    line = json.dumps(row)
    with (tmp_path / name).open("w", encoding="utf-8") as stream:
        stream.write({"a.json": "[", "a.csv": "text\n"}.get(name, ""))
        for i in range(40_000):
            stream.write(
                ("," if i else "") + line if name == "a.json" else f"{row['text'] if name in ('a.csv', 'a.txt') else line}\n"
            )
        stream.write("]" if name == "a.json" else "")
    tracemalloc.start()
    try:
        count = sum(isinstance(item, Row) for item in read_file(tmp_path / name))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / name).stat().st_size
    assert count == 40_000 and size > 17e6 and peak < 9e6, f"{peak / 1e6:.1f} MB for {size / 1e6:.1f} MB"


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    path = write(tmp_path / "closed" / "a.jsonl", '{"text": "x"}')

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path / "closed"))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="closed: Permission denied") as caught:
        resolve(str(tmp_path / "closed"))
    assert "chmod" in caught.value.fix
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="Permission denied") as caught:
        list(read_file(path))
    assert "chmod" in caught.value.fix
    with pytest.raises(DataError, match="Permission denied"):
        Source("x", (path,)).digest(seed=1)


def test_object_stores_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    table = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"text": ["parquet"]}), table)
    for name, content in {
        "d/a.jsonl": b'{"text": "a"}\n{"text": \n', "d/sub/b.csv.gz": gzip.compress(b"text\nb\n"),
        "d/c.parquet": table.getvalue().to_pybytes(), "d/README.md": b"# no rows",
    }.items():  # fmt: skip
        memory.pipe(f"/bucket/{name}", content)
    try:
        source = resolve("memory://bucket/d#2")
        items = list(source.rows(seed=1))
        assert [i.values["text"] for i in items if isinstance(i, Row)] == ["a", "parquet", "b"] and source.take == 2
        assert [(i.file, i.line) for i in items if isinstance(i, Reject)] == [("memory:///bucket/d/a.jsonl", 2)]
        assert [f.name for f in resolve("memory://bucket/d/*.jsonl").remote] == ["memory:///bucket/d/a.jsonl"]
        before = source.digest(seed=1)
        assert resolve("memory://bucket/d").digest(seed=1) == before
        memory.pipe("/bucket/d/a.jsonl", b'{"text": "c"}\n')
        assert resolve("memory://bucket/d").digest(seed=1) != before
        for ref, message in (
            ("memory://bucket/none.jsonl", "nothing is at memory://bucket/none.jsonl"),
            ("memory://bucket/d/*.xlsx", "no readable file"),
            ("memory://bucket/d/README.md", None),
            ("nosuch://u:secret@h/x.jsonl", "protocol nosuch:// is unknown"),
        ):
            if message is None:
                assert len(list(resolve(ref).rows(seed=1))) == 1, "what is named itself is read"
                continue
            with pytest.raises(DataError, match=message) as caught:
                resolve(ref)
            assert caught.value.fix and "secret" not in str(caught.value)
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("ref", "package"), [("s3://b/x.jsonl", "s3fs"), ("gs://b/x.jsonl", "gcsfs"), ("az://b/x.jsonl", "adlfs")]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, ref: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=package) as caught:
        resolve(ref)
    assert f"pip install {package}" in caught.value.fix
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match="fsspec") as caught:
        resolve(ref)
    assert f"pip install fsspec {package}" in caught.value.fix


class Site(BaseHTTPRequestHandler):
    bodies = {
        "/a.jsonl": b'{"text": "one"}\n{"text": "x"}\n',
        "/": b'<a href="a.jsonl">a</a> <a href="c.txt">c</a>',
        "/c.txt": b"c",
    }

    def do_HEAD(self) -> None:
        body = self.bodies.get(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("Content-Type", "text/html" if self.path == "/" else "text/plain")
        self.send_header("ETag", '"v1"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.bodies.get(self.path.partition("?")[0], b""))

    def log_message(self, *_: Any) -> None:
        pass


def test_files_by_http() -> None:
    pytest.importorskip("aiohttp")
    fsspec = pytest.importorskip("fsspec")
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.jsonl"
        source = resolve(f"{url}?token=secret")
        assert [row.values["text"] for row in source.rows(seed=1) if isinstance(row, Row)] == ["one", "x"]
        assert source.ref == url and all(row.file == url for row in source.rows(seed=1)), "no secret in what is reported"
        assert source.digest(seed=1) == resolve(url).digest(seed=1)
        assert [f.name for f in resolve(url.replace("a.jsonl", "*.jsonl")).remote] == [url]
        assert len(resolve(f"{url}?token=[1*]").remote) == 1, "only in the path are these a pattern"
        with pytest.raises(DataError, match="nothing is at"):
            list(resolve(url.replace("a.jsonl", "b.jsonl")).rows(seed=1))
        server.shutdown()
    fsspec.filesystem("http").dircache.clear()
    for ref in (url, url.replace("a.jsonl", "*.jsonl")):
        with pytest.raises(DataError, match="Cannot connect"):
            list(resolve(ref).rows(seed=1))


def test_subsets_of_registered_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / "org" / "name" / name).mkdir(parents=True)
        write(tmp_path / "org" / "name" / name / "train.jsonl", f'{{"text": "{name}"}}')
    monkeypatch.setattr(FolderHub, "root", tmp_path)
    registry = SmallRegistry(
        DatasetSpec(name="remote", hub_ids={"folder": "org/name"}, subsets=("one", "two")),
        HubSpec(name="folder", prefix="fo", impl=here("FolderHub", monkeypatch)),
    )
    for ref, expected in (("remote", "one"), ("remote:two", "two"), ("remote:two#5", "two")):
        source = resolve(ref, registry=registry)
        assert [row.values["text"] for row in source.rows(seed=1) if isinstance(row, Row)] == [expected]
    assert source.take == 5
    with pytest.raises(DataError, match="no subset 'tow'; it has one, two") as caught:
        resolve("remote:tow", registry=registry)
    assert "remote:two" in caught.value.fix


def test_rows_are_the_same_without_orjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (
        b'{"text": "a\\u00e9", "n": 1.5, "big": 9007199254740993}\n  {"text": "b"}  \n\n{"text": "tab\there"}\n{"x": NaN}\n'
        b'{"a": 1, "a": 2}\n{"text": "\\ud83d"}\n{"t": "\xff"}\nnull\n{"text": "x"} {"y": 1}\n{"a":' + b"[" * 3000 + b"\n"
    )  # fmt: skip
    path = write(tmp_path / "a.jsonl", content)
    found = []
    for loads in (None, pytest.importorskip("orjson").loads):
        monkeypatch.setattr(json_lines, "_LOADS", loads)
        found.append(repr(list(read_file(path))))
    assert found[0] == found[1] and found[0].count("Row(") == 5
