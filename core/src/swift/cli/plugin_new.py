"""`swift plugin new KIND NAME`."""

from __future__ import annotations

import shlex
from pathlib import Path

from swift.api.specs import KINDS, plural
from swift.cli.main import NOT_YET, VERBS
from swift.errors import ConfigError, PluginConflict
from swift.plugins import catalog, missing, registry
from swift.scaffold import render


def new(kind: str, name: str, directory: str = "") -> int:
    """Write the package and say what to type next.

    Raises:
        ConfigError: The kind is unknown, the name is not legal, or the folder is in use.
        PluginConflict: The name is taken.
    """
    if kind not in KINDS:
        singular = {plural(k): k for k in KINDS}
        near = [singular[kind]] if kind in singular else missing.nearest(kind.lower(), KINDS)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        fix = f"swift plugin new {near[0]} {name}" if near else "swift plugin new tuner my-tuner"
        raise ConfigError(f"there is no kind {kind!r}{meant} Kinds are {', '.join(KINDS)}.", fix=fix)
    _check_name(kind, name)
    folder = Path(directory or render.words(kind, name)["dist"]).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise ConfigError(
            f"{folder} {what}; a new package needs a folder of its own",
            fix=f"swift plugin new {kind} {name} --dir {folder}-2",
        )
    try:
        written = render.write(kind, name, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}", fix="choose another --dir") from error
    fill = render.words(kind, name)
    print(f"{folder}: {fill['dist']}, which offers {kind}:{name}")
    for file in written:
        print(f"  {file.relative_to(folder).as_posix()}")
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    go = "" if folder == here else f"  cd {shlex.quote(str(shown))}\n"
    print(f"\nnext:\n{go}  pip install -e '.[test]'\n  pytest\n  {fill['example']}")
    return 0


def _check_name(kind: str, name: str) -> None:
    if not render.NAME.fullmatch(name) or len(name) > render.LONGEST_NAME:
        plain = "-".join(filter(None, "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).split("-")))
        fix = f"swift plugin new {kind} {plain[: render.LONGEST_NAME].rstrip('-') or 'my-' + kind}"
        raise ConfigError(
            f"{name!r} is not a legal name: lower-case letters and digits, joined by single . _ or -, "
            f"at most {render.LONGEST_NAME} in all",
            fix=fix,
        )
    other = f"choose another name, as my-{name}"
    found = registry.discover(strict=False)
    holders = [e for e in found.entries(kind) if name in (e.name, *e.aliases)]
    if holders:
        raise PluginConflict(f"{kind} {name!r} is taken by {holders[0].origin}", fix=other)
    known = catalog.dist_for(kind, name)
    if known:
        raise PluginConflict(f"{kind} {name!r} is a component of {known}, which is not installed here", fix=other)
    if kind == "command" and name.replace("_", "-") in {*VERBS, *NOT_YET}:
        raise PluginConflict(f"swift {name} is a command of Swift itself", fix=other)
    if name in found.core_schema("train"):
        raise PluginConflict(f"{name!r} is a section of Swift's own configuration", fix=other)
