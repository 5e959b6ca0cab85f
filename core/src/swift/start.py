"""From what the user wrote to a finished run: the seam between config and plan (left) and the run itself (right).

The command line and `swift.train` both come through here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from swift.config.loader import Resolved, load
from swift.config.sections import OutputSection
from swift.errors import ConfigError, Interrupted, OutOfMemory, PlanRefused, SwiftError
from swift.plan.plan import Plan
from swift.plan.planner import make_plan, refuse
from swift.plugins.loading import instantiate, load_object
from swift.plugins.registry import Registry, discover
from swift.run_dir import RunDir

FIXED_ON_RESUME = (
    "model.id",
    "data.dataset",
    "data.columns",
    "tuner.name",
    "train.vit_lr",
    "train.aligner_lr",
    "objective.name",
    "data.data_seed",
    "data.max_length",
)
"""What a resumed run may not change: its checkpoint belongs to them (learning rates of parts make groups of parameters)."""


def start(
    verb: str,
    *,
    argv: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    live: Any = None,
) -> tuple[RunDir, Any]:
    """Configure, plan, and train. Returns the run directory and the run's summary (None where workers ran it).

    Args:
        live: A `swift.training.live.LiveModel` that is trained in place, in this process.

    Raises:
        SwiftError: Before anything heavy is loaded for faults of config and plan; else as `swift.training.run.run`.
    """
    registry = discover()
    resolved = load(verb, argv=list(argv), values=dict(values or {}), registry=registry)
    old = RunDir.open(resolved.extra["resume"]) if resolved.extra.get("resume") else None
    if old is not None:
        resolved = reload(verb, old, resolved, argv=argv, values=values, registry=registry)
    for note in resolved.notes:
        say(note)
    plan = make_plan(resolved, registry)
    refuse(plan)
    if live is not None and "launcher" in plan.components:
        parallel = plan.config["parallel"]
        raise PlanRefused(
            f"a model object lives in this process alone; the run would have {parallel['nproc_per_node']} processes on "
            f"{parallel['nnodes']} machine(s)",
            fix="leave nproc_per_node out, or give the model's folder or id instead of the object",
        )
    for choice in plan.choices:
        if not choice.plain:
            say(f"{choice.path} = {choice.value}: {choice.why}")
    for problem in plan.problems:
        say(f"note: {problem.message}")
    if old is not None:
        old.write(plan, anchored(resolved.plain()))
        run_dir = old
    else:
        section = cast(OutputSection, resolved.sections["output"])
        folder, overwrite = Path(section.dir or default_folder(plan)), section.overwrite
        node = plan.config["parallel"]["node_rank"]
        if node:  # machine 0 keeps the run; the others need a place for their plan and logs, also on a shared file system
            folder, overwrite = folder.with_name(f"{folder.name}.node-{node}"), True
        run_dir = RunDir.create(folder, plan, anchored(resolved.plain()), overwrite=overwrite)
    say(f"run directory: {run_dir}")
    try:
        with run_dir.in_use():
            return run_dir, execute(plan, run_dir, live)
    except BaseException:
        if old is None:
            if run_dir.discard():
                say(f"nothing was trained; {run_dir} is taken away again")
            elif run_dir.is_barren:
                say(f"nothing was trained; the same command takes {run_dir} again{unusable_rows(run_dir)}")
        raise


def unusable_rows(run_dir: RunDir) -> str:
    """Where they are kept until then."""
    files = [str(file) for file in run_dir.reject_files if file.is_file()]
    return f"; until then the rows that cannot be used stand in {' and '.join(files)}" if files else ""


def reload(
    verb: str, old: RunDir, resolved: Resolved, *, argv: Sequence[str], values: Mapping[str, Any] | None, registry: Registry
) -> Resolved:
    """The old run's config with this call's values on top; what may not change is refused."""
    again = load(verb, argv=list(argv), values=dict(values or {}), config_file=str(old.config_file), registry=registry)
    before, after = load(verb, config_file=str(old.config_file), registry=registry), again
    was, is_now = anchored(before.plain()), anchored(after.plain())
    changed = [path for path in FIXED_ON_RESUME if _value(was, path) != _value(is_now, path)]
    if changed:
        raise ConfigError(
            f"a resumed run keeps its {', '.join(changed)}; its checkpoint belongs to them",
            fix=f"leave them out, or start anew from its weights with -o OTHER (--model {old})",
        )
    return again


def _value(config: Mapping[str, Any], path: str) -> Any:
    section, field = path.split(".")
    return config[section][field]


def anchored(config: dict[str, Any]) -> dict[str, Any]:
    """Local paths made absolute, so that a run can be resumed or repeated from any folder."""

    def anchor(name: str) -> str:
        path, hash_, count = name.rpartition("#")
        if not (hash_ and count.isdigit()) or Path(name).exists():
            path, hash_, count = name, "", ""
        there = Path(path).expanduser()
        return f"{there.resolve()}{hash_}{count}" if path and (there.exists() or "*" in path) else name

    references = ("dataset", "val_dataset", "dataset_info")
    data = config["data"] | {key: [anchor(ref) for ref in config["data"][key]] for key in references}
    parts = {"model": config["model"] | {"id": anchor(config["model"]["id"])}, "data": data}
    if "template" in config:
        parts["template"] = config["template"] | {"name": anchor(config["template"]["name"])}
    return config | parts


def execute(plan: Plan, run_dir: RunDir, live: Any = None) -> Any:
    """Run in this process, or in as many workers as the plan says."""
    parallel = plan.config["parallel"]
    if "launcher" not in plan.components:
        return load_object("swift.training.run:run")(plan, run_dir, live)
    run_dir.error_file.unlink(missing_ok=True)
    launcher = instantiate(plan.components["launcher"])
    code = launcher.launch(
        run_dir.plan_file, nproc_per_node=parallel["nproc_per_node"], nnodes=parallel["nnodes"],
        node_rank=parallel["node_rank"], master_addr=parallel["master_addr"], master_port=parallel["master_port"],
        env=dict(os.environ),
    )  # fmt: skip
    if code:
        raise worker_error(code, plan, run_dir)
    return None


def worker_error(code: int, plan: Plan, run_dir: RunDir) -> SwiftError:
    if code in (130, 143, -2, -15):
        error: SwiftError = Interrupted(
            f"stopped; everything up to the last checkpoint is saved in {run_dir}", fix=f"swift {plan.verb} --resume {run_dir}"
        )
        return error
    if code in (-9, 137):
        return OutOfMemory(
            "a process of the run was killed (SIGKILL), by the system as a rule, when the machine has no memory left",
            fix="swift plan --measure with the same flags shows what takes it, and what fits",
        )
    text = run_dir.error_file
    message = text.read_text(encoding="utf-8").strip() if text.is_file() else f"a worker ended with exit code {code}"
    error = SwiftError(message)
    error.exit_code = code if 0 < code < 126 else 1
    return error


def default_folder(plan: Plan) -> Path:
    """`runs/<model>-<objective>-<time>`, new on every call."""
    model = Path(str(plan.config["model"]["id"])).name or "model"
    stem = f"{model}-{plan.components['objective'].name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / stem, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder
