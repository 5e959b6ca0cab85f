"""A virtual environment per framework, built from pinned versions, so that nobody's requirements bend another's.

    python benchmarks/peers/environments.py [NAME ...] [--envs DIR]

Builds what is missing and says where it is. An environment whose pins have changed is built anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = Path.home() / ".cache" / "swift-benchmarks"

TORCH = "torch==2.13.0"
PINS: dict[str, list[str]] = {
    "swift": ["build", "editables", "flit_core", "hatchling", TORCH, "psutil==7.2.2"],
    "bare": [TORCH, "transformers==5.23.0", "peft==0.21.2", "psutil==7.2.2"],
    "trl": [
        TORCH, "transformers==5.23.0", "trl==1.16.0", "peft==0.21.2", "datasets==4.8.4", "accelerate==1.15.0", "psutil==7.2.2",
    ],
    "ms-swift": [TORCH, "ms-swift==4.6.0", "psutil==7.2.2"],
}  # fmt: skip


def python_of(name: str, root: Path = ENVIRONMENTS) -> Path:
    """The interpreter of an environment, which is built where it is missing or has other pins."""
    folder = root / name
    python = folder / "bin" / "python"
    stamp = folder / "pins.json"
    pins = PINS[name]
    what = [*pins, str(ROOT)] if name == "swift" else pins
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == what and python.is_file():
        return python
    print(f"building the environment {name} in {folder} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *pins], check=True)
    if name == "swift":  # every package editable, so that what runs is the checkout
        members = ["--no-build-isolation", "-c", "constraints.txt", "-r", "requirements/dev.txt"]
        subprocess.run([*install, *members], check=True, cwd=ROOT, env=os.environ | {"SWIFT_BUILD": "release"})
    stamp.write_text(json.dumps(what), encoding="utf-8")
    return python


def versions(python: Path) -> dict[str, str]:
    """Installed versions of what matters for a comparison."""
    names = [
        "torch",
        "transformers",
        "tokenizers",
        "peft",
        "datasets",
        "accelerate",
        "trl",
        "ms-swift",
        "swift-llm-core",
        "pyarrow",
    ]
    code = (
        "import importlib.metadata as m, json, platform\n"
        "found = {'python': platform.python_version()}\n"
        f"for name in {names!r}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    return json.loads(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PINS), help=f"any of {', '.join(PINS)}; default: all")
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS, help="folder of the environments")
    options = parser.parse_args()
    for name in options.names:
        print(f"{name:10}{python_of(name, options.envs)}  {versions(python_of(name, options.envs))}")


if __name__ == "__main__":
    main()
