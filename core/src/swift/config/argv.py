"""Splits a command line into keys and values. Knows the grammar, not the meaning. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from swift.config.spelling import normal

BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}


class Flag(NamedTuple):
    """One flag as it came.

    Args:
        key: Without dashes in front; `_` for `-`.
        values: Texts that followed it.
        shown: As it was typed.
        negated: It was `--no-key`.
    """

    key: str
    values: tuple[str, ...]
    shown: str
    negated: bool = False


class Parsed(NamedTuple):
    """What a command line holds.

    Args:
        errors: Pairs of place and text.
        after: Positional argument -> the switch that it stands behind, whose value it may have been meant for.
    """

    flags: list[Flag]
    positional: list[str]
    errors: list[tuple[str, str]]
    after: dict[str, str]


def is_flag(token: str) -> bool:
    """`-1`, `-.5` and `-` are values."""
    return len(token) > 1 and token[0] == "-" and not (token[1].isdigit() or token[1] == ".")


def parse(argv: Sequence[str], takes: Callable[[str], str], short: Callable[[str], str | None]) -> Parsed:
    """Split `argv`.

    Args:
        takes: Key -> bool, one, many, map, any (as `spelling.takes`), maybe (one or none), or "" for an unknown key.
        short: Letter -> key, None where the letter means nothing.

    `--key v`, `--key=v`, `--key a b` (many), `--flag` and `--no-flag` (bool), `-o v`; after `--` everything is positional.
    """
    result = Parsed([], [], [], {})
    tokens = list(argv)
    index = 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token == "--":
            result.positional.extend(tokens[index:])
            break
        if not is_flag(token):
            result.positional.append(token)
            continue
        shown, equals, attached = token.partition("=")
        if shown.startswith("--"):
            key = normal(shown[2:])
        else:
            key = short(shown[1:]) or ""
            if not key and len(shown) > 2 and short(shown[1]):
                result.errors.append((f"flag {shown}", f"short flags stand alone: write {shown[:2]} {shown[2:]}"))
                continue
            if not key:
                hint = f"; did you mean -{shown}?" if len(shown) > 2 else ""
                result.errors.append((f"flag {shown}", f"unknown{hint}"))
                continue
        kind, negated = takes(key), False
        if not kind and key.startswith("no_") and takes(key[3:]) in ("bool", "maybe"):
            key, kind, negated = key[3:], "bool", True
        if equals:
            if negated:
                result.errors.append((f"flag {shown}", "takes no value"))
                continue
            result.flags.append(Flag(key, (attached,), shown))
            continue
        following: list[str] = []
        if negated:
            pass
        elif kind == "bool":
            if index < len(tokens) and tokens[index].lower() in (*BOOLEANS, "none", "null"):
                following = [tokens[index]]
            elif index < len(tokens) and not is_flag(tokens[index]):
                result.after[tokens[index]] = shown
        elif kind == "maybe":
            if index < len(tokens) and not is_flag(tokens[index]):
                following = [tokens[index]]
        elif kind == "one":
            if index < len(tokens) and not is_flag(tokens[index]):
                following = [tokens[index]]
            else:
                came = f", the next word is the flag {tokens[index]}" if index < len(tokens) else ""
                equal = f" (or write {shown}={tokens[index]})" if index < len(tokens) and tokens[index] != "--" else ""
                result.errors.append((f"flag {shown}", f"wants a value{came}{equal}"))
                continue
        else:
            while index + len(following) < len(tokens) and not is_flag(tokens[index + len(following)]):
                following.append(tokens[index + len(following)])
            if kind and not following:
                result.errors.append((f"flag {shown}", "wants at least one value"))
                continue
        index += len(following)
        result.flags.append(Flag(key, tuple(following), shown, negated))
    return result


def value_of(flag: Flag, kind: str) -> Any:
    """A flag's texts as one value: bool for a bare switch, list for many, else the text."""
    if flag.negated:
        return False
    if kind == "bool" and not flag.values:
        return True
    if kind in {"many", "map"} or len(flag.values) > 1:
        return list(flag.values)
    return flag.values[0] if flag.values else True
