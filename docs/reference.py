"""The reference of the plugin API, from its code: signatures, docstrings, and the lines under fields."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from types import ModuleType
from typing import Any

import swift.api
from swift import errors, testing
from swift.api import API_VERSION_TEXT, CONTRACTS, FACTS, KINDS, contracts, hookspecs, settings, specs
from swift.testing.descriptor import DescriptorContract
from swift.wording import listed

HEAD = f"""# Reference of the plugin API

Written by `make docs` from `swift.api` {API_VERSION_TEXT} and `swift.testing`.

- [Hooks](#hooks), [specs](#specs), [needs, clashes and facts](#needs-clashes-and-facts)
- [Contracts](#contracts): what implementations subclass; [values](#values) that are passed to them
- [Settings](#settings), [errors](#errors), [suites](#suites)
"""


# ------------------------------------------------------------------------------------------------------------ from source


@functools.cache
def tree(module: ModuleType) -> dict[str, ast.ClassDef]:
    """Classes of a module by name."""
    return {n.name: n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.ClassDef)}


def under(cls: type) -> dict[str, str]:
    """Field -> the docstring that stands under it."""
    node = tree(inspect.getmodule(cls)).get(cls.__name__)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    body = node.body if node else []
    for line, following in itertools.pairwise(body):
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(line.target, ast.Name)
        ):
            found[line.target.id] = one_line(str(following.value.value))
    return found


def arguments(cls: type) -> dict[str, str]:
    """Name -> meaning, of the section `Args:` of a class's docstring; `a, b: text` and `: As in X.` are for each."""
    section = (inspect.getdoc(cls) or "").partition("Args:\n")[2]
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"^    (?=\w[\w, ]*:)", section, flags=re.MULTILINE)[1:]:
        names, _, meaning = entry.partition(":")
        found |= {name.strip(): one_line(meaning) for name in names.split(",")}
    return found


def one_line(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def described(thing: Any) -> str:
    """The docstring as Markdown, without its `Args:`, which become tables; "Raises:" becomes a list."""
    text = inspect.cleandoc(thing.__doc__ or "")  # not inspect.getdoc(): an inherited one says nothing about this class
    text = re.sub(r"(?ms)^Args:\n(?:    .*\n?|\n)+", "", text)
    text = re.sub(r"(?m)^Raises:\n((?:    .*\n?)+)", lambda m: "Raises:\n\n" + _items(m[1]), text)
    return text.strip()


def _items(block: str) -> str:
    lines = re.split(r"\n(?=\S)", textwrap.dedent(block).strip("\n"))
    return "\n".join(f"- `{name}`: {one_line(text)}" for name, _, text in (line.partition(":") for line in lines)) + "\n"


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "required"


def field_table(cls: type, fields: list[dataclasses.Field[Any]]) -> str:
    meanings = {**arguments(cls), **under(cls)}
    rows = [f"| `{f.name}` | {cell(f'`{f.type}`')} | {cell(default(f))} | {cell(meanings.get(f.name, ''))} |" for f in fields]
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])


def signature(name: str, function: Any) -> str:
    """As a line of Python; annotations are kept as they are written."""
    given = inspect.signature(function)
    parameters = [p.replace(annotation=_Verbatim(p.annotation)) for p in given.parameters.values()]
    returned = given.return_annotation if given.return_annotation is given.empty else _Verbatim(given.return_annotation)
    return f"def {name}{given.replace(parameters=parameters, return_annotation=returned)}: ..."


class _Verbatim:
    """An annotation that inspect shows without quotes."""

    def __new__(cls, text: Any) -> Any:
        return text if text is inspect.Parameter.empty else super().__new__(cls)

    def __init__(self, text: Any) -> None:
        self.text = str(text)

    def __repr__(self) -> str:
        return self.text


# --------------------------------------------------------------------------------------------------------------- chapters


def hooks() -> str:
    text = [
        "## Hooks",
        "A door (`swift_plugin.py`) marks each with `@hookimpl`. A collection hook takes nothing and returns a list of specs:",
        "| hook | returns | what |\n|---|---|---|",
    ]
    collection = {f"swift_{specs.plural(kind)}": cls for kind, cls in KINDS.items()}
    functions = {name: f for name, f in vars(hookspecs).items() if name.startswith("swift_")}
    text[-1] += "".join(
        f"\n| `{name}` | list of [`{cls.__name__}`](#{cls.__name__.lower()}) | {one_line(functions[name].__doc__ or '')} |"
        for name, cls in collection.items()
    )
    text.append(
        "A run-time hook is called on the plugins that own a part of the plan, and takes those of its arguments that it asks"
        " for:"
    )
    for name, function in functions.items():
        if name not in collection:
            text.append(f"```python\n{signature(name, function)}\n```\n\n{one_line(function.__doc__ or '')}")
    return "\n\n".join(text)


def spec_chapter() -> str:
    common = dataclasses.fields(specs.Spec)
    text = ["## Specs", "### Spec", described(specs.Spec), field_table(specs.Spec, list(common))]
    for kind, cls in KINDS.items():
        own = [f for f in dataclasses.fields(cls) if f.name not in {c.name for c in common}]
        text += [f"### {cls.__name__}", f"Kind `{kind}`. {described(cls)}"]
        text.append(field_table(cls, own) if own else "No fields beside those of `Spec`.")
    return "\n\n".join(text)


def vocabulary() -> str:
    text = ["## Needs, clashes and facts"]
    for cls in (specs.Need, specs.Clash, specs.Fact):
        text += [f"### {cls.__name__}", described(cls), field_table(cls, list(dataclasses.fields(cls)))]
    rows = [f"| `{fact.name}` | {fact.type} | {cell(fact.meaning)} |" for fact in FACTS.values()]
    text += ["### Swift's own facts", "\n".join(["| fact | type | meaning |", "|---|---|---|", *rows])]
    return "\n\n".join(text)


def methods(cls: type) -> str:
    """Each public method with its signature; those that must be written come first."""
    abstract = getattr(cls, "__abstractmethods__", frozenset())
    members = {n: f for n, f in vars(cls).items() if inspect.isfunction(f) and (not n.startswith("_") or n == "__init__")}
    text = []
    for name, function in sorted(members.items(), key=lambda item: item[0] not in abstract):
        function = inspect.unwrap(function)
        state = "must be written" if name in abstract else "given to it" if name == "__init__" else "may be overridden"
        says = described(function)
        text.append(f"```python\n{signature(name, function)}\n```\n\n{state.capitalize()}." + (f" {says}" if says else ""))
    return "\n\n".join(text)


def contract_chapter() -> str:
    text = ["## Contracts"]
    for kind, cls in CONTRACTS.items():
        meanings = "\n".join(f"- `{name}`: {meaning}" for name, meaning in arguments(cls).items())
        text += [
            f"### {cls.__name__}",
            f"Kind `{kind}`. {described(cls)}".strip(),
            *([meanings] if meanings else []),
            methods(cls),
        ]
    others = [kind for kind in KINDS if kind not in CONTRACTS]
    text.append(f"### Without a contract class\n\n{listed(f'`{k}`' for k in others)}: see their pages.")
    return "\n\n".join(text)


def values() -> str:
    text = ["## Values"]
    exported = [getattr(swift.api, name) for name in swift.api.__all__]
    for cls in exported:
        if inspect.isclass(cls) and cls.__module__.startswith(f"{contracts.__name__}.") and dataclasses.is_dataclass(cls):
            text += [f"### {cls.__name__}", described(cls), field_table(cls, list(dataclasses.fields(cls)))]
    text += ["### Encoder", described(swift.api.Encoder), methods(swift.api.Encoder)]
    return "\n\n".join(part for part in text if part)


def settings_chapter() -> str:
    options = ", ".join(f"`{key}={value!r}`" for key, value in settings.Settings.model_config.items())
    return f"## Settings\n\n`swift.api.settings.Settings`: {described(settings.Settings)}\n\nIts pydantic options: {options}."


def error_chapter() -> str:
    picture = inspect.cleandoc(errors.__doc__ or "")
    block = "\n".join(line.removeprefix("    ") for line in picture.splitlines() if line.startswith("    "))
    codes = [
        f"| `{cls.__name__}` | {cls.exit_code} |"
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, errors.SwiftError)
    ]
    return "\n\n".join(
        [
            "## Errors",
            described(errors.SwiftError).partition("\n")[0]
            + ' `SwiftError("what came and what is allowed", fix="what to type next")`; all are in `swift.api`.',
            f"```text\n{block}\n```",
            "\n".join(["| error | exit code |", "|---|---|", *codes]),
        ]
    )


def own_tests(cls: type) -> list[str]:
    """Names of the tests that a class has beyond those of every component, in the order of its file."""
    every = {name for name in dir(DescriptorContract) if name.startswith("test_")}
    found: dict[str, None] = {}
    for base in cls.__mro__:
        found |= {name: None for name in vars(base) if name.startswith("test_") and name not in every}
    return list(found)


def tests_of(kind: str) -> list[tuple[str, str]]:
    """(test, what brings it) of a kind."""
    plain = own_tests(testing.CONTRACT_CLASSES[kind]) if kind in testing.CONTRACT_CLASSES else []
    found = [(name, "always") for name in plain]
    for (of, field), cls in testing.CLAIMS.items():
        if of == kind:
            more = [name for name in own_tests(cls) if name not in plain]
            flag = any(f.name == field and f.default is False for f in dataclasses.fields(KINDS[of]))
            where = f"where the spec says `{field}=True`" if flag else f"where the spec names `{field}`"
            found += [(name, where) for name in more]
            if getattr(cls, "world_size", 1) > 1:
                found.append(("all of the above", f"{where}: once more, over two processes"))
    return found


def suites() -> str:
    text = ["## Suites", "What `swift.testing` offers by name:"]
    rows = []
    for name in testing.__all__:
        value = getattr(testing, name)
        says = described(value).partition("\n")[0] if callable(value) else ""
        rows.append(f"- `{name}`" + (f": {says}" if says else ""))
    text += ["\n".join(rows), "Every component:", _tests(DescriptorContract)]
    for kind, cls in testing.CONTRACT_CLASSES.items():
        text += [f"`{kind}` ({cls.__name__}): {described(cls).partition(chr(10))[0]}", _tests(cls)]
    for (kind, field), cls in testing.CLAIMS.items():
        text += [f"`{kind}` that claims `{field}` ({cls.__name__}):", _tests(cls)]
    return "\n\n".join(text)


def _tests(cls: type) -> str:
    own = [name for name in vars(cls) if name.startswith("test_")]
    return "\n".join(f"- `{name}`" for name in own)


def document() -> str:
    chapters = [
        hooks(),
        spec_chapter(),
        vocabulary(),
        contract_chapter(),
        values(),
        settings_chapter(),
        error_chapter(),
        suites(),
    ]
    return HEAD + "\n" + "\n\n".join(chapters) + "\n"
