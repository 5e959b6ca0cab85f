"""What is known about downloaded files beyond what huggingface_hub keeps: hashes that were checked, selections that are whole.

huggingface_hub trusts a plain HTTP download of the right length. The hub tells a sha256 for each large file; it is checked
here once per file, and remembered with the file's size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

NOTES = ".swift.json"
CHUNK = 8 << 20


class Notes:
    """`.swift.json` in the folder of a cached repository. A lost or damaged file costs a second check, nothing else."""

    def __init__(self, snapshot: Path) -> None:
        self.snapshot = snapshot
        self.file = snapshot.parent.parent / NOTES
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        data = data if isinstance(data, dict) else {}
        self.verified: dict[str, Any] = data.get("verified") or {}
        self.selections: dict[str, list[str]] = data.get("selections") or {}

    def save(self) -> None:
        """Atomically; a cache that cannot be written to is used without notes."""
        try:
            handle, name = tempfile.mkstemp(dir=self.file.parent, prefix=NOTES)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"verified": self.verified, "selections": self.selections}, stream, indent=1, sort_keys=True)
            os.replace(name, self.file)
        except OSError:
            return

    def whole(self, key: str) -> list[str] | None:
        """Files of a selection that was downloaded to the end and is still there."""
        files = self.selections.get(f"{self.snapshot.name}:{key}")
        return files if files is not None and all((self.snapshot / f).is_file() for f in files) else None

    def remember(self, key: str, files: list[str]) -> None:
        self.selections[f"{self.snapshot.name}:{key}"] = files
        self.save()

    def corrupt(self, hashes: dict[str, str]) -> list[str]:
        """Names of files whose content is not what the hub says; they are removed, so that they are fetched again.

        Args:
            hashes: File name -> sha256 in hex, "" where the hub tells none.
        """
        bad = []
        for name, stated in hashes.items():
            link = self.snapshot / name
            # The cache names a large file by its sha256 and links to it; what lies behind that may have other names.
            blob = link.parent / os.readlink(link) if link.is_symlink() else link
            expected = stated or (blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else "")
            state = link.stat()
            seal = [expected, state.st_size, state.st_mtime_ns]
            key = blob.name if link.is_symlink() else f"{self.snapshot.name}/{name}"
            if not expected or self.verified.get(key) == seal:
                continue
            if sha256(link) == expected:
                self.verified[key] = seal
            else:
                bad.append(name)
                for file in (link.resolve(), blob, link):
                    file.unlink(missing_ok=True)
        self.save()
        return bad


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
