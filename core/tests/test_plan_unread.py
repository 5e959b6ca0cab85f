"""What is given and changes nothing is said, with what would read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.cli.plan import main
from swift.config.sections import TRAIN_SECTIONS
from swift.plan.plan import Plan
from swift.plugins.conditions import parse


def notes(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    main(["--model", "tiny", "--dataset", "tiny-identity", "--device", "cpu", "--json", *argv])
    problems = Plan.from_json(capsys.readouterr().out).problems
    assert all(p.level == "unverified" for p in problems if "changes nothing" in p.message)
    return [p.message for p in problems if "changes nothing" in p.message]


@pytest.mark.parametrize(
    ("flag", "value", "read_where", "by"),
    [
        ("mix_stop", "all_exhausted", "data.mix is interleave", ["--mix", "interleave"]),
        ("shuffle_buffer", "50", "data.streaming is set", ["--streaming", "true", "--max_steps", "5"]),
        ("packing_length", "64", "data.batching is auto or packed", []),
        ("val_split", "0.1", "data.val_dataset is not set", []),
        ("contamination", "drop", "data.val_dataset is set or data.val_split is set", ["--val_split", "0.1"]),
        ("eval_steps", "5", "data.val_split is set", ["--val_split", "0.1"]),
        ("warmup_ratio", "0.2", "train.warmup_steps is not set", []),
        ("epochs", "2", "train.max_steps is not set", []),
    ],
)
def test_a_setting_that_nothing_reads_is_said(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, read_where: str, by: list[str]
) -> None:
    off = {
        "packing_length": ["--batching", "padded"], "val_split": ["--val_dataset", "tiny-identity"],
        "warmup_ratio": ["--warmup_steps", "3"], "epochs": ["--max_steps", "3"],
    }  # fmt: skip
    said = notes(capsys, f"--{flag}", value, *off.get(flag, []))
    assert len(said) == 1 and f".{flag} = " in said[0] and f"(flag --{flag})" in said[0] and read_where in said[0], said
    assert not [text for text in notes(capsys, f"--{flag}", value, *by) if f".{flag} = " in text]


def test_defaults_are_never_said_also_where_they_are_typed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert notes(capsys) == []
    fields = [(s, k, f) for s, cls in TRAIN_SECTIONS.items() for k, f in cls.model_fields.items()]
    marked = [
        (s, k, f) for s, k, f in fields if isinstance(f.json_schema_extra, dict) and "x-read-where" in f.json_schema_extra
    ]
    assert len(marked) > 10
    config: dict[str, dict[str, object]] = {}
    for section, key, field in marked:
        config.setdefault(section, {})[key] = field.get_default()
    (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert notes(capsys, "-c", str(tmp_path / "run.yaml")) == []


def test_conditions_are_over_settings_that_exist() -> None:
    known = {f"{section}.{key}": field for section, cls in TRAIN_SECTIONS.items() for key, field in cls.model_fields.items()}
    for path, field in known.items():
        for text in (field.json_schema_extra or {}).get("x-read-where", ()):  # type: ignore[union-attr]
            assert parse(text).fact in known.keys() - {path}, f"{path}: {text}"
