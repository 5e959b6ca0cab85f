"""The documentation is fresh: the command line reference, links, YAML, Python and commands in it."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from swift.cli.main import VERBS
from swift.config.loader import load
from swift.plugins.registry import discover

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    p
    for pattern in ("*.md", "docs/*.md", "*/README.md", "*/*/README.md", "*/*/*/README.md")
    for p in ROOT.glob(pattern)
    if not p.relative_to(ROOT).parts[0].startswith((".", "runs"))
)
IDS = [p.relative_to(ROOT).as_posix() for p in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
TRAIN_VERBS = {"sft", "pt", "train"}


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(m.group(1), m.group(2)) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


def test_command_line_reference_is_fresh():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [t for t in LINK.findall(text) if not t.startswith(("http://", "https://"))]
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_and_yaml_in_the_pages_parse(page):
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)
        elif language == "yaml":
            yaml.safe_load(text)


def commands(page: Path) -> list[list[str]]:
    """Lines of plain blocks that start with swift; not those with an ellipsis or a placeholder."""
    found = []
    for language, text in blocks(page):
        if language or page.name == "cli.md":
            continue
        for line in text.splitlines():
            match = re.match(r"^\s*(?:\$ )?(?:\.venv/bin/)?swift (.*)$", line)
            if match and "..." not in line:
                found.append(shlex.split(match.group(1), comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_the_pages_exist_and_their_flags_are_known(page):
    registry = discover()
    for verb, *words in commands(page):
        assert verb in VERBS or verb.startswith("-"), f"swift {verb}"
        if verb in TRAIN_VERBS and "--resume" not in words and "-c" not in words:
            load(verb, argv=words, registry=registry)


def test_both_readmes_have_the_same_blocks():
    def code(name: str) -> list[str]:
        return [re.sub(r"#.*", "", text) for _, text in blocks(ROOT / name)]

    assert code("README.md") == code("README_CN.md")
