"""Records are kept on the disk once, mixed by row numbers, and found again wherever their folder is."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift.api import Encoder
from swift.data import cache, mixing, records
from swift.data.rejects import Rejects, check_rejects
from swift.data.sources import Reject
from swift.data.store import FileDigests, RecordFile, RecordSlice, cannot_write, dump, load
from swift.data.tokens import TokenDataset, tokenize
from swift.errors import ConfigError, DataError

load_records, without_held_out = records.load_records, records.without_held_out


def lines(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def texts(path: Path, *names: str) -> str:
    return lines(path, [{"text": name} for name in names])


class Bytes(Encoder):
    """Tokens are bytes."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.encoded = 0

    def digest(self) -> str:
        return ""

    def prepare(self, records: Any) -> None:
        self.encoded += len(records)

    def chat(self, record: Any) -> Any:
        raise NotImplementedError

    def text(self, text: str) -> Any:
        return {"input_ids": list(text.encode()), "loss_weight": [1.0] * len(text.encode())}


def encode(record: Any, encoder: Any) -> Any:
    return encoder.text(record["text"])


def contents(data: TokenDataset) -> list[str]:
    return [bytes(data[i][0].tolist()).decode() for i in range(len(data))]


# ------------------------------------------------------------------------------------------------------------ record files


def test_records_come_back_as_they_were() -> None:
    record = {"text": "ä\ud800\n", "images": [{"bytes": b"\x00\xff"}], "n": 1.5, "none": None, "_origin": "a:1"}
    assert load(dump(record)) == {key: value for key, value in record.items() if key != "_origin"}


def test_a_second_reading_reads_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = lines(tmp_path / "a.jsonl", [{"text": "x"}, "broken", {"text": "I am {{name}}"}])
    first = load_records([file], max_bad_fraction=0.5)
    monkeypatch.setattr(records, "Converter", None)
    second = load_records([file], max_bad_fraction=0.5)
    assert list(first) == list(second) and first.rejects == second.rejects and len(second.rejects) == 1
    assert [str(g) for g in first.guesses] == [str(g) for g in second.guesses] and first.notes == second.notes != []


def test_reading_is_by_row_number_and_slice(tmp_path: Path) -> None:
    found = load_records([texts(tmp_path / "a.jsonl", "a", "b", "c"), texts(tmp_path / "b.jsonl", "d")])
    assert found[3]["text"] == found[-1]["text"] == "d" and [r["text"] for r in found[1:]] == ["b", "c", "d"]
    assert found.origin(3) == f"{tmp_path / 'b.jsonl'}:1"
    with pytest.raises(IndexError):
        found[4]


@pytest.mark.parametrize("damage", ["cut", "gone", "info"])
def test_a_damaged_record_file_is_written_again(tmp_path: Path, damage: str) -> None:
    file = texts(tmp_path / "a.jsonl", "a", "b")
    wanted = list(load_records([file], cache_dir=tmp_path / "c"))
    (folder,) = (tmp_path / "c").glob("*.records")
    if damage == "cut":
        (folder / "rows.bin").write_bytes(b"{")
    elif damage == "gone":
        (folder / "index.bin").unlink()
    else:
        (folder / "info.json").write_text("{")
    assert list(load_records([file], cache_dir=tmp_path / "c")) == wanted
    assert [p.suffix for p in (tmp_path / "c").iterdir() if p.is_dir()] == [".records"]


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    found = load_records([texts(tmp_path / "a.jsonl", "a", "b")], cache_dir=tmp_path / "c")
    (data,) = (tmp_path / "c").glob("*.records/rows.bin")
    data.write_bytes(data.read_bytes().replace(b"b", b"c"))
    assert found[0]["text"] == "a"
    with pytest.raises(DataError, match="damaged") as caught:
        found[1]
    assert "swift data cache clear" in caught.value.fix


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", "a")
    os.utime(file, (1e9, 1e9))
    assert load_records([file])[0]["text"] == "a"
    texts(tmp_path / "a.jsonl", "b")
    assert load_records([file])[0]["text"] == "b"


def test_digests_are_remembered_except_of_files_that_just_changed(tmp_path: Path) -> None:
    file, calls = tmp_path / "a", list[int]()
    file.write_text("x")

    def of(at: float) -> str:
        os.utime(file, (at, at))
        digests = FileDigests(tmp_path / "digests.json")
        found = digests.of([file], "", lambda: calls.append(1) or "digest")  # type: ignore[func-returns-value]
        digests.save()
        return found

    now = time.time()
    assert {of(now), of(now)} == {"digest"} and len(calls) == 2, "it may change again within the resolution of its time"
    assert {of(now - 10), of(now - 10)} == {"digest"} and len(calls) == 3
    of(now - 11)
    assert len(calls) == 4


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", *(f"row {i}" for i in range(2000)))
    code = """
    import resource, signal, sys
    from swift.data.records import load_records
    from swift.errors import DataError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        load_records([sys.argv[1]], cache_dir=sys.argv[2])
    except DataError as error:
        print(error)
    """
    full = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), file, str(tmp_path / "c")], capture_output=True, text=True
    )
    assert "cannot be written: File too large" in full.stdout and "--cache_dir DIR" in full.stdout, full.stderr
    assert [p.name for p in (tmp_path / "c").iterdir() if p.name != "digests.json"] == []


def test_two_processes_read_the_same_source_at_once(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", *(f"row {i}" for i in range(3000)))
    code = "import sys; from swift.data.records import load_records; r = load_records([sys.argv[1]], cache_dir=sys.argv[2]); "
    code += "print(len(r), r[2999]['text'])"
    command = [sys.executable, "-c", code, file, str(tmp_path / "c")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=60)[0].strip() for p in both] == ["3000 row 2999"] * 2
    assert [p.suffix for p in (tmp_path / "c").iterdir() if p.is_dir()] == [".records"]


def test_rows_travel_as_places_and_numbers(tmp_path: Path) -> None:
    import pickle

    found = load_records([texts(tmp_path / "a.jsonl", *(f"{i}" * 1000 for i in range(10)))])
    part = found.records[3:5]
    sent = pickle.dumps(part)
    assert len(sent) < 2000 and list(pickle.loads(sent)) == list(part) == found[3:5]


def test_rejects_are_counted_by_reason_without_being_held(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", [{"text": "x"}, *["{"] * 3000])
    found = load_records([file], max_bad_fraction=1.0).rejects
    assert isinstance(found, Rejects) and len(found) == 3000 and found[-1].line == 3001 and not vars(found).get("_all")
    with pytest.raises(DataError, match=r"and 2999 more like it"):
        check_rejects(found, 1, 0.5)
    many = [Reject("a", i, f"reason {i}") for i in range(1500)]
    with pytest.raises(DataError, match="and 1495 rows with other reasons"):
        check_rejects(many, 1, 0.5)


# ----------------------------------------------------------------------------------------------------------------- mixture


def test_weights_of_joined_datasets_say_how_often_their_rows_are_taken(tmp_path: Path) -> None:
    a, b = texts(tmp_path / "a.jsonl", *"abcdefghij"), texts(tmp_path / "b.jsonl", *"xy")
    found = [r["text"] for r in load_records([a, b], weights=[0.5, 3.0])]
    assert len(found) == 5 + 6 and found[5:] == ["x", "y"] * 3 and found[:5] == sorted(set(found[:5]))


def test_interleaving_draws_by_weight_and_ends_as_told() -> None:
    parts = [np.arange(3000), 3000 + np.arange(500)]
    first = mixing.mix(parts, "interleave", [1, 1], "first_exhausted", seed=1)
    assert np.array_equal(first, mixing.mix(parts, "interleave", [1, 1], seed=1))
    assert not np.array_equal(first[:50], mixing.mix(parts, "interleave", [1, 1], seed=2)[:50])
    assert 900 < len(first) < 1100 and first[-1] == 3499 and len(np.unique(first)) == len(first)
    assert np.array_equal(first[first < 3000], np.arange((first < 3000).sum())), "each dataset keeps its order"
    every = mixing.mix(parts, "interleave", [3, 1], "all_exhausted", seed=1)
    assert set(every.tolist()) == set(range(3500)), "all rows come"
    assert abs((every < 3000).mean() - 0.75) < 0.03
    counts = np.bincount(every[every >= 3000] - 3000)
    assert counts.max() - counts.min() <= 1, "what is used up starts again from its beginning"
    assert len(mixing.mix(parts, "interleave", [1, 0])) == 3000


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("inf")]])
def test_weights_that_do_not_fit(tmp_path: Path, weights: list[float]) -> None:
    files = [texts(tmp_path / name, "a") for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(ConfigError, match="weights"):
        load_records(files, weights=weights)


def test_rows_that_repeat_are_tokenized_once(tmp_path: Path) -> None:
    a, b = texts(tmp_path / "a.jsonl", *(f"a{i}" for i in range(20))), texts(tmp_path / "b.jsonl", "b1", "bad", "b2")

    def fussy(record: Any, encoder: Any) -> Any:
        if record["text"] == "bad":
            raise DataError("it is bad")
        return encode(record, encoder)

    mixture = load_records([a, b], mix="interleave", mix_stop="all_exhausted")
    wanted = [r["text"] for r in mixture if r["text"] != "bad"]
    assert len(wanted) > len(set(wanted))
    encoder = Bytes()
    data = tokenize(mixture, fussy, encoder, cache_dir=tmp_path / "c", max_bad_fraction=0.5)
    assert contents(data) == wanted and encoder.encoded == 23 and [r.line for r in data.rejects] == [2]
    assert all(
        data.origin(i).endswith(f"{wanted[i][0]}.jsonl:{int(wanted[i][1:]) + 1}") for i in range(5) if wanted[i][0] == "a"
    )
    short = tokenize(mixture, fussy, Bytes(), cache_dir=tmp_path / "c", max_length=2, max_bad_fraction=0.5, overlong="drop")
    assert contents(short) == [text for text in wanted if len(text) <= 2]


def test_exact_repetitions_are_left_out_with_their_origin(tmp_path: Path) -> None:
    a, b = texts(tmp_path / "a.jsonl", "x", "y", "x"), texts(tmp_path / "b.jsonl", "y", "z")
    found = load_records([a, b], deduplicate="exact")
    assert [r["text"] for r in found] == ["x", "y", "z"]
    assert [str(r) for r in found.rejects] == [f"{a}:3: repeats {a}:1", f"{b}:1: repeats {a}:2"]
    assert "2 rows repeat an earlier one" in found.notes[0]
    assert len(load_records([a, f"{b}#6"], deduplicate="exact")) == 2 + 3, "a row that is taken often repeats nothing"
    assert found.fingerprint != load_records([a, b]).fingerprint


def test_near_repetitions(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    words = " ".join(f"word{i}" for i in range(100))
    file = texts(tmp_path / "a.jsonl", words, words + " more", "something else altogether that is not like it at all")
    found = load_records([file], deduplicate="near")
    assert len(found) == 2 and found.rejects[0].reason == f"nearly repeats {file}:1"


def test_training_rows_that_are_held_out_too(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    train = load_records([texts(tmp_path / "a.jsonl", "other words", long, "x")], lazy=True)
    held = load_records([texts(tmp_path / "b.jsonl", "x", f"yes, {long}")], lazy=True)
    warned, dropped, stopped = (without_held_out(train, held, how) for how in ("warn", "drop", "error"))
    assert len(warned) == 3 and warned.fingerprint == train.fingerprint
    assert "2 training rows also stand in the held-out data" in warned.notes[0] and "a.jsonl:2 as" in warned.notes[0]
    assert [r["text"] for r in dropped] == ["other words"] and dropped.fingerprint != train.fingerprint
    assert [str(r).partition(": ")[2] for r in dropped.rejects] == [
        f"stands in the held-out data too: {tmp_path / 'b.jsonl'}:{line}" for line in (2, 1)
    ]
    with pytest.raises(DataError, match="2 training rows"):
        len(stopped)
    assert without_held_out(train, held, "off") is train
    assert not without_held_out(load_records([texts(tmp_path / "c.jsonl", "q")]), held, "warn").notes


# -------------------------------------------------------------------------------------------------------------- on the move


def test_a_cache_can_be_built_here_and_used_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    row = {
        "messages": [{"role": "user", "content": "<image>what"}, {"role": "assistant", "content": "it"}],
        "images": ["i.png"],
    }
    lines(here / "a.jsonl", [row, "broken"])
    lines(here / "b.jsonl", [{"text": "bee"}, {"text": ""}])
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
        "0000000049454e44ae426082"
    )
    (here / "i.png").write_bytes(png)

    def said(record: Any, encoder: Any) -> Any:
        return encoder.text(record.get("text") or record["messages"][-1]["content"])

    def start(place: Path) -> TokenDataset:
        found = load_records([str(place / "*.jsonl")], lazy=True, cache_dir=place / "cache", max_bad_fraction=0.5)
        return tokenize(found, said, Bytes(), cache_dir=place / "cache")

    first = start(here)
    assert not first.from_cache and len(first.source_rejects) == 2
    shutil.copytree(here, there)
    shutil.rmtree(here)
    monkeypatch.setattr(records, "Converter", None)
    second = start(there)
    assert second.from_cache and contents(second) == ["it", "bee"]
    assert second.origin(1) == f"{there / 'b.jsonl'}:1"
    assert [(r.file, r.line) for r in second.source_rejects] == [(str(there / n), 2) for n in ("a.jsonl", "b.jsonl")]
    images = load_records([str(there / "*.jsonl")], cache_dir=there / "cache", max_bad_fraction=0.5)[0]["images"]
    assert images == [str(there / "i.png")]


def test_media_are_found_beside_the_file_wherever_it_is(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "<image>what"}, {"role": "assistant", "content": "it"}],
        "images": ["i.png"],
    }
    file = lines(tmp_path / "a" / "a.jsonl", [row])
    with pytest.raises(DataError, match=r"i\.png"):
        load_records([file])
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
        "0000000049454e44ae426082"
    )
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "i.png").write_bytes(png)
    found = load_records([file], media_folder=tmp_path / "m")
    assert found[0]["images"] == [str(tmp_path / "m" / "i.png")]


# ------------------------------------------------------------------------------------------------------------------- cache


def test_entries_and_making_room(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", "hello", "world")
    data = tokenize(load_records([file], cache_dir=tmp_path / "c"), encode, Bytes(), cache_dir=tmp_path / "c")
    (tmp_path / "c" / "killed.tokens").mkdir()
    found = {(e.kind, e.finished): e for e in cache.entries(tmp_path / "c")}
    assert len(found) == 3
    tokens, kept = found["tokens", True], found["records", True]
    assert (tokens.rows, tokens.tokens, tokens.refs) == (2, 10, (file,)) and data.key.startswith(tokens.key)
    assert (kept.rows, kept.refs) == (2, (file,)) and kept.bytes > 20 and abs(kept.modified - time.time()) < 60
    with pytest.raises(ConfigError, match="nothing was chosen"):
        cache.clear(cache_dir=tmp_path / "c")
    with pytest.raises(ConfigError, match="is in no cache"):
        cache.clear(["nonsense"], cache_dir=tmp_path / "c")
    assert [e.key for e in cache.clear([tokens.key[:10]], cache_dir=tmp_path / "c", dry_run=True)] == [tokens.key]
    assert len(cache.entries(tmp_path / "c")) == 3
    cache.clear([tokens.key[:10]], cache_dir=tmp_path / "c")
    assert not cache.clear(older_than_days=1.0, kind="records", cache_dir=tmp_path / "c")
    assert {e.kind for e in cache.clear(everything=True, cache_dir=tmp_path / "c")} == {"tokens", "records"}
    assert cache.entries(tmp_path / "c") == []
    assert cache.entries(tmp_path / "nowhere") == []


def test_slices_gather_over_files(tmp_path: Path) -> None:
    found = load_records([texts(tmp_path / "a.jsonl", "a", "bb"), texts(tmp_path / "b.jsonl", "bb", "c")])
    part = RecordSlice(found.records.files, np.array([3, 0, 1, 2]))
    assert [r["text"] for r in part] == ["c", "a", "bb", "bb"] and part.hashes[2] == part.hashes[3] != part.hashes[0]
    assert part.sizes.tolist() == [len(dump({"text": t})) for t in ("c", "a", "bb", "bb")]
    assert isinstance(part.files[0], RecordFile)


def test_a_cache_that_is_for_reading_only_is_not_called_full() -> None:
    full, closed = (
        cannot_write("the cache x", OSError(number, os.strerror(number))) for number in (errno.ENOSPC, errno.EACCES)
    )
    assert "No space left" in full.message and full.fix.startswith("make room")
    assert "Permission denied" in closed.message and closed.fix == "name another folder: --cache_dir DIR"
