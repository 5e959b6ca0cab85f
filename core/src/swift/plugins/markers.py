"""A note on disk while a descriptor is being imported, so that one that takes the interpreter down is skipped next time.

The note `loading.<host>.<pid>` names the plugin. If its process is gone and the note is still there, the import ended in a
native crash, an `os.abort` or a kill. It counts until the descriptor file changes or `swift plugin retry ID` removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from swift.plugins import index


def _prefix() -> str:
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"loading.{host or 'host'}."


def note(what: dict[str, Any]) -> str:
    """Write this process's note and return its path, "" where the home cannot be written."""
    file = os.path.join(index.folder(), f"{_prefix()}{os.getpid()}")
    return file if index.write(file, what) else ""


def clear(file: str) -> None:
    if file:
        try:
            os.unlink(file)
        except OSError:
            pass  # somebody else's clean-up was faster


def left_by(pid: int) -> dict[str, Any] | None:
    """The note that process `pid` of this host left, None where there is none."""
    data = index.read(os.path.join(index.folder(), f"{_prefix()}{pid}"))
    return data if isinstance(data, dict) else None


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return False  # os.kill(pid, 0) would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def left_behind() -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, contents) of the notes of this host's processes that are gone."""
    try:
        names = os.listdir(index.folder())
    except OSError:
        return
    for name in names:
        pid = name.removeprefix(_prefix())
        if pid != name and pid.isdigit() and int(pid) != os.getpid() and not _alive(int(pid)):
            file = os.path.join(index.folder(), name)
            data = index.read(file)
            if isinstance(data, dict):
                yield file, data
