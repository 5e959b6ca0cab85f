"""Headers of weight files, against what safetensors itself wrote; damage is an answer, never a crash."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swift.errors import ModelError
from swift.plan.headers import INDEX_NAME, read_header, read_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    tensors = {"a.weight": torch.zeros(3, 5, dtype=torch.bfloat16), "b.bias": torch.ones(7), "n": torch.tensor(1)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_headers_say_what_was_saved(weights: Path) -> None:
    found = read_weights(weights.parent)
    assert found is not None
    assert {name: (t.dtype, t.shape) for name, t in found.tensors.items()} == {
        "a.weight": ("BF16", (3, 5)), "b.bias": ("F32", (7,)), "n": ("I64", ())}  # fmt: skip
    assert (found.parameters, found.bytes, found.dtype) == (23, 30 + 28 + 8, "bfloat16")


def test_no_weights_is_none(tmp_path: Path) -> None:
    assert read_weights(tmp_path) is None


def test_shards_are_found_by_the_index_and_a_missing_one_is_named(weights: Path) -> None:
    folder = weights.parent
    (folder / "model-00001-of-00002.safetensors").write_bytes(weights.read_bytes())
    weight_map = {"a.weight": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"lacks 1 of the 2 weight files.*model-00002-of-00002"):
        read_weights(folder)
    save_file({"c": torch.zeros(2, 2)}, folder / "model-00002-of-00002.safetensors")
    found = read_weights(folder)
    assert found is not None and found.parameters == 27


@pytest.mark.parametrize("keep", [0, 4, 8, 30, -1])
def test_a_truncated_file_is_a_model_error(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged"):
        read_header(weights)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 3) + b"\xff\xfe{",
        struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}    ' + b"\0" * 8,
        struct.pack("<Q", 58) + b'{"a":{"dtype":"F32","shape":"x","data_offsets":[0,4]}}    ' + b"\0" * 8,
    ],
)
def test_garbage_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        read_weights(tmp_path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        read_weights(tmp_path)


def test_a_broken_index_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text('{"weight_map": 3}', encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path)
