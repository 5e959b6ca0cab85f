"""The grammar of a command line."""

from __future__ import annotations

import pytest

from swift.config.argv import parse, value_of

TAKES = {"seed": "one", "watch": "bool", "dataset": "many", "columns": "map", "modules": "any", "ignored": "maybe"}


def split(*argv):
    return parse(argv, lambda key: TAKES.get(key, ""), {"o": "output", "h": "help"}.get)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--seed", "1"], "seed", "1"),
        (["--seed=1"], "seed", "1"),
        (["--seed", "-1"], "seed", "-1"),
        (["--seed", "-.5"], "seed", "-.5"),
        (["--seed=--x"], "seed", "--x"),
        (["--seed="], "seed", ""),
        (["--watch"], "watch", True),
        (["--watch", "False"], "watch", "False"),
        (["--no-watch"], "watch", False),
        (["--no_watch"], "watch", False),
        (["--dataset", "a", "b"], "dataset", ["a", "b"]),
        (["--dataset=a"], "dataset", ["a"]),
        (["--columns", "a=b", "c=d"], "columns", ["a=b", "c=d"]),
        (["--modules", "a"], "modules", "a"),
        (["--modules", "a", "b"], "modules", ["a", "b"]),
        (["--ignored", "x"], "ignored", "x"),
        (["--ignored"], "ignored", True),
    ],
)
def test_values(argv, key, value):
    parsed = split(*argv)
    assert not parsed.errors and not parsed.positional
    assert [(f.key, value_of(f, TAKES[f.key])) for f in parsed.flags] == [(key, value)]


def test_dashes_and_underscores_are_one():
    parsed = parse(["--max-length", "3"], lambda key: "one" if key == "max_length" else "", {}.get)
    assert (parsed.flags[0].key, parsed.flags[0].shown) == ("max_length", "--max-length")


def test_positional_words():
    assert split("runs/a", "--watch", "runs/b", "--", "--seed").positional == ["runs/a", "runs/b", "--seed"]
    assert split("runs/a", "--watch", "runs/b").after == {"runs/b": "--watch"}


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--seed"], ("flag --seed", "wants a value")),
        (["--seed", "--watch"], ("flag --seed", "wants a value, the next word is the flag --watch (or write --seed=--watch)")),
        (["--dataset"], ("flag --dataset", "wants at least one value")),
        (["--no-watch=true"], ("flag --no-watch", "takes no value")),
        (["-ofile"], ("flag -ofile", "short flags stand alone: write -o file")),
        (["-q"], ("flag -q", "unknown")),
    ],
)
def test_errors(argv, error):
    assert error in split(*argv).errors
