"""Makes this checkout importable where nothing of it is installed: sources and entry points on `sys.path`, wheels unpacked.

Standard library alone, so that what is missing can be said before anything is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import zipfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEELS = HERE / "wheels"
MEMBERS = ("core", "devices/*", "tuners/*", "backends/*/*", "plugins/tiny", "plugins/*/*")

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes", "flash_attn", "liger_kernel", "datasets", "pydantic",
    "pydantic_core", "pluggy", "pyarrow", "rich", "yaml", "safetensors", "triton", "numpy",
)  # fmt: skip
"""Import names whose versions are reported."""
ENTRY_POINTS = "swift.plugins"


def write(target: Path, wheels: Path = WHEELS) -> list[str]:
    """Fill a folder with metadata of every member and what the wheels hold; returns what goes on `sys.path`, in order.

    What is unpacked from wheels stands in `target/wheels`, which belongs at the end: it fills gaps and replaces nothing.
    """
    metadata = target / "metadata"
    sources = []
    for project in sorted(file for pattern in MEMBERS for file in ROOT.glob(f"{pattern}/pyproject.toml")):
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        sources.append(str(project.parent / "src"))
        folder = metadata / f"{table['name'].replace('-', '_')}-{table['version']}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n", encoding="utf-8"
        )
        points = table.get("entry-points", {}).get(ENTRY_POINTS, {})
        if points:
            lines = [f"[{ENTRY_POINTS}]", *(f"{key} = {value}" for key, value in points.items())]
            (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    unpacked = target / "wheels"
    unpacked.mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        if fits(wheel):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
    return [str(metadata), *sources]


def use(target: Path, paths: list[str]) -> None:
    """Put what `write` made on the path of this process."""
    sys.path[1:1] = paths
    sys.path.append(str(target / "wheels"))
    os.environ.setdefault("SWIFT_HOME", str(target / "home"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def fits(wheel: Path) -> bool:
    """Whether a wheel is for this interpreter and machine."""
    python, abi, platform = wheel.stem.split("-")[-3:]
    major, minor = sys.version_info[:2]
    if platform == "any":
        return not {f"py{major}", f"py{major}{minor}"}.isdisjoint(python.split("."))
    own = f"cp{major}{minor}"
    here = os.uname().machine if hasattr(os, "uname") else ""
    return (python == own or (python.startswith("cp3") and abi == "abi3")) and platform.endswith(here) and "linux" in platform


def versions() -> dict[str, str | None]:
    """Version of each of `PACKAGES`; None where it cannot be imported from."""
    distributions = importlib.metadata.packages_distributions()
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            found[name] = None
            continue
        try:
            found[name] = importlib.metadata.version((distributions.get(name) or [name])[0])
        except importlib.metadata.PackageNotFoundError:
            found[name] = "?"
    return found


def missing(*names: str) -> list[str]:
    """Those of the named packages that are not here."""
    return [name for name in names if importlib.util.find_spec(name) is None]
