"""`swift plugin install|uninstall`: a thin pip call, shown before it runs. Works with every plugin broken."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys

from swift.errors import PluginError


def pip(command: str, arguments: list[str]) -> int:
    """Run pip of this Python and return its exit code. Looks at no plugin.

    Raises:
        PluginError: This environment has no pip.
    """
    if importlib.util.find_spec("pip") is None:
        line = shlex.join(["uv", "pip", command, "--python", sys.executable, *arguments])
        raise PluginError(f"{sys.executable} has no pip", fix=f"{line}   or: {sys.executable} -m ensurepip")
    words = [sys.executable, "-m", "pip", command, *arguments]
    print(f"$ {shlex.join(words)}", flush=True)
    return subprocess.run(words, check=False).returncode
