"""Tokens that images become, from the files of a model folder: what the processors of `media.py` do, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 200
"""Such models refuse images that are more than so many times as long as wide."""


def counter(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Callable[[int, int], int] | None:
    """`ModelSpec.image_tokens`: (height, width) -> tokens; None where the folder's files do not say.

    Args:
        min_pixels, max_pixels: Instead of the processor's own.
    """
    whole = _read(folder / "processor_config.json")
    images = {**_read(folder / "preprocessor_config.json"), **whole.get("image_processor", {})}
    vision = _read(folder / "config.json").get("vision_config") or {}
    try:
        if "merge_size" in images:
            size = images.get("size") or {}
            least = min_pixels or images.get("min_pixels") or size["shortest_edge"]
            most = max_pixels or images.get("max_pixels") or size["longest_edge"]
            square = images["patch_size"] * images["merge_size"]
            return lambda height, width: scaled(height, width, square=square, least=least, most=most)
        cut = images["crop_size"]
        height, width = (cut["height"], cut["width"]) if isinstance(cut, dict) else (cut, cut)
        patch = whole.get("patch_size") or vision["patch_size"]
        tokens = (height // patch) * (width // patch) + whole.get("num_additional_image_tokens", 1)
        tokens -= whole.get("vision_feature_select_strategy", "default") == "default"
        return lambda height, width: tokens
    except (KeyError, TypeError):
        return None


def scaled(height: int, width: int, *, square: int, least: int, most: int) -> int:
    """One token for each square of the image, once it is scaled to between `least` and `most` pixels and whole squares.

    Wang et al. 2024, "Qwen2-VL", section 2.1; as `smart_resize` of transformers' Qwen2VLImageProcessor.

    Args:
        square: Pixels of its side.
    """
    if max(height, width) > LONGEST * min(height, width):
        return 0  # the run rejects the row
    rows, columns = round(height / square), round(width / square)
    if rows * columns * square**2 > most:
        shrink = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(side / shrink / square)) for side in (height, width))
    elif rows * columns * square**2 < least:
        grow = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * grow / square) for side in (height, width))
    return rows * columns


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
