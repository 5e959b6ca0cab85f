"""Packing loses nothing, never overflows, and leaves little room."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from swift.data.packing import best_fit_decreasing, efficiency


def next_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """The sequential packer that others use: a new pack as soon as the next row does not fit."""
    packs: list[list[int]] = [[]]
    for row, length in enumerate(lengths):
        if packs[-1] and sum(int(lengths[r]) for r in packs[-1]) + length > capacity:
            packs.append([])
        packs[-1].append(row)
    return packs


def naive(lengths: np.ndarray, capacity: int) -> list[int]:
    """Best fit decreasing, looked up by going through all packs; fills of the packs."""
    fills: list[int] = []
    for length in sorted(map(int, lengths), reverse=True):
        fitting = [i for i, fill in enumerate(fills) if fill + length <= capacity]
        if fitting:
            fills[max(fitting, key=lambda i: fills[i])] += length
        else:
            fills.append(length)
    return sorted(fills)


def optimum(lengths: list[int], capacity: int) -> int:
    """Fewest packs, by trying everything."""
    if not lengths:
        return 0
    first, rest = lengths[0], lengths[1:]
    best = len(lengths)
    for size in range(len(rest) + 1):
        for chosen in combinations(range(len(rest)), size):
            if first + sum(rest[i] for i in chosen) <= capacity:
                best = min(best, 1 + optimum([r for i, r in enumerate(rest) if i not in chosen], capacity))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_each_row_stands_in_one_pack_that_it_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(8, 400))
    lengths = rng.integers(1, capacity + 1, size=rng.integers(1, 300)).astype(np.int32)
    packs = best_fit_decreasing(lengths, capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    fills = [int(lengths[pack].sum()) for pack in packs]
    assert max(fills) <= capacity
    assert sorted(fills) == naive(lengths, capacity)
    assert len(packs) <= len(next_fit(lengths, capacity))


@pytest.mark.parametrize("seed", range(20))
def test_it_is_near_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 21, size=7)
    best = optimum(list(map(int, lengths)), 20)
    assert best <= len(best_fit_decreasing(lengths, 20)) <= 11 / 9 * best + 6 / 9


def test_it_fills_packs_better_than_in_order() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5, 1, size=5_000), 1, 2048).astype(np.int32)
    ours = efficiency(best_fit_decreasing(lengths, 2048), lengths, 2048)
    in_order = efficiency([np.array(p) for p in next_fit(lengths, 2048)], lengths, 2048)
    assert ours > 0.99 > 0.95 > in_order


def test_a_longer_row_is_a_pack_of_its_own() -> None:
    packs = best_fit_decreasing(np.array([5, 30, 5, 10, 1]), 10)
    assert sorted(map(list, packs)) == [[0, 2], [1], [3], [4]]
    assert efficiency(packs, np.array([5, 30, 5, 10, 1]), 10) == 51 / 60


def test_no_rows() -> None:
    assert best_fit_decreasing(np.array([], np.int32), 10) == []
    assert efficiency([], np.array([], np.int32), 10) == 1.0
