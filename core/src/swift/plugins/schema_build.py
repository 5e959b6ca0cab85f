"""Computes the schemas that `schemas` keeps. Imports pydantic and the settings classes."""

from __future__ import annotations

import inspect
from typing import Any

import pydantic

from swift.api import settings
from swift.config import schema, sections
from swift.errors import PluginBroken
from swift.plugins.loading import load_object


def build(key: str) -> tuple[Any, list[str]]:
    """Schema, and the files that it depends on. Raises `PluginBroken`."""
    files = [inspect.getfile(pydantic), inspect.getfile(settings)]
    if key.startswith("sections:"):
        found = schema.core_schema(key.partition(":")[2])
        return found, [*files, inspect.getfile(sections), inspect.getfile(schema)]
    cls = load_object(key)
    if not (isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)):
        raise PluginBroken(f"{key} is not a settings class; it must subclass swift.api.settings.Settings")
    homes = [inspect.getfile(c) for c in cls.__mro__ if issubclass(c, pydantic.BaseModel) and c is not pydantic.BaseModel]
    return cls.model_json_schema(), list(dict.fromkeys([*files, *homes]))
