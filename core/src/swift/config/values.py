"""Values: read for the type of their field, dumped without secrets, and described in plain words when they are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from pydantic import SecretBytes, SecretStr, ValidationError

from swift.api.settings import Settings
from swift.config import spelling
from swift.config.argv import BOOLEANS
from swift.config.conversions import number_of
from swift.config.spelling import SECRET_NAME, did_you_mean
from swift.config.yaml_lines import Lined


def show(key: str, value: Any) -> str:
    """A value in a message: short, and never a secret."""
    if SECRET_NAME.search(key) or isinstance(value, (SecretStr, SecretBytes)):
        return "(hidden)"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = repr(text) if text == "" or " " in text else text
    return text if len(text) <= 60 else text[:57] + "..."


def read_scalar(value: Any, text: bool) -> Any:
    """A value without a type: JSON where it looks like it, else itself."""
    if not text or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {**BOOLEANS, "none": None, "null": None}.get(value.lower(), value) if not value.isdigit() else value


def read_value(value: Any, prop: Mapping[str, Any], text: bool) -> Any:
    """A value as the field's type wants it; what cannot be read is left for the type's own check to refuse.

    Args:
        prop: JSON schema of the field.
        text: It came as text (a flag), not as typed data.
    """
    kinds = spelling.types(prop)
    kind = spelling.takes(prop)
    if isinstance(value, Lined):
        wants_text = kinds <= {"string", "null"} and bool(kinds)
        items = _item_types(prop)
        value = value.plain(texts=wants_text or (kind in {"many", "map"} and items == {"string"}))
    if text and isinstance(value, str) and value.lower() in {"none", "null"} and spelling.nullable(prop) and kinds:
        return None
    if isinstance(value, tuple):
        value = list(value)
    if kind == "bool":
        return BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value
    if kind == "many":
        return _read_list(value)
    if kind == "map":
        return _read_map(value, text, _item_types(prop))
    if kind == "any":
        return _read_any(value, kinds, text)
    if isinstance(value, bool) and kinds <= {"number", "integer", "null"}:
        return "true" if value else "false"
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _item_types(prop: Mapping[str, Any]) -> set[str]:
    for part in prop.get("anyOf") or [prop]:
        inner = part.get("items") or part.get("additionalProperties")
        if isinstance(inner, Mapping):
            return spelling.types(inner)
    return set()


def _read_list(value: Any) -> Any:
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and value[0].lstrip().startswith("["):
        try:
            value = json.loads(value[0])
        except ValueError:
            pass
    if isinstance(value, list):
        return [os.fspath(v) if isinstance(v, os.PathLike) else v for v in value]
    return value if value is None or isinstance(value, Mapping) else [value]


def _read_map(value: Any, text: bool, items: set[str]) -> Any:
    """A mapping from JSON, or from `key=value` words."""
    parts = value if isinstance(value, list) else [value]
    result: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Mapping):
            result.update(part)
        elif isinstance(part, str) and part.lstrip().startswith("{"):
            try:
                result.update(json.loads(part))
            except ValueError:
                return value if isinstance(value, str) else part
        elif isinstance(part, str) and "=" in part:
            key, _, item = part.partition("=")
            result[key] = item if items == {"string"} else read_scalar(item, True)
        else:
            return part
    return result


def _read_any(value: Any, kinds: set[str], text: bool) -> Any:
    if isinstance(value, list) and text and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not text:
        return value
    if value.lstrip().startswith(("[", "{")):
        return read_scalar(value, True)
    if not kinds:
        return read_scalar(value, True)
    if "boolean" in kinds and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if kinds & {"number", "integer"}:
        return read_scalar(value, True)
    return value


def dump(model: Settings) -> dict[str, Any]:
    """Plain data of a model without its secrets."""
    return _without_secrets(model.model_dump(mode="json"), model.model_dump())


def _without_secrets(plain: Any, real: Any) -> Any:
    if isinstance(plain, dict) and isinstance(real, Mapping):
        pairs = zip(plain.items(), real.values(), strict=True)
        return {k: _without_secrets(v, r) for (k, v), r in pairs if not isinstance(r, (SecretStr, SecretBytes))}
    if isinstance(plain, list) and isinstance(real, (list, tuple)):
        return [_without_secrets(v, r) for v, r in zip(plain, real, strict=True) if not isinstance(r, (SecretStr, SecretBytes))]
    return plain


_WANTS = {
    "int": "wants a whole number",
    "float": "wants a number",
    "finite": "wants a finite number",
    "bool": "wants true or false",
    "string": "wants text",
    "list": "wants a list",
    "tuple": "wants a list",
    "dict": "wants a mapping (key: value, or key=value)",
    "none": "wants nothing",
}
_BOUNDS = {
    "greater_than": ("above", "gt"), "greater_than_equal": ("of at least", "ge"), "less_than": ("below", "lt"),
    "less_than_equal": ("of at most", "le"), "multiple_of": ("that is a multiple of", "multiple_of"),
}  # fmt: skip


def words(error: ValidationError) -> list[tuple[str, str]]:
    """(path, what is wanted and what came) of each fault, in plain words."""
    found: dict[str, list[str]] = {}
    came: dict[str, str] = {}
    for item in error.errors(include_url=False):
        parts = [str(p) for p in item["loc"]]
        union = len(parts) > 1 and any(e["loc"][:1] == item["loc"][:1] and e["loc"] != item["loc"] for e in error.errors())
        path = parts[0] if union or not parts else ".".join(p for p in parts if not _is_type_name(p))
        text = _wanted(item)
        found.setdefault(path, [])
        if text not in found[path]:
            found[path].append(text)
        value = item.get("input")
        if item["type"] not in {"extra_forbidden", "value_error", "assertion_error"}:
            came.setdefault(path, "nothing (leave it out for the default)" if value is None else _quoted(path, value))
    result = []
    for path, texts in found.items():
        head = texts[0] + "".join(" or " + t.removeprefix("wants ") for t in texts[1:])
        result.append((path, f"{head}, got {came[path]}" if path in came else head))
    return result


def _is_type_name(part: str) -> bool:
    return "[" in part or part in {"str", "int", "float", "bool", "dict", "list"}


def _quoted(path: str, value: Any) -> str:
    if isinstance(value, str) and not SECRET_NAME.search(path) and not isinstance(number_of(value), float):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return show(path, value)


def _wanted(item: Mapping[str, Any]) -> str:
    kind, ctx = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        options = [w.strip("'") for w in ctx["expected"].replace(" or ", ", ").split(", ")]
        near = did_you_mean(item["input"], options) if isinstance(item["input"], str) else ""
        return f"wants one of {', '.join(options)}" + (
            f" (did you mean {near.removeprefix('; did you mean ').rstrip('?')}?)" if near else ""
        )
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"wants a number {word} {ctx[key]:g}"
    if kind in {"value_error", "assertion_error"}:
        return str(ctx.get("error", item["msg"]))
    if kind == "extra_forbidden":
        return "is unknown"
    if kind == "missing":
        return "is missing"
    if kind in {"string_too_short", "string_too_long", "too_short", "too_long", "string_pattern_mismatch"}:
        return str(item["msg"]).replace("String should", "should").replace("List should", "should")
    stem = kind.partition("_")[0]
    return _WANTS.get(stem, str(item["msg"]))
