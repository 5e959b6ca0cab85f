"""Token rows to the micro-batches of each optimizer step. Right of the torch line."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from swift.api.contracts.training import Batch
from swift.config.sections import MIN_PACKED_STEPS
from swift.data.media_batches import add_media
from swift.data.media_rows import RowMedia
from swift.data.packing import Groups, best_fit_decreasing, deal, efficiency, joined, unit_costs
from swift.errors import ConfigError

Layout = Literal["packed", "padding_free", "padded"]
Batching = Literal["auto", "unpacked", "packed", "padding_free", "padded"]

IGNORED = -100
IDS, LABELS, WEIGHTS = 0, 1, 2


class TokenRow(NamedTuple):
    """One tokenized row.

    Args:
        ids: int [S].
        weights: float [S].
        segments: Tokens of each document of the row, where it has several; their sum is S.
        values: Numbers of the row as a whole.
        media: Of a row for a multimodal model, also where it has none.
    """

    ids: np.ndarray
    weights: np.ndarray
    segments: Sequence[int] | np.ndarray | None = None
    values: Mapping[str, float] = {}
    media: RowMedia | None = None


class TokenRows(Protocol):
    """What batches are made of: `swift.data.tokens.TokenDataset`, or a subset."""

    lengths: np.ndarray

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...

    def segments(self, index: int) -> np.ndarray: ...

    def values(self, index: int) -> Mapping[str, float]: ...


def row_of(dataset: TokenRows, index: int) -> TokenRow:
    media = dataset.media(index) if hasattr(dataset, "media") else None
    return TokenRow(*dataset[index], dataset.segments(index), dataset.values(index), media)


@dataclass(frozen=True)
class Units:
    """What is shuffled and counted as one of `batch_size`: a row, or a pack of rows.

    Args:
        layout: How a micro-batch is laid out. packed and padding_free: one row [1, S] of whole documents, without padding or
            mask, told apart by position ids that restart. padded: [B, S], padded on the right, with a mask.
        members: Row numbers of each unit.
        why: A line for the user.
    """

    layout: Layout
    members: Groups
    why: str

    def __len__(self) -> int:
        return len(self.members)


def choose_layout(batching: Batching, *, keeps_documents_apart: bool, joining_pays: bool = True) -> tuple[Layout, str]:
    """(layout, why); what `auto` stands for, where there are rows enough to pack, and what `unpacked` does.

    Args:
        keeps_documents_apart: `LoadedModel.keeps_documents_apart`.
        joining_pays: Documents that share a row take less time than padded ones. Not so on CPUs where attention goes through
            every pair of positions and masks those of other documents afterwards.

    Raises:
        ConfigError: packed or padding_free was asked for, and the model would mix documents.
    """
    if batching == "padded":
        return "padded", "padded rows"
    if not keeps_documents_apart:
        if batching in ("packed", "padding_free"):
            raise ConfigError(
                f"data.batching is {batching}, but this model's attention would mix the documents of a row",
                fix="--batching padded, or another --attention",
            )
        return "padded", "padded: this model's attention would mix documents that share a row"
    if batching in ("packed", "padding_free"):
        return batching, f"{batching.replace('_', '-')} rows"
    if not joining_pays:
        return "padded", "padded, rows of like length together: on a CPU, masked attention makes rows joined to one slower"
    return ("packed", "packed rows") if batching == "auto" else ("padding_free", "padding-free rows")


def choose_units(
    dataset: TokenRows,
    batching: Batching = "auto",
    *,
    packing_length: int,
    keeps_documents_apart: bool,
    joining_pays: bool = True,
    rows_per_step: int = 16,
    epochs: float = 1.0,
    max_steps: int = 0,
    min_steps: int = MIN_PACKED_STEPS,
) -> Units:
    """Decide the layout and make the units.

    Args:
        packing_length: Tokens of a pack; a longer row is a pack of its own.
        keeps_documents_apart, joining_pays: As in `choose_layout`.
        rows_per_step: Units of an optimizer step: batch_size x gradient_accumulation_steps x world size.
        epochs, max_steps: Length of the run.
        min_steps: `auto` packs where at least so many steps are left, because few large steps learn little.

    Raises:
        ConfigError: packed or padding_free was asked for, and the model would mix documents.
    """
    rows = Groups.singles(len(dataset.lengths))
    layout, why = choose_layout(batching, keeps_documents_apart=keeps_documents_apart, joining_pays=joining_pays)
    if layout != "packed":
        return Units(layout, rows, why)
    packs = best_fit_decreasing(dataset.lengths, packing_length)
    steps = max_steps or math.ceil(len(packs) * epochs / rows_per_step)
    full = 100 * efficiency(packs, dataset.lengths, packing_length)
    filled = f"{len(rows)} rows in {len(packs)} packs of {packing_length} tokens, {full:.1f} % full"
    if batching == "packed" or steps >= min_steps:
        return Units("packed", packs, f"packed: {filled}")
    return Units("padding_free", rows, f"padding-free: packing would leave {steps} optimizer steps, under {min_steps}")


class StepLoader:
    """Micro-batches of one rank for each optimizer step, as a pure function of seed and step: resuming costs nothing.

    The units of a step are the same however micro_batch x accumulation x world_size is divided. Each epoch is a
    permutation of all units; its last step takes what remains. All ranks get the same number of micro-batches, of about the
    same cost; one that has none left gets a copy without labels.

    Args:
        micro_batch: Units in a micro-batch. padding_free puts more short rows into one, up to the tokens that the longest
            `micro_batch` rows of the set have together: the same step in fewer passes, and in no more memory.
        pad_token_id: Filler of the padded layout.
        length: Micro-batches of packs are filled up to so many tokens; 0: not.
    """

    def __init__(
        self,
        dataset: TokenRows,
        units: Units,
        *,
        micro_batch: int,
        accumulation: int,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 42,
        shuffle: bool = True,
        pad_token_id: int = 0,
        length: int = 0,
    ) -> None:
        self.dataset, self.units = dataset, units
        self.micro_batch, self.world_size, self.rank = micro_batch, world_size, rank
        self.units_per_step = micro_batch * accumulation * world_size
        self.seed, self.shuffle, self.pad_token_id, self.length = seed, shuffle, pad_token_id, length
        self.steps_per_epoch = math.ceil(len(units) / self.units_per_step)
        self._costs = unit_costs(units.members, dataset.lengths)
        self._room = largest_sum(dataset.lengths, micro_batch) if units.layout == "padding_free" else 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def units_of(self, step: int) -> np.ndarray:
        """Indices into `units` of what all ranks together train on in `step`, counted over epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = np.arange(len(self.units))
            self._order = (epoch, np.random.default_rng((self.seed, epoch)).permutation(order) if self.shuffle else order)
        return self._order[1][within * self.units_per_step : (within + 1) * self.units_per_step]

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of optimizer step `step` (0, 1, ...)."""
        chosen = self.units_of(step)
        return share(
            lambda unit: [row_of(self.dataset, int(row)) for row in self.units.members[int(chosen[unit])]],
            self._costs[chosen], self.units.layout, micro_batch=self.micro_batch, world_size=self.world_size, rank=self.rank,
            pad_token_id=self.pad_token_id, length=self.length, room=self._room,
            tokens=self.dataset.lengths[chosen] if self._room else None,
        )  # fmt: skip

    def epoch(self, step: int) -> float:
        """Passes over the data that the first `step` steps make."""
        return step / self.steps_per_epoch

    def position(self, step: int) -> dict[str, Any]:
        """What a resume at `step` needs besides the number."""
        return {}


def evaluation_batches(
    dataset: TokenRows,
    layout: Layout,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    pad_token_id: int = 0,
    limit: int = 0,
) -> Iterator[Batch]:
    """This rank's micro-batches of one pass over the rows, like lengths together; as many on each rank.

    Args:
        batch_size: Rows in a micro-batch.
        limit: Stop after so many on each rank (then the first rows of the set count); 0 goes through all.
    """
    per_round = batch_size * world_size
    lengths = dataset.lengths[: limit * per_round or None]
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for start in range(0, len(order), per_round):
        chosen = order[start : start + per_round]
        yield from share(
            partial(_single, dataset, chosen), lengths[chosen].astype(np.float64), layout,
            micro_batch=batch_size, world_size=world_size, rank=rank, pad_token_id=pad_token_id,
        )  # fmt: skip


def _single(dataset: TokenRows, chosen: np.ndarray, unit: int) -> list[TokenRow]:
    return [row_of(dataset, int(chosen[unit]))]


def share(
    rows_of: Callable[[int], list[TokenRow]],
    costs: np.ndarray,
    layout: Layout,
    *,
    micro_batch: int,
    world_size: int,
    rank: int,
    pad_token_id: int,
    length: int = 0,
    tokens: np.ndarray | None = None,
    room: int = 0,
) -> list[Batch]:
    """One rank's micro-batches of a step's units. A rank that has fewer gets the cheapest unit without labels.

    Args:
        rows_of: Rows of unit 0, 1, ... of this step; called for what this rank needs.
        costs: float [units].
        length: Of packs, as in `StepLoader`.
        tokens, room: int [units] and the most of them in a micro-batch: then units share as few micro-batches as hold them.
    """
    shares = deal(costs, micro_batch=micro_batch, world_size=world_size, like_together=layout == "padded")
    if tokens is not None:
        shares = joined(shares, tokens, room)
    batches = [
        collate([row for unit in group for row in rows_of(int(unit))], layout, pad_token_id=pad_token_id)
        for group in shares[rank]
    ]
    while len(batches) < len(shares[0]):
        batches.append(collate(rows_of(int(np.argmin(costs))), layout, pad_token_id=pad_token_id, silent=True))
    return [filled(batch, length) for batch in batches] if length and layout == "packed" else batches


def largest_sum(lengths: np.ndarray, count: int) -> int:
    """Tokens of the `count` longest rows."""
    longest = np.partition(lengths, -count)[-count:] if count < len(lengths) else lengths
    return int(longest.sum(dtype=np.int64))


def collate(rows: Sequence[TokenRow], layout: Layout, *, pad_token_id: int = 0, silent: bool = False) -> Batch:
    """Rows to one micro-batch on the CPU. `silent` masks every label, and no row counts.

    Every document (segment of a row) is a row [S] of the padded layout, B being their number. packed and padding_free join all
    documents to one row: flash attention reads document bounds from position ids in single-row batches only.
    """
    documents = [part for row in rows for part in _documents(row, silent)]
    lengths = np.array([len(ids) for ids, _, _ in documents])
    numbers = np.arange(len(documents))
    if layout == "padded":
        real = np.arange(lengths.max())[None] < lengths[:, None]

        def fill(part: int, value: float) -> np.ndarray:
            out = np.full(real.shape, value, np.float32 if part == WEIGHTS else np.int64)
            out[real] = np.concatenate([document[part] for document in documents])
            return out

        input_ids, labels, weight = fill(IDS, pad_token_id), fill(LABELS, IGNORED), fill(WEIGHTS, 0)
        positions = np.tile(np.arange(real.shape[1]), (len(documents), 1))
        document_of = np.where(real, numbers[:, None], -1)
    else:
        input_ids, labels, weight = (np.concatenate([d[part] for d in documents])[None] for part in (IDS, LABELS, WEIGHTS))
        positions = np.concatenate([np.arange(length) for length in lengths])[None]
        document_of = np.repeat(numbers, lengths)[None]
    inputs = {"input_ids": _long(input_ids), "position_ids": _long(positions)}
    if layout == "padded":
        inputs["attention_mask"] = _long(real)
    if rows[0].media is not None:
        per_row = [1 if row.segments is None else len(row.segments) for row in rows]
        add_media(inputs, [d[IDS] for d in documents], document_of, [row.media for row in rows if row.media], per_row)
    counts = labels != IGNORED
    binary = bool(np.all(weight[counts] == 1.0))
    names = sorted({name for row in rows for name in row.values})
    return Batch(
        inputs=inputs,
        labels=_long(labels),
        loss_weight=None if binary else torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
        num_labels=int(counts.sum()),
        num_tokens=0 if silent else int(lengths.sum()),
        documents=_long(document_of),
        document_rows=_long(np.repeat(np.arange(len(rows)), [1 if r.segments is None else len(r.segments) for r in rows])),
        values={name: torch.tensor([row.values.get(name, math.nan) for row in rows]) for name in names},
        num_rows=0 if silent else len(rows),
        label_positions=_long(np.flatnonzero(counts)),
        bounds=None if layout == "padded" else torch.from_numpy(np.append(0, np.cumsum(lengths)).astype(np.int32)),
        longest_document=int(lengths.max()),
    )


FILLER = 256
"""Tokens of a document that fills a pack up, at most: longer ones cost attention more."""


def filled(batch: Batch, length: int) -> Batch:
    """A micro-batch of one row, filled up to `length` tokens by documents that nothing is learnt from; their ids are 0."""
    gap = length - batch.labels.shape[1]
    if batch.inputs.keys() != {"input_ids", "position_ids"} or batch.inputs["position_ids"].ndim != 2:
        return batch  # media, whose shapes differ anyway
    if gap < 0 or batch.bounds is None or batch.documents is None:  # 0 goes on: strides, too, shall be those of the others
        return batch
    fill = torch.arange(gap)
    pad = torch.nn.functional.pad
    ends = (fill[FILLER - 1 :: FILLER] + 1).tolist()
    ends += [gap] if not ends or ends[-1] != gap else []
    weight = batch.loss_weight
    return replace(
        batch,
        inputs={
            **batch.inputs,
            "input_ids": pad(batch.inputs["input_ids"], (0, gap)),
            "position_ids": torch.cat([batch.inputs["position_ids"], (fill % FILLER)[None]], 1),
        },
        labels=pad(batch.labels, (0, gap), value=IGNORED),
        loss_weight=None if weight is None else pad(weight, (0, gap)),
        documents=pad(batch.documents, (0, gap), value=-1),
        bounds=torch.cat([batch.bounds, batch.bounds[-1] + torch.tensor(ends, dtype=torch.int32)]),
        longest_document=max(batch.longest_document, min(gap, FILLER)),
    )


def filler(length: int) -> Batch:
    """A pack of nothing but filler."""
    empty = torch.zeros((1, 0), dtype=torch.int64)
    return filled(
        Batch(
            inputs={"input_ids": empty, "position_ids": empty}, labels=empty, loss_weight=None, num_labels=0, num_tokens=0,
            documents=empty, bounds=torch.zeros(1, dtype=torch.int32), label_positions=empty[0],
        ),
        length,
    )  # fmt: skip


def _documents(row: TokenRow, silent: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(ids, labels, weights) of each: position s predicts token s + 1 of its document, the last position nothing."""
    start = 0
    for length in [len(row.ids)] if row.segments is None else row.segments:
        ids, weights = row.ids[start : start + length], row.weights[start : start + length]
        following = np.zeros(length, np.float32)
        if not silent:
            following[:-1] = weights[1:]
        yield ids, np.where(following > 0, np.append(ids[1:], IGNORED), IGNORED), following
        start += length


def _long(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64))


class StepSource(Protocol):
    """What the loop asks of the data: `StepLoader`, or `swift.data.streaming.StreamLoader`."""

    def step(self, step: int) -> list[Batch]: ...

    def epoch(self, step: int) -> float: ...

    def position(self, step: int) -> dict[str, Any]: ...


class Prefetch:
    """Steps of a source, made in a thread while the one before computes. A context manager.

    Args:
        source: Asked for the steps first, first + 1, ..., last - 1, in order, by the thread alone.
        depth: Steps that wait at most.
        pin: Put tensors into page-locked memory, from which copies to an accelerator are asynchronous.
    """

    def __init__(self, source: StepSource, *, first: int, last: int, depth: int = 2, pin: bool = False) -> None:
        self.source, self.first, self.last, self.pin = source, first, last, pin
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="swift-batches", daemon=True)

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with suppress(queue.Empty):
            while True:  # room for what the thread is about to put
                self._ready.get_nowait()
        self._thread.join(timeout=60.0)

    def _work(self) -> None:
        try:
            for step in range(self.first, self.last):
                batches = self.source.step(step)
                self._put([pinned(b) for b in batches] if self.pin else batches)
                if self._closed.is_set():
                    return
        except BaseException as error:  # raised again by `step`
            self._put(error)

    def _put(self, item: list[Batch] | BaseException) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                return self._ready.put(item, timeout=0.1)

    def step(self, step: int) -> list[Batch]:
        """Steps are asked for in order. Raises what the source raised."""
        if step != self.first:
            raise ValueError(f"step {step} was asked for, {self.first} is next")
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        self.first += 1
        return item


def moved(batch: Batch, move: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """The same batch with each tensor put elsewhere."""

    def maybe(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else move(tensor)

    return replace(
        batch, inputs={name: move(value) for name, value in batch.inputs.items()}, labels=move(batch.labels),
        loss_weight=maybe(batch.loss_weight), documents=maybe(batch.documents), document_rows=maybe(batch.document_rows),
        values={name: move(value) for name, value in batch.values.items()},
        reference={name: move(value) for name, value in batch.reference.items()},
        label_positions=maybe(batch.label_positions), bounds=maybe(batch.bounds),
    )  # fmt: skip


def with_bounds(batch: Batch) -> Batch:
    """The same batch with bounds of its documents among the model's inputs, by the names of transformers' FlashAttentionKwargs;
    unchanged where it has none."""
    if batch.bounds is None:
        return batch
    longest = batch.longest_document or int(batch.labels.shape[1])
    inputs: dict[str, Any] = {
        **batch.inputs, "cu_seq_lens_q": batch.bounds, "cu_seq_lens_k": batch.bounds, "max_length_q": longest,
        "max_length_k": longest,
    }  # fmt: skip
    return replace(batch, inputs=inputs)


def pinned(batch: Batch) -> Batch:
    return moved(batch, lambda tensor: tensor.pin_memory())
