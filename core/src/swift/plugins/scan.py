"""Finds entry points of the group `swift.plugins` by reading metadata folders.

`importlib.metadata` gives the same answer (a test compares them) but its import alone costs as much as a third of the
start-up budget, and reading `dist.metadata` of every distribution several times that.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
from typing import NamedTuple

GROUP = "swift.plugins"


class Candidate(NamedTuple):
    """An entry point, before anything is imported."""

    id: str
    module: str
    dist: str
    version: str
    source: str
    entry_points_file: str


def normalize(dist: str) -> str:
    """Spelling of a distribution's name that compares (PEP 503)."""
    return "-".join(filter(None, dist.lower().replace("_", "-").replace(".", "-").split("-")))


def _read(*parts: str) -> str:
    try:
        with open(os.path.join(*parts), "rb", buffering=0) as file:
            return file.read().decode()
    except (OSError, UnicodeDecodeError):
        return ""


def entry_points(text: str) -> list[tuple[str, str]]:
    """(key, value) of our group in an entry_points.txt."""
    found, inside = [], False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{GROUP}]"
        elif inside and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            found.append((key.strip(), value.strip().partition("[")[0].strip()))
    return found


def name_and_version(metadata: str) -> tuple[str, str]:
    """Of the headers of METADATA or PKG-INFO."""
    fields = {"name": "", "version": ""}
    for line in metadata.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        if key.lower() in fields and not fields[key.lower()]:
            fields[key.lower()] = value.strip()
    return fields["name"], fields["version"]


def source_of(folder: str) -> str:
    """Where a distribution came from, by its direct_url.json; "index" where there is none."""
    try:
        data = json.loads(_read(folder, "direct_url.json") or "{}")
        url = str(data.get("url", ""))
        if "vcs_info" in data:
            return f"{data['vcs_info'].get('vcs', 'git')}+{url}@{data['vcs_info'].get('commit_id', '?')[:12]}"
        if data.get("dir_info", {}).get("editable"):
            return f"editable {url.removeprefix('file://')}"
        return url or "index"
    except (ValueError, AttributeError):
        return "unknown (direct_url.json is damaged)"


def file_of(module: str, paths: list[str]) -> str:
    """The file behind a dotted module name, found without importing anything; "" where there is none."""
    locations: list[str] | None = paths
    spec = None
    for end in [i for i, c in enumerate(module) if c == "."] + [len(module)]:
        try:
            spec = importlib.machinery.PathFinder.find_spec(module[:end], locations)
        except (ImportError, ValueError, KeyError):
            return ""
        if spec is None:
            return ""
        locations = list(spec.submodule_search_locations or ())
    return spec.origin or "" if spec else ""


def scan(paths: list[str]) -> list[Candidate]:
    """All entry points of the group, sorted by id; of a distribution that is on the path twice, the first one's."""
    found: dict[str, list[Candidate]] = {}
    for path in paths:
        try:
            with os.scandir(path) as items:
                names = [i.name for i in items if i.name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        here: dict[str, list[Candidate]] = {}
        for name in sorted(names):
            folder = os.path.join(path, name)
            text = _read(folder, "entry_points.txt")
            if GROUP not in text:
                continue
            dist, version = name_and_version(_read(folder, "METADATA") or _read(folder, "PKG-INFO"))
            dist = dist or os.path.basename(folder).split("-")[0]
            source, file = source_of(folder), os.path.join(folder, "entry_points.txt")
            here[normalize(dist)] = [
                Candidate(key, value, dist, version or "?", source, file) for key, value in entry_points(text)
            ]
        for dist, candidates in here.items():
            found.setdefault(dist, candidates)
    return sorted(candidate for candidates in found.values() for candidate in candidates)
