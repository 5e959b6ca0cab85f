"""Names of modules: what the user writes, and what the model has."""

from __future__ import annotations

import difflib
import re
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from swift.api import ConfigError, ModelError

ALL_LINEAR = "all-linear"
_REGEX_CHARACTERS = re.compile(r"[\\^$*+?()\[\]|]")


def target_modules(model: nn.Module, wanted: list[str], path: str) -> list[str] | str:
    """PEFT's spelling of the wanted layers. Raises `ModelError` where a name or expression matches nothing."""
    if ALL_LINEAR in wanted:
        if len(wanted) > 1:
            raise ConfigError(
                f"{path}: {ALL_LINEAR} stands alone; it came with {', '.join(wanted)}", fix=f"--{path} {ALL_LINEAR}"
            )
        return ALL_LINEAR
    if len(wanted) == 1 and _REGEX_CHARACTERS.search(wanted[0]):
        try:
            expression = re.compile(wanted[0])
        except re.error as error:
            raise ConfigError(f"{path}: {wanted[0]!r} is no regular expression: {error}") from error
        if not any(expression.fullmatch(name) for name, _ in model.named_modules()):
            raise ModelError(
                f"{path}: {wanted[0]!r} matches no module of {type(model).__name__}",
                fix=f"it must match whole paths such as {_example_path(model)}",
            )
        return wanted[0]
    check_names(model, wanted, path)
    return list(wanted)


def exclude(names: list[str] | str | None, frozen: str) -> str:
    """Regular expression of what PEFT leaves alone: modules of these names (or this expression), and frozen parts."""
    own = names if isinstance(names, str) else rf"(?:.*\.)?(?:{'|'.join(map(re.escape, names))})" if names else ""
    return "|".join(part for part in (own, frozen) if part)


def check_names(model: nn.Module, wanted: list[str], path: str) -> None:
    names = [name for name, _ in model.named_modules()]
    for entry in wanted:
        if not any(name == entry or name.endswith("." + entry) for name in names):
            near = difflib.get_close_matches(entry, {part for name in names for part in name.split(".")}, n=2)
            raise ModelError(
                f"{path}: {type(model).__name__} has no module {entry!r}"
                + (f"; did you mean {' or '.join(near)}?" if near else ""),
                fix=f"take from its linear layers: {linear_names(model)}",
            )


def linear_names(model: nn.Module) -> str:
    names = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and "lora_" not in n}
    return ", ".join(sorted(names)) or "none"


def _example_path(model: nn.Module) -> str:
    return next((n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))), "(no linear layer)")


def few(items: Any, limit: int = 3) -> str:
    words = sorted(items)
    return (
        (", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")) if words else "nothing"
    )
