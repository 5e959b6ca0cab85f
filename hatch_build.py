"""Build hook of the metapackage: where its members are.

In a checkout each member is `name @ file:///.../folder`, so that `pip install .` needs nothing but this checkout. With
SWIFT_BUILD=release it is `name==version`, which is what may be published. Built from an sdist (no folders beside this file) it
is `name==version` too.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class WorkspaceHook(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        members: dict[str, str] = self.config["members"]
        release = os.environ.get("SWIFT_BUILD") == "release"

        def requirement(wanted: str) -> str:
            """`wanted` is a member, perhaps with an extra (`swift-llm-core[run]`), or a library."""
            name = wanted.partition("[")[0]
            if name not in members:
                return wanted
            folder = pathlib.Path(self.root) / members[name]
            if not release and (folder / "pyproject.toml").is_file():
                return f"{wanted} @ {folder.resolve().as_uri()}"
            return f"{wanted}=={metadata['version']}"

        extras = {extra: [requirement(name) for name in names] for extra, names in self.config["extras"].items()}
        extras["dev"] = sorted({name for extra in ("build", "lint", "test") for name in extras[extra]})
        extras["all"] = [requirement(name) for name in members if name not in self.config.get("not-in-all", [])]
        metadata["dependencies"] = [requirement(name) for name in self.config["default"]]
        metadata["optional-dependencies"] = extras
