"""Rows that are read, shuffled, tokenized and packed while training; nothing is kept. Right of the torch line.

What comes is a pure function of the sources and the seed, so that a run goes on exactly where it stood: rows that were trained
on are read again from the beginning of their pass, but not tokenized. Every rank reads the same stream and takes its share of
each step; a step is therefore the same on any number of ranks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from swift.api import Batch, Record
from swift.data.batches import Layout, TokenRow, share
from swift.data.formats import Converter
from swift.data.media_rows import RowMedia
from swift.data.mixing import Mix, MixStop, check_weights
from swift.data.packing import Groups, best_fit_decreasing, efficiency, unit_costs
from swift.data.records import FindMedia
from swift.data.rejects import TooManyRejects, check_cut_off, reject_at
from swift.data.shards import Encode, TokenTable, chunks, encode_chunk
from swift.data.sources import CutOff, Reject, Row, RowOrReject, Source
from swift.data.tokens import ASK_SHARE, Overlong, spans
from swift.errors import ConfigError, DataError

WINDOW_ROWS = 1000
"""Rows that are packed against each other."""
JUDGED_ROWS = 1000
"""Bad rows are judged by their share once so many rows were read, or all of them."""


@dataclass(frozen=True)
class Position:
    """Where a stream stands: at a window, and within it.

    Args:
        passes: Whole passes before the window.
        row: Rows of this pass before the window.
        units: Rows or packs of the window that were trained on.
        read, bad, long: Rows before the window: all, those that cannot be used, those above max_length that were dropped.
        rejects: Lines of rejects.jsonl before the window.
        rows_per_pass: 0 where no pass has ended yet.
    """

    passes: int = 0
    row: int = 0
    units: int = 0
    read: int = 0
    bad: int = 0
    long: int = 0
    rejects: int = 0
    rows_per_pass: int = 0

    @property
    def epoch(self) -> float:
        return self.passes + (self.row / self.rows_per_pass if self.rows_per_pass else 0.0)


@dataclass
class Window:
    """Some successive rows of the stream, tokenized.

    Args:
        rejects: Rows of the first pass that are left out (later passes only repeat them).
        after: Where the next window begins.
    """

    rows: list[TokenRow] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    after: Position = field(default_factory=Position)


class TokenStream:
    """An endless stream of token rows, pass after pass.

    Args:
        sources: What `swift.data.sources.resolve` gave. `X#N` takes the first N rows.
        convert: Makes a row of (pass, source number) a record; raises `DataError`.
        encode, encoder: As for `swift.data.tokens.tokenize`.
        shuffle_buffer: Rows among which the next one is drawn; 1 keeps the order.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        convert: Callable[[int, int, Row], Record],
        encode: Encode,
        encoder: Any,
        *,
        max_length: int | None = None,
        overlong: Overlong = "ask",
        max_bad_fraction: float = 0.05,
        shuffle_buffer: int = 1000,
        seed: int = 42,
        mix: Mix = "concat",
        weights: Sequence[float] = (),
        mix_stop: MixStop = "first_exhausted",
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        check_weights(weights, len(sources))
        if mix == "concat" and any(weight != 1 for weight in weights):
            raise ConfigError(
                "how often concatenated rows are taken needs their number, which a stream does not know", fix="--mix interleave"
            )
        self.sources, self.convert, self.encode, self.encoder = list(sources), convert, encode, encoder
        self.max_length, self.overlong, self.max_bad_fraction = max_length, overlong, max_bad_fraction
        self.shuffle_buffer, self.seed, self.window_rows = shuffle_buffer, seed, window_rows
        self.mix, self.weights, self.mix_stop = mix, list(weights) or [1.0] * len(self.sources), mix_stop
        self._first: Window | None = None
        self._running: Iterator[Window] | None = None  # what goes on after the first window, until somebody takes it

    @property
    def key(self) -> str:
        """Digest of what the order of tokens follows from, as far as it can be known without reading everything."""
        parts = [
            [(s.ref, s.take, dict(s.columns), [(f.name, f.stat().st_size) for f in s.files],
              [(f.name, f.identity) for f in s.remote]) for s in self.sources],
            self.encoder.digest(), self.max_length, self.overlong, self.shuffle_buffer, self.seed, self.mix, self.weights,
            self.mix_stop, self.window_rows,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()

    def first(self) -> Window:
        """The first window: faults of the data show in it."""
        if self._first is None:
            self._running = self._windows(Position())
            self._first = next(self._running)
        return self._first

    def windows(self, start: Position) -> Iterator[Window]:
        """From a position at which a window began.

        Raises:
            TooManyRejects: The share of bad or over-long rows is above what is allowed; or no row can be used.
        """
        if start == Position():
            first = self.first()
            running, self._running = self._running, None
            yield first
            yield from running or self._windows(first.after)
        else:
            yield from self._windows(start)

    def _windows(self, start: Position) -> Iterator[Window]:
        rows = self._rows(start)
        at, usable = start, start.read > start.bad + start.long
        while True:
            window = self._window(list(itertools.islice(rows, self.window_rows)), at)
            usable = usable or bool(window.rows)
            at = window.after
            self._judge(at, window, usable)
            yield window

    def _judge(self, at: Position, window: Window, usable: bool) -> None:
        check_cut_off([reject for reject in window.rejects if isinstance(reject, CutOff)], self.max_bad_fraction)
        if at.read < JUDGED_ROWS and not at.passes:
            return
        last = f"; the last: {window.rejects[-1]}" if window.rejects else ""
        if at.bad > self.max_bad_fraction * at.read:
            raise TooManyRejects(
                f"{at.bad} of {at.read} rows read so far ({100 * at.bad / at.read:.1f} %) cannot be used; allowed are "
                f"{100 * self.max_bad_fraction:g} %{last}",
                fix=f"mend the rows, or allow more: --max_bad_fraction {min(1.0, at.bad / at.read + 0.01):.2f}",
                rejects=window.rejects,
            )
        if self.overlong == "ask" and at.long > ASK_SHARE * at.read:
            raise TooManyRejects(
                f"{at.long} of {at.read} rows read so far ({100 * at.long / at.read:.3g} %) are longer than max_length "
                f"{self.max_length}{last}",
                fix="a larger --max_length, or --overlong drop, truncate_right, truncate_left or split", rejects=window.rejects,
            )  # fmt: skip
        if at.passes and not usable:
            raise TooManyRejects("no row is left to train on", fix="check the dataset", rejects=window.rejects)

    # ------------------------------------------------------------------------------------------------------------ raw rows

    def _rows(self, start: Position) -> Iterator[tuple[int, int, int, RowOrReject]]:
        """(pass, rows of it up to and with this one, source, row); those before `start` are read and dropped."""
        skip = start.row
        for number in itertools.count(start.passes):
            count = 0
            for count, (source, row) in enumerate(self._shuffled(number), 1):
                if count > skip:
                    yield number, count, source, row
            if not count:
                names = ", ".join(source.ref for source in self.sources)
                raise DataError(f"{names}: no rows", fix="give data with at least one row")
            skip = 0

    def _shuffled(self, number: int) -> Iterator[tuple[int, RowOrReject]]:
        rows = self._mixed(number)
        if self.shuffle_buffer < 2:
            yield from rows
            return
        buffer = list(itertools.islice(rows, self.shuffle_buffer))
        generator = np.random.default_rng((self.seed, number))
        draws: Iterator[int] = iter(())
        for row in rows:
            place = next(draws, None)
            if place is None:
                draws = iter(generator.integers(0, len(buffer), 4096).tolist())
                place = next(draws)
            yield buffer[place]
            buffer[place] = row
        for place in generator.permutation(len(buffer)).tolist():
            yield buffer[place]

    def _mixed(self, number: int) -> Iterator[tuple[int, RowOrReject]]:
        if self.mix == "concat":
            for source in range(len(self.sources)):
                yield from ((source, row) for row in self._read(source))
            return
        generator = np.random.default_rng((self.seed, number, 1))
        shares = np.array(self.weights) / sum(self.weights)
        readers = {source: self._read(source) for source in np.flatnonzero(shares).tolist()}
        ended: set[int] = set()
        while True:
            for source in generator.choice(len(shares), 4096, p=shares).tolist():
                row = next(readers[source], None)
                if row is None:
                    ended.add(source)
                    if self.mix_stop == "first_exhausted" or len(ended) == len(readers):
                        return
                    readers[source] = self._read(source)
                    row = next(readers[source], None)
                if row is not None:
                    yield source, row

    def _read(self, source: int) -> Iterator[RowOrReject]:
        return itertools.islice(self.sources[source].rows(seed=self.seed), self.sources[source].take)

    # ----------------------------------------------------------------------------------------------------------- tokenizing

    def _window(self, rows: Sequence[tuple[int, int, int, RowOrReject]], start: Position) -> Window:
        window = Window()
        records: list[Record] = []
        kept_pass: list[int] = []
        bad = long = 0
        rows_per_pass = start.rows_per_pass

        def reject(number: int, found: Reject) -> None:
            if not number:
                window.rejects.append(found)

        before = (start.passes, start.row)
        for number, count, source, row in rows:
            if number > before[0]:
                rows_per_pass = before[1]
            before = (number, count)
            found = row if isinstance(row, Reject) else self._record(number, source, row)
            if isinstance(found, Reject):
                bad += 1
                reject(number, found)
            else:
                records.append(found)
                kept_pass.append(number)
        for first, part in chunks(records):
            chunk = encode_chunk(part, self.encode, self.encoder, first)
            self.encoder.counters += chunk.counters
            for row_number, reason, fix in chunk.rejects:
                bad += 1
                reject(kept_pass[row_number], reject_at(records[row_number]["_origin"], reason, fix))
            table = TokenTable([chunk.batch])
            for place, row_number in enumerate(table.rows.tolist()):
                pieces = self._fitting(self._with_media(_row_of(table, place), records[row_number]))
                window.rows += pieces
                if not pieces:
                    long += 1
                    length = _longest(_row_of(table, place))
                    reason = f"{length} tokens, max_length is {self.max_length}"
                    found = reject_at(records[row_number]["_origin"], reason, f"--max_length {length}")
                    if self.overlong == "error":
                        raise TooManyRejects(str(found), fix=found.suggestion, rejects=[found])
                    reject(kept_pass[row_number], found)
        window.after = Position(
            before[0], before[1], 0, start.read + len(rows), start.bad + bad, start.long + long,
            start.rejects + len(window.rejects), rows_per_pass,
        )  # fmt: skip
        return window

    def _record(self, number: int, source: int, row: Row) -> Record | Reject:
        try:
            return self.convert(number, source, row)
        except DataError as error:
            return Reject(row.file, row.line, error.message, error.fix)

    def _with_media(self, row: TokenRow, record: Record) -> TokenRow:
        processor = getattr(self.encoder, "media", None)
        if processor is None:
            return row
        return row._replace(media=RowMedia(processor, lambda: record, lambda: str(record.get("_origin", ""))))

    def _fitting(self, row: TokenRow) -> list[TokenRow]:
        """The row within max_length; nothing where it is dropped."""
        length, most = _longest(row), self.max_length
        if most is None or length <= most:
            return [row]
        if row.segments is not None and len(row.segments) > 1:
            return []  # a part of a pair is no pair
        if row.media is not None and np.isin(row.ids, sorted(row.media.processor.placeholder_ids)).any():
            return []  # nor a part of an image an image
        return [
            TokenRow(row.ids[begin:end], row.weights[begin:end], None, row.values, row.media)
            for begin, end in spans(length, most, self.overlong)
            if np.any(row.weights[begin + 1 : end])
        ]


def _longest(row: TokenRow) -> int:
    """Tokens of the row's longest document."""
    return len(row.ids) if row.segments is None else int(max(row.segments))


def _row_of(table: TokenTable, row: int) -> TokenRow:
    segments = table.segments(row)
    return TokenRow(table.ids(row), table.weights(row), segments if len(segments) else None, table.values(row))


def open_stream(
    sources: Sequence[Source],
    encode: Encode,
    encoder: Any,
    *,
    columns: Mapping[str, str],
    names: Mapping[str, str],
    media_folder: str | None = None,
    media_urls: bool = False,
    **how: Any,
) -> tuple[TokenStream, list[str]]:
    """(stream, lines for the user); the first rows are read, so that faults show. `how`: settings of `TokenStream`."""

    def converters_of() -> list[Converter]:
        return [Converter(source.ref, columns={**source.columns, **columns}, names=names) for source in sources]

    converters, again = converters_of(), converters_of()  # what is guessed counts each row once
    media = FindMedia(media_folder, media_urls)

    def convert(number: int, source: int, row: Row) -> Record:
        return media((again if number else converters)[source](row))

    stream = TokenStream(sources, convert, encode, encoder, **how)
    first = stream.first()
    lengths = np.array([len(row.ids) for row in first.rows])
    half = f"; half of the first {len(lengths)} are within {int(np.median(lengths))} tokens" if len(lengths) else ""
    lines = [str(guess) for converter in converters for guess in converter.guesses]
    lines += [note for source in sources for note in source.notes]
    lines += [f"{s.ref}: the first {s.take} rows are taken, not a random {s.take}" for s in sources if s.take is not None]
    return stream, [*lines, f"training data: streamed{half}"]


class StreamLoader:
    """Micro-batches of one rank for each optimizer step, in order, from a stream.

    Args:
        layout: packed fills packs within windows of rows; else a unit is a row.
        position: `position(step)` of the run that goes on; {} begins.
        first_step: The step that is asked for first.
        rejects_file: Gets rows that are left out as they come; None on all ranks but one.
        length: Of packs, as in `StepLoader`.
    """

    def __init__(
        self,
        stream: TokenStream,
        layout: Layout,
        *,
        packing_length: int,
        micro_batch: int,
        accumulation: int,
        world_size: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        pad_token_id: int = 0,
        position: Mapping[str, Any] | None = None,
        first_step: int = 0,
        rejects_file: Path | None = None,
        length: int = 0,
    ) -> None:
        self.length = length
        self.stream, self.layout, self.packing_length = stream, layout, packing_length
        self.micro_batch, self.world_size, self.rank = micro_batch, world_size, rank
        self.units_per_step = micro_batch * accumulation * world_size
        self.shuffle, self.pad_token_id, self.rejects_file = shuffle, pad_token_id, rejects_file
        start = Position(**(position or {}))
        self._positions = {first_step: start}
        self._next = first_step
        self.rejects = start.rejects
        """Rows that were left out, up to the window that is being trained on."""
        self._units = self._read(start)
        if rejects_file is not None:
            keep_lines(rejects_file, start.rejects)

    def _read(self, start: Position) -> Iterator[tuple[list[TokenRow], float, Position]]:
        """(rows of a unit, its cost, the position after it)."""
        at = replace(start, units=0)
        skip = start.units
        for window in self._windows(at):
            self._keep(window.rejects)
            lengths = np.array([len(row.ids) for row in window.rows], np.int32)
            units = self.group(lengths)
            order = np.arange(len(units))
            if self.shuffle and self.layout == "packed":
                order = np.random.default_rng((self.stream.seed, at.passes, at.row)).permutation(order)
            costs = unit_costs(units, lengths)
            for number, unit in enumerate(order.tolist(), 1):
                if number > skip:
                    yield [window.rows[row] for row in units[unit]], float(costs[unit]), replace(at, units=number)
            at, skip = window.after, 0

    def _windows(self, at: Position) -> Iterator[Window]:
        try:
            yield from self.stream.windows(at)
        except TooManyRejects as error:
            self._keep(error.rejects)
            raise

    def _keep(self, rejects: Sequence[Reject]) -> None:
        self.rejects += len(rejects)
        if self.rejects_file is not None and rejects:
            with self.rejects_file.open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects)

    def group(self, lengths: np.ndarray) -> Groups:
        return best_fit_decreasing(lengths, self.packing_length) if self.layout == "packed" else Groups.singles(len(lengths))

    def describe(self) -> str:
        """A line for the user about how rows become batches."""
        lengths = np.array([len(row.ids) for row in self.stream.first().rows], np.int32)
        if self.layout != "packed" or not len(lengths):
            return f"{self.layout.replace('_', '-')} rows, streamed"
        full = 100 * efficiency(self.group(lengths), lengths, self.packing_length)
        return f"packed in windows of {self.stream.window_rows} rows: packs of {self.packing_length} tokens, {full:.1f} % full"

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step`; steps are asked for in order."""
        if step != self._next:
            raise ValueError(f"step {step} was asked for, {self._next} is next")
        units = list(itertools.islice(self._units, self.units_per_step))
        self._next += 1
        self._positions[self._next] = units[-1][2]
        return share(
            lambda unit: units[unit][0], np.array([cost for _, cost, _ in units]), self.layout, micro_batch=self.micro_batch,
            world_size=self.world_size, rank=self.rank, pad_token_id=self.pad_token_id, length=self.length,
        )  # fmt: skip

    def epoch(self, step: int) -> float:
        """Passes over the data that the first `step` steps make; without a fraction until a first pass has shown its length."""
        return self._positions[step].epoch

    def position(self, step: int) -> dict[str, Any]:
        """What a resume at `step` needs. Positions of earlier steps are forgotten."""
        for old in [s for s in list(self._positions) if s < step]:
            del self._positions[old]
        return asdict(self._positions[step])


def keep_lines(path: Path, count: int) -> None:
    """Drop lines after the first `count`: they are written again."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        for _ in range(count):
            file.readline()
        file.truncate(file.tell())
