"""Writes the index. Imported only when it is rebuilt."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from swift.plugins import collect, index, markers
from swift.plugins.preferences import Preferences


def build(file: str, head: list[Any], paths: list[str], chosen: Preferences) -> dict[str, Any]:
    """The contents of a new index, which is stored."""
    text = ""
    while not text and may_fork():
        child, text = _gathered_in_a_copy(head, paths, chosen)
        if not text and not _tell_of_crash(child):
            break
    text = text or _gathered(head, paths, chosen)
    if index.enabled():
        index.write_text(file, text)
    data: dict[str, Any] = json.loads(text)
    return data


def _gathered(head: list[Any], paths: list[str], chosen: Preferences) -> str:
    """The index as JSON."""
    plugins, specs, files = collect.collect(paths, chosen)
    watched = [*files, *(path for p in plugins if p.file and p.source.startswith("editable") for path in _beside(p.file))]
    return index.text_of(
        {
            "head": head,
            "files": [index.stamp(path) for path in dict.fromkeys(watched)],
            "plugins": [plugin._asdict() for plugin in plugins],
            "entries": specs,
        }
    )


def may_fork() -> bool:
    """A copy of a process is whole only where it has one thread; torch starts some that Python does not count."""
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() == 1
    return sys.platform == "linux" and alone and "torch" not in sys.modules


def _gathered_in_a_copy(head: list[Any], paths: list[str], chosen: Preferences) -> tuple[int, str]:
    """`_gathered` by a forked copy of this process, so that a door which ends its process does not end this one.

    Returns the copy's process id, and "" where it ended before it was done.
    """
    receiving, sending = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            gc.disable()
            with os.fdopen(sending, "w", encoding="utf-8") as pipe:
                pipe.write(_gathered(head, paths, chosen))
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)  # without the clean-up that belongs to this process
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return child, text
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 130:
        raise KeyboardInterrupt
    return child, ""


def _tell_of_crash(child: int) -> bool:
    """Name the plugin whose door ended process `child`. False where no door did."""
    note = markers.left_by(child)
    if note is None:
        return False
    who = f"plugin {note.get('id')!r} ({note.get('dist')} {note.get('version')})"
    print(f"{who} ended the process that imported {note.get('module')}; it is left out   (swift doctor)", file=sys.stderr)
    return True


def _beside(door: str) -> list[str]:
    """What a door may read its specs from; pip touches nothing when such a file of an editable plugin is edited."""
    try:
        with os.scandir(os.path.dirname(door)) as items:
            return sorted(item.path for item in items if item.name.endswith((".py", ".json")))
    except OSError:
        return []
