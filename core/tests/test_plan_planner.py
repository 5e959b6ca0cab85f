"""What the planner chooses, why, and what it refuses; with devices and strategies made up for the purpose."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swift.api import (
    DatasetSpec,
    DeviceInfo,
    DeviceSpec,
    HubSpec,
    LauncherSpec,
    ModelSpec,
    Need,
    ObjectiveSpec,
    OptimizerSpec,
    ParallelSpec,
    Spec,
    TrackerSpec,
    TunerSpec,
)
from swift.api.settings import Settings
from swift.config.sections import TRAIN_SECTIONS, Section, TrainSection
from swift.errors import ConfigError, DataError, ModelError, PlanRefused, PluginNotFound
from swift.plan import draft
from swift.plan.plan import Plan
from swift.plan.planner import make_plan, refuse
from swift.plugins.registry import Entry, Registry

GIB = 2**30
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 300,
    "max_position_embeddings": 512, "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
GPU_FACTS: dict[str, Any] = {
    "device.dtypes": ("bfloat16", "float32"), "device.collectives": ("nccl",), "device.attention": ("flash_x", "sdpa", "eager"),
}  # fmt: skip
HOST_FACTS: dict[str, Any] = {
    "device.dtypes": ("float32", "bfloat16"), "device.collectives": ("gloo",), "device.attention": ("sdpa", "eager"),
}  # fmt: skip
MADE_UP = """
from swift.api import Hub, ModelError

HERE = {}
FOLDER, CALLS = [], []

class MadeUpHub(Hub):
    def resolve_model(self, repo_id, *, revision=None, weights=True):
        CALLS.append((repo_id, revision, weights))
        if not FOLDER:
            raise ModelError(f"{repo_id} cannot be reached", fix="check the network")
        return FOLDER[0]

    def resolve_dataset(self, repo_id, *, revision=None, subset="", split=""):
        raise NotImplementedError

def host():
    return HERE.get("host")

def gpu():
    return HERE.get("gpu")
"""
HERE: dict[str, DeviceInfo | None] = {}
"""Device -> what its probe finds in this test; absent ones find None."""

SPECS: list[Spec] = [
    ObjectiveSpec(name="sft", impl="x:Y"),
    TunerSpec(name="lora", impl="x:Y", learning_rate=3e-4),
    TunerSpec(name="full", impl="x:Y", artifact="model", trainable="all", learning_rate=2e-5),
    OptimizerSpec(name="adamw", impl="x:Y"),
    DeviceSpec(name="host", impl="x:Y", probe="made_up_devices:host", facts=HOST_FACTS),
    DeviceSpec(name="gpu", impl="x:Y", probe="made_up_devices:gpu", priority=10, facts=GPU_FACTS),
    ParallelSpec(name="alone", impl="x:Y", needs=(Need("parallel.world_size <= 1", why="it is one process"),)),
    ParallelSpec(name="copies", impl="x:Y", multi_process=True, launcher="starter"),
    ParallelSpec(
        name="shares", impl="x:Y", multi_process=True, launcher="starter", shards=("weights", "gradients", "optimizer")
    ),
    LauncherSpec(name="starter", impl="x:Y"),
    TrackerSpec(name="board", impl="x:Y"),
    ModelSpec(name="loader", impl="x:Y", generic=True),
    ModelSpec(name="known", aliases=("Known-1",), hub_ids={"hub": "org/known"}, loader="loader"),
    ModelSpec(name="packaged", folder="json:.", loader="loader"),
    DatasetSpec(name="rows", impl="x:Y"),
]


class LoraSettings(Settings):
    rank: int = 8


@dataclass
class Resolved:
    """As `swift.config.loader.Resolved`."""

    sections: Mapping[str, Section]
    verb: str = "sft"
    provenance: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def settings_for(self, entry: Entry) -> Settings:
        return LoraSettings() if entry.name == "lora" else Settings()


def resolved(folder: Path | str, verb: str = "sft", /, extra: dict[str, Any] | None = None, **sections: Any) -> Resolved:
    values = {"model": str(folder), **sections}
    if isinstance(values.get("data"), str):
        values["data"] = {"dataset": [values["data"]]}
    return Resolved(
        {name: cls.model_validate(values.get(name, {})) for name, cls in TRAIN_SECTIONS.items()}, verb, extra=extra or {}
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    (tmp_path / "made_up_devices.py").write_text(MADE_UP, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_up_devices", raising=False)
    HERE.clear()
    HERE["host"] = DeviceInfo(1, ("a processor",), 16 * GIB, {"device.tflops": 0.1})
    importlib.import_module("made_up_devices").HERE = HERE
    return Registry(entries=[Entry(spec) for spec in SPECS])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "who are you?", "response": "a test"}\n' * 40, encoding="utf-8")
    return str(path)


def chosen(plan: Plan) -> dict[str, Any]:
    return {choice.path: choice.value for choice in plan.choices}


def test_every_open_value_is_chosen_with_a_reason(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data), registry)
    assert not plan.problems
    assert chosen(plan) == {
        "device.name": "host", "parallel.nproc_per_node": 1, "parallel.name": "alone", "train.gradient_accumulation_steps": 16,
        "train.learning_rate": 3e-4, "train.compile": "off", "train.gradient_checkpointing": "off", "data.max_length": 512,
        "model.dtype": "bfloat16", "objective.logits_memory": 256.0, "train.optimizer_in_backward": False,
        "model.attention": "auto",
    }  # fmt: skip
    assert all(choice.why for choice in plan.choices)
    for path, value in chosen(plan).items():
        section, _, key = path.partition(".")
        assert plan.config[section][key] == value
        assert plan.provenance[path].startswith("chosen because")
    assert set(plan.components) == {"objective", "tuner", "optimizer", "device", "parallel", "model"}
    assert plan.components["tuner"].settings == {"rank": 8}
    assert plan.model_folder == str(model)
    refuse(plan)


def test_the_plan_survives_json(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data), registry)
    again = Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert again.choices == plan.choices and again.problems == plan.problems and again.suggestions == plan.suggestions


def test_accelerators_are_all_used(registry: Registry, model: Path, data: str) -> None:
    HERE["gpu"] = DeviceInfo(4, ("card",) * 4, 80 * GIB, {"device.tflops": 400.0})
    plan = make_plan(resolved(model, data=data), registry)
    values = chosen(plan)
    assert (values["device.name"], values["parallel.nproc_per_node"], values["parallel.name"]) == ("gpu", 4, "copies")
    assert values["train.gradient_accumulation_steps"] == 4
    assert values["train.gradient_checkpointing"] == "off"
    assert plan.components["launcher"].name == "starter"
    assert plan.facts["parallel.world_size"] == 4


def test_activations_are_recomputed_only_as_far_as_memory_asks(registry: Registry, model: Path, data: str) -> None:
    def plan(memory: int, mode: str = "auto") -> Plan:
        HERE["gpu"] = DeviceInfo(1, ("card",), memory)
        return make_plan(resolved(model, data=data, train={"gradient_checkpointing": mode}), registry)

    def why(plan: Plan) -> str:
        return next(c.why for c in plan.choices if c.path == "train.gradient_checkpointing")

    needs = {mode: plan(80 * GIB, mode).estimate["memory"]["total"] for mode in ("off", "selective", "full")}
    assert needs["off"] > needs["selective"] > needs["full"]
    for mode, total in needs.items():
        made = plan(round(total / 0.8) + 1)
        assert chosen(made)["train.gradient_checkpointing"] == made.config["train"]["gradient_checkpointing"] == mode
        assert made.estimate["memory"]["total"] == total
        assert f"an estimate of {total / GIB:.1f} GiB fits 80 % of the" in why(made)
        assert ("off would take" in why(made)) == (mode != "off")
    assert chosen(plan(round(needs["full"] / 0.8) - 10))["train.gradient_checkpointing"] == "full"
    assert chosen(plan(0))["train.gradient_checkpointing"] == "full"
    assert "memory is what is short on accelerators" in why(plan(0))


def test_activations_are_not_offloaded_to_where_they_are(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, train={"gradient_checkpointing": "offload"}), registry)
    (problem,) = plan.refused
    assert "where host computes anyway" in problem.message and problem.fix == "--gradient_checkpointing full"
    HERE["gpu"] = DeviceInfo(1, ("card",), 80 * GIB)
    assert not make_plan(resolved(model, data=data, train={"gradient_checkpointing": "offload"}), registry).refused


def why(plan: Plan, path: str) -> str:
    return next(choice.why for choice in plan.choices if choice.path == path)


def test_updates_in_the_backward_pass_are_the_last_resort(registry: Registry, model: Path, data: str) -> None:
    """auto takes them where nothing else makes the run fit and its other settings allow it already."""
    path = "train.optimizer_in_backward"

    def plan(memory: int, **train: Any) -> Plan:
        HERE["gpu"] = DeviceInfo(1, ("card",), memory)
        return make_plan(resolved(model, data=data, tuner="full", train=train), registry)

    legal = {"max_grad_norm": 0.0, "gradient_accumulation_steps": 1, "gradient_checkpointing": "full"}
    roomy = plan(80 * GIB, **legal)
    assert chosen(roomy)[path] is False and "which fit without" in why(roomy, path)
    total = roomy.estimate["memory"]["total"]
    short = plan(round(total / 0.8) - 2**20, **legal)
    assert chosen(short)[path] is True and "it spares" in why(short, path)
    assert short.estimate["memory"]["total"] < total
    not_so = plan(round(total / 0.8) - 2**20, **legal | {"gradient_accumulation_steps": 4})
    assert chosen(not_so)[path] is False and "but needs --gradient_accumulation_steps 1" in why(not_so, path)


def test_logits_get_what_their_chunks_need(registry: Registry, model: Path, data: str) -> None:
    """A trained head of a large vocabulary asks for more than 256 MiB, where the device has it: see `swift.api.ops`."""
    (model / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 151936}), encoding="utf-8")
    path, packs = "objective.logits_memory", {"dataset": [data], "batching": "packed", "packing_length": 1024}

    def plan(memory: int, **sections: Any) -> Plan:
        HERE["gpu"] = DeviceInfo(1, ("card",), memory)
        return make_plan(resolved(model, data=packs, **sections), registry)

    full = plan(80 * GIB, tuner="full", model={"id": str(model), "dtype": "float32"}, train={"mixed_precision": "no"})
    assert chosen(full)[path] == 297, "512 x 151,936 x 4 bytes"
    for other in (plan(80 * GIB), plan(8 * GIB, tuner="full", model={"id": str(model), "dtype": "float32"})):
        assert chosen(other)[path] == 256 and "live at once" in why(other, path)
    given = plan(80 * GIB, objective={"logits_memory": 64.0})
    assert path not in chosen(given) and given.config["objective"]["logits_memory"] == 64


def test_why_nothing_is_compiled(registry: Registry, model: Path, data: str) -> None:
    text = why(make_plan(resolved(model, data=data), registry), "train.compile")
    assert "0.9 to 1.3 times as fast" in text and "about 40 s of compiling" in text and "of this run's" in text
    HERE["gpu"] = DeviceInfo(1, ("card",), 80 * GIB)
    assert "has not been measured" in why(make_plan(resolved(model, data=data), registry), "train.compile")


def test_a_start_is_told_only_of_what_is_out_of_the_ordinary(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data), registry)
    plain = {choice.path for choice in plan.choices if choice.plain}
    assert {"train.compile", "train.optimizer_in_backward", "model.attention", "objective.logits_memory"} <= plain
    assert not {"train.learning_rate", "train.gradient_checkpointing", "data.max_length"} & plain


def test_attention_is_one_that_the_device_has(registry: Registry, model: Path, data: str) -> None:
    HERE["gpu"] = DeviceInfo(1, ("card",), 80 * GIB)
    plan = make_plan(resolved(model, data=data), registry)
    assert chosen(plan)["model.attention"] == "auto" == plan.config["model"]["attention"]
    assert "the first of flash_x, sdpa, eager" in why(plan, "model.attention")
    assert "all but eager spare its scores" in why(plan, "model.attention")

    def asked(name: str, verb: str = "sft") -> Plan:
        return make_plan(resolved(model, verb, data=data, model={"id": str(model), "attention": name}), registry)

    assert not asked("sdpa").problems and not asked("flex_attention").problems
    (problem,) = asked("sdpaa").refused
    assert problem.fix == "--attention sdpa" and "auto, flash_x, sdpa, eager, flex_attention" in problem.message
    HERE["gpu"] = None
    (elsewhere,) = asked("flash_x").refused
    assert elsewhere.fix == "--attention auto" and elsewhere.message.endswith("; gpu may have it")
    assert not asked("flash_x", "plan").refused, "a plan may be for another machine"


def test_updates_in_the_backward_pass_are_refused_with_what_to_type(registry: Registry, model: Path, data: str) -> None:
    def plan(**train: Any) -> Plan:
        return make_plan(resolved(model, data=data, train={"optimizer_in_backward": True, **train}), registry)

    (problem,) = plan().refused
    assert problem.fix == "--max_grad_norm 0 --gradient_accumulation_steps 1"
    assert "16 micro-batches" in problem.message
    (problem,) = plan(max_grad_norm=0.0, gradient_accumulation_steps=1, auto_batch_size=True).refused
    assert problem.fix == "--auto_batch_size false"
    HERE["gpu"] = DeviceInfo(2, ("card",) * 2, 80 * GIB)
    (problem,) = plan(max_grad_norm=0.0, gradient_accumulation_steps=1).refused
    assert problem.fix == "--nproc_per_node 1"
    HERE["gpu"] = DeviceInfo(1, ("card",), 80 * GIB)
    legal = plan(max_grad_norm=0.0, gradient_accumulation_steps=1)
    assert not legal.refused
    less, all_at_once = (
        p.estimate["memory"]["per_rank"].get("gradients", 0)
        for p in (legal, make_plan(resolved(model, data=data), registry))
    )  # fmt: skip
    assert 0 < less < all_at_once


@pytest.mark.parametrize(
    ("typed", "mode"),
    [
        (None, "auto"), (True, "full"), (False, "off"), ("true", "full"), ("no", "off"), ("Selective", "selective"),
        ("offload", "offload"), ("auto", "auto"),
    ],
)  # fmt: skip
def test_the_setting_is_still_understood_as_a_switch(typed: Any, mode: str) -> None:
    assert TrainSection(gradient_checkpointing=typed).gradient_checkpointing == mode


def test_a_host_takes_as_many_processes_as_asked(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, parallel={"nproc_per_node": 2}), registry)
    assert not plan.refused
    assert plan.components["parallel"].name == "copies"
    assert plan.estimate["memory"]["budget"] == 8 * GIB


def test_more_processes_than_accelerators_are_refused(registry: Registry, model: Path, data: str) -> None:
    HERE["gpu"] = DeviceInfo(1, ("card",), 80 * GIB)
    plan = make_plan(resolved(model, data=data, parallel={"nproc_per_node": 2}), registry)
    with pytest.raises(PlanRefused, match="2 processes per machine need as many gpu devices; here are 1"):
        refuse(plan)


def test_an_absent_device_is_refused_here_and_planned_elsewhere(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, device="gpu"), registry)
    with pytest.raises(PlanRefused, match=r"this machine has no gpu device; present: host"):
        refuse(plan)
    elsewhere = make_plan(resolved(model, "plan", data=data, device="gpu"), registry)
    assert not elsewhere.refused
    assert elsewhere.problems[0].level == "unverified"
    assert elsewhere.estimate["memory"]["verdict"] == "unknown"


def test_a_library_that_a_component_requires_is_missed_here_and_not_elsewhere(
    registry: Registry, model: Path, data: str
) -> None:
    needy = registry.extended([Entry(TunerSpec(name="needy", impl="x:Y", requires=("acme-absent-lib>=3",)))])
    plan = make_plan(resolved(model, data=data, tuner="needy"), needy)
    with pytest.raises(PluginNotFound, match="needs acme-absent-lib>=3, found nothing") as caught:
        refuse(plan)
    assert caught.value.fix == "pip install 'acme-absent-lib>=3'"
    elsewhere = make_plan(resolved(model, "plan", data=data, tuner="needy"), needy)
    refuse(elsewhere)
    assert [p.level for p in elsewhere.problems if "acme-absent-lib" in p.message] == ["unverified"]


def test_one_process_strategies_keep_one_device(registry: Registry, model: Path, data: str) -> None:
    HERE["gpu"] = DeviceInfo(4, ("card",) * 4, 80 * GIB)
    plan = make_plan(resolved(model, data=data, parallel="alone"), registry)
    assert chosen(plan)["parallel.nproc_per_node"] == 1 and not plan.refused


def test_needs_are_judged_with_suggestions(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, parallel={"name": "alone", "nproc_per_node": 2}), registry)
    with pytest.raises(PlanRefused, match="it is one process") as caught:
        refuse(plan)
    assert "--parallel copies" in caught.value.fix


def test_weights_are_trained_in_float32_and_given_out_as_they_came(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, tuner="full"), registry)
    assert chosen(plan)["model.dtype"] == "float32"
    assert plan.facts["model.upcast_from"] == "bfloat16"
    assert chosen(plan)["train.learning_rate"] == 2e-5
    kept = make_plan(resolved(model, data=data, tuner="full", model={"id": str(model), "dtype": "bfloat16"}), registry)
    assert "model.dtype" not in chosen(kept) and "model.upcast_from" not in kept.facts


@pytest.mark.parametrize(("stored", "taken"), [("float16", "bfloat16"), ("float32", "float32"), ("float8_e4m3fn", "bfloat16")])
def test_adapters_keep_the_dtype_where_it_can_be_trained(
    registry: Registry, model: Path, data: str, stored: str, taken: str
) -> None:
    (model / "config.json").write_text(json.dumps({**CONFIG, "dtype": stored}), encoding="utf-8")
    assert chosen(make_plan(resolved(model, data=data), registry))["model.dtype"] == taken


def test_a_dtype_that_the_device_lacks_is_refused(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, model={"id": str(model), "dtype": "float16"}), registry)
    with pytest.raises(PlanRefused, match="host does not train in float16; it trains in float32, bfloat16"):
        refuse(plan)


def test_secrets_stay_out_of_the_plan(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data, model={"id": str(model), "hub_token": "hf_very_secret"}), registry)
    assert "hf_very_secret" not in plan.to_json()


def test_all_problems_come_together(registry: Registry, tmp_path: Path) -> None:
    plan = make_plan(
        resolved(tmp_path / "none", data="missing.jsonl", tuner="lorra", device="gpu", logging={"tracker": ["wandb"]}), registry
    )
    with pytest.raises(PlanRefused) as caught:
        refuse(plan)
    for words in ("there is no folder", "missing.jsonl", "did you mean lora", "no gpu device", "wandb"):
        assert words in str(caught.value)


def test_a_single_problem_raises_its_own_error(registry: Registry, model: Path, data: str, tmp_path: Path) -> None:
    for expected, plan in (
        (ModelError, make_plan(resolved(tmp_path / "none", data=data), registry)),
        (DataError, make_plan(resolved(model, data="missing.jsonl"), registry)),
        (PluginNotFound, make_plan(resolved(model, data=data, tuner="lorra"), registry)),
    ):
        with pytest.raises(expected):
            refuse(plan)


def test_settings_that_a_component_refuses_are_a_problem(registry: Registry, model: Path, data: str) -> None:
    class Strict(Resolved):
        def settings_for(self, entry: Entry) -> Settings:
            raise ConfigError("lora.rank must be at least 1")

    plan = make_plan(Strict(resolved(model, data=data).sections), registry)
    assert "lora.rank must be at least 1" in {p.message for p in plan.refused}


# ----------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(("file", "words"), [("tokenizer.json", "no tokenizer"), ("pytorch_model.bin", "no weights")])
def test_an_incomplete_folder_is_refused_for_a_run_and_noted_for_a_plan(
    registry: Registry, model: Path, data: str, file: str, words: str
) -> None:
    (model / file).unlink()
    with pytest.raises(ModelError, match=words):
        refuse(make_plan(resolved(model, data=data), registry))
    plan = make_plan(resolved(model, "plan", data=data), registry)
    assert not plan.refused and words in plan.problems[0].message


def test_random_weights_need_no_weight_files(registry: Registry, model: Path, data: str) -> None:
    (model / "pytorch_model.bin").unlink()
    plan = make_plan(resolved(model, data=data, model={"id": str(model), "init": "random"}), registry)
    assert not plan.problems and plan.config["model"]["dtype"] == "float32"


def test_damaged_weights_are_found_before_the_run(registry: Registry, model: Path, data: str) -> None:
    (model / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(ModelError, match="is damaged"):
        refuse(make_plan(resolved(model, data=data), registry))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no config.json"),
        ({"adapter_config.json": "{}"}, "holds an adapter"),
        ({"plan.json": "{}"}, "is a run that trained an adapter"),
        ({"inner/config.json": "{}"}, "but in"),
        ({"config.json": "nonsense"}, "cannot be read"),
    ],
)
def test_other_folders_say_what_they_are(
    registry: Registry, tmp_path: Path, data: str, files: dict[str, str], words: str
) -> None:
    folder = tmp_path / "odd"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    folder.mkdir(exist_ok=True)
    with pytest.raises(ModelError, match=words):
        refuse(make_plan(resolved(folder, data=data), registry))


def test_a_run_that_trained_a_whole_model_is_a_model(registry: Registry, model: Path, data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text("{}", encoding="utf-8")
    model.rename(run / "final")
    assert make_plan(resolved(run, data=data), registry).model_folder == str(run / "final")


def test_names_are_looked_up_in_the_catalog(registry: Registry, data: str) -> None:
    with pytest.raises(ModelError, match="did you mean known"):
        refuse(make_plan(resolved("knwon", data=data), registry))
    with pytest.raises(ModelError, match="no hub is installed"):
        refuse(make_plan(resolved("Known-1", data=data), registry))
    with pytest.raises(ModelError, match="no installed hub has the prefix 'hf'"):
        refuse(make_plan(resolved("hf::org/name", data=data), registry))


HUB = Entry(HubSpec(name="hub", impl="made_up_devices:MadeUpHub", prefix="hb"))


@pytest.mark.parametrize("name", ["known", "org/known", "hb::org/known"])
def test_weights_are_fetched_only_for_a_run_that_may_start(registry: Registry, model: Path, data: str, name: str) -> None:
    made_up = sys.modules["made_up_devices"]
    made_up.FOLDER.append(model)
    with_hub = Registry(entries=[*registry.entries(), HUB])
    plan = make_plan(resolved(name, data=data), with_hub)
    assert made_up.CALLS == [("org/known", None, False), ("org/known", None, True)]
    assert plan.model_folder == str(model) and plan.components["hub"].name == "hub"
    for other in (resolved(name, "plan", data=data), resolved(name, data="missing.jsonl")):
        made_up.CALLS.clear()
        make_plan(other, with_hub)
        assert made_up.CALLS == [("org/known", None, False)]


def test_a_hub_out_of_reach_leaves_what_the_catalog_says(registry: Registry, data: str) -> None:
    with_hub = Registry(entries=[*registry.entries(), HUB])
    plan = make_plan(resolved("known", "plan", data=data), with_hub)
    assert plan.problems[0].level == "unverified" and "cannot be reached" in plan.problems[0].message
    with pytest.raises(ModelError, match="cannot be reached"):
        refuse(make_plan(resolved("known", data=data), with_hub))
    with pytest.raises(ModelError, match="cannot be reached"):
        refuse(make_plan(resolved("org/unknown", "plan", data=data), with_hub))


# ------------------------------------------------------------------------------------------------------------------ sizes


def test_what_cannot_fit_is_refused_with_advice_and_may_be_allowed(registry: Registry, model: Path, data: str) -> None:
    big = {**CONFIG, "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
           "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}  # fmt: skip
    (model / "config.json").write_text(json.dumps(big), encoding="utf-8")
    HERE["host"] = DeviceInfo(1, ("a processor",), 24 * GIB)
    plan = make_plan(resolved(model, data=data, tuner="full"), registry)
    assert plan.estimate["model"]["parameters"] == 8_190_735_360
    assert plan.estimate["memory"]["verdict"] == "does not fit"
    with pytest.raises(PlanRefused, match=r"122\.\d GiB per process, and there are 24\.0 GiB") as caught:
        refuse(plan)
    assert "--tuner lora" in caught.value.fix
    refuse(make_plan(resolved(model, extra={"allow": [draft.MEMORY]}, data=data, tuner="full"), registry))
    HERE["gpu"] = DeviceInfo(8, ("card",) * 8, 80 * GIB)
    shared = make_plan(resolved(model, data=data, tuner="full", parallel="shares"), registry)
    assert shared.estimate["memory"]["per_rank"]["weights"] == 4 * 8_190_735_360 // 8
    assert not shared.refused


def test_data_gives_steps_and_time(registry: Registry, model: Path, data: str) -> None:
    plan = make_plan(resolved(model, data=data), registry)
    assert plan.estimate["data"]["rows"] == 40
    assert plan.estimate["time"]["steps"] == 3
    assert plan.estimate["time"]["seconds"] > 0
    again = make_plan(resolved(model, data={"dataset": [data], "val_split": 0.5}, train={"epochs": 4}), registry)
    assert again.estimate["time"]["steps"] == 8


def test_without_an_estimate_nothing_is_counted(registry: Registry, model: Path, data: str) -> None:
    assert make_plan(resolved(model, data=data), registry, estimate=False).estimate == {}
