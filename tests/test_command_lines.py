"""Command lines as articles and ms-swift's scripts write them: what can run here runs, the rest gets the planner's reasons."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.plan.plan import Plan

REFUSED = 4


@pytest.fixture
def here(tmp_path: Path, model_folder: Path, dataset: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the names of the articles are folders and files: a tiny model, and a little data."""
    monkeypatch.chdir(tmp_path)
    for variable in ("NPROC_PER_NODE", "USE_HF", "CUDA_VISIBLE_DEVICES", "MAX_PIXELS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("qwen-7b", "qwen3-vl", "qwen3-7b", "qwen3-7b-chat", "m"):
        os.symlink(model_folder, tmp_path / name)
    os.symlink(dataset(8), tmp_path / "rows.jsonl")
    pair = {"messages": [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red"}], "rejected": "blue"}
    (tmp_path / "alpaca_prefs").mkdir()
    (tmp_path / "alpaca_prefs" / "rows.jsonl").write_text((json.dumps(pair) + "\n") * 8, encoding="utf-8")
    return tmp_path


@pytest.fixture
def swift(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Run a command line: (exit code, all that it printed)."""

    def run(line: str) -> tuple[int, str]:
        code = main(shlex.split(line))
        said = capsys.readouterr()
        assert not re.search(r"(flag|argument) \S+: unknown|unknown flag", said.out + said.err), said.err
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return run


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Plan]:
    def run(line: str) -> Plan:
        code = main(["plan", *shlex.split(line), "--json"])
        made = Plan.from_json(capsys.readouterr().out)
        assert code == (REFUSED if made.refused else 0)
        return made

    return run


def reasons(made: Plan) -> str:
    return "\n".join(problem.message for problem in made.refused)


def final_loss(folder: str) -> float:
    rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if "loss" in row][-1]


# ------------------------------------------------------------------------------------------------------- what runs here


@pytest.mark.slow
def test_sft_from_a_yaml_file_with_the_articles_keys(here, swift):
    (here / "prd_generator.yaml").write_text(
        "model: qwen3-7b\nsft_type: lora\nlora_rank: 4\nquantization_bit: 0\ntrain_dataset: rows.jsonl\nmax_steps: 2\n"
        "output_dir: out\nmax_length: 128\nparallel:\n  tensor_parallel: 1\n  pipeline_parallel: 1\n  zero_optimization: 0\n",
        encoding="utf-8",
    )
    code, _ = swift("sft -c prd_generator.yaml")
    assert code == 0 and final_loss("out") > 0
    assert json.loads((here / "out" / "final" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 4
    code, _ = swift("sft prd_generator.yaml --learning_rate 1e-5 --output_dir out2")
    assert code == 0 and "learning_rate: 1.0e-05" in (here / "out2" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_settings_of_the_objective_that_a_task_brings(here, plan):
    made = plan("sft --model m --task dpo --dataset alpaca_prefs --dpo.beta 0.2 --dpo.label_smoothing 0.01")
    assert made.config["objective"]["name"] == "dpo"
    settings = made.components["objective"].settings
    assert (settings["beta"], settings["label_smoothing"]) == (0.2, 0.01)


def test_preferences_by_task(here, swift):
    code, text = swift(
        "sft --model_type qwen-7b --task dpo --train_dataset alpaca_prefs --learning_rate 1e-6 "
        "--max_steps 1 --max_length 128 -o out"
    )
    assert code == 0, text
    assert final_loss("out") == pytest.approx(0.6931, abs=1e-3)  # log 2: nothing is learnt before the first step


@pytest.mark.slow
def test_megatron_without_parallelism_runs(here, swift):
    code, text = swift(
        "megatron sft --model m --dataset rows.jsonl --micro_batch_size 1 --global_batch_size 2 --lr 1e-4 --min_lr 1e-5 "
        "--train_iters 2 --save out --tensor_model_parallel_size 1 --no_save_optim --finetune --attention_backend flash "
        "--recompute_granularity none --max_length 128 --target_modules linear_qkv"
    )
    assert code == 0, text
    made = Plan.from_json((here / "out" / "plan.json").read_text(encoding="utf-8"))
    train = made.config["train"]
    assert (train["batch_size"], train["gradient_accumulation_steps"], train["max_steps"]) == (1, 2, 2)
    assert train["min_lr_ratio"] == pytest.approx(0.1) and made.components["tuner"].name == "full"


def test_validate_dataset(here, swift):
    code, text = swift("validate_dataset rows.jsonl")
    assert code == 0 and "8" in text


# ----------------------------------------------------------------------------------------- what the planner has to refuse


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --model qwen3-vl --dataset rows.jsonl --device npu --lora_rank 64", ["device 'npu' is understood"]),
        ("export --model_type qwen3-7b --quant_method gptq --dataset calib_data --output_dir ./out", ["gptq", "quantizer"]),
        (
            "deploy --model_type qwen3-7b-chat --serving_backend vllm --tensor_parallel_size 2 --gpu_memory_utilization 0.9",
            ["swift deploy is understood, but not built yet", "engine 'vllm' is understood", "swift chat"],
        ),
        (
            "infer --model_type qwen-7b --infer_backend vllm --port 8080",
            ["engine 'vllm' is understood", "comes with `swift serve`"],
        ),
        (
            "eval --model_output_dir output/ --eval_scopes mme,textvqa",
            ["swift eval is understood, but not built yet: benchmarks", "there is no folder output/", "--val_dataset"],
        ),
        ("serve --engine lmdeploy --model_path ./m", ["swift serve is understood", "engine 'lmdeploy' is understood"]),
        ("rlhf --rlhf_type grpo --model m --dataset rows.jsonl --num_generations 8", ["objective 'grpo' is understood"]),
        ("sample --model m --sampler_engine vllm --orm_model math", ["swift sample is understood"]),
        ("app --model m --lang zh", ["swift app is understood", "swift chat talks"]),
        ("app-ui --model m --infer_backend vllm --share true", ["swift app-ui is understood", "swift chat talks"]),
        ("web-ui --server_port 7860", ["swift web-ui is understood"]),
        ("rollout --model m --vllm_use_async_engine true", ["swift rollout is understood"]),
        ("megatron export --model m --to_mcore true", ["Megatron-Core (comes with its strategy)"]),
        (
            "megatron sft --model m --dataset rows.jsonl --tensor_model_parallel_size 2",
            ["tensor, pipeline, context and expert"],
        ),
    ],
)
def test_what_is_not_built_is_refused_with_its_reason(here, swift, line, said):
    """The command and its plan give the same answer; neither is a traceback or an unknown flag."""
    for command in (line, f"plan {line}"):
        code, text = swift(command)
        flat = " ".join(text.split())
        assert code != 0 and not [words for words in said if words not in flat], flat
        assert code == REFUSED or not command.startswith("plan")


@pytest.mark.parametrize(
    "block", ["parallel: {zero_optimization: 3}", "parallelization: {zero_optimization: {stage: 3, offload: true}}"]
)
def test_zero_of_a_parallel_block(here, plan, block):
    (here / "a.yaml").write_text(f"model: m\ntrain_dataset: rows.jsonl\n{block}\n", encoding="utf-8")
    made = plan("sft a.yaml")
    assert "ZeRO" in reasons(made) and "not built yet" in reasons(made)
    assert made.estimate["memory"]["sharding"], "what ZeRO would need is shown"


def test_tensor_and_pipeline_parallel_of_a_parallel_block(here, plan):
    (here / "a.yaml").write_text(
        "model: m\npreference_dataset: alpaca_prefs\nparallel:\n  tensor_parallel: 2\n  pipeline_parallel: 2\n",
        encoding="utf-8",
    )
    made = plan("rlhf -c a.yaml")
    assert reasons(made).count("tensor and pipeline parallelism") == 2
    assert made.config["data"]["dataset"] == ["alpaca_prefs"] and made.components["objective"].name == "dpo"


def test_every_verb_can_be_planned(here, plan):
    assert not plan("infer --model m").refused
    assert not plan("export m --merge_lora true").refused
    assert plan("sft --model m --dataset rows.jsonl").verb == "sft"
    assert plan("megatron pt --model m --dataset rows.jsonl").components["objective"].name == "pt"
    assert "swift evaluate is understood" in reasons(plan("evaluate --model m"))


# -------------------------------------------------------------------------------------------------- names and environment


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("qwen2_5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwen3-8b-chat", "Qwen/Qwen3-8B"),
        ("qwen1half-7b-chat", "Qwen/Qwen1.5-7B-Chat"),
        ("llama3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("llama3_1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("mistral-7b-instruct-v2", "mistralai/Mistral-7B-Instruct-v0.2"),
    ],
)
def test_names_of_models_of_older_releases(old, new):
    from swift.plan.models import catalog_entry
    from swift.plugins.registry import discover

    assert catalog_entry(discover(), old).data["hub_ids"]["huggingface"] == new


@pytest.mark.parametrize("name", ["qwen3-7b-chat", "qwen-7b-chat", "qwen-7b"])
def test_names_that_no_catalog_has_are_answered_with_near_ones(tmp_path, monkeypatch, plan, name):
    monkeypatch.chdir(tmp_path)
    assert "did you mean qwen" in reasons(plan(f"sft --model_type {name} --dataset tiny"))


def test_environment_is_honoured_and_shown(here, monkeypatch, plan, capsys):
    for name, value in {
        "NPROC_PER_NODE": "2", "USE_HF": "1", "CUDA_VISIBLE_DEVICES": "0,1", "MAX_PIXELS": "1003520", "DEVICE": "cpu",
        "HF_ENDPOINT": "https://mirror.example",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    made = plan("sft --model m --dataset rows.jsonl")
    assert made.config["parallel"]["nproc_per_node"] == 2 and made.config["model"]["hub"] == "huggingface"
    assert made.provenance["parallel.nproc_per_node"] == "environment NPROC_PER_NODE"
    assert made.provenance["device.name"] == "environment DEVICE"
    assert made.environment["CUDA_VISIBLE_DEVICES"][0] == "0,1"
    assert made.config["template"]["max_pixels"] == 1003520
    main(["plan", "sft", "--model", "m"])
    text = " ".join(capsys.readouterr().out.split())
    assert "HF_ENDPOINT https://mirror.example environment: read by Hugging Face's hub" in text


def test_env_block_of_a_yaml_file(here, monkeypatch, plan):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ENABLE_AUDIO_OUTPUT", "0")  # set again by monkeypatch afterwards
    (here / "a.yaml").write_text(
        "ENV:\n  ENABLE_AUDIO_OUTPUT: 1\n  NPROC_PER_NODE: 2\n  DEVICE: cpu\nmodel: m\ndataset: [rows.jsonl]\n",
        encoding="utf-8",
    )
    made = plan("sft a.yaml --learning_rate 1e-5")
    assert os.environ["ENABLE_AUDIO_OUTPUT"] == "0", "what is set already goes before the file"
    assert made.config["parallel"]["nproc_per_node"] == 2 and made.config["train"]["learning_rate"] == 1e-5
