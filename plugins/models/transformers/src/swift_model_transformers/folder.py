"""Looks at a model folder before anything is loaded, so that each fault has its own sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from swift.api import ModelError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "tokenizer_config.json",
)  # fmt: skip
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LFS_POINTER = b"version https://git-lfs"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises `ModelError` where the folder is no model folder."""
    if not folder.is_dir():
        raise ModelError(f"no folder {folder}", fix="check the path, or give a hub id as --model ORG/NAME")
    file = folder / "config.json"
    if not file.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} holds an adapter (adapter_config.json), not a model",
                fix="give its base model as --model, or use the run directory that it belongs to",
            )
        if any(folder.glob("*.gguf")):
            raise ModelError(
                f"{folder} holds GGUF files, which cannot be trained on", fix="take the original safetensors model"
            )
        raise ModelError(f"{folder} has no config.json", fix="give the folder that holds config.json and the weights")
    config = read_json(file)
    if not isinstance(config, dict):
        raise ModelError(f"{file} is not a model's configuration", fix="download the model again")
    return config


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelError(f"{file} cannot be read: {error}", fix="download the model again") from error


def require_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES[:3])}, ...)",
            fix="copy the tokenizer files of the model into the folder, or download it again",
        )


def check_weights(folder: Path) -> list[Path]:
    """The weight files, each whole as far as its header tells. Raises `ModelError` naming the first that is not."""
    named = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if named is None:
        if any(folder.glob("consolidated*.safetensors")) or any(folder.glob("consolidated*.pth")):
            raise ModelError(
                f"{folder} holds weights in the vendor's own format only (consolidated.*)",
                fix="download the transformers version of the model (model*.safetensors)",
            )
        raise ModelError(
            f"{folder} has no weights (none of {', '.join(WEIGHT_FILES[:3])}, ...)",
            fix="download the model with its weights, or --init random to pre-train from nothing",
        )
    if named.suffix != ".json":
        files = [named]
    else:
        index = read_json(named)
        try:
            names = sorted(set(index["weight_map"].values()))
        except (TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{named} is not an index of weight files", fix="download the model again") from error
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing[:3])}",
                fix="download the model again; files that are there are kept",
            )
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
        elif file.stat().st_size == 0:
            raise ModelError(f"{file} is empty", fix="delete the file and download the model again")
    return files


def read_header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file (8 bytes of length, JSON, data), held against the file's size.

    Raises:
        ModelError: The file is truncated, too long, or no safetensors file.
    """
    again = "delete the file and download the model again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start + stream.read(len(LFS_POINTER) - 8) == LFS_POINTER:
            raise ModelError(f"{file} is a git-lfs pointer, not the weights", fix="run `git lfs pull` in the model folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            raise ModelError(f"{file} is corrupt: its {size} bytes do not hold a safetensors header", fix=again)
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(f"{file} is corrupt: its safetensors header cannot be read", fix=again) from error
    if size != expected:
        fault = "truncated" if size < expected else "too long"
        raise ModelError(f"{file} is {fault}: {size} bytes, and its header speaks of {expected}", fix=again)
    return tensors


def stored_dtype(config: dict[str, Any], weights: list[Path]) -> str:
    """dtype of the checkpoint: what config.json says, else that of the first floating-point tensor, else float32."""
    named = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    if isinstance(named, str) and named not in ("auto", "None"):
        return named.removeprefix("torch.")
    for file in weights:
        if file.suffix == ".safetensors":
            for entry in read_header(file).values():
                if entry["dtype"] in SAFETENSORS_DTYPES:
                    return SAFETENSORS_DTYPES[entry["dtype"]]
    return "float32"
