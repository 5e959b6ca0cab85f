"""A stream trains on each row once in a pass, like a set that is read as a whole, and goes on exactly where it stood."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift.api import Example
from swift.api.contracts.data import Record
from swift.data.batches import IGNORED
from swift.data.rejects import TooManyRejects
from swift.data.sources import resolve
from swift.data.streaming import Position, StreamLoader, TokenStream, open_stream
from swift.errors import ConfigError, DataError


class Encoder:
    """Row "n: k" is k tokens n."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.encoded: list[str] = []

    def prepare(self, records: Any) -> None:
        self.encoded += [r["text"] for r in records]

    def digest(self) -> str:
        return "test"


def encode(record: Record, encoder: Any) -> Example:
    number, length = map(int, record["text"].split(":"))
    if number % 50 == 13:
        raise DataError("unlucky", fix="count on")
    return {"input_ids": [number] * length, "loss_weight": [0.0] + [1.0] * (length - 1)}


def write(path: Path, numbers: range, broken: tuple[int, ...] = ()) -> Path:
    lengths = np.random.default_rng(0).integers(2, 30, size=10_000)
    lines = ["{" if n in broken else json.dumps({"text": f"{n}: {lengths[n]}"}) for n in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(*files: Path, encoder: Encoder | None = None, **how: Any) -> TokenStream:
    settings = {"shuffle_buffer": 20, "window_rows": 32, "max_bad_fraction": 0.1} | how
    stream, _ = open_stream([resolve(str(f)) for f in files], encode, encoder or Encoder(), columns={}, names={}, **settings)
    return stream


def loader(stream: TokenStream, layout: str = "packed", **how: Any) -> StreamLoader:
    division = {"micro_batch": 2, "accumulation": 2, "packing_length": 60} | how
    return StreamLoader(stream, layout, **division)  # type: ignore[arg-type]


def taken(stream: TokenStream, windows: int) -> list[int]:
    return [int(row.ids[0]) for window in itertools.islice(stream.windows(Position()), windows) for row in window.rows]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", range(96))


def test_a_pass_holds_each_row_once_and_the_next_one_another_order(data: Path) -> None:
    windows = list(itertools.islice(make(data).windows(Position()), 6))
    passes = [[int(r.ids[0]) for w in windows[i : i + 3] for r in w.rows] for i in (0, 3)]
    usable = [n for n in range(96) if n % 50 != 13]
    assert sorted(passes[0]) == sorted(passes[1]) == usable
    assert passes[0] != passes[1] and passes[0] != usable
    assert windows[3].after.epoch == pytest.approx(1 + 1 / 3)


def test_rows_are_shuffled_within_the_buffer_only(data: Path) -> None:
    order = taken(make(data, shuffle_buffer=20), 3)
    assert all(place >= number - 20 - 2 for place, number in enumerate(order)), "no row comes before it was read"
    assert taken(make(data, shuffle_buffer=1), 3) == [n for n in range(96) if n % 50 != 13]


@pytest.mark.parametrize("layout", ["packed", "padding_free", "padded"])
def test_a_resume_goes_on_with_the_same_batches(layout: str, data: Path, tmp_path: Path) -> None:
    whole = loader(make(data), layout, rejects_file=tmp_path / "whole.jsonl")
    steps, positions = [], []
    for step in range(40):
        steps.append(whole.step(step))
        positions.append(whole.position(step + 1))
    assert positions[-1]["passes"] >= 1
    for start in (1, 7, 23):
        again = loader(make(data), layout, position=json.loads(json.dumps(positions[start - 1])), first_step=start)
        for step in range(start, 40):
            for a, b in zip(steps[step], again.step(step), strict=True):
                assert torch.equal(a.inputs["input_ids"], b.inputs["input_ids"]) and torch.equal(a.labels, b.labels)
            assert again.position(step + 1) == positions[step]


def test_what_was_trained_on_is_not_tokenized_again(data: Path) -> None:
    first = loader(make(data))
    for step in range(5):
        first.step(step)
        position = first.position(step + 1)
    assert position["row"] >= 32
    encoder = Encoder()
    stream = make(data, encoder=encoder)
    encoder.encoded.clear()  # the first window was looked at for faults
    loader(stream, position=position, first_step=5).step(5)
    assert len(encoder.encoded) <= 64


def test_ranks_share_the_steps_of_one_process(data: Path) -> None:
    def labels(batches: Any) -> Counter[int]:
        return Counter(int(t) for b in batches for t in b.labels[b.labels != IGNORED])

    one = loader(make(data))
    two = [loader(make(data), accumulation=1, world_size=2, rank=rank) for rank in range(2)]
    for step in range(12):
        shares = [rank.step(step) for rank in two]
        assert labels([b for share in shares for b in share]) == labels(one.step(step))
        assert len(shares[0]) == len(shares[1])


def test_rejected_rows_are_written_as_they_come_and_once(tmp_path: Path) -> None:
    data, file = write(tmp_path / "data.jsonl", range(96), broken=(40, 70)), tmp_path / "rejects.jsonl"
    running = loader(make(data), rejects_file=file)
    running.step(0)
    early, position = file.read_text(encoding="utf-8").splitlines(), running.position(1)
    for step in range(1, 40):
        running.step(step)
    rejects = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted((r["line"], r["reason"].split(":")[0]) for r in rejects) == [
        (14, "unlucky"), (41, "not JSON"), (64, "unlucky"), (71, "not JSON"),
    ]  # fmt: skip
    assert len(early) < 4 and running.rejects == 4
    again = loader(make(data), rejects_file=file, position=position, first_step=1)
    for step in range(1, 40):
        again.step(step)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rejects


def test_too_many_bad_rows_stop(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", range(96), broken=tuple(range(60, 96)))
    running = loader(make(data, shuffle_buffer=1), rejects_file=tmp_path / "rejects.jsonl")
    with pytest.raises(TooManyRejects, match=r"of \d+ rows read so far .* allowed are 10 %"):
        for step in range(40):
            running.step(step)
    kept = (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in kept] == [14, *range(61, 97)], "all that were met, also the last ones"
    with pytest.raises(TooManyRejects, match="no row is left"):
        list(itertools.islice(make(write(tmp_path / "b.jsonl", range(13, 14)), max_bad_fraction=1.0).windows(Position()), 3))
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        make(tmp_path / "empty.jsonl")


def test_a_file_that_is_cut_off_stops_at_once(tmp_path: Path) -> None:
    plain = write(tmp_path / "data.jsonl", range(300)).read_bytes()
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(plain)[:-20])
    with pytest.raises(TooManyRejects, match="nobody knows how many rows are lost"):
        list(itertools.islice(make(cut, max_bad_fraction=0.9).windows(Position()), 40))
    assert list(itertools.islice(make(cut, max_bad_fraction=1.0).windows(Position()), 2))


def test_long_rows(data: Path) -> None:
    for overlong, longest in (("drop", 20), ("truncate_left", 20), ("truncate_right", 20), ("split", 20)):
        stream = make(data, max_length=20, overlong=overlong)
        lengths = [len(r.ids) for w in itertools.islice(stream.windows(Position()), 3) for r in w.rows]
        assert max(lengths) <= longest
        assert (len(lengths) < 94) == (overlong == "drop") and (len(lengths) > 94) == (overlong == "split")
    with pytest.raises(TooManyRejects, match="longer than max_length 20"):
        list(itertools.islice(make(data, max_length=20).windows(Position()), 4))
    with pytest.raises(TooManyRejects, match="max_length is 20"):
        make(data, max_length=20, overlong="error")


def test_what_is_guessed_counts_each_row_once(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.jsonl", range(9)), write(tmp_path / "b.jsonl", range(20, 24), broken=(21,))]
    stream, lines = open_stream(
        [resolve(str(f)) for f in files], encode, Encoder(), columns={}, names={}, window_rows=100, max_bad_fraction=0.5
    )
    assert stream.first().after.passes > 5, "the first window repeats the data"
    assert "text, 9 rows" in lines[0] and "text, 3 rows" in lines[1]


def test_sources_are_interleaved_by_weight(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", range(0, 3000)), write(tmp_path / "b.jsonl", range(5000, 6000))
    order = taken(make(a, b, mix="interleave", weights=[3, 1], shuffle_buffer=1), 40)
    share = np.mean([n >= 5000 for n in order])
    assert 0.2 < share < 0.3
    assert [n for n in order if n < 5000] == sorted(n for n in order if n < 5000)
    short = write(tmp_path / "short.jsonl", range(10))
    first = taken(make(a, short, mix="interleave", shuffle_buffer=1), 1)
    assert sum(n < 10 for n in first[:15]) > 2
    with pytest.raises(ConfigError, match="--mix interleave|does not know"):
        make(a, b, weights=[0.5, 1])
