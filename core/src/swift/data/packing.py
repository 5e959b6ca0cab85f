"""Rows into packs of bounded length, nothing discarded."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Pack rows so that few packs are needed: longest first, each into the fullest pack that still takes it.

    Source: "Fewer Truncations Improve Language Modeling", arXiv 2404.10830. O(n log L) for n rows and L distinct lengths.

    Args:
        lengths: int [n], tokens of each row.
        capacity: Tokens of a pack. A longer row is a pack of its own.

    Returns:
        Row indices of each pack, ascending; each row stands in exactly one pack.
    """
    packs: list[list[int]] = []
    spaces: list[int] = []  # distinct free spaces, ascending
    by_space: dict[int, list[int]] = {}
    for row in np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist():
        length = int(lengths[row])
        place = bisect_left(spaces, length)
        if length > capacity or place == len(spaces):
            pack, space = len(packs), max(capacity - length, 0)
            packs.append([row])
        else:
            space = spaces[place]
            pack = by_space[space].pop()
            if not by_space[space]:
                del spaces[place], by_space[space]
            packs[pack].append(row)
            space -= length
        if space:
            if space not in by_space:
                insort(spaces, space)
            by_space.setdefault(space, []).append(pack)
    return [np.sort(np.array(pack, np.int64)) for pack in packs]


def efficiency(packs: Sequence[np.ndarray], lengths: np.ndarray, capacity: int) -> float:
    """Share of the packs' room that holds tokens."""
    if not len(packs):
        return 1.0
    fills = np.array([int(lengths[pack].sum()) for pack in packs])
    return float(fills.sum() / np.maximum(fills, capacity).sum())
