"""The JSON Schema for editors, checked by what the loader accepts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from swift.config.loader import load
from swift.config.schema import VERB_SECTIONS, core_schema, editor_schema
from swift.config.spelling import Vocabulary
from swift.errors import ConfigError


@pytest.fixture(scope="module")
def registry():
    if "config_parts" not in sys.modules:
        spec = importlib.util.spec_from_file_location("config_parts", Path(__file__).parent / "data" / "config_parts.py")
        sys.modules["config_parts"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["config_parts"].registry()


@pytest.mark.parametrize("verb", VERB_SECTIONS)
def test_every_reference_inside_leads_somewhere(verb, registry):
    schema = editor_schema(verb, registry)

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    assert all(ref.removeprefix("#/$defs/") in schema.get("$defs", {}) for ref in references(schema))
    assert schema["additionalProperties"] is False


def test_sections_leaves_and_components_are_keys(registry):
    keys = editor_schema("sft", registry)["properties"]
    for key in ("model", "model.dtype", "dtype", "dataset", "lora", "lora.rank", "tuner:lora", "dora.use_dora", "train"):
        assert key in keys
    assert "name" not in keys and "prompt" not in keys
    assert keys["lora"]["properties"]["rank"]["minimum"] == 1
    assert keys["lora_rank"] == {"deprecated": True, "description": "ms-swift: lora.rank here"}
    assert "lora" in keys["tuner"]["anyOf"][1]["properties"]["name"]["examples"]


def test_what_the_schema_allows_the_loader_reads(registry):
    """Each native leaf with its default is a configuration of both."""
    keys = editor_schema("sft", registry)["properties"]
    words = Vocabulary(core_schema("sft"))
    values = {leaf: keys[path]["default"] for leaf, path in words.leaves.items() if keys[path].get("default") not in (None, "")}
    assert len(values) > 40
    resolved = load("sft", values={"model": "m", "dataset": "d", **values}, registry=registry, environ={})
    assert resolved.sections == load("sft", values={"model": "m", "dataset": "d"}, registry=registry, environ={}).sections


def test_the_schema_is_a_valid_schema_and_judges_as_the_loader_does(registry):
    jsonschema = pytest.importorskip("jsonschema")
    schema = editor_schema("sft", registry)
    jsonschema.Draft202012Validator.check_schema(schema)
    judge = jsonschema.Draft202012Validator(schema)
    assert judge.is_valid({"model": "m", "dataset": "d", "tuner": "lora", "lora": {"rank": 4}, "train": {"epochs": 2}})
    assert judge.is_valid(load("sft", values={"model": "m", "dataset": "d"}, registry=registry, environ={}).plain())
    for wrong in (
        {"modle": "m"},
        {"lora": {"rnak": 4}},
        {"train": {"epochs": "many"}},
        {"dtype": "fp8"},
        {"lora": {"rank": 0}},
    ):
        assert not judge.is_valid(wrong), wrong


def test_a_verb_without_configuration_is_refused(registry):
    with pytest.raises(ConfigError, match="reads no configuration; these do: sft"):
        editor_schema("doctor", registry)
