"""Shell completion: the scripts, and the hidden verb `__complete` that they call on every TAB. Answers from the index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from swift.cli import bench_flags, data, flags
from swift.cli.main import NOT_YET, VERBS
from swift.config.argv import is_flag
from swift.config.spelling import CONFIG_VERBS, normal
from swift.errors import ConfigError, SwiftError
from swift.migrate.commands import FLAGS as MIGRATE_FLAGS
from swift.migrate.commands import FRAMEWORKS
from swift.plugins.registry import Registry, discover

BASH = """\
# bash completion for swift. Load it with: source <(swift completion bash)
_swift_complete() {
    local line words current kept typed="${COMP_LINE:0:COMP_POINT}"
    # Not COMP_WORDS: readline breaks words at "=" and ":", and replaces only what stands behind the last of them.
    read -ra words <<< "$typed"
    case "$typed" in *" ") words+=("") ;; esac
    current="${words[${#words[@]}-1]}"
    kept="${current%"${current##*[=:]}"}"
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line#"$kept"}")
    done < <(swift __complete "${words[@]:1}" 2>/dev/null)
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        compopt -o default 2>/dev/null
    fi
}
complete -F _swift_complete swift
"""
ZSH = """\
#compdef swift
# zsh completion for swift. Load it with: source <(swift completion zsh)
_swift() {
    local -a found
    found=("${(@f)$(swift __complete "${(@)words[2,CURRENT-1]}" "${words[CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} )); then
        compadd -- "${(@)found}"
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_swift" ]; then
    _swift "$@"
else
    compdef _swift swift
fi
"""
FISH = """\
# fish completion for swift. Load it with: swift completion fish | source
function __swift_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (swift __complete $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c swift -f -a '(__swift_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
LIST_KINDS = (
    "models",
    "datasets",
    "tasks",
    "templates",
    "tuners",
    "objectives",
    "parallels",
    "devices",
    "quantizers",
    "engines",
    "optimizers",
    "losses",
    "rewards",
    "metrics",
    "hubs",
    "trackers",
    "evaluators",
    "launchers",
    "exporters",
    "commands",
    "rules",
)
SUBCOMMANDS = {
    "plugin": ("list", "show", "new", "check", "freeze", "lock", "install", "uninstall", "disable", "enable", "retry"),
    "config": ("schema", "show"),
    "completion": tuple(SCRIPTS),
    "list": LIST_KINDS,
    "data": tuple(data.VERBS),
}


def main(argv: list[str]) -> int:
    """`swift completion bash|zsh|fish`."""
    shell = argv[0] if argv else os.path.basename(os.environ.get("SHELL", ""))
    if shell in ("-h", "--help"):
        print("swift completion bash|zsh|fish   prints the script; e.g. in ~/.bashrc: source <(swift completion bash)")
        return 0
    if shell not in SCRIPTS:
        raise ConfigError(
            f"no completion for {shell or 'an unknown shell'}; there is {', '.join(SCRIPTS)}", fix="swift completion bash"
        )
    print(SCRIPTS[shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """`swift __complete WORD ... CURRENT`: prints what CURRENT may become, nothing where it is a path."""
    try:
        found = candidates(list(words) or [""], discover())
    except SwiftError:
        found = []
    if found:
        print("\n".join(found))
    return 0


def candidates(words: list[str], registry: Registry) -> list[str]:
    """What the last word may become.

    Args:
        words: What follows `swift`; the last one is being typed and may be empty.
    """
    *before, current = words
    if not before:
        names = [*VERBS, *(e.name for e in registry.entries("command")), "--help", "--version"]
        names += [verb for e in registry.entries("objective") for verb in e.data.get("verbs", ())]
        return _starting(current, (n for n in names if n not in NOT_YET and (current.startswith("-") or not n.startswith("-"))))
    verb = before[0].replace("_", "-")
    if verb == "validate-dataset":
        verb, before = "data", ["data", "check", *before[1:]]
    if verb in SUBCOMMANDS:
        if len(before) == 1:
            return _starting(current, SUBCOMMANDS[verb])
        if verb == "data":
            return _of_data(before[1], before[2:], current, registry)
        if verb == "config" and before[1] == "show" and len(before) > 2 and before[2] in CONFIG_VERBS:
            return candidates([*before[2:], current], registry)
        if verb == "config" and (before[1] == "show" or before[-1] == "--verb"):
            return _starting(current, CONFIG_VERBS)
        if verb == "plugin" and before[1] != "list":
            return _starting(current, [p.id for p in registry.plugins])
        return _starting(current, ["--json"]) if current.startswith("-") else []
    if verb == "migrate":
        return _of_migrate(before, current)
    if verb == "bench":
        if len(before) == 1:
            return _starting(current, ["train"])
        groups = [*flags.groups("train", before[2:], registry), flags.Group("Options", list(bench_flags.OWN))]
        return _complete_flags(groups, before[2:], current, registry)
    objectives = {v for e in registry.entries("objective") for v in e.data.get("verbs", ())}
    if verb not in CONFIG_VERBS and verb not in objectives:
        return []
    return _of_flags(verb, before[1:], current, registry)


def _of_migrate(before: list[str], current: str) -> list[str]:
    """Flags, and what --from takes; everything else is a file."""
    if before[-1] == "--from":
        return _starting(current, FRAMEWORKS)
    return _starting(current, [f"--{name}" for name in MIGRATE_FLAGS]) if current.startswith("-") else []


def _of_data(verb: str, before: list[str], current: str, registry: Registry) -> list[str]:
    if verb not in data.VERBS:
        return []
    if not before and verb in data.ACTIONS and not current.startswith("-"):
        return _starting(current, data.ACTIONS[verb])
    return _complete_flags(data.groups(verb, registry), before, current, registry)


def _of_flags(verb: str, before: list[str], current: str, registry: Registry) -> list[str]:
    return _complete_flags(flags.groups(verb, before, registry), before, current, registry)


def _complete_flags(groups: Iterable[flags.Group], before: list[str], current: str, registry: Registry) -> list[str]:
    known = {name.lstrip("-"): flag for group in groups for flag in group.flags for name in flag.name.split(", ")}
    if current.startswith("--") and "=" in current:
        name, _, value = current.partition("=")
        flag = known.get(normal(name[2:]))
        return [f"{name}={v}" for v in _values(flag, value, registry)] if flag else []
    if current.startswith("-"):
        names = ["--" + name for name in known if len(name) > 1]
        names += [
            "--no-" + name for name, flag in known.items() if flag.takes == "bool" and "." not in name and name not in _OPTIONS
        ]
        dashed = current[2:].count("-") > current[2:].count("_")
        wanted = "--" + normal(current[2:]) if not current.startswith("--no-") else current
        found = _starting(wanted, names)
        return [("--" + name[2:].replace("_", "-")) if dashed and not name.startswith("--no-") else name for name in found]
    position = next((i for i in range(len(before) - 1, -1, -1) if is_flag(before[i])), None)
    if position is None:
        return []
    flag = known.get(normal(before[position].lstrip("-")))
    follows = len(before) - position - 1
    if flag is None or (flag.takes in ("one", "bool", "maybe") and follows > 0):
        return []
    return _values(flag, current, registry)


_OPTIONS = {"help", "debug", "json"}


def _values(flag: flags.Flag, current: str, registry: Registry) -> list[str]:
    if flag.takes == "bool":
        return _starting(current, ("true", "false"))
    if flag.choices:
        return _starting(current, flag.choices)
    kind = flags.KINDS.get(flag.path)
    if flag.path == "verb":
        return _starting(current, CONFIG_VERBS)
    if kind is None or (flag.path in flags.FILES and (current[:1] in "./~" and current)):
        return []
    names = [entry.name for entry in registry.entries(kind)]
    return _starting(
        current, [*names, *(["auto"] if flag.default == "auto" else []), *(["none"] if flag.default == "none" else [])]
    )


def _starting(current: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(current)})
