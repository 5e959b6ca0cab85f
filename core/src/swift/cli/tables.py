"""Plain-text tables: a start-up that must stay cheap has no room for a library."""

from __future__ import annotations

import os
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Columns padded to their widest cell; the last one is cut at the terminal's width, if there is a terminal.

    Args:
        width: Columns of the terminal; None asks it.
    """
    if width is None:
        try:
            width = os.get_terminal_size(1).columns
        except OSError:
            width = 0
    cells = [[str(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(size) for cell, size in zip(row, widths)).rstrip()
        lines.append(line if not width or len(line) <= width else line[: width - 3] + "...")
        if number == 0:
            lines.append("  ".join("-" * size for size in widths)[: width or None])
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, object]], indent: str = "  ") -> str:
    """`name  value` lines, names aligned; empty values are left out."""
    shown = [(name, str(value)) for name, value in rows if value not in ("", None, (), [], {})]
    size = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{indent}{name.ljust(size)}  {value}" for name, value in shown)
