"""The condition language of needs and clashes: one comparison over one fact.

    device.collectives              set, and neither false, zero nor empty
    not model.device_map
    quant.bits == 4                 ==  !=  >=  <=  >  <
    device.collectives contains gloo
    quant.bits in 4, 8

A selector of a clash is a condition, or `kind:name`, or `kind:*`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from swift.api.specs import Spec

# Patterns, not compiled ones: most starts never need them, and re keeps what it compiled.
_CONDITION = (
    r"^(?P<negated>not\s+)?(?P<fact>[a-z_][\w-]*(?:\.[\w-]+)+)"
    r"(?:\s*(?P<op>==|!=|>=|<=|>|<|\bcontains\b|\bin\b)\s*(?P<value>[^=\s].*))?$"
)
_SELECTOR = r"^(?P<kind>[a-z]+):(?P<name>\*|[a-z0-9][a-z0-9._-]*)$"
_ORDER: dict[str, Callable[[Any, Any], Any]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_WORDS = {"true": True, "false": False, "none": None}


class Selector(NamedTuple):
    kind: str
    name: str

    def matches(self, kind: str, name: str) -> bool:
        return self.kind == kind and self.name in ("*", name)


class Condition(NamedTuple):
    text: str
    fact: str
    op: str
    """"" (set), "not", or the comparison."""
    value: Any

    def holds(self, facts: Mapping[str, Any]) -> bool | None:
        """None: the fact is there but its value is not known yet."""
        if self.fact in facts and facts[self.fact] is None and self.op not in ("==", "!="):
            return None
        actual = facts.get(self.fact)
        if self.op in ("", "not"):
            return bool(actual) == (self.op == "")
        if self.op == "==":
            return bool(actual == self.value)
        if self.op == "!=":
            return bool(actual != self.value)
        if self.fact not in facts:
            return False
        if self.op == "contains":
            return self.value in (actual if isinstance(actual, (list, tuple, str)) else (actual,))
        if self.op == "in":
            return actual in self.value
        try:
            return bool(_ORDER[self.op](actual, self.value))
        except TypeError:
            return False


def _value(text: str) -> Any:
    text = text.strip()
    if text[:1] in "'\"" and text[-1:] == text[:1] and len(text) > 1:
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def parse(text: str) -> Condition:
    """Raises `ValueError` with what is allowed."""
    match = re.match(_CONDITION, text.strip())
    if match is None or (match["negated"] and match["op"]):
        raise ValueError(
            f"{text!r} is not a condition; write `fact`, `not fact`, `fact == v` (or != >= <= > <),"
            " `fact contains v` or `fact in a, b`"
        )
    op, value = match["op"], match["value"]
    if op is None:
        return Condition(text, match["fact"], "not" if match["negated"] else "", None)
    parsed = tuple(_value(part) for part in value.strip("()[] ").split(",")) if op == "in" else _value(value)
    return Condition(text, match["fact"], op, parsed)


def parse_selector(text: str) -> Condition | Selector:
    """Raises `ValueError` with what is allowed."""
    match = re.match(_SELECTOR, text.strip())
    return Selector(match["kind"], match["name"]) if match else parse(text)


def check_all(spec: Spec, kinds: Iterable[str]) -> None:
    """Raises `ValueError` for a need or clash of the spec that cannot be read or names no kind."""
    for need in spec.needs:
        parse(need.condition)
    for clash in spec.clashes:
        for text in clash.when:
            selector = parse_selector(text)
            if isinstance(selector, Selector) and selector.kind not in kinds:
                raise ValueError(f"{text!r} names no kind; kinds are {', '.join(kinds)}")
