"""Base of every settings class. Imported by implementation files only; descriptors name settings by dotted path."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Strict settings of one component, in a section of their own.

    Every field has a default and a docstring line under it, which becomes its help text. An unknown key is an error.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def resolve_auto(self) -> dict[str, tuple[Any, str]]:
        """What fields that were left at `auto` stand for, each with its reason, which the plan shows."""
        return {}
