"""`swift plan`, with what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from swift.cli.plan import PLANNED, main, split_verb, without_strategy
from swift.errors import ConfigError, PlanRefused
from swift.plan.plan import Plan
from swift.plan.render import bytes_of, columns, count, duration
from swift.plugins.registry import discover

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    "tie_word_embeddings": False, "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    return str(tmp_path)


def test_a_config_json_alone_can_be_planned(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", model, "--tuner", "lora", "--lora.rank", "16", "--device", "cpu"])
    text = capsys.readouterr().out
    for words in (
        "8,190,735,360",
        "Memory per process",
        "train.learning_rate",
        "lora.rank",
        "swift-llm-tuner-peft",
        "43,646,976",
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 100 + len(model)


def test_json_is_the_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", model, "--device", "cpu", "--json"])
    plan = Plan.from_json(capsys.readouterr().out)
    assert plan.estimate["model"]["parameters"] == 8_190_735_360
    assert plan.config["device"]["name"] == "cpu"


def test_all_shows_defaults_with_where_they_came_from(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", model, "--device", "cpu"])
    assert "data.data_seed" not in capsys.readouterr().out
    main(["--model", model, "--device", "cpu", "--all"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "data.data_seed" in line)
    assert line.split() == ["data.data_seed", "42", "default"]


@pytest.mark.parametrize("spelling", [["--parallel", "zero3"], ["--deepspeed", "zero2"], ["yaml"]])
def test_zero_is_refused_and_its_memory_shown(
    model: str, tmp_path: Path, spelling: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", model, "--tuner", "full", "--nproc_per_node", "8", "--device", "cuda", *spelling]
    if spelling == ["yaml"]:
        file = tmp_path / "run.yaml"
        file.write_text(f"model: {model}\ntuner: full\ndeepspeed: zero3\n", encoding="utf-8")
        argv = ["-c", str(file), "--nproc_per_node", "8"]
    assert main(argv) == PlanRefused.exit_code
    text = capsys.readouterr().out
    assert "not built yet" in text and "ZeRO-3" in text and "30.5 GiB" in text


def test_other_faults_are_reported_as_ever(model: str) -> None:
    with pytest.raises(ConfigError, match="rankk"):
        main(["--model", model, "--lora.rankk", "3", "--deepspeed", "zero3"])


def test_what_names_a_strategy_is_taken_out_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("lr: 1\nparallel: {name: zero3, nproc_per_node: 2}\nfsdp: full_shard\n", encoding="utf-8")
    words, values, dropped = without_strategy(["-c", str(file), "--deepspeed", "zero3", "--batch_size", "2", "--nnodes=2"])
    assert words == ["--batch_size", "2", "--nnodes=2"]
    assert values == {"lr": 1, "parallel": {"nproc_per_node": 2}}
    assert dropped
    assert without_strategy(["--batch_size", "2"]) == (["--batch_size", "2"], {}, False)


def test_planning_imports_nothing_heavy(model: str, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"query": "a", "response": "b"}\n' * 9, encoding="utf-8")
    code = (
        "import sys; from swift.cli.plan import main; main(sys.argv[1:]); "
        "print('HEAVY', [m for m in ('torch', 'transformers', 'datasets', 'peft', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", model, "--dataset", str(data)], capture_output=True, text=True, check=False
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_columns_wrap_their_last_cell() -> None:
    text = columns([("a", "word " * 40), ("bbb", "x")], width=60)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1].startswith("       word") and lines[-1] == "  bbb  x"


def test_numbers_for_people() -> None:
    assert [bytes_of(n) for n in (12, 2048, 3 * 2**20, 15.3 * 2**30)] == ["12 B", "2.0 KiB", "3.0 MiB", "15.3 GiB"]
    assert [count(n) for n in (512, 3.8e6, 8.19e9)] == ["512", "3.80 M", "8.19 B"]
    assert [duration(s) for s in (5, 600, 12000, 400_000)] == ["5 s", "10 min", "3 h 20 min", "4.6 days"]


def test_verbs_of_objectives_are_planned() -> None:
    verb = next(v for entry in discover().entries("objective") for v in entry.data["verbs"] if v not in PLANNED)
    assert split_verb([verb, "--model", "tiny"]) == (verb, ["--model", "tiny"])
    assert split_verb(["nothing", "--model", "tiny"])[0] == "plan"
