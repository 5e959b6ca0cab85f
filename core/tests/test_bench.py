"""`swift bench train` and `swift plan --measure`: real steps, figures that agree with each other, and nothing left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swift.cli import bench, plan_measure
from swift.cli.main import main
from swift.config.loader import load
from swift.errors import ConfigError, DataError
from swift.plan.planner import make_plan
from swift.plugins.registry import discover
from swift.run_dir import RunDir
from swift.testing import tiny_folder
from swift.training.bench import RESULT
from swift.training.run import run


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    rows = [{"query": f"Say {n}.", "response": " ".join(["word"] * (1 + (n * 7) % 23))} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "model": str(tiny_folder(folder / "model")), "dataset": str(folder / "rows.jsonl"), "batch_size": 4,
        "gradient_accumulation_steps": 2, "batching": "padded", "progress": False, "workers": 1,
    }  # fmt: skip


def flags(given: dict[str, Any]) -> list[str]:
    return [
        word for name, value in given.items() for word in (f"--{name}", str(value).lower() if value is False else str(value))
    ]


def test_a_run_is_measured_and_leaves_nothing(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "train", *flags(given), "--steps", "3", "--warmup", "1", "--json"]) == 0
    (result,) = json.loads(capfd.readouterr().out)["A"]
    assert not list(tmp_path.iterdir())
    assert (result["steps"], result["warmup"]) == (3, 1)
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["seconds"])
    parts = result["parts"]
    assert all(parts[name] > 0 for name in ("forward", "backward", "clip", "optimizer"))
    assert sum(parts.values()) <= 1.2 * result["step_seconds"]["p90"]
    assert result["step_seconds"]["p10"] <= result["step_seconds"]["median"] <= result["step_seconds"]["p90"]
    assert 0 <= result["data_wait"] < 1 and 0 < result["padding"] < 1
    assert result["tflops"] == pytest.approx(result["flops_per_token"] * result["tokens_per_second"] / 1e12)
    assert "mfu" not in result  # no peak is known for a processor
    assert result["memory_peak"] > 100 * 2**20


def measured_plan(given: dict[str, Any], tmp_path: Path, **request: int) -> tuple[Any, dict[str, Any]]:
    """(plan, bench.json) of a run in this process."""
    registry = discover()
    plan = make_plan(load("sft", values={**given, "tuner": "lora"}, registry=registry), registry)
    run_dir = RunDir.create(tmp_path / "run", plan, {})
    run(replace(plan, config={**plan.config, "bench": request}), run_dir)
    assert not run_dir.checkpoints() and not run_dir.final.exists()
    return plan, json.loads((run_dir.path / RESULT).read_text(encoding="utf-8"))


def test_estimate_and_measurement_stand_side_by_side(given: dict[str, Any], tmp_path: Path) -> None:
    plan, result = measured_plan(given, tmp_path, warmup=1, steps=2, longest=2)
    found = plan_measure.conclusions(plan, result)
    components = found["components"]
    for exact in ("weights", "adapters", "gradients", "optimizer"):
        pair = components[exact]
        assert pair["measured"] == pytest.approx(pair["estimated"], rel=0.03), exact
    assert components["activations"]["measured"] == pytest.approx(components["activations"]["estimated"], rel=0.5)
    assert sum(pair["measured"] for pair in components.values()) == pytest.approx(found["total"]["measured"], rel=0.01)
    assert {way["batch_size"] * way["accumulation"] for way in found["fits"]} == {8}
    text = plan_measure.render(replace(plan, estimate={**plan.estimate, "measured": {**result, **found}}))
    assert "--batch_size 8 --gradient_accumulation_steps 1" in text and "(now)" in text
    assert "the whole run would take" in text and "estimated" in text
    tokens = plan.estimate["time"]["tokens"]
    assert found["run_seconds"] == pytest.approx(tokens / result["tokens_per_second"])


@pytest.mark.slow
def test_plan_measure(given: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *flags(given), "--measure"]) == 0
    text = capfd.readouterr().out
    assert text.index("Memory per process") < text.index("Measured, in a few steps")


@pytest.mark.slow
def test_two_configurations_in_turns(given: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = {**given, "batch_size": 2, "gradient_accumulation_steps": 4}
    for name, values in (("a", given), ("b", other)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values), encoding="utf-8")
    words = ["-c", str(tmp_path / "a.yaml"), "--against", str(tmp_path / "b.yaml"), "--steps", "2", "--rounds", "2", "--json"]
    assert main(["bench", "train", *words]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [len(found[side]) for side in ("A", "B")] == [2, 2]
    speeds = [[r["tokens_per_second"] for r in found[side]] for side in ("A", "B")]
    assert found["A/B"]["tokens_per_second"] == pytest.approx([a / b for a, b in zip(*speeds, strict=True)])


def test_pairs_are_compared_round_by_round() -> None:
    def result(speed: float) -> dict[str, Any]:
        return {"tokens_per_second": speed, "memory_peak": 2**20, "step_seconds": {"median": 1 / speed}, "data_wait": 0.0}

    rows = bench.comparison({"A": [result(100), result(50), result(210)], "B": [result(50), result(50), result(100)]})
    assert rows[1] == ("real tokens/s", "100", "50", "2.00 (1.00 to 2.10)")


def test_the_second_configuration_takes_the_place_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.touch()
    for first in (["-c", "a.yaml"], ["--config=a.yaml"], ["a.yaml"]):
        assert bench.other([*first, "--lr", "1"], str(file)) == ["--config", str(file), "--lr", "1"]
    assert bench.other(["-c", "a.yaml"], "--batch_size 4") == ["-c", "a.yaml", "--batch_size", "4"]
    with pytest.raises(ConfigError, match="no such file"):
        bench.other([], str(tmp_path / "c.yaml"))


def test_faults_are_those_of_the_run(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", *flags({**given, "lerning_rate": 1})]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main(["bench", "train", *flags({**given, "dataset": "nowhere.jsonl"})]) == DataError.exit_code
    assert main(["bench", "-c", "a.yaml"]) == 2
    assert "swift bench train -c a.yaml" in capsys.readouterr().err


def test_help_states_the_formula(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--against" in text and "6 N_trained + 4 N_frozen + 12 n q S" in " ".join(text.split())


def test_what_trains_nothing_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, near in (("infer", "train"), ("serve", "train"), ("foo", "train"), ("sfft", "sft")):
        assert main(["bench", verb, "--model", "tiny"]) == 2
        text = capsys.readouterr().err
        assert f"swift {verb} trains nothing that could be measured; these do: sft, pt, train" in text
        assert f"fix: swift bench {near} --model tiny" in text


def test_flags_of_the_other_side_that_cannot_be_read(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--model", "tiny", "--dataset", given["dataset"], "--against=--seed '1"]) == 2
    assert "--against --seed '1: no closing quotation" in capsys.readouterr().err


def test_a_comparison_says_in_what_the_sides_differ(given: dict[str, Any]) -> None:
    registry = discover()

    def plan(**values: Any) -> Any:
        return make_plan(load("sft", values={**given, "tuner": "lora", **values}, registry=registry), registry)

    a, b = plan(), plan(gradient_checkpointing="full", lora={"rank": 16})
    assert bench.differences(a, b) == [
        ("", "A", "B"), ("train.gradient_checkpointing", "off", "full"), ("lora.rank", "8", "16"),
    ]  # fmt: skip
    assert bench.differences(a, a) == [("no setting differs between A and B",)]
