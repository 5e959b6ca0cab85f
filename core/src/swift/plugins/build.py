"""Writes the index. Imported only when it is rebuilt.

Where a process can be forked, its copy imports the doors and tells the original through a pipe which one it is at: of one
that ends the copy, or hangs, the original leaves a note on disk. Elsewhere each door is noted before it is imported.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any, Optional, TextIO

from swift.plugins import index, markers
from swift.plugins.preferences import Preferences

Door = Optional["dict[str, str]"]
"""The descriptor that is being imported: id, dist, version and module of its plugin. None: none is."""
PATIENCE = 1.0
"""Seconds after which a door that the copy is at is noted on disk, since both processes may be killed."""


def build(file: str, head: list[Any], paths: list[str], chosen: Preferences) -> dict[str, Any]:
    """The contents of a new index, which is stored."""
    text, ended = "", True
    while not text and ended and may_fork():
        text, ended = _gathered_in_a_copy(head, paths, chosen)
    text = text or _gathered_here(head, paths, chosen)
    if index.enabled():
        index.write_text(file, text)
    data: dict[str, Any] = json.loads(text)
    return data


def _gathered(head: list[Any], paths: list[str], chosen: Preferences, at: Callable[[Door], None]) -> str:
    """The index as JSON. `at` is told of each door before it is imported, and None afterwards."""
    collect = importlib.import_module("swift.plugins.collect")  # what it brings in would make a process dearer to copy
    plugins, specs, files = collect.collect(paths, chosen, at)
    watched = [*files, *(path for p in plugins if p.file and p.source.startswith("editable") for path in _beside(p.file))]
    return index.text_of(
        {
            "head": head,
            "files": [index.stamp(path) for path in dict.fromkeys(watched)],
            "plugins": [plugin._asdict() for plugin in plugins],
            "entries": specs,
        }
    )


class _Watch:
    """Which door process `pid` imports, so that it can be named when the process ends there, now or at the next start."""

    def __init__(self, pid: int, paths: list[str]) -> None:
        self.pid, self.paths = pid, paths
        self.door: Door = None
        self.file = ""

    def at(self, door: Door) -> None:
        markers.clear(self.file)
        self.door, self.file = door, ""

    def note(self) -> None:
        if self.door and not self.file:
            self.file = markers.note(self.pid, self.door, self.paths)

    def tell(self, text: str) -> None:
        """`text` on stderr, with the door's {id}, {who} and {module} filled in."""
        if self.door:
            who = f"plugin {self.door['id']!r} ({self.door['dist']} {self.door['version']})"
            print(text.format(who=who, **self.door), file=sys.stderr)

    def interrupted(self) -> None:
        self.tell("while importing {who}; without it: SWIFT_PLUGINS=-{id}")
        self.at(None)


def _gathered_here(head: list[Any], paths: list[str], chosen: Preferences) -> str:
    """`_gathered` by this process; a door that ends it is skipped by the next one."""
    watch = _Watch(os.getpid(), paths)

    def at(door: Door) -> None:
        watch.at(door)
        watch.note()

    try:
        return _gathered(head, paths, chosen, at)
    except KeyboardInterrupt:
        watch.interrupted()
        raise
    finally:
        watch.at(None)


def may_fork() -> bool:
    """A copy of a process is whole only where it has one thread; torch starts some that Python does not count."""
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() == 1
    return sys.platform == "linux" and alone and "torch" not in sys.modules


def _gathered_in_a_copy(head: list[Any], paths: list[str], chosen: Preferences) -> tuple[str, bool]:
    """`_gathered` by a forked copy of this process, so that a door which ends its process does not end this one.

    Returns "" where the copy ended before it was done, and whether a door ended it, which the next copy will skip.
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
                _speak(pipe, head, paths, chosen)
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)  # without the clean-up that belongs to this process
    os.close(sending)
    watch = _Watch(child, paths)
    try:
        text = _listen(receiving, watch)
    except KeyboardInterrupt:
        os.kill(child, 9)  # what hangs need not listen to a milder word
        os.waitpid(child, 0)
        watch.interrupted()
        raise
    finally:
        os.close(receiving)
    _, status = os.waitpid(child, 0)
    if status == 0 and text:
        return text, False
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 130:
        watch.interrupted()
        raise KeyboardInterrupt
    watch.note()
    if watch.file:
        watch.tell("{who} ended the process that imported {module}; it is left out   (swift doctor)")
    return "", bool(watch.file)


def _speak(pipe: TextIO, head: list[Any], paths: list[str], chosen: Preferences) -> None:
    """The copy's part: a line for each door and for the end of each, then the index without the end of a line."""

    def at(door: Door) -> None:
        pipe.write(index.text_of(door) + "\n")
        pipe.flush()

    pipe.write(_gathered(head, paths, chosen, at))


def _listen(receiving: int, watch: _Watch) -> str:
    """The original's part: keeps `watch` at the copy's door and returns the index, "" where it did not come."""
    said = bytearray()
    while True:
        if not select.select([receiving], [], [], PATIENCE)[0]:
            watch.note()
            continue
        more = os.read(receiving, 1 << 16)
        if not more:
            return said.decode()
        said += more
        *lines, rest = said.rsplit(b"\n", 1)
        if lines:
            watch.at(json.loads(lines[0].rpartition(b"\n")[2]))
            said = rest


def _beside(door: str) -> list[str]:
    """What a door may read its specs from; pip touches nothing when such a file of an editable plugin is edited."""
    try:
        with os.scandir(os.path.dirname(door)) as items:
            return sorted(item.path for item in items if item.name.endswith((".py", ".json")))
    except OSError:
        return []
