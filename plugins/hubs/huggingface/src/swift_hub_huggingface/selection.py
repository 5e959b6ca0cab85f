"""Which files of a repository are wanted."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

SMALL = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".md")
DATA = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt")
NOT_DATA = (
    "README.md",
    "dataset_infos.json",
    "dataset_info.json",
    "state.json",
    "LICENSE.txt",
    "requirements.txt",
    "config.json",
)
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


def model_files(names: Iterable[str], *, weights: bool) -> list[str]:
    """Config, tokenizer and templates; with weights: safetensors, or .bin where there are none. No other format."""
    top = [n for n in names if "/" not in n]
    templates = [n for n in names if n.startswith("additional_chat_templates/") and n.endswith(".jinja")]
    safe = [n for n in top if n.endswith(".safetensors") and not n.startswith("consolidated")]
    pickled = [n for n in top if n.startswith("pytorch_model") and n.endswith(".bin")]
    small = [n for n in top if n.endswith(SMALL) and not (safe and n.startswith("pytorch_model"))]
    return sorted({*small, *templates, *((safe or pickled) if weights else ())})


def is_weight(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def card_configs(readme: str) -> list[Mapping[str, Any]]:
    """`configs` in the front matter of a dataset's README.md; [] where there is none."""
    found = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", readme, re.DOTALL)
    try:
        data = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        return []  # a broken card is no reason to refuse the data; file names decide then
    configs = data.get("configs") if isinstance(data, dict) else None
    return [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []


def dataset_files(names: Iterable[str], readme: str, *, subset: str, split: str) -> list[str]:
    """Data files of a subset and a split, as the card says, else by names of folders and files.

    Raises:
        LookupError: The subset or split is not there; its text lists those that are.
    """
    data = sorted(n for n in names if n.endswith(DATA) and PurePosixPath(n).name not in NOT_DATA and not n.startswith("."))
    configs = card_configs(readme)
    if configs:
        return _by_card(data, configs, subset, split)
    return _by_name(data, subset, split)


def _by_card(data: list[str], configs: list[Mapping[str, Any]], subset: str, split: str) -> list[str]:
    named = {str(c.get("config_name", "default")): c for c in configs}
    default = next((name for name, c in named.items() if c.get("default")), "default")
    name = subset or (default if default in named else next(iter(named)))
    if name not in named:
        raise LookupError(f"no subset {subset!r}; there are {', '.join(named)}")
    config = named[name]
    patterns = config.get("data_files")
    folder = str(config.get("data_dir") or "").strip("/")
    if patterns is None:
        return _by_name([n for n in data if not folder or n.startswith(f"{folder}/")], "", split)
    entries = patterns if isinstance(patterns, list) else [patterns]
    by_split: dict[str, list[str]] = {}
    for entry in entries:
        own, paths = (str(entry.get("split", "train")), entry.get("path", [])) if isinstance(entry, dict) else ("train", entry)
        for pattern in [paths] if isinstance(paths, str) else paths:
            wanted = f"{folder}/{pattern}" if folder else pattern
            by_split.setdefault(own, []).extend(n for n in data if _matches(n, wanted))
    if split and split not in by_split:
        raise LookupError(f"no split {split!r} in subset {name}; there are {', '.join(by_split)}")
    chosen = by_split[split] if split else [n for files in by_split.values() for n in files]
    return sorted(dict.fromkeys(chosen))


def _matches(name: str, pattern: str) -> bool:
    """Shell patterns as the hub reads them: `*` stays within a folder, `**` does not."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern.replace("**/", ""))
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def _by_name(data: list[str], subset: str, split: str) -> list[str]:
    if subset:
        inside = [n for n in data if subset in PurePosixPath(n).parts[:-1] or PurePosixPath(n).name.split(".")[0] == subset]
        if not inside:
            folders = sorted({PurePosixPath(n).parts[0] if "/" in n else PurePosixPath(n).name.split(".")[0] for n in data})
            raise LookupError(f"no subset {subset!r}; there are {', '.join(folders)}")
        data = inside
    if not split:
        return data
    by_split: dict[str, list[str]] = {}
    for name in data:
        by_split.setdefault(split_of(name), []).append(name)
    wanted = next((s for s, words in SPLITS.items() if split in words), split)
    if wanted not in by_split and set(by_split) == {""} and wanted == "train":
        return data  # files that name no split are all for training
    if wanted not in by_split:
        raise LookupError(f"no split {split!r}; there are {', '.join(sorted(filter(None, by_split))) or 'none'}")
    return by_split[wanted]


def split_of(name: str) -> str:
    """The split that a path speaks of as a word of its own; "" where it speaks of none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, spellings in SPLITS.items() if any(w in words for w in spellings)), "")
