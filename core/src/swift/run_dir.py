"""The run directory: the one thing that a user passes from verb to verb. Left of the torch line.

    RUN/plan.json          the plan that the run is a consequence of
    RUN/config.yaml        what the user wrote, resolved; `swift sft -c RUN/config.yaml` does it again
    RUN/log.jsonl          one line per logged step
    RUN/rejects.jsonl      every row that could not be read or was too long: file, line, reason
    RUN/checkpoints/step-000100/   model/ optimizer/ rng.pt state.json plan.json manifest.json
    RUN/final/             the result: an adapter in PEFT's format, or a whole model folder; tokenizer beside it
    RUN/report.html, *.png what happened

A checkpoint is written under a temporary name and renamed when whole, so whatever carries its real name can be trusted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from swift.errors import CheckpointError
from swift.plan.plan import Plan

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_STEP = re.compile(r"step-(\d+)")


class RunDir:
    """Paths and facts of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan_file = self.path / "plan.json"
        self.config_file = self.path / "config.yaml"
        self.log_file = self.path / "log.jsonl"
        self.rejects_file = self.path / "rejects.jsonl"
        self.reject_files = (self.rejects_file, self.path / "rejects-held-out.jsonl")
        self.error_file = self.path / "error.txt"
        self.worker_logs = self.path / "logs"
        self.report_file = self.path / "report.html"
        self.checkpoint_folder = self.path / "checkpoints"
        self.final = self.path / "final"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @staticmethod
    def is_run(path: str | Path) -> bool:
        return (Path(path) / "plan.json").is_file()

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Raises `CheckpointError` where there is no run."""
        if cls.is_run(path):
            return cls(path)
        folder = Path(path)
        if not folder.exists():
            near = sorted(str(p.parent) for p in folder.parent.glob("*/plan.json")) if folder.parent.is_dir() else []
            raise CheckpointError(
                f"there is no run directory {folder}",
                fix=f"runs here: {', '.join(near[:5])}" if near else "give the folder that `swift sft -o DIR` wrote",
            )
        if any((folder / name).is_file() for name in ("trainer_state.json", "args.json", "training_args.bin")):
            adapter = (folder / "adapter_config.json").is_file() or any(folder.glob("checkpoint-*/adapter_config.json"))
            weights = f"swift export {folder} -o MERGED, then --model MERGED" if adapter else f"--model {folder}"
            raise CheckpointError(
                f"{folder} is another trainer's checkpoint: its optimizer's state and place in the data cannot be taken over",
                fix=f"start anew from its weights: {weights}",
            )
        raise CheckpointError(f"{folder} is not a run directory: it has no plan.json", fix="give the folder that -o named")

    @classmethod
    def create(cls, path: str | Path, plan: Plan, config: dict[str, Any], *, overwrite: bool = False) -> RunDir:
        """Make the folder and write plan and config. The folder of a run that saved nothing is taken again.

        Raises:
            CheckpointError: The folder holds something else already, is in use, or cannot be written.
        """
        run = cls(path)
        try:
            if run.path.exists() and any(run.path.iterdir()):
                if overwrite and not run.is_run(run.path):
                    raise CheckpointError(
                        f"{run.path} is not empty and not a run directory, so --overwrite leaves it alone",
                        fix="choose another -o",
                    )
                if run.is_in_use:
                    raise CheckpointError(
                        f"another process is running in {run.path}", fix="wait for its end, or choose another folder with -o"
                    )
                if not (overwrite or (run.is_run(run.path) and run.is_barren)):
                    fix = "--overwrite true empties it, -o OTHER leaves it alone"
                    if run.is_run(run.path):
                        fix = f"go on with it: swift {plan.verb} --resume {run.path}; or {fix}"
                    raise CheckpointError(f"{run.path} is not empty", fix=fix)
                run._clear(everything=overwrite)
            run.checkpoint_folder.mkdir(parents=True, exist_ok=True)
            run.write(plan, config)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {run.path}: {error.strerror or error}", fix="choose another folder with -o"
            ) from error
        return run

    @property
    def is_barren(self) -> bool:
        """The run saved nothing: no step in its log, no checkpoint, no result."""
        return not (self.log() or self.checkpoints() or self.final.exists() or self.report_file.exists())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Other processes see `is_in_use` for as long as the block runs, or until this process dies."""
        handle = _locked(self.path)
        try:
            yield
        finally:
            if handle:
                os.close(handle)

    @property
    def is_in_use(self) -> bool:
        handle = _locked(self.path)
        if handle:
            os.close(handle)
        return handle is None

    def _clear(self, *, everything: bool) -> None:
        """Take away what the run made, or all that is there."""
        if everything:
            shutil.rmtree(self.path)
            return
        for item in (self.checkpoint_folder, self.worker_logs):
            if item.exists():
                shutil.rmtree(item)
        for item in (self.log_file, self.error_file, *self.reject_files):
            item.unlink(missing_ok=True)

    def discard(self) -> bool:
        """Take the folder away again where it holds nothing but plan, config and what was said already. Else False.

        Logs of workers stay unless their error was an explained one.
        """
        made = {self.plan_file, self.config_file, self.checkpoint_folder}
        try:
            if self.error_file.is_file() and not self.error_file.read_text(encoding="utf-8").startswith("Traceback"):
                made |= {self.error_file, self.worker_logs}
            if {*self.path.iterdir()} - made or any(self.checkpoint_folder.iterdir()):
                return False
            shutil.rmtree(self.path)
        except OSError:
            return False
        return True

    def write(self, plan: Plan, config: dict[str, Any]) -> None:
        write_text(self.plan_file, plan.to_json() + "\n")
        write_text(self.config_file, yaml.safe_dump(config, allow_unicode=True, sort_keys=False))

    @property
    def plan(self) -> Plan:
        try:
            return Plan.from_json(self.plan_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"cannot read {self.plan_file}: {error.strerror}") from error

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not self.checkpoint_folder.is_dir():
            return []
        found = [p for p in self.checkpoint_folder.iterdir() if _STEP.fullmatch(p.name) and (p / "manifest.json").is_file()]
        return sorted(found, key=step_of)

    def latest(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def resume_point(self) -> Path | None:
        """Newest checkpoint that can be resumed from: whole, undamaged, with the optimizer's state.

        Raises:
            CheckpointError: There are checkpoints, but none can be used.
        """
        faults = []
        for folder in reversed(self.checkpoints()):
            fault = damage(folder)
            if fault is None and not (folder / "optimizer").is_dir():
                fault = "saved with --save_only_model, so it has no optimizer state"
            if fault is None:
                return folder
            faults.append(f"{folder.name}: {fault}")
        if faults:
            raise CheckpointError(
                f"no checkpoint of {self.path} can be resumed:\n  " + "\n  ".join(faults),
                fix=f"start anew from its weights: --model {self.path}, or delete the damaged folders and begin again",
            )
        return None

    def weights(self, checkpoint: str = "") -> Path:
        """Folder that the tuner wrote: the final one, or a checkpoint's.

        Raises:
            CheckpointError: No such checkpoint, or the run has saved nothing yet.
        """
        if checkpoint:
            names = [p.name for p in self.checkpoints()]
            if checkpoint not in names:
                raise CheckpointError(
                    f"{self.path} has no checkpoint {checkpoint!r}", fix=f"it has: {', '.join(names) or 'none'}"
                )
            return self.checkpoint_folder / checkpoint / "model"
        if self.final.is_dir():
            return self.final
        latest = self.latest()
        if latest is None:
            raise CheckpointError(f"{self.path} has saved nothing yet", fix=f"swift {self.plan.verb} --resume {self.path}")
        return latest / "model"

    def log(self) -> list[dict[str, Any]]:
        """Logged steps; a last line torn by a kill is left out."""
        if not self.log_file.is_file():
            return []
        rows = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def loss_span(self) -> tuple[float, float] | None:
        """Mean training loss of the first and the last logged steps: a tenth of them, 20 at most, as single ones are noise."""
        losses = [row["loss"] for row in self.log() if "loss" in row]
        few = max(1, min(20, len(losses) // 10))
        return (sum(losses[:few]) / few, sum(losses[-few:]) / few) if losses else None


def _locked(folder: Path) -> int | None:
    """Descriptor of a folder that is locked by it; None where another has it; 0 where there are no such locks (Windows, some
    network file systems)."""
    if fcntl is None:
        return 0
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        return None if isinstance(error, BlockingIOError) else 0
    return handle


def step_of(checkpoint: Path) -> int:
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def damage(checkpoint: Path) -> str | None:
    """What differs from the manifest, or None."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"its manifest cannot be read ({error})"
    for name, size in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, the manifest says {size}"
    return None


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path, *, manifest: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target`, synced and renamed into its place when the block ends well; else removed.

    An existing `target` is replaced only then, so a failure leaves what was there.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for file in files:
            _sync(file)
        if manifest:
            sizes = {str(p.relative_to(temporary)): p.stat().st_size for p in files}
            write_text(temporary / "manifest.json", json.dumps({"files": sizes}, indent=1))
            _sync(temporary / "manifest.json")
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.rename(target, old)
            os.rename(temporary, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
