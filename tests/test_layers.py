"""What erodes: the torch line and the order of the layers, with lazy imports counted."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import swift
from swift.plugins.registry import discover

SOURCE = Path(swift.__file__).parent
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "trl", "safetensors", "matplotlib", "huggingface_hub"}
RIGHT = (
    "swift.training", "swift.worker", "swift.upstream", "swift.inference.open", "swift.inference.batch", "swift.inference.chat",
    "swift.inference.export", "swift.testing", "swift.api.ops", "swift.data.encode", "swift.data.rendering",
    "swift.data.turns", "swift.data.tokenizing", "swift.data.batches", "swift.data.media_batches", "swift.data.streaming",
)  # fmt: skip
"""Right of the torch line. Everything else is left of it."""


def module_name(file: Path) -> str:
    parts = list(file.relative_to(SOURCE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in SOURCE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """Every import of the file, wherever it stands, but for those under TYPE_CHECKING."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for part in test.body
        for node in ast.walk(part)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{name} has a relative import")
    return found


def right(name: str) -> bool:
    return any(name == r or name.startswith(r + ".") for r in RIGHT)


@pytest.mark.parametrize("name", sorted(m for m in MODULES if not right(m)))
def test_nothing_left_of_the_line_reaches_over_it(name: str) -> None:
    over = {i for i in imports(name) if i.split(".")[0] in HEAVY or right(i)}
    assert not over, f"{name} is left of the torch line but imports {sorted(over)}; dispatch by dotted path instead"


def test_no_cycles_even_with_lazy_imports() -> None:
    graph = {name: {i for i in imports(name) if i in MODULES and i != name} for name in MODULES}
    for name in graph:  # a package's __init__ is executed first, but that is not a dependency of its parts
        graph[name] = {i for i in graph[name] if not name.startswith(i + ".")}
    state: dict[str, int] = defaultdict(int)

    def visit(name: str, path: tuple[str, ...]) -> None:
        if state[name] == 1:
            pytest.fail("import cycle: " + " -> ".join([*path[path.index(name) :], name]))
        if state[name] == 0:
            state[name] = 1
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            state[name] = 2

    for name in sorted(graph):
        visit(name, ())


def test_imports_stand_on_top() -> None:
    """A function-level import hides a cycle or a cost; the few that are wanted are counted here, with their reason."""
    allowed: dict[str, int] = {}
    found = {}
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inside = {
            id(n): n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
            for n in ast.walk(f) if isinstance(n, (ast.Import, ast.ImportFrom))
        }  # fmt: skip
        if len(inside) > allowed.get(name, 0):
            found[name] = [ast.unparse(n) for n in inside.values()]
    assert not found, f"imports inside functions: {found}"


def test_core_names_no_plugin() -> None:
    packages = {p.module.split(".")[0] for p in discover().plugins}
    named = {name: sorted(i for i in imports(name) if i.split(".")[0] in packages) for name in MODULES}
    assert not {k: v for k, v in named.items() if v}


def test_a_run_reaches_its_first_step_without_what_draws() -> None:
    reached, ahead = set[str](), ["swift.training.run"]
    while ahead:
        name = ahead.pop()
        found = imports(name) - reached
        reached |= found
        ahead += found & MODULES.keys()
    slow = {i for i in reached if i.split(".")[0] in ("matplotlib", "pandas", "datasets", "scipy", "huggingface_hub")}
    assert not slow, f"{sorted(slow)} would be imported before the first step; load what draws and reports by dotted path"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["sft", "--help"], ["plugin", "list"], ["list", "tuners"], ["--version"], ["doctor"], ["infer", "--help"]],
)
def test_commands_left_of_the_line_import_no_torch(words: list[str]) -> None:
    code = (
        "import sys; from swift.cli.main import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in out.stderr, out.stderr[-1500:]
