"""What the plugin says about itself is true of the files inside it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import pytest

from swift.api import DatasetSpec, ModelSpec
from swift_tiny import swift_plugin

PACKAGE = resources.files("swift_tiny")


def packaged(path: str):
    package, _, inside = path.partition(":")
    assert package == "swift_tiny"
    return PACKAGE / inside


def rows(spec: DatasetSpec) -> list[dict]:
    text = packaged(spec.files[0]).read_text(encoding="utf-8")
    return json.loads(text) if spec.files[0].endswith(".json") else [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def model() -> ModelSpec:
    (spec,) = swift_plugin.swift_models()
    return spec


def test_door_imports_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import swift_tiny.swift_plugin;"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'tokenizers', 'pluggy'} & (set(sys.modules) - before)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_model_spec_is_true_of_its_config(model):
    config = json.loads((packaged(model.folder) / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == [model.architecture] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] == model.context_length
    assert config["dtype"] == "bfloat16"


def test_parameter_count_is_that_of_the_weights(model):
    header = safetensors_header(packaged(model.folder) / "model.safetensors")
    assert sum(product(tensor["shape"]) for tensor in header.values()) == model.parameters
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert all(any(f".{name}.weight" in key for key in header) for name in model.linear_modules)


def safetensors_header(file) -> dict[str, dict]:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def test_model_folder_is_small_and_says_nothing_of_where_it_was_made(model):
    files = [f for f in packaged(model.folder).iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 10 * 10**6
    for file in files:
        if file.name.endswith("config.json"):
            text = file.read_text(encoding="utf-8")
            assert "_name_or_path" not in text and '"/' not in text, file.name


@pytest.mark.parametrize("spec", swift_plugin.swift_datasets(), ids=lambda spec: spec.name)
def test_dataset_has_the_rows_the_spec_counts(spec):
    assert len(rows(spec)) == spec.rows
    assert spec.licence and spec.source


def test_identity_rows_have_placeholders_and_chat_rows_have_answers():
    by_name = {spec.name: rows(spec) for spec in swift_plugin.swift_datasets()}
    identity = json.dumps(by_name["tiny-identity"], ensure_ascii=False)
    assert "{{name}}" in identity and "{{author}}" in identity
    assert all(row["instruction"] and row["output"] for row in by_name["tiny-chat"])
    assert all(len(row["text"]) > 500 for row in by_name["tiny-text"])
