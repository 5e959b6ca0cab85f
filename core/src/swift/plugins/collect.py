"""Rebuilds the index: imports every descriptor, calls its hooks, and keeps what is legal.

Each plugin, and each hook of it, is on its own: whatever one does, the others are found. pluggy's own entry-point loader
raises out of the first fault without a name, so it is not used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib
import inspect
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any, Optional

from swift.api.specs import KINDS, Fact, ModelSpec, Spec, fields_of, plural
from swift.api.version import API_VERSION, API_VERSION_TEXT
from swift.plugins import index, markers
from swift.plugins.info import PluginInfo
from swift.plugins.preferences import Preferences
from swift.plugins.scan import Candidate, file_of, normalize, scan

HOOKS = {f"swift_{plural(kind)}": kind for kind in KINDS}
"""Collection hook -> kind of the specs it returns."""
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "numpy", "pyarrow", "pydantic", "pluggy")
NEEDS_IMPL = frozenset(KINDS) - {"model", "dataset", "task", "template", "rule"}
_PLAIN = (str, bool, int, float)
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"


class Collected:
    """What one descriptor gave: specs, and everything that is wrong with it."""

    def __init__(self) -> None:
        self.specs: list[tuple[str, dict[str, Any]]] = []
        self.names: set[tuple[str, str]] = set()
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self.api = API_VERSION_TEXT
        self.incompatible = ""
        self.absent = ""
        """Top-level module that its import did not find."""
        self.passed: list[str] = []
        """Files that the fault of its import passed through."""


Announce = Callable[[Optional["dict[str, str]"]], None]
"""Told id, dist, version and module of a plugin before its descriptor is imported, and None afterwards."""
Found = list[tuple[str, dict[str, Any]]]
"""Specs as (kind, fields that differ from their defaults)."""
Placed = tuple[int, str, dict[str, Any]]
"""The same, with the position of the plugin."""


def collect(
    paths: list[str], preferences: Preferences, at: Announce
) -> tuple[list[PluginInfo], list[tuple[int, str, dict[str, Any]]], list[str]]:
    """All plugins, their specs, and the files that the answer depends on. `at` is told where it is: see `build`."""
    infos: list[PluginInfo] = []
    specs: list[Placed] = []
    files: list[str] = []
    crashed = list(markers.left_behind())
    modules: dict[str, str] = {}
    for candidate in scan(paths):
        info, found, looked_at = _one(candidate, paths, preferences, at, crashed, modules)
        files += [f for f in (info.file, candidate.entry_points_file, *looked_at) if f]
        specs += [(len(infos), kind, data) for kind, data in found]
        infos.append(info)
    return infos, specs, list(dict.fromkeys(files))


def _one(
    candidate: Candidate,
    paths: list[str],
    preferences: Preferences,
    at: Announce,
    crashed: list[tuple[str, dict[str, Any]]],
    modules: dict[str, str],
) -> tuple[PluginInfo, Found, list[str]]:
    """The plugin, its specs, and further files by which one may notice that what is wrong with it was mended."""
    base = PluginInfo(candidate.id, candidate.dist, candidate.version, candidate.module, candidate.source)
    if not _is_name(candidate.id, "-"):
        return (
            base._replace(
                status="broken",
                reason=f"its entry point is named {candidate.id!r}; allowed are lower-case letters, digits and '-'",
                fix=_report(base),
            ),
            [],
            [],
        )
    if candidate.module in modules:
        same = f"the same descriptor is already registered by {modules[candidate.module]}"
        return base._replace(status="disabled", reason=same), [], []
    modules[candidate.module] = base.origin
    refused = _admitted(base, preferences)
    if refused is not None:
        return refused._replace(file=_file_of(candidate.module, paths)), [], []
    for marker, left in crashed:
        if left.get("module") == candidate.module and left.get("dist") == candidate.dist:
            file = _file_of(candidate.module, paths)
            if left.get("stamp") == index.stamp(file) and left.get("version") == candidate.version:
                return (
                    base._replace(
                        status="crashed",
                        reason=f"the process ended while importing {candidate.module} (note: {marker})",
                        fix=f"swift plugin disable {base.id}   or, to try again: swift plugin retry {base.id}",
                        file=file,
                    ),
                    [],
                    [marker],
                )
            markers.clear(marker)
    started = time.process_time()
    at({"id": base.id, "dist": base.dist, "version": base.version, "module": base.module})
    found = _read_descriptor(base)
    at(None)
    ms = round((time.process_time() - started) * 1000, 2)
    base = base._replace(
        components=tuple(f"{kind}:{data['name']}" for kind, data in found.specs),
        load_ms=ms,
        api=found.api,
        file=_file_of(candidate.module, paths),
    )
    if found.incompatible:
        return (
            base._replace(status="incompatible", reason=found.incompatible, fix=_upgrade(base, found.api), components=()),
            [],
            [],
        )
    if found.faults:
        fix = _upgrade(base, found.api) if _version(found.api) > API_VERSION else _report(base, found.absent)
        return base._replace(status="broken", reason="; ".join(found.faults), fix=fix), found.specs, _had_part(base, found)
    return base._replace(reason="; ".join(found.remarks)), found.specs, []


def _had_part(info: PluginInfo, found: Collected) -> list[str]:
    """Files of a broken plugin's package that were imported, those that its fault passed through, and their folders."""
    package = info.module.partition(".")[0]
    modules = [m for name, m in list(sys.modules.items()) if name == package or name.startswith(f"{package}.")]
    files = {info.file, *found.passed, *(str(getattr(m, "__file__", None) or "") for m in modules)}
    existing = sorted(file for file in files if os.path.isabs(file) and os.path.isfile(file))
    return [*existing, *dict.fromkeys(os.path.dirname(file) for file in existing)]


def _admitted(info: PluginInfo, preferences: Preferences) -> PluginInfo | None:
    """None: import it. Else why not."""
    names = {info.id, info.dist, normalize(info.dist)}
    if names & set(preferences.disabled):
        reason = "disabled in the user's plugins file"
        return info._replace(status="disabled", reason=reason, fix=f"swift plugin enable {info.id}")
    if (preferences.only is not None and not names & set(preferences.only)) or names & set(preferences.without):
        reason = f"SWIFT_PLUGINS={os.environ.get('SWIFT_PLUGINS', '')}"
        return info._replace(status="disabled", reason=reason, fix="unset SWIFT_PLUGINS, or name it there")
    if preferences.allow is not None:
        for rule in preferences.allow:
            pattern, _, version = rule.partition("==")
            if fnmatch.fnmatch(normalize(info.dist), pattern.lower()) and fnmatch.fnmatch(info.version, version or "*"):
                return None
        return info._replace(
            status="untrusted",
            reason=f"{info.origin} is not on the allow-list ({', '.join(preferences.allow) or 'empty'})",
            fix=f'add {normalize(info.dist)!r} to "allow" in the plugins file (swift doctor shows where)',
        )
    return None


def _file_of(module: str, paths: list[str]) -> str:
    """The file behind a dotted module name: its import knows it, else it is looked for; "" where there is none."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return str(spec.origin) if spec is not None and spec.has_location else file_of(module, paths)


def _read_descriptor(info: PluginInfo) -> Collected:
    found = Collected()
    heavy = {name for name in HEAVY if name in sys.modules}
    noise = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(noise),
            contextlib.redirect_stderr(noise),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            module = importlib.import_module(info.module)
            _call_hooks(module, found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit()
        found.faults.append(f"importing {info.module} fails: {_error(error)}")
        if isinstance(error, ModuleNotFoundError) and error.name:
            found.absent = error.name.partition(".")[0]
        found.passed = _passed(error)
        return found
    imported = [name for name in HEAVY if name in sys.modules and name not in heavy]
    if imported:
        found.remarks.append(f"importing it brings in {', '.join(imported)}: move that import into the implementation module")
    found.remarks += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return found


def _passed(error: BaseException | None) -> list[str]:
    files = []
    while error is not None:
        files += [str(f) for f in (getattr(error, "filename", None), getattr(error, "path", None)) if f]
        step = error.__traceback__
        while step is not None:
            files.append(step.tb_frame.f_code.co_filename)
            step = step.tb_next
        error = error.__cause__ or error.__context__
    swifts = os.path.dirname(os.path.abspath(__file__))
    return [file for file in dict.fromkeys(files) if not file.startswith(swifts)]


def _call_hooks(module: ModuleType, found: Collected) -> None:
    found.api = str(getattr(module, "SWIFT_API", API_VERSION_TEXT))
    found.incompatible = _major_mismatch(found.api)
    if found.incompatible:
        return
    marked = {n: f for n, f in vars(module).items() if isinstance(getattr(f, "swift_impl", None), dict)}
    unmarked = [n for n, f in vars(module).items() if n in HOOKS and isinstance(f, FunctionType) and n not in marked]
    found.faults += [f"{name} is not marked with @hookimpl" for name in unmarked]
    if not marked and not unmarked:
        found.faults.append(f"{module.__name__} has no function marked with @hookimpl")
    run_time = {name: function for name, function in marked.items() if name not in HOOKS}
    if run_time:
        check = importlib.import_module("swift.plugins.hooks").signature_faults  # imports pluggy: few plugins need it
        newer = _version(found.api) > API_VERSION
        (found.remarks if newer else found.faults).extend(check(run_time, list(HOOKS)))
    for name, function in marked.items():
        if name in HOOKS:
            _call_hook(name, function, found)


def _call_hook(name: str, function: Any, found: Collected) -> None:
    required = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        found.faults.append(f"{name} takes no arguments; this one asks for {', '.join(required)}")
        return
    kind = HOOKS[name]
    try:
        result = function()
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes, Mapping)):
            found.faults.append(f"{name} returned {_short(result)}; it must return a list of {KINDS[kind].__name__}")
            return
        items = list(result)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        found.faults.append(f"{name} raised {_error(error)}")
        return
    for item in items:
        if not isinstance(item, KINDS[kind]):
            found.faults.append(f"{name} returned {_short(item)}; it must return a list of {KINDS[kind].__name__}")
            continue
        if item.api != found.api and not found.incompatible:
            mismatch = _major_mismatch(item.api)
            if mismatch or _version(item.api) > _version(found.api):
                found.api, found.incompatible = item.api, mismatch
        fault, data = read_spec(item)
        if not fault and (kind, item.name) in found.names:
            fault = f"{kind}:{item.name} is offered twice by the same plugin"
        if fault:
            found.faults.append(fault)
        else:
            found.names.add((kind, item.name))
            found.specs.append((kind, data))
    if _version(found.api) > API_VERSION and not found.incompatible:
        remark = f"built for plugin API {found.api}, this core has {API_VERSION_TEXT}; newer features of it are not used"
        if remark not in found.remarks:
            found.remarks.append(remark)


def _fault(spec: Spec) -> str:
    where = f"{spec.kind}:{spec.name}"
    if not isinstance(spec.name, str) or not _is_name(spec.name, "-._"):
        allowed = "allowed are lower-case letters, digits and . _ -, the first a letter or digit"
        return f"{spec.kind} has the name {spec.name!r}; {allowed}"
    for field in ("aliases", "requires", "needs", "clashes", "declares"):
        if not isinstance(getattr(spec, field), (tuple, list)):
            return f"{where}: {field} must be a tuple, not {_short(getattr(spec, field))}"
    if not all(isinstance(alias, str) and alias.strip() == alias != "" for alias in spec.aliases):
        return f"{where}: aliases must be non-empty strings, not {spec.aliases!r}"
    for field in ("impl", "settings", "probe", "convert", "image_tokens"):
        value = getattr(spec, field, "")
        if not isinstance(value, str) or (value and not _is_dotted(value)):
            return f"{where}: {field}={value!r} is not a dotted path like 'package.module:Name'"
    if not all(isinstance(fact, Fact) for fact in spec.declares):
        return f"{where}: declares must hold swift.api.Fact, not {_short(spec.declares)}"
    if not spec.impl and spec.kind in NEEDS_IMPL:
        return f"{where}: impl is missing; name the implementation as 'package.module:Class'"
    if isinstance(spec, ModelSpec) and not spec.impl and not spec.loader:
        return f"{where}: neither impl (a loader) nor loader (the name of one) is given"
    if isinstance(spec, ModelSpec) and spec.image_tokens and not spec.impl:
        return f"{where}: image_tokens is for loaders (impl); an entry of a catalog has that of its loader, {spec.loader}"
    try:
        if spec.needs or spec.clashes:
            importlib.import_module("swift.plugins.conditions").check_all(spec, KINDS)  # few specs have any
    except (ValueError, AttributeError, TypeError) as error:
        return f"{where}: {error}"
    return ""


def read_spec(spec: Spec) -> tuple[str, dict[str, Any]]:
    """(what is illegal about a spec, "" where it is fine; its `spec_data`)."""
    fault, data = _fault(spec), {}
    if not fault:
        data = spec_data(spec)
        for name, value in data.items():
            if type(value) not in _PLAIN:
                try:
                    json.dumps(value)
                except (ValueError, TypeError) as error:
                    return f"{spec.kind}:{spec.name}: {name} must be plain data, not {_short(value)}: {error}", {}
    return fault, data


def spec_fault(spec: Spec) -> str:
    """What is illegal about a spec; "" where it is fine."""
    return read_spec(spec)[0]


def spec_data(spec: Spec) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, as plain data for the index."""
    data = {}
    for name, default, _ in fields_of(type(spec)):
        value = getattr(spec, name)
        if value is not default and value != default and value != {}:  # mappings have a factory, which makes {}
            if name in ("needs", "clashes", "declares"):
                value = [dataclasses.asdict(v) for v in value]
            data[name] = dict(value) if isinstance(value, Mapping) else value
    return data


# Regular expressions would do for the next three; compiling them is what a rebuild would spend most of its own time on.


def _is_name(text: str, marks: str) -> bool:
    return text != "" and text[0] in _LOWER and not text.strip(_LOWER + marks)  # strip stops at a character that is neither


def _is_dotted(text: str) -> bool:
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _major_mismatch(api: str) -> str:
    if _version(api)[0] == API_VERSION[0]:
        return ""
    if _version(api) == (0, 0):
        return f"{api!r} is no plugin API; a version such as {API_VERSION_TEXT!r} is"
    return f"built for plugin API {api}, this core has {API_VERSION_TEXT}"


def _upgrade(info: PluginInfo, api: str) -> str:
    return "pip install -U swift-llm-core" if _version(api) > API_VERSION else f"pip install -U {info.dist}"


def _report(info: PluginInfo, absent: str = "") -> str:
    command = f"pip install -U {info.dist}"
    if absent and absent != info.module.partition(".")[0]:
        # The libraries of an installed plugin are asked for by its own metadata; the import's name is only a guess at a name.
        needed = importlib.import_module("swift.plugins.requirements")
        wanted = [f"'{missing.requirement}'" for missing in needed.unmet(needed.of_distribution(info.dist).get("", ()))]
        command = "pip install " + " ".join(wanted or [absent.replace("_", "-")])
    return f"{command}   or: swift plugin disable {info.id}   details: swift doctor"


def _error(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:60]}" if value is not None else "None"
