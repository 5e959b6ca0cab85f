"""The run directory loses nothing: whole or absent, and clear about what is there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swift.errors import CheckpointError
from swift.plan.plan import Choice, Component, Plan, Problem
from swift.run_dir import RunDir, damage, whole_folder, write_text

PLAN = Plan(
    verb="sft",
    config={"model": {"id": "m"}},
    provenance={"model.id": "flag --model"},
    components={"tuner": Component(kind="tuner", name="lora", impl="a.b:C", settings={"rank": 8})},
    choices=(Choice("train.learning_rate", 1e-4, "the tuner's own"),),
    problems=(Problem("SW1", "unverified", "untested", ("a", "b"), "do"),),
)


def checkpoint(run: RunDir, step: int, *, optimizer: bool = True) -> Path:
    folder = run.checkpoint_folder / f"step-{step:06d}"
    with whole_folder(folder, manifest=True) as temporary:
        (temporary / "model").mkdir()
        (temporary / "model" / "weights").write_bytes(b"x" * 100)
        if optimizer:
            (temporary / "optimizer").mkdir()
            (temporary / "optimizer" / "state").write_bytes(b"y" * 10)
    return folder


def test_plan_survives_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_plan_of_another_schema_is_refused() -> None:
    other = json.loads(PLAN.to_json()) | {"schema": 99}
    with pytest.raises(CheckpointError, match="schema 99"):
        Plan.from_json(json.dumps(other))


def test_existing_folder_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {"model": "m"})
    checkpoint(run, 10)
    with pytest.raises(CheckpointError, match="not empty") as caught:
        RunDir.create(tmp_path / "a", PLAN, {})
    assert "--resume" in caught.value.fix
    RunDir.create(tmp_path / "a", PLAN, {}, overwrite=True)


def test_overwrite_never_empties_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a run directory"):
        RunDir.create(tmp_path, PLAN, {}, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(CheckpointError, match="cannot write"):
        RunDir.create(tmp_path / "a", PLAN, {})


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot write"):
        RunDir.create(tmp_path / "a" / "b", PLAN, {})


def test_half_a_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    whole = checkpoint(run, 10)
    with (
        pytest.raises(OSError, match="disk full"),
        whole_folder(run.checkpoint_folder / "step-000020", manifest=True) as folder,
    ):
        (folder / "model").mkdir()
        raise OSError("disk full")
    (run.checkpoint_folder / "step-000030").mkdir()  # killed before its manifest was there
    assert run.checkpoints() == [whole]
    assert run.latest() == whole


def test_a_failed_replacement_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "final"
    with whole_folder(target) as folder:
        (folder / "old").write_text("old", encoding="utf-8")
    with pytest.raises(OSError), whole_folder(target) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
        raise OSError("no space left")
    assert (target / "old").read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_damage_is_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    first, second = checkpoint(run, 10), checkpoint(run, 20)
    (second / "model" / "weights").write_bytes(b"x" * 50)
    assert damage(first) is None
    assert "50 bytes" in (damage(second) or "")
    assert run.resume_point() == first


def test_nothing_to_resume_from_is_said(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    assert run.resume_point() is None
    checkpoint(run, 10, optimizer=False)
    with pytest.raises(CheckpointError, match="save_only_model"):
        run.resume_point()


def test_weights_of_a_missing_checkpoint_lists_those_there(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    checkpoint(run, 10)
    with pytest.raises(CheckpointError) as caught:
        run.weights("step-000099")
    assert "step-000010" in caught.value.fix
    assert run.weights() == run.checkpoint_folder / "step-000010" / "model"


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", PLAN, {})
    with pytest.raises(CheckpointError) as caught:
        RunDir.open(tmp_path / "b")
    assert str(tmp_path / "a") in caught.value.fix
    (tmp_path / "c").mkdir()
    with pytest.raises(CheckpointError, match=r"no plan\.json"):
        RunDir.open(tmp_path / "c")


def test_a_torn_last_log_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    run.log_file.write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    assert [row["step"] for row in run.log()] == [1, 2]


def test_the_loss_is_told_over_several_steps(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    assert run.loss_span() is None
    rows = [{"step": n, "loss": float(n)} for n in range(1, 31)]
    run.log_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run.loss_span() == (2.0, 29.0)


def test_write_text_is_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "one")
    write_text(tmp_path / "x", "two")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "two"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kept", ["log.jsonl", "rejects.jsonl", "checkpoints/step-000001", "final", "notes.txt"])
def test_a_run_that_never_was_is_taken_away_and_any_other_stays(tmp_path: Path, kept: str) -> None:
    nothing, something = (RunDir.create(tmp_path / name, PLAN, {"model": "m"}) for name in ("nothing", "something"))
    write_text(nothing.path / "error.txt", "why")
    if "." in kept:
        write_text(something.path / kept, "x")
    else:
        (something.path / kept).mkdir()
    assert nothing.discard() and not nothing.path.exists()
    assert not something.discard() and (something.path / kept).exists() and something.plan == PLAN


MADE = (
    "log.jsonl",
    "rejects.jsonl",
    "rejects-held-out.jsonl",
    "error.txt",
    "logs/rank-1.txt",
    "checkpoints/.step-000001.9.tmp/w",
)
"""What a run leaves that saved nothing."""


def test_a_run_that_saved_nothing_is_taken_again_and_other_files_stay(tmp_path: Path) -> None:
    old = RunDir.create(tmp_path / "a", PLAN, {"model": "old"})
    for name in (*MADE, "notes.txt", "tensorboard/events"):
        (old.path / name).parent.mkdir(parents=True, exist_ok=True)
        (old.path / name).write_text("", encoding="utf-8")
    assert old.is_barren
    new = RunDir.create(tmp_path / "a", PLAN, {"model": "new"})
    assert "new" in new.config_file.read_text(encoding="utf-8") and new.plan == PLAN
    assert not any((new.path / name).exists() for name in MADE) and new.checkpoint_folder.is_dir()
    assert (new.path / "notes.txt").exists() and (new.path / "tensorboard" / "events").exists()


@pytest.mark.parametrize("saved", ["log.jsonl", "checkpoints/step-000001/manifest.json", "final/weights", "report.html"])
def test_a_run_that_saved_anything_is_not_taken_again(tmp_path: Path, saved: str) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    (run.path / saved).parent.mkdir(parents=True, exist_ok=True)
    (run.path / saved).write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match="not empty"):
        RunDir.create(tmp_path / "a", PLAN, {})
    assert (run.path / saved).exists()


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_a_folder_in_which_a_process_runs_is_not_taken_until_it_dies(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", PLAN, {})
    code = (
        f"from swift.run_dir import RunDir\nimport time\nwith RunDir({str(run.path)!r}).in_use():\n"
        "    print('runs', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "runs\n"
        for overwrite in (False, True):
            with pytest.raises(CheckpointError, match="another process is running"):
                RunDir.create(run.path, PLAN, {}, overwrite=overwrite)
        other.kill()
    RunDir.create(run.path, PLAN, {})
