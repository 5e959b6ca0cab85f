"""The articles' and ms-swift's snippets run as they are written; a tiny model stands where a hub id stands.

Oracle for adapters: PEFT itself, called beside `Swift` with the same seed.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import swift
from swift import (
    DPOConfig,
    DPOTrainer,
    HFDataset,
    LoRAConfig,
    SftArguments,
    Swift,
    SwiftModel,
    Trainer,
    register_dataset,
    train,
)  # fmt: skip
from swift.api import ModelSpec
from swift.deploy import serve_model
from swift.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ModelError,
    PlanRefused,
    PluginNotFound,
    SwiftError,
    Unsupported,
)
from swift.facade import refs
from swift.plugins import registered
from swift.plugins.info import Entry
from swift.plugins.registry import Registry
from swift.python import tuners
from swift.python.missing import MISSING
from swift.training.progress import Display

sys.path.insert(0, str(Path(__file__).parent))
from tiny_vlm import draw, write_qwen

HUB_IDS = ("qwen/Qwen-7B", "qwen-7b", "qwen3", "qwen3-vl")
QUICK = {"progress": False, "report": False}


@pytest.fixture(autouse=True)
def desk(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty working folder with the articles' files, and a catalog in which their models are the tiny one."""
    monkeypatch.chdir(tmp_path)
    rows = [{"query": f"say {n}", "response": f"{n} it is"} for n in range(10)]
    pairs = [{"prompt": f"say {n}", "chosen": f"{n} it is", "rejected": "no"} for n in range(4)]
    for name, data in (("local_data.jsonl", rows), ("alpaca_prefs.jsonl", pairs)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    for number, name in enumerate(HUB_IDS):
        spec = ModelSpec(
            name=f"stand-in-{number}" if "/" in name else name, hub_ids={"huggingface": name} if "/" in name else {},
            folder=str(model_folder), loader="transformers",
        )  # fmt: skip
        registered.add(Entry(spec, source="this test"))
    yield
    for entry in registered.entries():
        registered.remove(entry.id)


@pytest.fixture
def model(model_folder: Path):
    return AutoModelForCausalLM.from_pretrained(model_folder)


@pytest.fixture
def ids(model_folder: Path) -> torch.Tensor:
    return AutoTokenizer.from_pretrained(model_folder)("hello there", return_tensors="pt").input_ids


def same(one: nn.Module, other: nn.Module, ids: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one(ids).logits, other(ids).logits)


def shaken(model: nn.Module) -> nn.Module:
    """Adapters begin without effect: give B some."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    return model


# ------------------------------------------------------------------------------------------------------- imports


def test_importing_names_imports_nothing_heavy() -> None:
    code = (
        "import sys, swift\n"
        "print([m for m in ('torch', 'pydantic', 'yaml', 'pyarrow') if m in sys.modules])\n"
        "from swift import Swift, LoRAConfig, SftArguments, Trainer, DPOConfig, DPOTrainer, SwiftModel, register_dataset\n"
        "from swift import HFDataset, train, TransformersEngine, sft_main\n"
        "from swift.deploy import serve_model\n"
        "config = LoRAConfig(r=8, target_modules=['q_proj', 'v_proj'], lora_alpha=32, dropout_p=0.05)\n"
        "args = SftArguments(output_dir='output', learning_rate=1e-4)\n"
        "Trainer(model='tiny', train_dataset='tiny-chat', args=args, lora_config=config).plan()\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'datasets') if m in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.splitlines() == ["[]", "[]"], out.stdout + out.stderr[-1500:]


def test_every_name_is_there() -> None:
    for name in swift.__all__:
        assert getattr(swift, name) is not None
    assert "Trainer" in dir(swift)


@pytest.mark.parametrize("name", sorted(MISSING))
def test_names_of_ms_swift_that_are_not_here_say_what_to_use(name: str) -> None:
    assert name not in swift.__all__
    with pytest.raises(ImportError, match=f"swift has no {name}\n  fix: ....") as caught:
        getattr(swift, name)
    assert isinstance(caught.value, SwiftError)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Trainr'; did you mean Trainer "):
        _ = swift.Trainr


# ------------------------------------------------------------------------------------------------- adapters on models


def test_prepare_model_as_the_articles_have_it(model, capsys) -> None:
    lora_config = LoRAConfig(r=8, target_modules=["q_proj", "v_proj"], lora_alpha=32, lora_dropout=0.05)
    prepared = Swift.prepare_model(model, config=lora_config)
    prepared.print_trainable_parameters()
    assert capsys.readouterr().out == "trainable params: 3,584 || all params: 110,848 || trainable%: 3.2333\n"


@pytest.mark.parametrize("own", [LoRAConfig, peft.LoraConfig, dict, "PEFT's other"])
def test_prepare_model_equals_peft(own, model, ids) -> None:
    values = {"r": 4, "target_modules": ["q_proj", "down_proj"], "lora_alpha": 8, "lora_dropout": 0.0}
    theirs = peft.LoraConfig(task_type="CAUSAL_LM", **values)
    config = own(**values) if own != "PEFT's other" else peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    theirs = theirs if own != "PEFT's other" else copy.deepcopy(config)
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    ours = shaken(Swift.prepare_model(model, config))
    torch.manual_seed(0)
    expected = shaken(peft.get_peft_model(other, theirs))
    assert ours.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())
    assert same(ours, expected, ids)
    assert ours.get_nb_trainable_parameters() == expected.get_nb_trainable_parameters()


def test_any_module_of_torch_can_be_prepared() -> None:
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    expected = plain(x)
    prepared = Swift.prepare_model(plain, LoRAConfig(r=2))
    assert prepared.get_nb_trainable_parameters()[0] == 2 * (4 + 8) + 2 * (8 + 2)  # both layers
    prepared.eval()
    assert torch.equal(prepared(x), expected)
    shaken(prepared)(x).sum().backward()
    assert not torch.equal(prepared(x), expected)


def test_several_adapters_take_turns(model, ids) -> None:
    base = copy.deepcopy(model)
    both = Swift.prepare_model(model, {"first": LoRAConfig(r=2), "second": LoRAConfig(r=2)}).eval()
    shaken(both)
    assert both.active_adapters == ["second"]
    with torch.no_grad():
        b = both(ids).logits
        a = Swift.activate(both, "first")(ids).logits
        assert not torch.equal(a, b)
        sum_of_both = Swift.activate(both, "first", "second")(ids).logits
        assert not torch.equal(sum_of_both, a)
        assert same(Swift.deactivate(both), base, ids)
        assert torch.equal(Swift.activate(both, "second")(ids).logits, b)
    with pytest.raises(ConfigError, match="no adapter 'c'; it has: first, second"):
        Swift.activate(both, "c")
    with pytest.raises(ConfigError, match="has an adapter 'first' already"):
        Swift.prepare_model(both, LoRAConfig(), adapter_name="first")


def test_saved_adapters_come_back_and_merge(model, ids, tmp_path) -> None:
    base = copy.deepcopy(model)
    prepared = Swift.prepare_model(model, {"default": LoRAConfig(r=2), "poet": LoRAConfig(r=4)}).eval()
    shaken(prepared)
    Swift.save_pretrained(prepared, tmp_path / "saved")
    again = Swift.from_pretrained(copy.deepcopy(base), tmp_path / "saved", ["default", "poet"])
    for name in ("default", "poet"):
        assert same(Swift.activate(again, name), Swift.activate(prepared, name), ids)
    by_peft = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "saved")
    assert same(Swift.activate(again, "default"), by_peft, ids)

    with torch.no_grad():
        answer = again(ids).logits
        merged = Swift.merge(again)(ids).logits
        assert torch.allclose(merged, answer, atol=1e-5)
        assert torch.allclose(Swift.deactivate(Swift.unmerge(again))(ids).logits, base(ids).logits, atol=1e-5)
        plain = Swift.merge_and_unload(Swift.activate(again, "default"))
        assert torch.allclose(plain(ids).logits, answer, atol=1e-5)
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert same(plain, by_peft.merge_and_unload(safe_merge=True), ids)


def test_wrong_configurations_are_answered() -> None:
    with pytest.raises(ConfigError, match=r"lora_alpah is unknown; did you mean lora_alpha"):
        LoRAConfig(r=8, lora_alpah=32)
    with pytest.raises(ConfigError, match="dropout_p is the same as lora_dropout"):
        LoRAConfig(lora_dropout=0.1, dropout_p=0.1)
    with pytest.raises(ModelError, match=r"linear layers here: 0"):
        Swift.prepare_model(nn.Sequential(nn.Linear(2, 2)), LoRAConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="carries no adapter"):
        Swift.merge(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="a str is no adapter configuration"):
        Swift.prepare_model(nn.Linear(2, 2), "lora")


def test_every_field_of_pefts_lora_config_is_known() -> None:
    fields = [name for name in inspect.signature(peft.LoraConfig).parameters if name in tuners.library().fields("lora")]
    assert len(fields) > 20
    assert LoRAConfig(rank_pattern={"q_proj": 2}, layers_pattern=None).rank_pattern == {"q_proj": 2}
    assert set(tuners.SETTINGS) <= set(fields)
    assert swift.LoraConfig is peft.LoraConfig


def test_without_the_plugin_the_pip_command_is_given(monkeypatch) -> None:
    monkeypatch.setattr(tuners, "discover", lambda: Registry())
    with pytest.raises(PluginNotFound, match="pip install swift-llm-tuner-peft"):
        Swift.prepare_model(nn.Linear(2, 2), LoRAConfig())


# ---------------------------------------------------------------------------------------------------- arguments


def test_arguments_are_checked_when_they_are_made_and_can_be_read() -> None:
    args = SftArguments(
        output_dir="output", per_device_train_batch_size=4, gradient_accumulation_steps=8, learning_rate=1e-4,
        num_train_epochs=3, logging_steps=10, save_steps=500, save_total_limit=2,
    )  # fmt: skip
    assert (args.learning_rate, args.num_train_epochs, args.batch_size, args.output_dir) == (1e-4, 3, 4, "output")
    assert args.lr_scheduler_type == "cosine"  # of the defaults
    args.learning_rate = 2e-4
    assert args.learning_rate == 2e-4
    with pytest.raises(ConfigError, match="learning_rate"):
        args.learning_rate = "high"
    assert args.learning_rate == 2e-4
    with pytest.raises(ConfigError, match=r"learning_rte: unknown; did you mean learning_rate\?"):
        SftArguments(output_dir="output", learning_rte=1e-4)
    assert not hasattr(args, "nonsense")
    assert "secret-1" not in repr(SftArguments(hub_token="secret-1"))


# ------------------------------------------------------------------------------------------------------ training


def test_trainer_of_the_articles() -> None:
    lora_config = LoRAConfig(r=8, target_modules=["q_proj", "v_proj"], lora_alpha=32, dropout_p=0.05)
    args = SftArguments(
        output_dir="output", per_device_train_batch_size=4, gradient_accumulation_steps=8, learning_rate=1e-4,
        num_train_epochs=3, logging_steps=10, save_steps=500, save_total_limit=2,
    )  # fmt: skip
    trainer = Trainer(model="qwen/Qwen-7B", train_dataset="local_data.jsonl", args=args, lora_config=lora_config)
    run = trainer.train()
    config, settings = run.plan.config, run.plan.components["tuner"].settings
    assert run.path == Path("output") and (run.final / "adapter_config.json").is_file()
    numbers = config["train"]
    assert (numbers["batch_size"], numbers["gradient_accumulation_steps"], numbers["epochs"]) == (4, 8, 3)
    assert (numbers["learning_rate"], config["logging"]["log_steps"], config["checkpoint"]["save_steps"]) == (1e-4, 10, 500)
    assert config["checkpoint"]["save_total_limit"] == 2
    assert (settings["rank"], settings["alpha"], settings["dropout"]) == (8, 32, 0.05)
    assert settings["target_modules"] == ["q_proj", "v_proj"]
    assert len(run.losses) >= 1 and run.losses[0] > 0
    html = run._repr_html_()
    assert "data:image/png;base64," in html and "report.html" in html and "<th>loss</th>" in html


def test_lora_of_a_trainer_is_the_lora_of_prepare_model(model, tmp_path) -> None:
    """PEFT's objects keep PEFT's defaults, ours those of `swift sft`; nothing is lost on the way into the plan."""
    for config in (
        LoRAConfig(), LoRAConfig(target_modules="q_proj", rank_pattern={"q_proj": 2}), peft.LoraConfig(),
        peft.LoraConfig(r=3, use_rslora=True, init_lora_weights="gaussian", bias="lora_only", target_modules=["q_proj"]),
        peft.LoHaConfig(r=2, target_modules=["q_proj"], module_dropout=0.1),
    ):  # fmt: skip
        trainer = Trainer(model="qwen3", train_dataset="local_data.jsonl", lora_config=config)
        component = trainer.plan().components["tuner"]
        assert not trainer.plan().refused
        tuner = swift.plugins.loading.instantiate(component)
        ours = tuner.apply(copy.deepcopy(model), seed=0).peft_config["default"]
        theirs = Swift.prepare_model(copy.deepcopy(model), copy.deepcopy(config)).peft_config["default"]
        assert _comparable(ours) == _comparable(theirs)


def _comparable(config: peft.PeftConfig) -> dict:
    return {key: value or None for key, value in config.to_dict().items() if key not in ("task_type", "inference_mode")}


def test_a_model_object_with_lora_is_trained_in_place(model, ids) -> None:
    base = copy.deepcopy(model)
    trainer = Trainer(
        model=model, train_dataset=HFDataset.from_file("local_data.jsonl"), lora_config=LoRAConfig(r=4),
        args=SftArguments(output_dir="output", max_steps=2, learning_rate=1e-2), **QUICK,
    )  # fmt: skip
    run = trainer.train()
    assert not same(model, base, ids), "the object that the caller holds has learned"
    assert same(trainer.model, model, ids)
    assert same(SwiftModel.from_pretrained("output"), trainer.model, ids), "the run on the disk is what is in memory"
    assert run.plan.components["model"].name == "transformers" and not model.training
    with pytest.raises(ModelError, match="inside of a model with adapters"):
        Trainer(model=model, train_dataset="local_data.jsonl").train()


def test_a_plain_model_object_is_trained_whole_but_for_what_is_frozen(model, ids) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.model.embed_tokens.requires_grad_(False)
    rows = [{"query": "a", "response": "b"}] * 4
    run = train(model=model, dataset=rows, max_steps=1, learning_rate=1e-2, output="whole", val_dataset=rows, **QUICK)
    frozen = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert frozen == {"model.embed_tokens.weight"} & before.keys()
    assert same(SwiftModel.from_pretrained(run.path), model, ids)
    assert "eval_loss" in run.log()[-1]


def test_a_prepared_model_is_trained_as_it_was_prepared(model, ids) -> None:
    prepared = Swift.prepare_model(model, LoRAConfig(r=2, target_modules=["q_proj"]))
    trainer = Trainer(model=prepared, train_dataset="local_data.jsonl", max_steps=1, output="prepared", **QUICK)
    plan = trainer.plan()
    assert plan.components["tuner"].settings["rank"] == 2
    trainer.train()
    assert trainer.model is prepared
    assert same(SwiftModel.from_pretrained("prepared"), prepared, ids)
    with pytest.raises(ConfigError, match="carries adapters already"):
        Trainer(model=prepared, train_dataset="local_data.jsonl", lora_config=LoRAConfig()).plan()


def test_a_model_object_of_no_folder_is_written_so_that_its_run_can_be_opened(model, ids, model_folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    torch.manual_seed(3)
    fresh = AutoModelForCausalLM.from_config(model.config)
    fresh.name_or_path = fresh.config._name_or_path = ""
    with pytest.raises(ModelError, match=r"(?s)which tokenizer\?.*tokenizer=tokenizer"):
        train(model=fresh, dataset="local_data.jsonl")
    given = {"model": fresh, "tokenizer": tokenizer, "dataset": "local_data.jsonl"}
    run = train(**given, tuner="lora", max_steps=1, output="fresh", **QUICK)
    assert same(SwiftModel.from_pretrained(run.path), fresh, ids)
    with torch.no_grad():  # the folder is not what the object is now
        fresh_again = Swift.merge_and_unload(SwiftModel.from_pretrained(run.path))
        fresh_again.model.norm.weight.mul_(2)
    plan = swift.plan_run(model=fresh_again, tokenizer=tokenizer, dataset="local_data.jsonl")
    assert plan.model_folder != run.plan.model_folder


def test_what_a_model_object_cannot_do_is_said(model) -> None:
    with pytest.raises(PlanRefused, match="in this process alone"):
        train(model=model, dataset="local_data.jsonl", nproc_per_node=2)
    with pytest.raises(ModelError, match="no causal language model"):
        train(model=nn.Linear(2, 2), dataset="local_data.jsonl")
    with pytest.raises(ConfigError, match="the model object is in float32, and bfloat16 is asked for"):
        train(model=model, dataset="local_data.jsonl", dtype="bfloat16")
    with pytest.raises(ConfigError, match="model is a int"):
        train(model=3, dataset="local_data.jsonl")


def test_trainer_evaluates_saves_and_goes_on() -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 4
    trainer = Trainer("qwen3", {"max_steps": 2, "save_steps": 1, "output_dir": "o"}, rows, eval_dataset=rows, **QUICK)
    with pytest.raises(CheckpointError, match="has not trained yet"):
        trainer.evaluate()
    run = trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert (trainer.save_model("kept") / "adapter_model.safetensors").is_file()
    with pytest.raises(CheckpointError, match="kept is not empty"):
        trainer.save_model("kept")
    assert len(trainer.train(resume_from_checkpoint=run.path).losses) == 2
    with pytest.raises(Unsupported, match="(?s)no callbacks: observers are hooks.*no data_collator: Swift makes the batches"):
        Trainer("qwen3", train_dataset=rows, callbacks=[1], data_collator=len)
    with pytest.raises(ConfigError, match=r"lerning_rate: unknown; did you mean learning_rate\?"):
        Trainer("qwen3", train_dataset=rows, lerning_rate=1e-4)


def test_rows_from_anywhere() -> None:
    rows = [{"query": "a", "response": "b"}, {"query": "c", "response": "d"}]
    datasets = pytest.importorskip("datasets")

    class Own(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, number: int) -> dict:
            return rows[number]

    texts = set()
    for given in (rows, tuple(rows), HFDataset.from_list(rows), datasets.Dataset.from_list(rows), Own(), lambda: rows):
        (file,) = refs(given, "dataset")
        texts.add(Path(file).read_text(encoding="utf-8"))
    assert len(texts) == 1
    assert refs("local_data.jsonl", "dataset") == ["local_data.jsonl"]
    assert refs(["a.jsonl", rows], "dataset")[0] == "a.jsonl"
    pandas = pytest.importorskip("pandas")
    assert Path(refs(pandas.DataFrame(rows), "dataset")[0]).read_text(encoding="utf-8") in texts
    with pytest.raises(DataError, match=r'(?s)DatasetDict with train.*data\["train"\]'):
        refs(datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}), "train_dataset")
    with pytest.raises(DataError, match="train_dataset is a int"):
        refs(3, "train_dataset")


def test_register_dataset_of_the_articles() -> None:
    @register_dataset(name="my_sft_data", train_only=True)
    def load_my_data():
        return HFDataset.from_file("local_data.jsonl")

    run = train(model="qwen3", dataset="my_sft_data", max_steps=1, output="o", **QUICK)
    assert len(run.losses) == 1


def test_dpo_of_the_articles() -> None:
    dpo_config = DPOConfig(beta=0.1, label_smoothing=0.01, loss_type="sigmoid")
    assert (dpo_config.beta, dpo_config.loss_type) == (0.1, "sigmoid")
    args = SftArguments(output_dir="dpo", learning_rate=1e-3, max_steps=3, per_device_train_batch_size=2)
    trainer = DPOTrainer(model="qwen/Qwen-7B", train_dataset="alpaca_prefs.jsonl", args=args, dpo_config=dpo_config)
    run = trainer.train()
    settings = run.plan.components["objective"].settings
    assert (settings["beta"], settings["label_smoothing"], settings["loss_type"]) == (0.1, 0.01, ["sigmoid"])
    # Before the first step model and reference are one: -log sigmoid(0), smoothed or not.
    assert run.losses[0] == pytest.approx(0.6931, abs=1e-3) and run.losses[-1] < run.losses[0]
    with pytest.raises(ConfigError, match=r"bta: unknown; did you mean beta\?"):
        DPOConfig(bta=0.1)
    with pytest.raises(ConfigError, match="sigmiod"):
        DPOConfig(loss_type="sigmiod")


@pytest.mark.parametrize("how", ["whole", "lora_config", "prepared"])
def test_dpo_of_a_model_object_starts_at_its_reference(how, model) -> None:
    """Reference: a copy, the model with its adapter off, likewise for an adapter that the owner put on."""
    lora_config = LoRAConfig(r=2) if how == "lora_config" else None
    model = Swift.prepare_model(model, LoRAConfig(r=2)) if how == "prepared" else model
    args = {"output_dir": "dpo", "learning_rate": 1e-2, "max_steps": 2}
    trainer = DPOTrainer(model, args, train_dataset="alpaca_prefs.jsonl", lora_config=lora_config, **QUICK)
    run = trainer.train()
    assert run.plan.config["objective"]["reference"] == ("copy" if how == "whole" else "adapter_off")
    assert run.losses[0] == pytest.approx(0.6931, abs=1e-3) and run.losses[-1] < run.losses[0]


# --------------------------------------------------------------------------------------------- what is not built yet


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": "qwen3", "dataset": "local_data.jsonl", "sequence_parallel": True, "sp_size": 8, "use_flash_attn": True},
         "sequence parallelism"),
        ({"model": "qwen3-vl", "dataset": "local_data.jsonl", "modality": "video,text", "enable_packing": True,
          "max_packed_length": 8192}, "video and audio"),
    ],
    ids=["long sequences", "packed videos"],
)  # fmt: skip
def test_what_is_not_built_is_refused_with_its_reason(values, reason) -> None:
    with pytest.raises(SwiftError, match=f"(?s)not built yet.*{reason}|{reason}.*not built yet"):
        train(**values)


def test_packing_alone_is_built() -> None:
    plan = swift.plan_run(
        model="qwen3", dataset="local_data.jsonl", modality="text", enable_packing=True, max_packed_length=256, sp_size=1
    )
    assert not plan.refused
    assert (plan.config["data"]["batching"], plan.config["data"]["packing_length"]) == ("packed", 256)


def test_multimodal_packing_of_the_articles(tmp_path: Path) -> None:
    folder = write_qwen(tmp_path / "qwen3-vl", version="3")
    draw(tmp_path / "red.png", 80, 60)
    rows = [{"messages": [{"role": "user", "content": "<image>and here?"}, {"role": "assistant", "content": "a red square"}],
             "images": ["red.png"]}] * 4  # fmt: skip
    (tmp_path / "local_data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = train(
        model=str(folder), dataset="local_data.jsonl", modality="image,text", enable_packing=True, max_packed_length=8192,
        max_steps=2, **QUICK,
    )  # fmt: skip
    data = run.plan.config["data"]
    assert (data["batching"], data["packing_length"], len(run.losses)) == ("packed", 8192, 2)


# -------------------------------------------------------------------------------------------------------- answering


def test_swift_model_of_the_articles(ids, model) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = SwiftModel.from_pretrained("qwen3").to(device)
    assert isinstance(loaded, nn.Module) and not loaded.training
    assert same(loaded, model.to(device), ids.to(device))
    assert loaded.generate(ids.to(device), max_new_tokens=4).shape[1] <= ids.shape[1] + 4
    assert loaded.tokenizer.decode(ids[0]) == "hello there"
    with pytest.raises(ModelError, match="no model is called 'qwn3'"):
        SwiftModel.from_pretrained("qwn3")


def test_engine_by_ms_swifts_names(model_folder) -> None:
    from swift import InferRequest, RequestConfig, TransformersEngine

    engine = TransformersEngine(str(model_folder), max_batch_size=2)
    requests = [InferRequest(messages=[{"role": "user", "content": f"say {n}"}]) for n in range(3)]
    config = RequestConfig(max_tokens=6, temperature=0)
    answers = engine.infer(requests, config)
    assert [type(a.choices[0].message.content) for a in answers] == [str] * 3
    assert answers[0].usage.completion_tokens <= 6
    (pieces,) = engine.infer(requests[:1], RequestConfig(max_tokens=6, temperature=0, stream=True))
    assert "".join(piece.choices[0].delta.content for piece in pieces) == answers[0].choices[0].message.content
    with pytest.raises(Unsupported, match="num_beams=4 is not built yet"):
        engine.infer(requests, RequestConfig(num_beams=4))
    engine.close()


def test_engine_answers_with_a_model_object(model) -> None:
    prompt = {"messages": [{"role": "user", "content": "say 3"}]}
    prepared = shaken(Swift.prepare_model(model, LoRAConfig(r=4)))
    config = swift.RequestConfig(max_tokens=6)
    with swift.TransformersEngine(prepared) as engine:
        (adapted,) = engine.infer([prompt], config)
        Swift.deactivate(prepared)
        (plain,) = engine.infer([prompt], config)
    with swift.TransformersEngine("qwen3") as engine:
        (expected,) = engine.infer([prompt], config)
    assert plain.choices[0].message == expected.choices[0].message != adapted.choices[0].message


def test_mains_and_loading_by_ms_swifts_names(ids, capfd) -> None:
    from swift import (
        ExportArguments,
        InferArguments,
        export_main,
        get_model_processor,
        infer_main,
        load_dataset,
        merge_lora,
        sft_main,
    )  # fmt: skip

    train_set, val_set = load_dataset("local_data.jsonl", split_dataset_ratio=0.2)
    assert len(train_set) + len(val_set) == 10 and len(val_set) > 0
    run = sft_main(SftArguments(model="qwen3", dataset=["local_data.jsonl"], max_steps=1, output_dir="o", **QUICK))
    flags = ["--model", "qwen3", "--dataset", "local_data.jsonl", "--max_steps", "1", "--output_dir", "o2", "--report", "false"]
    assert sft_main(flags).losses == pytest.approx(run.losses)
    assert merge_lora("o", "merged") == 0
    merged, tokenizer = get_model_processor("merged")
    assert torch.allclose(merged(ids).logits, SwiftModel.from_pretrained("o")(ids).logits, atol=1e-4)
    assert len(tokenizer) > 0
    assert export_main(ExportArguments(ckpt_dir="o2", output_dir="merged2")) == 0
    assert infer_main(InferArguments(model="merged", prompt=["hi"], max_new_tokens=3)) == 0


def test_serving_is_refused_after_its_arguments_are_checked() -> None:
    with pytest.raises(Unsupported, match="(?s)serving is not built yet.*TransformersEngine.*swift chat qwen3"):
        serve_model("qwen3", port=8080)
    with pytest.raises(ConfigError, match="port is 99999"):
        serve_model("qwen3", port=99999)
    with pytest.raises(ModelError, match="no model is called"):
        serve_model("qwn3")
    with pytest.raises(ConfigError, match="prt: unknown"):
        serve_model("qwen3", prt=1)


def test_other_ways_to_write_it(model, tmp_path) -> None:
    """Positions and words of transformers, TRL and ms-swift."""
    args = SftArguments("runs/t", max_steps=1, save_steps=1, max_length=64)
    assert args.output_dir == "runs/t"
    rows = [{"query": "a", "response": "b"}] * 4
    trainer = Trainer(model="tiny", train_dataset=rows, args=args, peft_config=LoRAConfig(r=2).to_peft())
    run = trainer.train()
    assert json.loads((run.final / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 2
    assert trainer.train(resume_from_checkpoint=True).path == run.path
    mixed = Trainer(model=model, train_dataset=rows, args={"bf16": True, "max_steps": 1, "output_dir": "runs/h"}).plan()
    assert (mixed.config["model"]["dtype"], mixed.config["train"]["mixed_precision"]) == ("float32", "bfloat16")
    assert SwiftModel.from_pretrained("tiny", device_map="cpu", torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert swift.get_model_tokenizer("tiny", torch.float32, device=torch.device("cpu"))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: LoRAConfig(8), "LoRAConfig\\(8\\): values need their names"),
        (lambda: DPOConfig(0.1), "without a name could mean anything"),
        (lambda: Swift.prepare_model("tiny", LoRAConfig()), "a str is no model object"),
        (lambda: Swift.from_pretrained(nn.Linear(1, 1), None), "the adapter is given as None"),
        (lambda: SwiftModel.from_pretrained(None), "the model is given as None"),
        (lambda: HFDataset.from_file(None), "a file is given as None"),
        (lambda: HFDataset.from_list(3), "rows are given as a int"),
        (lambda: register_dataset(nam="x"), "nam is unknown; did you mean name"),
        (lambda: serve_model(nn.Linear(1, 1)), "not a Linear object"),
    ],
)
def test_what_cannot_be_is_answered(call, said) -> None:
    with pytest.raises(SwiftError, match=said):
        call()


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom() -> None:
    page = Path(swift.__file__).parents[3] / "docs" / "python.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    space: dict = {}
    for block in blocks:
        exec(block, space)
    assert len(space["run"].losses) == 3
    assert set(swift.__all__) - set(re.findall(r"\w+", page.read_text(encoding="utf-8"))) == {"__version__"}


def test_the_bar_moves_in_notebooks_that_can_show_it() -> None:
    display = Display(3, progress=True, watch=False, console=Console(force_jupyter=True))
    assert (display.bar is not None) == (importlib.util.find_spec("ipywidgets") is not None)
