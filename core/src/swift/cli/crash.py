"""What happens when Swift itself is at fault: a short message, and everything else in a file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import swift
from swift.config.spelling import SECRET_NAME
from swift.plugins import index

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""


def report(error: BaseException, words: Sequence[str], *, debug: bool = False) -> int:
    """Say that this is a bug, keep the traceback in a file, and return the exit code."""
    details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if debug:
        print(details, file=sys.stderr, end="")
    text = str(error).strip().splitlines()
    print(f"swift: this is a bug: {type(error).__name__}" + (f": {text[0]}" if text else ""), file=sys.stderr)
    file = save(details, words)
    if file is not None:
        print(f"  the whole traceback is in {file}", file=sys.stderr)
    if not debug:
        print("  fix: report it with that file; --debug shows the traceback here", file=sys.stderr)
    return EXIT_CODE


def save(details: str, words: Sequence[str]) -> Path | None:
    """The file that the traceback was written to, None where nothing can be written."""
    head = (
        f"swift {swift.__version__}, python {platform.python_version()}, {platform.platform()}\n"
        f"command: swift {' '.join(_without_secrets(words))}\n\n"
    )
    for folder in (Path(index.home()) / "crashes", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"swift-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
            file.write_text(head + details, encoding="utf-8")
            return file
        except OSError:
            continue
    return None


def _without_secrets(words: Sequence[str]) -> list[str]:
    shown, hide = [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        is_flag = word.startswith("-")
        secret = is_flag and bool(SECRET_NAME.search(flag))
        shown.append(f"{flag}=(hidden)" if secret and equals else "(hidden)" if hide and not is_flag else word)
        hide = (secret and not equals) or (hide and not is_flag)
    return shown
