"""The descriptor index: what discovery found, as JSON, so that a warm start imports and scans nothing.

An index is good for as long as its key holds: mtimes of the folders on `sys.path` (pip touches them), of the descriptor
files (editing an editable plugin touches them), the user's preferences, the versions of core and Python. One file per
`sys.path`, so that different environments do not evict each other. Files are replaced, never rewritten in place: eight
ranks may start at once.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import zlib
from typing import Any

import swift

SCHEMA = 1


def home() -> str:
    """Folder of Swift's caches: $SWIFT_HOME, else `swift-llm` in the platform's cache folder."""
    if "SWIFT_HOME" in os.environ:
        return os.environ["SWIFT_HOME"]
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~\\AppData\\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "swift-llm")


def folder() -> str:
    return os.path.join(home(), "index")


def search_path() -> list[str]:
    """The folders that plugins are looked for in: `sys.path` without the one that Python itself puts in front.

    That first entry is the current folder (`-c`, `-m`) or the script's: plugins are never loaded from there, and its mtime
    changes with every file that a run writes.
    """
    paths = list(sys.path)
    if paths and not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        front = {"", os.getcwd(), os.path.dirname(os.path.abspath(main)) if main else ""}
        if paths[0] in front:
            del paths[0]
    return [path for path in dict.fromkeys(paths) if path]


def stamp(path: str) -> list[Any]:
    """Identity of a file or folder at this moment; of a missing one too."""
    try:
        status = os.stat(path)
    except OSError:
        return [path, 0, 0]
    return [path, status.st_mtime_ns, 0 if stat.S_ISDIR(status.st_mode) else status.st_size]


def tag(paths: list[str], extra: str = "") -> str:
    """Part of a cache file's name that keeps environments apart."""
    text = "\0".join([sys.prefix, sys.version, *paths, extra])
    return f"{zlib.crc32(text.encode()):08x}{zlib.adler32(text.encode()):08x}"


def head(paths: list[str], preferences_key: list[Any]) -> list[Any]:
    """The part of the key that is known without the index."""
    return [SCHEMA, swift.__version__, preferences_key, [stamp(path) for path in paths]]


def enabled() -> bool:
    return os.environ.get("SWIFT_NO_INDEX", "") in ("", "0")


def read(file: str) -> Any:
    """Contents of a cache file, None where it is absent or damaged."""
    try:
        with open(file, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def write(file: str, data: Any) -> bool:
    """Replace a cache file. False where the home cannot be written (a read-only image): then nothing is cached."""
    return write_text(file, text_of(data))


def text_of(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))  # json.dump() would not use the C encoder


def write_text(file: str, text: str) -> bool:
    """`write` of what is JSON already."""
    temporary = f"{file}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except OSError:
        return False
    return True


def fresh(data: Any, head_now: list[Any]) -> bool:
    """Whether a stored index may be used."""
    try:
        return data["head"] == head_now and all(stamp(old[0]) == old for old in data["files"])
    except (KeyError, TypeError, IndexError):
        return False
