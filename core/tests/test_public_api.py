"""The public plugin API is what data/public_api.json says; it changes only together with `swift.api.API_VERSION`.

`python core/tests/test_public_api.py` writes the snapshot anew, once the version has made the step that the change needs
(`--unreleased`: for a version that no release has had yet).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swift.api
import swift.api.ops
import swift.api.settings
import swift.testing
from swift.api import API_VERSION, API_VERSION_TEXT, hookspecs

SNAPSHOT = Path(__file__).parent / "data" / "public_api.json"
RENEW = "python core/tests/test_public_api.py"


def public_api() -> dict[str, str]:
    """Path of each public thing -> what it is. A parameter, field or method has a line of its own."""
    api: dict[str, str] = {}
    for name in swift.api.__all__:
        api |= described(f"swift.api.{name}", getattr(swift.api, name))
    api |= {f"swift.api.FACTS[{fact.name}]": fact.type for fact in swift.api.FACTS.values()}
    api |= {f"swift.api.CONTRACTS[{kind}]": cls.__name__ for kind, cls in swift.api.CONTRACTS.items()}
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("swift_"):
            api[f"hook {name}"] = f"hook -> {function.__annotations__.get('return', '')}"
            api |= {
                f"hook {name}({p})": f"given: {function.__annotations__[p]}" for p in inspect.signature(function).parameters
            }
    api["swift.api.settings.Settings"] = json.dumps(dict(swift.api.settings.Settings.model_config), sort_keys=True)
    for name in swift.api.ops.__all__:
        api |= described(f"swift.api.ops.{name}", getattr(swift.api.ops, name))
    for name in swift.testing.__all__:
        api |= described(f"swift.testing.{name}", getattr(swift.testing, name))
    api |= {f"swift.testing.CONTRACT_CLASSES[{k}]": cls.__name__ for k, cls in swift.testing.CONTRACT_CLASSES.items()}
    claims = {f"{kind}.{field}": cls for (kind, field), cls in swift.testing.CLAIMS.items()}
    api |= {f"swift.testing.CLAIMS[{claim}]": cls.__name__ for claim, cls in claims.items()}
    for cls in {*swift.testing.CONTRACT_CLASSES.values(), *claims.values()}:
        api |= {f"swift.testing: {cls.__name__}.{name}": "test" for name in vars(cls) if name.startswith("test_")}
    return dict(sorted(api.items()))


def described(path: str, value: Any) -> dict[str, str]:
    if inspect.isclass(value):
        return dict(of_class(path, value))
    if inspect.isfunction(value):
        return dict(of_function(path, value))
    return {path: type(value).__name__ if isinstance(value, (dict, list, tuple)) else "a value"}


def of_class(path: str, cls: type) -> Iterator[tuple[str, str]]:
    yield path, f"class({', '.join(base.__name__ for base in cls.__bases__)})"
    own = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name in inspect.get_annotations(cls):
        if name in own:
            yield f"{path}.{name}", of_field(own[name])
        elif not name.startswith("_"):
            yield f"{path}.{name}", f"attribute: {inspect.get_annotations(cls)[name]}"
    for name, member in vars(cls).items():
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if isinstance(function, property) and not name.startswith("_"):
            yield f"{path}.{name}", "property"
        elif inspect.isfunction(function) and (not name.startswith("_") or (name == "__init__" and not own)):
            yield from of_function(f"{path}.{name}", inspect.unwrap(function))


def of_field(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"optional: {field.type} = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"optional: {field.type} = {getattr(field.default_factory, '__name__', '...')}()"
    return f"required: {field.type}"


def of_function(path: str, function: Any) -> Iterator[tuple[str, str]]:
    kind = "abstract" if getattr(function, "__isabstractmethod__", False) else "function"
    yield path, f"{kind} -> {function.__annotations__.get('return', '')}"
    if function.__name__.startswith("test_"):
        return  # pytest gives it what it asks for
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.name in ("self", "cls"):
            continue
        keyword = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        where = "by keyword" if keyword else f"place {place}"
        annotation = function.__annotations__.get(parameter.name, "")
        if parameter.default is not parameter.empty:
            yield f"{path}({parameter.name})", f"optional, {where}: {annotation} = {parameter.default!r}"
        elif parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            yield f"{path}({parameter.name})", f"optional, {where}: {annotation}"
        else:
            yield f"{path}({parameter.name})", f"required, {where}: {annotation}"


# --------------------------------------------------------------------------------------------------------------- the rule


def verdict(before: dict[str, Any], version: tuple[int, int], now: dict[str, str]) -> str:
    """What is wrong with the change from the snapshot `before` to `now` under API `version`; "" where nothing is."""
    names = before["names"]
    added = [f"+ {path}: {text}" for path, text in now.items() if path not in names]
    lost = [f"- {path}: {text}" for path, text in names.items() if path not in now]
    changed = [f"~ {path}: {names[path]}  ->  {text}" for path, text in now.items() if names.get(path, text) != text]
    breaking = [
        line for line in added if line.split(": ", 1)[1].startswith(("required", "abstract")) and not part_of_new(line, names)
    ]
    diff = "\n".join([*lost, *changed, *added])
    old = tuple(int(part) for part in before["api"].split("."))
    if not diff:
        return "" if version == old else f"the snapshot is of API {before['api']}; renew it: {RENEW}"
    text = f"{version[0]}.{version[1]}"
    if (lost or changed or breaking) and version[0] <= old[0]:
        needs, step = f"{old[0] + 1}.0", "breaks plugins (something is gone, other than it was, or newly required)"
    elif version <= old:
        needs, step = f"{old[0]}.{old[1] + 1}", "adds to the API"
    else:
        return f"the public API changed, and API_VERSION with it ({text}); renew the snapshot: {RENEW}\n{diff}"
    return (
        f"the public API changed, and API_VERSION is still {text}; the change {step}, so it needs {needs}.\n"
        f"Undo it, or set API_VERSION in core/src/swift/api/version.py, then: {RENEW}\n"
        f"(No release has had API {text} yet: {RENEW} --unreleased)\n{diff}"
    )


def part_of_new(line: str, names: dict[str, str]) -> bool:
    """A required parameter or field of something that is itself new breaks nobody."""
    path = line[2:].split(": ", 1)[0]
    owner = path.partition("(")[0] if "(" in path else path.rpartition(".")[0]
    return owner not in names


def load() -> dict[str, Any]:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_the_public_api_changes_only_with_its_version() -> None:
    wrong = verdict(load(), API_VERSION, public_api())
    assert not wrong, wrong


def test_everything_public_is_in_the_snapshot() -> None:
    names = load()["names"]
    assert {f"swift.api.{name}" for name in swift.api.__all__} <= names.keys()
    assert {f"swift.testing.{name}" for name in swift.testing.__all__} <= names.keys()
    assert "swift.api.Tuner.apply(seed)" in names and "swift.api.TunerSpec.mergeable" in names
    assert "hook swift_checkpoint(step)" in names and "swift.api.ops.linear_cross_entropy(bias)" in names


OLD = {"api": "1.2", "names": {
    "a.f": "function -> int", "a.f(x)": "required, place 0: int", "a.C": "class(ABC)", "a.C.run": "abstract -> None",
}}  # fmt: skip
OPTION = {"a.f(y)": "optional, by keyword: int = 3"}


@pytest.mark.parametrize(
    ("now", "version", "words"),
    [
        (OLD["names"], (1, 2), ""),
        (OLD["names"], (1, 3), "renew it"),
        (OLD["names"] | OPTION, (1, 2), "it needs 1.3"),
        (OLD["names"] | OPTION, (1, 3), "renew the snapshot"),
        (OLD["names"] | {"a.f(y)": "required, place 1: int"}, (1, 3), "it needs 2.0"),
        (OLD["names"] | {"a.C.stop": "abstract -> None"}, (1, 3), "it needs 2.0"),
        (OLD["names"] | {"a.g": "function -> int", "a.g(y)": "required, place 0: int"}, (1, 3), "renew the snapshot"),
        (
            OLD["names"] | {"a.f(x)": "required, place 0: float"},
            (1, 3),
            "~ a.f(x): required, place 0: int  ->  required, place 0",
        ),
        ({k: v for k, v in OLD["names"].items() if k != "a.C.run"}, (1, 3), "- a.C.run: abstract -> None"),
        ({k: v for k, v in OLD["names"].items() if k != "a.C.run"}, (2, 0), "renew the snapshot"),
    ],
)
def test_the_rule(now: dict[str, str], version: tuple[int, int], words: str) -> None:
    said = verdict(OLD, version, now)
    assert words in said and bool(said) == bool(words)


def main() -> int:
    now = public_api()
    if SNAPSHOT.exists() and "--unreleased" not in sys.argv[1:]:
        wrong = verdict(load(), API_VERSION, now)
        if wrong and "renew" not in wrong.partition("\n")[0]:
            print(wrong, file=sys.stderr)
            return 1
    part = SNAPSHOT.with_suffix(".part")
    part.write_text(json.dumps({"api": API_VERSION_TEXT, "names": now}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, SNAPSHOT)
    print(f"wrote {SNAPSHOT.name}: {len(now)} lines, API {API_VERSION_TEXT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
