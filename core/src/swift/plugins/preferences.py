"""What the user decided about plugins: a small JSON file, and `SWIFT_PLUGINS` for one run.

    {"disabled": ["galore"], "prefer": {"tuner:lora": "acme-swift-lora"}, "allow": ["swift-llm-*", "acme-swift-galore==0.3.*"]}

The file is `$SWIFT_CONFIG`, else `plugins.json` in the user's config folder.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from swift.errors import ConfigError

KEYS = ("disabled", "prefer", "allow")


class Preferences(NamedTuple):
    """What decides which plugins are used.

    Args:
        disabled: Plugin ids or distributions that are switched off.
        prefer: `kind:name` -> distribution.
        allow: Patterns of distributions; None admits all.
        only, without: From SWIFT_PLUGINS; `only` is None where no list was given.
    """

    disabled: tuple[str, ...] = ()
    prefer: dict[str, str] = {}
    allow: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    def key(self) -> list[Any]:
        """What decides which plugins are imported."""
        lists = (self.disabled, self.allow, self.only, self.without)
        return [None if names is None else list(names) for names in lists]


def config_file() -> str:
    if "SWIFT_CONFIG" in os.environ:
        return os.environ["SWIFT_CONFIG"]
    base = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return os.path.join(base or os.path.expanduser("~/.config"), "swift-llm", "plugins.json")


def read_file() -> dict[str, Any]:
    """Contents of the user's file, {} where there is none. Raises `ConfigError` for a file that is not what it should be."""
    path = config_file()
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="mend or delete the file") from None
    if not isinstance(data, dict) or set(data) - set(KEYS):
        unknown = sorted(set(data) - set(KEYS)) if isinstance(data, dict) else type(data).__name__
        raise ConfigError(f"{path}: {unknown} is unknown; allowed keys are {', '.join(KEYS)}", fix="mend or delete the file")
    for key, kind in (("disabled", list), ("prefer", dict), ("allow", list)):
        value = data.get(key, kind())
        items = [*value, *value.values()] if isinstance(value, dict) else value
        if not isinstance(value, kind) or not all(isinstance(v, str) for v in items):
            shape = "mapping" if kind is dict else "list"
            raise ConfigError(f"{path}: {key} must be a {shape} of strings", fix="mend or delete the file")
    return data


def write_file(data: dict[str, Any]) -> str:
    """Replace the user's file and return its path."""
    path = config_file()
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)
    return path


def load() -> Preferences:
    data = read_file()
    words = [w.strip() for w in os.environ.get("SWIFT_PLUGINS", "").split(",") if w.strip()]
    only = tuple(w for w in words if not w.startswith("-") and w != "none")
    return Preferences(
        disabled=tuple(sorted(data.get("disabled", ()))),
        prefer=dict(data.get("prefer", {})),
        allow=tuple(data["allow"]) if "allow" in data else None,
        only=only if only or "none" in words else None,
        without=tuple(w[1:] for w in words if w.startswith("-")),
    )
