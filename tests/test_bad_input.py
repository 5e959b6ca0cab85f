"""Each fault gets one clear error: no traceback, a non-zero exit code, the remedy, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.testing import tiny_folder

Sft = Callable[..., tuple[int, str]]


@pytest.fixture
def sft(model_folder: Path, dataset: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sft:
    """Run `swift sft` in this process with the given flags over sane ones; (exit code, what it printed)."""

    def call(**flags: str) -> tuple[int, str]:
        values = {
            "model": str(model_folder), "dataset": str(dataset(8)), "output": str(tmp_path / "run"), "max_steps": "1",
            "report": "false", "progress": "false",
        } | flags  # fmt: skip
        code = main(["sft", *[word for name, value in values.items() if value for word in (f"--{name}", value)]])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out + captured.err

    return call


def test_sane_flags_work(sft: Sft, tmp_path: Path) -> None:
    code, text = sft()
    assert code == 0, text
    assert (tmp_path / "run" / "final" / "adapter_config.json").is_file()


def test_missing_file(sft: Sft, dataset: Callable[[int], Path]) -> None:
    wrong = dataset(8).with_name("8.jsnl")
    code, text = sft(dataset=str(wrong))
    assert code and "8.jsnl" in text and "8.jsonl" in text


def test_unknown_column(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"instruct": "a", "reply": "b"}\n' * 4, encoding="utf-8")
    code, text = sft(dataset=str(tmp_path / "d.jsonl"))
    assert code and "instruct" in text and "columns" in text


def test_empty_file(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    code, text = sft(dataset=str(tmp_path / "empty.jsonl"))
    assert code and "empty" in text


def test_broken_line_is_reported_and_the_run_stops_above_the_share(
    sft: Sft, tmp_path: Path, dataset: Callable[[int], Path]
) -> None:
    lines = dataset(8).read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:-5]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for _ in range(2):  # the same command again asks for nothing
        code, text = sft(dataset=str(tmp_path / "d.jsonl"))
        assert code and "d.jsonl:3" in text and "not empty" not in text
        assert "takes" in text and f"stand in {tmp_path / 'run' / 'rejects.jsonl'}" in text
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rejects[0]["line"] == 3 and rejects[0]["reason"]
    code, text = sft(dataset=str(tmp_path / "d.jsonl"), max_bad_fraction="0.5")
    assert "train.learning_rate = 0.0001: " in text and "train.compile = " not in text  # what is as ever stands in the plan
    assert code == 0 and "1 row" in text
    code, text = sft(dataset=str(tmp_path / "d.jsonl"), max_bad_fraction="0.5")
    assert code and "not empty" in text


def test_unknown_key(sft: Sft) -> None:
    code, text = sft(lerning_rate="1e-4")
    assert code == 2 and "lerning_rate" in text and "learning_rate" in text


def test_folder_without_tokenizer(sft: Sft, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "m", ignore=shutil.ignore_patterns("token*", "chat_template*", "special*"))
    code, text = sft(model=str(tmp_path / "m"))
    assert code and "tokenizer" in text and str(tmp_path / "m") in text


def test_tokenizer_without_chat_template(sft: Sft, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    code, text = sft(model=str(tmp_path / "m"))
    assert code == 0 and "template.name = chatml" in text  # its vocabulary has ChatML's control tokens
    for file in (tmp_path / "m").glob("token*.json"):
        file.write_text(file.read_text(encoding="utf-8").replace("<|im_start|>", "<|turn|>"), encoding="utf-8")
    code, text = sft(model=str(tmp_path / "m"), output=str(tmp_path / "other"))
    assert code and "chat template" in text and "--template" in text


def test_all_labels_masked(sft: Sft, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]}
    (tmp_path / "d.jsonl").write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
    code, text = sft(dataset=str(tmp_path / "d.jsonl"))
    assert code and "d.jsonl:1" in text


def test_row_longer_than_max_length(sft: Sft) -> None:
    code, text = sft(max_length="64")
    assert code and "64" in text and "--overlong" in text


def test_model_folder_that_is_missing(sft: Sft, tmp_path: Path) -> None:
    code, text = sft(model=str(tmp_path / "nowhere"))
    assert code and "nowhere" in text


def test_truncated_weights(sft: Sft, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, text = sft(model=str(folder))
    assert code and "model.safetensors" in text


def test_absent_gpu(sft: Sft) -> None:
    code, text = sft(device="cuda")
    assert code and "cuda" in text and "--device cpu" in text


def test_output_in_the_way(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder", encoding="utf-8")
    code, text = sft()
    assert code and str(tmp_path / "run") in text
    assert (tmp_path / "run").read_text(encoding="utf-8") == "not a folder"


def test_wrong_adapter_for_the_model(sft: Sft, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft()[0] == 0
    other = tiny_folder(tmp_path / "other", hidden_size=32, head_dim=8)
    code = main(["infer", str(tmp_path / "run"), "--model", str(other), "--prompt", "hi", "--max_new_tokens", "2"])
    text = "".join(capsys.readouterr())
    assert code and "Traceback" not in text and "adapter" in text


def test_resuming_what_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["sft", "--resume", str(tmp_path)]) != 0
    assert "plan.json" in capsys.readouterr().err


BROKEN_DOOR = """
from swift.api import TunerSpec, hookimpl

@hookimpl
def swift_tuners():
    return [TunerSpec(name="halves", impl="acme_halves.tuner:Halves", summary="a test")]
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_component_that_cannot_be_imported_leaves_no_folder_behind(
    sft: Sft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    site, info = tmp_path / "site", tmp_path / "site" / "acme_halves-1.dist-info"
    for folder in (site / "acme_halves", info):
        folder.mkdir(parents=True)
    (site / "acme_halves" / "__init__.py").touch()
    (site / "acme_halves" / "swift_plugin.py").write_text(BROKEN_DOOR, encoding="utf-8")
    (site / "acme_halves" / "tuner.py").write_text("raise RuntimeError('only half is here')\n", encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-halves\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[swift.plugins]\nhalves = acme_halves.swift_plugin\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    for _ in range(2 if processes == "1" else 1):
        code, text = sft(tuner="halves", nproc_per_node=processes)
        assert code and "only half is here" in text and "not empty" not in text, text
        assert "nothing was trained" in text and not (tmp_path / "run").exists()
