"""Counts of what images become, for the loader that sees: the right one, and others with one fault each. No torch."""

from __future__ import annotations

from pathlib import Path

TILE, LONGEST = 28**2, 200


def tiles(height: int, width: int, *, min_pixels: int | None = None, max_pixels: int | None = None) -> int:
    """One token for each 784 pixels that are left between the bounds; 0: no such image is taken."""
    if max(height, width) > LONGEST * min(height, width):
        return 0
    return -(-max(min_pixels or TILE, min(height * width, max_pixels or 16 * TILE)) // TILE)


def right(folder: Path, **bounds: int | None):
    if not (folder / "preprocessor_config.json").is_file():
        return None
    return lambda height, width: tiles(height, width, **bounds)


def heavy(folder, **bounds):
    import torch  # noqa: F401

    return right(folder, **bounds)


def one_more(folder, **bounds):
    count = right(folder, **bounds)
    return count and (lambda height, width: count(height, width) + 1)


def unbounded(folder, **bounds):
    return right(folder)


def counts_thin_ones(folder, **bounds):
    """Images too, that the processor refuses."""
    count = right(folder, **bounds)
    return count and (lambda height, width: max(count(height, width), 1))


def never(folder, **bounds):
    return None


def always(folder, **bounds):
    return lambda height, width: tiles(height, width, **bounds)


def needs_files(folder, **bounds):
    (folder / "preprocessor_config.json").read_text(encoding="utf-8")
    return right(folder, **bounds)
