"""Throw-away plugin distributions on disk: a package folder and a hand-written dist-info, as pip would leave them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from swift.plugins import build, index, loading
from swift.plugins.registry import Registry, discover

_numbers = itertools.count()

TUNER = """
from swift.api import TunerSpec, hookimpl

@hookimpl
def swift_tuners():
    return [TunerSpec(name="{name}", impl="{package}.impl:Impl", summary="a test")]
"""


def new_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool = False) -> Path:
    """An importable folder to install plugins into, with a home and preferences of its own.

    Args:
        alone: Nothing that is installed elsewhere is found.
    """
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("SWIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SWIFT_CONFIG", str(tmp_path / "plugins.json"))
    for name in ("SWIFT_PLUGINS", "SWIFT_STRICT_PLUGINS", "SWIFT_NO_INDEX", "SWIFT_LOCKED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(build, "may_fork", lambda: False)  # tests look at what this process has imported
    loading.digest.cache_clear()
    if alone:
        monkeypatch.setattr(index, "search_path", lambda: [str(folder)])
    return folder


def found_in(site: Path, **options: bool) -> Registry:
    return discover(paths=[str(site)], **options)


def package_name() -> str:
    """A name that no other test of this process uses: imported modules stay in sys.modules."""
    return f"acme_test_{os.getpid()}_{next(_numbers)}"


def make_dist(
    site: Path,
    descriptor: str = TUNER,
    *,
    dist: str = "acme-swift-galore",
    version: str = "0.3.1",
    plugin: str = "galore",
    name: str = "galore",
    package: str = "",
    files: dict[str, str] | None = None,
    direct_url: str = "",
    metadata: str = "",
) -> str:
    """Install a plugin into the folder `site`; returns its package. `{name}` and `{package}` are filled into TUNER.

    Args:
        metadata: Further header lines of METADATA, e.g. "Requires-Dist: torch>=2".
    """
    package = package or package_name()
    folder = site / package
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    text = descriptor.replace("{name}", name).replace("{package}", package)
    (folder / "swift_plugin.py").write_text(textwrap.dedent(text), encoding="utf-8")
    for path, content in (files or {}).items():
        (folder / path).write_text(textwrap.dedent(content), encoding="utf-8")
    info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    headers = ["Metadata-Version: 2.1", f"Name: {dist}", f"Version: {version}", *metadata.split("\n")]
    text = "".join(f"{line}\n" for line in headers if line)
    (info / "METADATA").write_text(f"{text}\nName: not this\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        f"[console_scripts]\nx = y:z\n\n[swift.plugins]\n{plugin} = {package}.swift_plugin\n", encoding="utf-8"
    )
    if direct_url:
        (info / "direct_url.json").write_text(direct_url, encoding="utf-8")
    record = [f"{package}/{p.name},sha256=x{p.stat().st_size},{p.stat().st_size}" for p in sorted(folder.iterdir())]
    record += [f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(record) + "\n", encoding="utf-8")
    return package


def python(code: str, *, site: Path | None = None, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with `site` on its path."""
    environment = {**os.environ, **env}
    environment.pop("PYTHONPATH", None)
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, cwd=cwd, timeout=120
    )
