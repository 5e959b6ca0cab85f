"""YAML and JSON files with the line of every key, so that errors and provenance can name it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swift.config.spelling import SECRET_NAME, nearest
from swift.errors import ConfigError


@dataclass(frozen=True)
class Lined:
    """A value and where its key stands.

    Args:
        value: A scalar, a list of `Lined`, or a dict of `Lined`.
        line: 1 for the first line; 0 where it is unknown.
        text: A scalar as it was written, so that `007` and `yes` can still be read as text.
    """

    value: Any
    line: int = 0
    text: str | None = None

    def plain(self, *, texts: bool = False) -> Any:
        """The bare value; with `texts`, scalars as they were written."""
        if isinstance(self.value, dict):
            return {key: item.plain(texts=texts) for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain(texts=texts) for item in self.value]
        return self.text if texts and self.text is not None and self.value is not None else self.value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without dates, and with `1e-4` as a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(path: str | Path) -> dict[str, Lined]:
    """Top-level keys of a configuration file.

    Raises:
        ConfigError: No such file, not text, a syntax error, a key twice, or not a mapping.
    """
    path = Path(path)
    text = _text(path)
    try:
        return _compose(text, path)
    except ConfigError:
        if path.suffix != ".json":
            raise
        return _json(text, path)  # JSON may be indented by tabs, which YAML refuses


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        near = nearest(path.name, [p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml", ".json"}])
        hint = f"; did you mean {' or '.join(str(folder / n) for n in near)}?" if near else ""
        raise ConfigError(f"config file {path} does not exist{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"config file {path} is a directory", fix="name a .yaml or .json file") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8 text (byte {error.start})", fix="save it as UTF-8") from error


def _compose(text: str, path: Path) -> dict[str, Lined]:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        return _mapping(node, loader, path, [])
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, path) from error
    finally:
        if loader is not None:
            loader.dispose()


def _mapping(node: Any, loader: _Loader, path: Path, faults: list[str]) -> dict[str, Lined]:
    if not isinstance(node, yaml.MappingNode):
        what = "a list" if isinstance(node, yaml.SequenceNode) else f"the text {node.value[:40]!r}"
        raise ConfigError(
            f"{path}:{node.start_mark.line + 1}: a configuration is a mapping of keys to values, this is {what}",
            fix='write lines like "model: my-model"',
        )
    tree = _lined(node, loader, path, faults, ())
    if faults:
        raise ConfigError("\n".join(faults), fix="keep one line of each")
    return tree.value


def _lined(node: yaml.Node, loader: _Loader, path: Path, faults: list[str], parents: tuple[int, ...]) -> Lined:
    line = node.start_mark.line + 1
    if id(node) in parents:
        raise ConfigError(f"{path}:{line}: an anchor contains itself")
    if not isinstance(node, yaml.ScalarNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} means nothing here", node.start_mark)
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    faults.append(f"{path}:{key.start_mark.line + 1}: {key.value} stands here and in line {seen[key.value]}")
                seen.setdefault(key.value, key.start_mark.line + 1)
        loader.flatten_mapping(node)
        result: dict[str, Lined] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{path}:{key.start_mark.line + 1}: a key must be plain text")
            item = _lined(value, loader, path, faults, parents)
            result[key.value] = Lined(item.value, key.start_mark.line + 1, item.text)
        return Lined(result, line)
    if isinstance(node, yaml.SequenceNode):
        return Lined([_lined(item, loader, path, faults, parents) for item in node.value], line)
    value = loader.construct_object(node)
    return Lined(value, line, node.value)


def _syntax_error(error: yaml.YAMLError, text: str, path: Path) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return ConfigError(f"{path}: {problem}")
    place = f"{path}:{mark.line + 1}:{mark.column + 1}"
    lines = text.splitlines()
    source = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in source[: mark.column + 1]:
        return ConfigError(f"{place}: YAML is indented by spaces, this line has a tab", fix="replace the tab by two spaces")
    shown = source.strip()[:100] if not SECRET_NAME.search(source) else ""
    return ConfigError(f"{place}: not valid YAML: {problem}" + (f"\n    {shown}" if shown else ""))


def _json(text: str, path: Path) -> dict[str, Lined]:
    def lined(value: Any) -> Lined:
        if isinstance(value, Mapping):
            return Lined({key: lined(item) for key, item in value.items()})
        if isinstance(value, list):
            return Lined([lined(item) for item in value])
        return Lined(value, 0, value if isinstance(value, str) else json.dumps(value))

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, _ in pairs:
            if sum(key == other for other, _ in pairs) > 1:
                raise ConfigError(f"{path}: {key} stands there twice", fix="keep one of them")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values")
    return lined(data).value
