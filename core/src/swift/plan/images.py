"""Tokens that images of rows become, from the files of the model's processor and the headers of the images. Left of the torch
line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swift.data.formats import Converter
from swift.data.media import decode_uri, image_size, is_local, local_path
from swift.data.sources import Row
from swift.errors import DataError, SwiftError

Count = Callable[[int, int], int]
"""(height, width) of an image in pixels -> tokens."""
LONGEST = 200
"""Such models refuse images that are more than so many times as long as wide."""


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


def counter(folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Count | None:
    """How a model folder's processor turns images into tokens; None where its files do not say so.

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


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class ImageTokens:
    """Called with a row and its file: the tokens of its images.

    Args:
        count: What `counter` gave.
        columns: Own column -> canonical one.
        media_folder: Where relative paths start; None: at the data file.

    Attributes:
        unread: Images whose size could not be found out: missing, or behind a URL.
    """

    def __init__(self, count: Count, *, columns: Mapping[str, str], media_folder: str | None = None) -> None:
        self._count, self._media_folder, self._columns = count, media_folder, dict(columns)
        self._converter: Converter | None = None
        self.unread = 0

    def __call__(self, row: Mapping[str, Any], file: Path) -> int:
        try:
            self._converter = self._converter or Converter(str(file), columns=self._columns, need_answer=False)
            images = self._converter(Row(dict(row), str(file), 1)).get("images") or ()
        except SwiftError:
            return 0  # the run rejects the row, and says why
        return sum(self._tokens(item, file) for item in images)

    def _tokens(self, item: str, file: Path) -> int:
        try:
            if is_local(item):
                return self._count(*image_size(local_path(item, Path(self._media_folder or file.parent).expanduser())))
            if item.startswith("data:"):
                return self._count(*image_size(decode_uri(item)))
        except DataError:
            pass
        self.unread += 1
        return 0
