"""Claims that hold for every component of every plugin."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from swift.api import CONTRACTS, plural
from swift.plugins import claims, vocabulary
from swift.plugins.loading import load_object
from swift.plugins.registry import Registry, discover

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "numpy",
    "pyarrow",
    "pydantic",
    "pluggy",
    "yaml",
    "rich",
    "vllm",
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
ALIAS = re.compile(rf"({NAME.pattern}/)?{NAME.pattern}")
"""A name, or an id as hubs write them."""


# Of a whole package, which may offer a hundred components: found out once.


@functools.cache
def heavy_imports(module: str, call: str = "pass") -> tuple[list[str], str]:
    """Which of `HEAVY` a module, and a call in it, bring into a fresh interpreter; and why they fail, "" where they do not."""
    code = f"import sys, json, {module}; {call}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return ([], out.stderr[-800:] or "no reason is given") if out.returncode else (json.loads(out.stdout.splitlines()[-1]), "")


@functools.cache
def private_imports(package: str) -> list[str]:
    """`file: module` of what the files of a package folder import of Swift beside its public parts."""
    private = []
    for file in Path(package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [f"swift.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom) and node.module == "swift"
                else [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )  # fmt: skip
            private += [
                f"{file.name}: {n}" for n in names
                if n.startswith("swift.") and n.split(".")[1] not in ("api", "testing")
            ]  # fmt: skip
    return private


class Untried:
    """Claims that this version of the kit has no test for: each fails. `contract` adds it where a spec makes one."""

    reasons: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "untried" in metafunc.fixturenames:
            metafunc.parametrize("untried", list(self.reasons))

    def test_the_claim_has_a_test(self, untried: str) -> None:
        pytest.fail(self.reasons[untried], pytrace=False)


class DescriptorContract:
    """Subclassed by the contract of every kind; `component` is `kind:name`."""

    component: ClassVar[str] = ""

    @pytest.fixture(scope="class")
    @classmethod
    def registry(cls) -> Registry:
        return discover()

    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, registry: Registry) -> Any:
        kind, _, name = cls.component.partition(":")
        return registry.find(kind, name)

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, entry: Any) -> Any:
        return entry.spec

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, spec: Any) -> Any:
        return load_object(spec.settings)() if spec.settings else None

    def test_the_door_imports_nothing_heavy(self, registry: Registry, entry: Any) -> None:
        door = next(p.module for p in registry.plugins if p.id == entry.plugin)
        heavy, fault = heavy_imports(door)
        assert not fault, f"{door} cannot be imported: {fault}"
        assert not heavy, f"{door} imports {heavy}; move the import into the implementation module"

    def test_name_and_summary(self, spec: Any) -> None:
        for name in (spec.name, *spec.aliases):
            assert ALIAS.fullmatch(name.lower()) and name == name.strip(), f"{name!r} is not a legal name"
        assert NAME.fullmatch(spec.name), f"{spec.name!r} must be lower case"
        assert spec.summary, f"{self.component} has no summary; `swift list` shows it"

    def test_spec_survives_json(self, spec: Any, registry: Registry, entry: Any) -> None:
        door = importlib.import_module(next(p.module for p in registry.plugins if p.id == entry.plugin))
        written = next(s for s in getattr(door, f"swift_{plural(spec.kind)}")() if s.name == spec.name)
        changed = [f for f, value in written.to_dict().items() if value != spec.to_dict()[f]]
        assert not changed, f"{changed} change on their way through JSON; use tuples, strings, numbers and None"

    def test_implementation_fulfils_the_contract(self, spec: Any) -> None:
        if not spec.impl:
            pytest.skip("pure data: the spec names no implementation")
        impl = load_object(spec.impl)
        contract = CONTRACTS.get(spec.kind)
        if contract is not None:
            assert isinstance(impl, type) and issubclass(impl, contract), f"{spec.impl} is not a {contract.__name__}"
            missing = sorted(getattr(impl, "__abstractmethods__", ()))
            assert not missing, f"{spec.impl} does not define {missing}"

    def test_settings_are_strict_and_defaulted(self, spec: Any) -> None:
        if not spec.settings:
            pytest.skip("no settings")
        cls = load_object(spec.settings)
        assert cls.model_config.get("extra") == "forbid", f"{spec.settings} must forbid unknown keys"
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        assert not required, f"{spec.settings}: {required} have no default"
        silent = [name for name, field in cls.model_fields.items() if not field.description]
        assert not silent, f"{spec.settings}: {silent} have no docstring; it is their help text"

    def test_facts_are_known(self, spec: Any, registry: Registry) -> None:
        found = vocabulary.faults(spec, vocabulary.known_facts(registry.entries()))
        wrong = [*found["declares"], *found["facts"]]
        assert not wrong, f"{self.component}: {'; '.join(wrong)}"

    def test_facts_say_what_the_fields_say(self, spec: Any) -> None:
        """A fact is read by needs and clashes: it may not claim what no field claims, which no test would try."""
        wrong = list(claims.said_twice(spec))
        assert not wrong, f"{self.component}: {'; '.join(wrong)}"

    def test_needs_and_clashes_are_over_known_facts(self, spec: Any, registry: Registry) -> None:
        wrong = vocabulary.faults(spec, vocabulary.known_facts(registry.entries()))["conditions"]
        assert not wrong, f"{self.component}: {'; '.join(wrong)}"

    def test_only_the_public_api_is_imported(self, registry: Registry, entry: Any) -> None:
        door = next(p.module for p in registry.plugins if p.id == entry.plugin)
        package = importlib.util.find_spec(door.split(".")[0])
        assert package is not None and package.submodule_search_locations
        private = private_imports(package.submodule_search_locations[0])
        assert not private, f"private parts of Swift are imported: {private}"
