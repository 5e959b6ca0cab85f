"""Writes docs/cli.md from what the commands say about themselves. `python docs/generate.py [--check]`

--check writes nothing and fails when the file is stale. Run it in an environment with the default plugins (`make docs`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from swift.cli.main import VERBS

FILE = Path(__file__).parent / "cli.md"
HEAD = """# Command line

Written by `make docs` from the commands' own `--help`, with the default plugins installed.
"""


def help_of(*words: str) -> str:
    """What `swift WORDS --help` prints, at a fixed width, without colour, and without the user's settings."""
    with tempfile.TemporaryDirectory() as none:
        own = {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb", "SWIFT_CONFIG": f"{none}/config", "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "swift", *words, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, check=False)
    if done.returncode:
        sys.exit(f"swift {' '.join(words)} --help failed:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def document() -> str:
    parts = [HEAD, f"```\n$ swift --help\n{help_of()}\n```\n"]
    parts += [f"## swift {verb}\n\n```\n$ swift {verb} --help\n{help_of(verb)}\n```\n" for verb in VERBS]
    return "\n".join(parts)


if __name__ == "__main__":
    text = document()
    if sys.argv[1:] == ["--check"]:
        if not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
            sys.exit(f"{FILE.name} is stale: make docs")
    else:
        FILE.write_text(text, encoding="utf-8")
        print("wrote", FILE)
