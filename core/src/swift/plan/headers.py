"""What a model folder's weight files hold, from their headers: no tensor is read. Left of the torch line.

A safetensors file begins with 8 bytes (little-endian length of the header) and the header, JSON: name -> dtype, shape,
[begin, end) within the data that follows.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swift.errors import ModelError

ITEMSIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F4": 0.5,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "I8": "int8",
    "U8": "uint8",
}
_MAX_HEADER = 100_000_000
"""The format's own limit."""
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    dtype: str
    """As safetensors spells it (BF16, F32, ...)."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightFiles:
    """The tensors of one folder."""

    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @cached_property
    def parameters(self) -> int:
        return sum(t.size for t in self.tensors.values())

    @cached_property
    def dtype(self) -> str:
        """torch's name of the dtype that holds most numbers; "" for an empty folder."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += tensor.size
        return DTYPES.get(counts.most_common(1)[0][0], counts.most_common(1)[0][0].lower()) if counts else ""

    @cached_property
    def bytes(self) -> int:
        return round(sum(t.size * ITEMSIZE.get(t.dtype, 2) for t in self.tensors.values()))


def read_header(path: Path) -> dict[str, Tensor]:
    """Raises `ModelError` for a file that is missing, truncated or no safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise _corrupt(path, f"it has {size} bytes, a header alone has more")
            (length,) = struct.unpack("<Q", start)
            if start.startswith(b"version "):
                raise ModelError(
                    f"{path} is a Git LFS pointer, not the weights",
                    fix="run `git lfs pull` in the model folder, or fetch the model again",
                )
            if length > _MAX_HEADER or 8 + length > size:
                raise _corrupt(path, f"its header claims {length} bytes and the file has {size}")
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}", fix="fetch the model again") from error
    try:
        header: dict[str, Any] = json.loads(text)
        end = 0
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            shape = tuple(int(n) for n in entry["shape"])
            tensors[name] = Tensor(str(entry["dtype"]), shape)
            expected = math.prod(shape) * ITEMSIZE.get(str(entry["dtype"]), 0)
            if min(begin, *shape, 0) < 0 or (expected and stop - begin != math.ceil(expected)):
                raise _corrupt(path, f"tensor {name} has {stop - begin} bytes, its shape {list(shape)} needs {expected}")
            end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path, f"its header is not what the format says ({error})") from error
    if 8 + length + end > size:
        raise _corrupt(path, f"it ends after {size} bytes, its header says {8 + length + end}")
    return tensors


def read_weights(folder: Path) -> WeightFiles | None:
    """Headers of a folder's safetensors files, by its index where there is one. None: the folder has no such files.

    Raises:
        ModelError: A file is damaged, or a shard that the index names is missing.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = sorted(set(names.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} cannot be read: {error!r}", fix="fetch the model again") from error
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of the {len(shards)} weight files in its index, e.g. {missing[0]}",
                fix="fetch the model again; the download was not complete",
            )
        files = tuple(folder / name for name in shards)
    else:
        files = tuple(sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors")))
        files = tuple(f for f in files if not f.name.startswith("adapter_"))
    if not files:
        return None
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(read_header(file))
    return WeightFiles(files, tensors)


def _corrupt(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is damaged: {what}", fix="fetch the model again; the download was not complete")
