"""Text of the chat template that is named. Left of the torch line."""

from __future__ import annotations

from pathlib import Path

from swift.data.sources import DatasetRegistry
from swift.errors import ConfigError
from swift.plugins.loading import package_path

FILES = (".jinja", ".jinja2", ".j2")


def template_text(name: str, registry: DatasetRegistry | None = None) -> str | None:
    """Jinja text of a file or of a template plugin; None where `name` is auto: the tokenizer's own.

    Raises:
        ConfigError: The file is not there or cannot be read.
        PluginNotFound: No file, and no installed template of that name.
    """
    if name in ("", "auto"):
        return None
    file = Path(name).expanduser()
    if not file.is_file() and (file.suffix in FILES or registry is None):
        raise ConfigError(f"there is no template file {name}", fix="check the path; --template auto is the tokenizer's own")
    if not file.is_file() and registry is not None:
        file = package_path(registry.find("template", name).spec.file)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template {file}: {error}", fix="give a text file with Jinja in it") from error
