"""A note on disk of a descriptor that is being imported, so that one that takes its process down is skipped next time.

The note `loading.<host>.<pid>` names the plugin. If its process is gone and the note is still there, the import ended in a
native crash, an `os.abort` or a kill. It counts until the descriptor file changes or `swift plugin retry ID` removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from swift.plugins import index, scan


def _prefix() -> str:
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"loading.{host or 'host'}."


def note(pid: int, door: dict[str, str], paths: list[str]) -> str:
    """Note that process `pid` of this host imports `door`; returns the path, "" where the home cannot be written."""
    file = os.path.join(index.folder(), f"{_prefix()}{pid}")
    stamp = index.stamp(scan.file_of(door["module"], paths))
    return file if index.write(file, {**door, "stamp": stamp}) else ""


def clear(file: str) -> None:
    if file:
        try:
            os.unlink(file)
        except OSError:
            pass  # somebody else's clean-up was faster


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return False  # os.kill(pid, 0) would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            # Z: killed, but nobody asked for its exit code; the first process of many containers never does
            return file.read().rpartition(") ")[2][:1] != "Z"
    except OSError:
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
