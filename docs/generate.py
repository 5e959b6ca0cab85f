"""Writes the parts of the documentation that follow from code. `python docs/generate.py [--check]`

    cli.md                  what the commands say about themselves
    plugins/reference.md    hooks, specs, facts, contracts and errors of the plugin API (by reference.py)
    plugins/*.md            the text between `<!-- generated: ... -->` and `<!-- end -->`: what `swift plugin new` writes, and
                            the tests of the contract kit; all else in these pages is written by hand

--check writes nothing and fails when a page is stale. Run it in an environment with the default plugins (`make docs`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import reference

from swift.api import KINDS
from swift.cli.main import VERBS
from swift.scaffold import render
from swift.testing import CONTRACT_CLASSES
from swift.wording import listed

DOCS = Path(__file__).parent
REGION = re.compile(r"(<!-- generated: (\w+)(?: ([\w-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = """# Command line

Written by `make docs` from the commands' own `--help`, with the default plugins installed.
"""
LANGUAGES = {".py": "python", ".jinja": "jinja", ".jsonl": "json", ".toml": "toml"}


def help_of(*words: str) -> str:
    """What `swift WORDS --help` prints, at a fixed width, without colour, and without the user's settings."""
    with tempfile.TemporaryDirectory() as none:
        own = {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb", "SWIFT_CONFIG": f"{none}/config", "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "swift", *words, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, check=False)
    if done.returncode:
        sys.exit(f"swift {' '.join(words)} --help failed:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def command_line() -> str:
    parts = [HEAD, f"```\n$ swift --help\n{help_of()}\n```\n"]
    parts += [f"## swift {verb}\n\n```\n$ swift {verb} --help\n{help_of(verb)}\n```\n" for verb in VERBS]
    return "\n".join(parts)


def kinds_table(_: str) -> str:
    """Each kind with its page and what the scaffold writes for it."""
    rows = [f"| [{kind}]({kind}.md) | {own.summary.replace('$$$ENV', '`$MY_ROOT`')} |" for kind, own in render.KINDS.items()]
    without = listed(f"`{kind}`" for kind in KINDS if kind not in CONTRACT_CLASSES)
    table = "\n".join(["| kind | what the written component does |", "|---|---|", *rows])
    return (
        f"{table}\n\nThe contract kit has tests of their own for all kinds but {without}, which have those of every component."
    )


def package(kind: str) -> str:
    """Door, settings and implementation as `swift plugin new KIND my-KIND` writes them."""
    name = f"my-{kind}"
    fill, files = render.words(kind, name), render.files(kind, name)
    blocks = [f"```\nswift plugin new {kind} {name}\n```"]
    inside = {path: text for path, text in files.items() if path.startswith("src/") and text.strip()}
    order = {"swift_plugin.py": 0, "settings.py": 1}
    for path in sorted(inside, key=lambda p: (order.get(Path(p).name, 2), p)):
        title = {"swift_plugin.py": "The door", "settings.py": "The settings"}.get(Path(path).name, "The implementation")
        shown = path.removeprefix(f"src/{fill['package']}/")
        language = LANGUAGES.get(Path(path).suffix, "text")
        blocks.append(f"## {title}: `{shown}`\n\n```{language}\n{inside[path].rstrip()}\n```")
    return "\n\n".join(blocks)


def suite(kind: str) -> str:
    """The tests that the kit has for a kind, and those that a claim brings."""
    text = render.files(kind, f"my-{kind}")["tests/test_contract.py"].rstrip()
    rows = [f"| `{name}` | {when} |" for name, when in reference.tests_of(kind)]
    every = "`contract(...)` brings the tests of [every component](contract-kit.md#every-component)"
    if rows:
        says = f"{every}, and these, which the [contract kit](contract-kit.md) explains:\n\n" + "\n".join(
            ["| test | tried |", "|---|---|", *rows]
        )
    else:
        says = f"{every}. There are none for this kind alone: test what it computes yourself, as the file above does."
    return f"`tests/test_contract.py`, as it is written:\n\n```python\n{text}\n```\n\n{says}"


REGIONS: dict[str, Callable[[str], str]] = {"kinds": kinds_table, "package": package, "suite": suite}


def filled(text: str) -> str:
    """A page with its generated regions written anew."""
    return REGION.sub(lambda m: f"{m[1]}\n{REGIONS[m[2]](m[3] or '')}\n\n{m[4]}", text)


def pages() -> dict[Path, str]:
    """Every page that has generated text -> what it should be."""
    found = {DOCS / "cli.md": command_line(), DOCS / "plugins" / "reference.md": reference.document()}
    for page in sorted((DOCS / "plugins").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page not in found and REGION.search(text):
            found[page] = filled(text)
    return found


def main(arguments: list[str]) -> int:
    missing = [kind for kind in KINDS if not (DOCS / "plugins" / f"{kind}.md").is_file()]
    if missing:
        sys.exit(f"docs/plugins has no page for {', '.join(missing)}")
    wanted = pages()
    stale = [page for page, text in wanted.items() if not page.is_file() or page.read_text(encoding="utf-8") != text]
    names = ", ".join(page.relative_to(DOCS).as_posix() for page in stale)
    if arguments == ["--check"]:
        if stale:
            sys.exit(f"stale: {names}; run: make docs")
        return 0
    for page in stale:
        page.write_text(wanted[page], encoding="utf-8")
    print(f"wrote {names}" if stale else "nothing is stale")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
