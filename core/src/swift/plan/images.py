"""Tokens that images of rows become: the sizes from the headers of the images, the count from the plugin of the model's loader.
Left of the torch line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from swift.data.formats import Converter
from swift.data.media import decode_uri, image_size, is_local, local_path
from swift.data.sources import Row
from swift.errors import DataError, PluginBroken, SwiftError
from swift.plugins.info import Entry
from swift.plugins.loading import load_object

Count = Callable[[int, int], int]
"""(height, width) of an image in pixels -> tokens."""


def counter(loader: Entry, folder: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Count | None:
    """How the models of a loader turn images into tokens; None where its spec names no count, or the folder's files none.

    Args:
        min_pixels, max_pixels: Instead of the processor's own.

    Raises:
        PluginBroken: What the spec names cannot be imported, fails, or gives something else; so may the count.
    """
    dotted = loader.spec.image_tokens
    if not dotted:
        return None
    with _blamed(loader):
        count = load_object(dotted)(folder, min_pixels=min_pixels, max_pixels=max_pixels)
        if count is None:
            return None
        if not callable(count):
            raise TypeError(f"it gives {count!r}; a function (height, width) -> tokens, or None, is asked for")

    @wraps(count)
    def checked(height: int, width: int) -> int:
        with _blamed(loader):
            tokens = count(height, width)
            if not isinstance(tokens, int) or tokens < 0:
                raise ValueError(
                    f"an image of {height} x {width} pixels becomes {tokens!r} tokens; a number from 0 is asked for"
                )
            return tokens

    return checked


@contextmanager
def _blamed(loader: Entry) -> Iterator[None]:
    """Whatever fails in the plugin's code, as a `PluginBroken` that names it."""
    where, fix = f"{loader.id} ({loader.origin})", f"pip install -U {loader.dist}" if loader.dist else ""
    try:
        yield
    except PluginBroken as error:
        raise PluginBroken(f"{where}: image_tokens: {error.message}", fix=error.fix or fix) from error
    except Exception as error:  # a third party's code
        told = f"{type(error).__name__}: {error}"
        raise PluginBroken(f"{where}: image_tokens={loader.spec.image_tokens!r} fails: {told}", fix=fix) from error


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
