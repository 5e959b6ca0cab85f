"""From a chosen component to its implementation: requirements first, then the import, then the contract.

Whatever goes wrong in a plugin's code on the way is translated here, once, into a `PluginBroken` that says what to type.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swift.api.contracts.table import CONTRACTS
from swift.errors import ConfigError, PluginBroken, PluginError
from swift.plan.plan import Component
from swift.plugins import requirements
from swift.plugins.info import Entry

NO_ARGUMENTS = ("model", "hub", "dataset")
"""Kinds whose implementations are built without settings and name (a hub takes its access token)."""


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Until torch is there: import without the garbage collector, and hide from it what came with torch.

    Modules live as long as the process. The collector goes through their 600,000 objects time and again while torch and
    transformers are imported, and once more at exit, and finds nothing: 1.5 of the 5.3 s of a process that imports them.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if "torch" in sys.modules:
            gc.freeze()
        gc.enable()


def load_object(dotted: str) -> Any:
    """The object at `"package.module:Name.attribute"`.

    Raises:
        PluginBroken: The module cannot be imported, or has no such name.
    """
    module_name, _, path = dotted.partition(":")
    try:
        with collector_at_rest():
            value: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if not error.name:  # raised by hand, or unpickled: only its text is known
            raise PluginBroken(f"{dotted} cannot be imported: {str(error) or 'a module is missing'}") from error
        own = error.name.partition(".")[0] == dotted.partition(".")[0]  # its package is here, and not whole
        fix = "" if own and error.name != dotted.partition(".")[0] else _pip(error.name)
        raise PluginBroken(f"{dotted} cannot be imported: there is no module {error.name!r}", fix=fix) from error
    except BaseException as error:  # third-party code; it may even call sys.exit()
        raise PluginBroken(f"{dotted} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split(".") if path else ():
        try:
            value = getattr(value, part)
        except AttributeError:
            raise PluginBroken(f"{dotted}: {getattr(value, '__name__', value)} has no {part!r}") from None
    return value


def package_path(dotted: str) -> Path:
    """A plugin's own file or folder: `"package:relative/path"`; the package is not imported. An absolute path stays.

    Raises:
        PluginBroken: The package or what it promises is not there.
    """
    if Path(dotted).is_absolute():
        return Path(dotted)
    package, _, relative = dotted.partition(":")
    places = _locations(package)
    path = places[0] / relative if places else None
    if path is None or not path.exists():
        raise PluginBroken(
            f"{dotted}: the plugin's files are not there", fix=f"pip install --force-reinstall {package.replace('_', '-')}"
        )
    return path


def _pip(module: str) -> str:
    return f"pip install {module.partition('.')[0].replace('_', '-')}"


def _where(part: Entry | Component) -> str:
    return f"{part.kind}:{part.name} ({part.dist or 'unknown origin'} {part.version})".replace(" )", ")")


def _data(part: Entry | Component) -> Mapping[str, Any]:
    return part.data if isinstance(part, Entry) else part.spec


def require(part: Entry | Component) -> None:
    """Raise `PluginBroken` where a library that the component requires is not here, or in another version; imports nothing."""
    missing = requirements.unmet(_data(part).get("requires", ()))
    if missing:
        wants = "; ".join(m.describe() for m in missing)
        raise PluginBroken(f"{_where(part)} {wants}", fix="pip install " + " ".join(f"'{m.requirement}'" for m in missing))


def load_impl(part: Entry | Component) -> Any:
    """The implementation's class (a function for commands).

    Raises:
        PluginBroken: A requirement is not met (nothing was imported then), the import fails, or it breaks its contract.
    """
    data = _data(part)
    dotted = part.impl if isinstance(part, Component) else str(data.get("impl", ""))
    require(part)
    if not dotted:
        raise PluginBroken(f"{_where(part)} has no implementation; it is data only")
    try:
        impl = load_object(dotted)
    except PluginBroken as error:
        upgrade = f"pip install -U {part.dist}" if part.dist else ""
        raise PluginBroken(f"{_where(part)}: {error.message}", fix=error.fix or upgrade) from error
    contract = CONTRACTS.get(part.kind)
    if contract is not None and not (isinstance(impl, type) and issubclass(impl, contract)):
        raise PluginBroken(
            f"{_where(part)}: {dotted} is not a subclass of swift.api.{contract.__name__}", fix=f"pip install -U {part.dist}"
        )
    missing_methods = sorted(getattr(impl, "__abstractmethods__", ()))
    if contract is not None and missing_methods:
        raise PluginBroken(
            f"{_where(part)}: {dotted} lacks {', '.join(missing_methods)} of swift.api.{contract.__name__}",
            fix=f"pip install -U {part.dist}",
        )
    if not callable(impl):
        raise PluginBroken(f"{_where(part)}: {dotted} cannot be called")
    return impl


def component_of(entry: Entry, settings: Mapping[str, Any] | None = None) -> Component:
    """The component as a plan keeps it: with version and digest of the code that was seen now."""
    spec = entry.spec.to_dict()
    return Component(
        kind=entry.kind,
        name=entry.name,
        impl=str(spec.get("impl", "")),
        settings=dict(settings or {}),
        settings_class=str(spec.get("settings", "")),
        plugin=entry.plugin,
        dist=entry.dist,
        version=entry.version,
        digest=digest(entry.dist) if entry.dist else "",
        spec=json.loads(json.dumps(spec)),
    )


def settings_of(component: Component) -> Any:
    """An instance of the component's settings class (of the empty base class where it names none).

    Raises:
        ConfigError: The values do not fit the class.
        PluginBroken: The class cannot be imported.
    """
    cls = load_object(component.settings_class or "swift.api.settings:Settings")
    try:
        return cls(**component.settings)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ConfigError(f"settings of {_where(component)} are not valid: {error}") from error


def instantiate(component: Component, *args: Any) -> Any:
    """Build the implementation: `impl(settings, name, *args)`; models, hubs and datasets take `args` alone.

    Raises:
        PluginBroken, ConfigError: As `load_impl` and `settings_of` do.
    """
    impl = load_impl(component)
    if component.kind in NO_ARGUMENTS:
        return impl(*args)
    return impl(settings_of(component), component.name, *args)


def verify(component: Component) -> None:
    """Compare what is installed here with what the plan was made with.

    Raises:
        PluginError: Another distribution version or other code, with the difference.
    """
    if not component.dist:
        return
    version = requirements.installed(component.dist)
    if not version:
        raise PluginError(
            f"{_where(component)} is in the plan, but {component.dist} is not installed here",
            fix=f"pip install {component.dist}=={component.version}",
        )
    here = digest(component.dist)
    if (version, here) != (component.version, component.digest):
        lines = [f"{_where(component)} is not what the plan was made with:"]
        for what, planned, found in (("version", component.version, version), ("digest", component.digest[:16], here[:16])):
            lines.append(f"  {what}: plan {planned}, here {found}" + ("" if planned == found else "   <-- differs"))
        raise PluginError("\n".join(lines), fix=f"install {component.dist}=={component.version} here, or make the plan anew")


@functools.cache
def digest(dist: str) -> str:
    """sha256 of a distribution's code, "" where it is not installed.

    Taken over the lines of RECORD (path, hash and size of each file), without those that depend on the machine rather than
    on the code: what installers add to the metadata folder, scripts, bytecode. Editable installs have no such lines: there it
    is taken over the package's .py files.
    """
    try:
        found = importlib.metadata.distribution(dist)
    except importlib.metadata.PackageNotFoundError:
        return ""
    hashed = hashlib.sha256()
    record = found.read_text("RECORD") or ""
    lines = sorted(line for line in record.splitlines() if _is_code(line))
    if lines and not _editable(found):
        hashed.update("\n".join(lines).encode())
        return hashed.hexdigest()
    for package in sorted({point.value.partition(":")[0].partition(".")[0] for point in found.entry_points}):
        for root in _locations(package):
            files = [root] if root.is_file() else sorted(root.rglob("*.py"))
            for file in files:
                name = file.name if root.is_file() else file.relative_to(root.parent).as_posix()
                hashed.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return hashed.hexdigest()


def _is_code(line: str) -> bool:
    path = line.partition(",")[0].strip('"')
    return bool(path) and not path.startswith(("..", "/")) and ".dist-info/" not in path and not path.endswith((".pyc", ".pth"))


def _editable(found: importlib.metadata.Distribution) -> bool:
    try:
        return bool(json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _locations(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return [Path(p) for p in spec.submodule_search_locations or ()] or ([Path(spec.origin)] if spec.origin else [])
