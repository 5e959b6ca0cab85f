"""Rows into packs of bounded length, nothing discarded."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 100_000
"""Rows that are packed against each other: enough for full packs, few enough that memory stays flat as the set grows."""

ATTENTION_PAYS_AT = 12 * 2048
"""Length at which a row's attention costs as much as its matrices: 12 x hidden size (2 S^2 h of 24 S h^2 a layer)."""


@dataclass(frozen=True)
class Groups(Sequence[np.ndarray]):
    """Row numbers in groups, without an object for each: group i is `members[offsets[i]:offsets[i + 1]]`.

    Args:
        members: int [rows].
        offsets: int [groups + 1], ascending from 0.
    """

    members: np.ndarray
    offsets: np.ndarray

    @classmethod
    def singles(cls, rows: int) -> Groups:
        """Each row alone."""
        numbers = np.arange(rows + 1)
        return cls(numbers[:-1], numbers)

    @classmethod
    def of(cls, group_of: np.ndarray) -> Groups:
        """From the group of each row, int [rows]; groups are numbered without a gap. Rows ascend in each."""
        return cls(np.argsort(group_of, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(group_of))]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.members[self.offsets[index] : self.offsets[index + 1]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of a value per row [rows], the sum over each group [groups]."""
        return np.add.reduceat(values[self.members], self.offsets[:-1]) if len(self) else values[:0]


def best_fit_decreasing(lengths: np.ndarray, capacity: int, *, window: int = WINDOW) -> Groups:
    """Pack rows so that few packs are needed: longest first, each into the fullest pack that still takes it.

    Source: "Fewer Truncations Improve Language Modeling", arXiv 2404.10830. O(n log L) for n rows and L distinct lengths.

    Args:
        lengths: int [n], tokens of each row.
        capacity: Tokens of a pack. A longer row is a pack of its own.
        window: Larger sets are packed in parts of about so many rows, each drawn evenly from the whole set.
    """
    lengths = np.asarray(lengths)
    pack_of = np.empty(len(lengths), np.int64)
    packs, parts = 0, max(1, round(len(lengths) / window))
    for part in range(parts):
        pack_of[part::parts], packs = _pack(lengths[part::parts], capacity, first=packs)
    return Groups.of(pack_of)


def _pack(lengths: np.ndarray, capacity: int, *, first: int) -> tuple[np.ndarray, int]:
    """(pack of each row, counted from `first`; the next free number)."""
    pack_of = np.empty(len(lengths), np.int64)
    packs = first
    spaces: list[int] = []  # distinct free spaces, ascending
    by_space: dict[int, list[int]] = {}
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        place = bisect_left(spaces, length)
        if length > capacity or place == len(spaces):
            pack, space = packs, max(capacity - length, 0)
            packs += 1
        else:
            space = spaces[place]
            pack = by_space[space].pop()
            if not by_space[space]:
                del spaces[place], by_space[space]
            space -= length
        pack_of[row] = pack
        if space:
            if space not in by_space:
                insort(spaces, space)
            by_space.setdefault(space, []).append(pack)
    return pack_of, packs


def efficiency(packs: Groups, lengths: np.ndarray, capacity: int) -> float:
    """Share of the packs' room that holds tokens."""
    if not len(packs):
        return 1.0
    fills = packs.sums(lengths.astype(np.int64))
    return float(fills.sum() / np.maximum(fills, capacity).sum())


def unit_costs(groups: Groups, lengths: np.ndarray) -> np.ndarray:
    """float [groups], what a forward and backward pass takes: linear in tokens, and quadratic in each row's length."""
    tokens = lengths.astype(np.float64)
    return groups.sums(tokens + tokens**2 / ATTENTION_PAYS_AT)


def deal(costs: np.ndarray, *, micro_batch: int, world_size: int, like_together: bool) -> list[list[np.ndarray]]:
    """The units of an optimizer step to micro-batches, and these to ranks, so that each rank has about the same to do.

    Args:
        costs: float [units].
        micro_batch: Most units of a micro-batch.
        like_together: Micro-batches hold units of like cost (padding is what counts); else each holds its share of the cost.

    Returns:
        For each rank its micro-batches (numbers of units), the costly first; the first rank has most of them.
    """
    units = len(costs)
    rounds = -(-units // (micro_batch * world_size))
    order = np.argsort(-costs, kind="stable")
    if like_together:
        count = min(units, rounds * world_size)
        groups = [part[::-1] for part in np.array_split(order[::-1], count)][::-1]  # the shorter rows are in larger groups
        weights = np.array([float(costs[group].max() * len(group)) for group in groups])
        by_weight = np.argsort(-weights, kind="stable")
        ranks = _spread(weights, by_weight, min(count, world_size), rounds)
        shares = [[groups[group] for group in rank] for rank in ranks]
    else:
        ranks = _spread(costs, order, min(units, world_size), rounds * micro_batch)
        shares = [[np.array(g) for g in _spread(costs, rank, min(len(rank), rounds), micro_batch)] for rank in ranks]
        shares = [sorted(share, key=lambda group: -float(costs[group].sum())) for share in shares]
    shares += [[] for _ in range(world_size - len(shares))]
    return sorted(shares, key=len, reverse=True)


def joined(shares: list[list[np.ndarray]], tokens: np.ndarray, room: int) -> list[list[np.ndarray]]:
    """What `deal` gave, with fewer micro-batches where a rank's units need fewer of `room` tokens.

    Args:
        tokens: int [units].
        room: At least the tokens of each micro-batch in `shares`.
    """
    fewer = []
    for share in shares:
        units = np.concatenate([*share, np.zeros(0, np.int64)]).astype(np.int64)
        packs = best_fit_decreasing(tokens[units], room)
        fewer.append([units[pack] for pack in packs] if len(packs) < len(share) else share)
    return sorted(fewer, key=len, reverse=True)


def _spread(costs: np.ndarray, order: Sequence[int] | np.ndarray, count: int, room: int) -> list[list[int]]:
    """Into `count` groups of at most `room`: the costliest first, each to the group that has least so far."""
    groups: list[list[int]] = [[] for _ in range(count)]
    heap = [(0.0, group) for group in range(count)]
    for unit in map(int, order):
        weight, group = heapq.heappop(heap)
        groups[group].append(unit)
        if len(groups[group]) < room:
            heapq.heappush(heap, (weight + float(costs[unit]), group))
    return groups
