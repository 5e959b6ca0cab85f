"""One right dataset, and datasets with one fault each."""

from __future__ import annotations

import itertools

from swift.api import DatasetReader

_calls = itertools.count()


def conversation(number: int) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one?"},
            {"role": "assistant", "content": f"It is {number + 1}."},
        ]
    }


class Right(DatasetReader):
    def rows(self, *, seed):
        return (conversation(number) for number in range(6))


class UnknownField(Right):
    def rows(self, *, seed):
        return ({**row, "mood": "good"} for row in super().rows(seed=seed))


class UnreadableRow(Right):
    def rows(self, *, seed):
        yield from super().rows(seed=seed)
        yield {"messages": [{"role": "user", "content": "and?"}]}


class OtherOrder(Right):
    def rows(self, *, seed):
        rows, first = list(super().rows(seed=seed)), next(_calls) % 6
        return iter(rows[first:] + rows[:first])
