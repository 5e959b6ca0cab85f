"""Token rows to the micro-batches of each optimizer step. Right of the torch line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from swift.api.contracts import Batch
from swift.config.sections import MIN_PACKED_STEPS
from swift.data.packing import best_fit_decreasing, efficiency
from swift.errors import ConfigError

Layout = Literal["packed", "padding_free", "padded"]

IGNORED = -100


class TokenRows(Protocol):
    """What batches are made of: `swift.data.tokens.TokenDataset`, or a subset."""

    lengths: np.ndarray

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Units:
    """What is shuffled and counted as one of `batch_size`: a row, or a pack of rows.

    Args:
        layout: How a micro-batch is laid out. packed and padding_free: one row [1, S] of whole documents, without padding or
            mask, told apart by position ids that restart. padded: [B, S], padded on the right, with a mask.
        members: Row indices of each unit.
        why: A line for the user.
    """

    layout: Layout
    members: list[np.ndarray]
    why: str

    def __len__(self) -> int:
        return len(self.members)


def choose_units(
    dataset: TokenRows,
    batching: Literal["auto", "packed", "padding_free", "padded"] = "auto",
    *,
    packing_length: int,
    keeps_documents_apart: bool,
    rows_per_step: int = 16,
    epochs: float = 1.0,
    max_steps: int = 0,
    min_steps: int = MIN_PACKED_STEPS,
) -> Units:
    """Decide the layout and make the units.

    Args:
        packing_length: Tokens of a pack; a longer row is a pack of its own.
        keeps_documents_apart: `LoadedModel.keeps_documents_apart`.
        rows_per_step: Units of an optimizer step: batch_size x gradient_accumulation_steps x world size.
        epochs, max_steps: Length of the run.
        min_steps: `auto` packs where at least so many steps are left, because few large steps learn little.

    Raises:
        ConfigError: packed or padding_free was asked for, and the model would mix documents.
    """
    rows = [np.array([row], np.int64) for row in range(len(dataset.lengths))]
    if batching == "padded":
        return Units("padded", rows, "padded rows")
    if not keeps_documents_apart:
        if batching != "auto":
            raise ConfigError(
                f"data.batching is {batching}, but this model's attention would mix the documents of a row",
                fix="--batching padded, or another --attention",
            )
        return Units("padded", rows, "padded: this model's attention would mix documents that share a row")
    if batching == "padding_free":
        return Units("padding_free", rows, "padding-free rows")
    packs = best_fit_decreasing(dataset.lengths, packing_length)
    steps = max_steps or math.ceil(len(packs) * epochs / rows_per_step)
    full = 100 * efficiency(packs, dataset.lengths, packing_length)
    filled = f"{len(rows)} rows in {len(packs)} packs of {packing_length} tokens, {full:.1f} % full"
    if batching == "packed":
        return Units("packed", packs, f"packed: {filled}")
    if steps >= min_steps:
        return Units("packed", packs, f"packed: {filled}")
    return Units("padding_free", rows, f"padding-free: packing would leave {steps} optimizer steps, under {min_steps}")


class StepLoader:
    """Micro-batches of one rank for each optimizer step, as a pure function of seed and step: resuming costs nothing.

    The units of a step are the same however micro_batch x accumulation x world_size is divided. Each epoch is a
    permutation of all units; its last step takes what remains. All ranks get the same number of micro-batches; one that
    has none left gets a copy without labels.

    Args:
        micro_batch: Units in a micro-batch.
        pad_token_id: Filler of the padded layout.
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
    ) -> None:
        self.dataset, self.units = dataset, units
        self.micro_batch, self.world_size, self.rank = micro_batch, world_size, rank
        self.units_per_step = micro_batch * accumulation * world_size
        self.seed, self.shuffle, self.pad_token_id = seed, shuffle, pad_token_id
        self.steps_per_epoch = math.ceil(len(units) / self.units_per_step)
        self._sizes = np.array([int(dataset.lengths[m].sum()) for m in units.members])
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
        # Longest first: like lengths share a micro-batch, ranks get like work, and too little memory shows at once.
        chosen = chosen[np.argsort(-self._sizes[chosen], kind="stable")]
        return _share(self.dataset, self.units, chosen, self.micro_batch, self.world_size, self.rank, self.pad_token_id)


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
    """This rank's micro-batches of one pass over the rows in order; as many on each rank.

    Args:
        batch_size: Rows in a micro-batch.
        limit: Stop after so many on each rank; 0 goes through all.
    """
    units = Units(layout, [np.array([row], np.int64) for row in range(len(dataset.lengths))], "evaluation")
    per_round = batch_size * world_size
    rounds = math.ceil(len(units) / per_round)
    for number in range(min(rounds, limit) if limit else rounds):
        chosen = np.arange(number * per_round, min((number + 1) * per_round, len(units)))
        yield from _share(dataset, units, chosen, batch_size, world_size, rank, pad_token_id)


def _share(
    dataset: TokenRows, units: Units, chosen: np.ndarray, micro_batch: int, world_size: int, rank: int, pad_token_id: int
) -> list[Batch]:
    """Micro-batches are dealt out like cards; ranks that get one less have a copy of the last without labels."""
    groups = [chosen[i : i + micro_batch] for i in range(0, len(chosen), micro_batch)]
    batches = []
    for first in range(0, len(groups), world_size):
        index = first + rank
        group = groups[min(index, len(groups) - 1)]
        if index >= len(groups):
            group = group[-1:]
        rows = [dataset[int(row)] for unit in group for row in units.members[unit]]
        batches.append(collate(rows, units.layout, pad_token_id=pad_token_id, silent=index >= len(groups)))
    return batches


def collate(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], layout: Layout, *, pad_token_id: int = 0, silent: bool = False
) -> Batch:
    """Rows (ids, weights) to one micro-batch on the CPU. `silent` masks every label.

    packed and padding_free give one row: flash attention reads document bounds from position ids in single-row batches only.
    """
    shifted = [_shift(ids, weights if not silent else np.zeros_like(weights)) for ids, weights in rows]
    lengths = [len(ids) for ids, _ in rows]
    if layout == "padded":
        width = max(lengths)

        def pad(columns: list[np.ndarray], value: float) -> np.ndarray:
            return np.stack([np.pad(c, (0, width - len(c)), constant_values=value) for c in columns])

        input_ids = pad([ids for ids, _ in rows], pad_token_id)
        labels, weight = pad([s[0] for s in shifted], IGNORED), pad([s[1] for s in shifted], 0)
        positions = np.tile(np.arange(width), (len(rows), 1))
    else:
        input_ids = np.concatenate([ids for ids, _ in rows])[None]
        labels, weight = (np.concatenate([s[part] for s in shifted])[None] for part in (0, 1))
        positions = np.concatenate([np.arange(length) for length in lengths])[None]
    inputs = {"input_ids": _long(input_ids), "position_ids": _long(positions)}
    if layout == "padded":
        inputs["attention_mask"] = _long(np.arange(input_ids.shape[1])[None] < np.array(lengths)[:, None])
    counts = labels != IGNORED
    binary = bool(np.all(weight[counts] == 1.0))
    return Batch(
        inputs=inputs,
        labels=_long(labels),
        loss_weight=None if binary else torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
        num_labels=int(counts.sum()),
        num_tokens=0 if silent else sum(lengths),
    )


def _shift(ids: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights of one document: position s predicts token s + 1, the last position nothing."""
    following = np.append(weights[1:], 0.0).astype(np.float32)
    labels = np.where(following > 0, np.append(ids[1:], IGNORED), IGNORED)
    return labels, following


def _long(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64))
