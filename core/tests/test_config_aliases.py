"""ms-swift's and the articles' spellings. data/ms_swift_flags.json holds the names and defaults of its argument classes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from swift.config import aliases, schema
from swift.config.loader import load
from swift.errors import SwiftError

DATA = Path(__file__).parent / "data"
BASE = ("--model", "m", "--dataset", "d.jsonl")
FLAGS = json.loads((DATA / "ms_swift_flags.json").read_text(encoding="utf-8"))
TRAINING = {"sft", "pt", "rlhf", "megatron sft", "megatron pt", "megatron rlhf"}
DECIDE = {"help", "config", "debug", "json", "all"}
"""Names that are Swift's own options too."""


def parts():
    if "config_parts" not in sys.modules:
        spec = importlib.util.spec_from_file_location("config_parts", DATA / "config_parts.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["config_parts"] = module
        spec.loader.exec_module(module)
    return sys.modules["config_parts"]


def flags_of(verb):
    """Flag -> default, of ms-swift 4.6."""
    own = FLAGS["verbs"][verb]
    found = {**flags_of(own["extends"]), **own} if "extends" in own else dict(own)
    found.pop("extends", None)
    return {**found, **FLAGS["transformers"]} if verb in ("sft", "pt", "rlhf") else found


def other_than(default):
    if isinstance(default, bool):
        return str(not default)
    if isinstance(default, (int, float)):
        return str(default + 1)
    return "2" if default is None or isinstance(default, (list, dict)) else f"{default}x"


def words(value):
    return (
        [str(v) for v in value] if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else str(value)]
    )


def unknown(text):
    return re.findall(r"flag (\S+): (?:unknown|\S+ stands in several)", text)


@pytest.fixture
def read():
    registry = parts().registry()

    def read(*argv, verb="sft", **more):
        return load(verb, argv=argv, registry=registry, **{"environ": {}, **more})

    return read


@pytest.fixture
def refused(read):
    def refused(*argv, **more):
        with pytest.raises(SwiftError) as caught:
            read(*argv, **more)
        return str(caught.value)

    return refused


def test_the_list_is_whole():
    assert len(flags_of("sft")) > 330 and len(flags_of("rlhf")) > 480 and len(flags_of("infer")) > 150
    assert len(flags_of("export")) > 120 and len(flags_of("megatron sft")) > 400 and len(FLAGS["verbs"]) == 16


@pytest.mark.parametrize("verb", FLAGS["verbs"])
@pytest.mark.parametrize("changed", [False, True])
def test_every_flag_of_ms_swift_is_known(verb, changed, read):
    """All flags of a verb at once, with their defaults, and with other values: whatever is said of them, none is unknown."""
    argv = ["--model", "m", *(BASE[2:] if verb in TRAINING else ())]
    for name, default in flags_of(verb).items():
        if name not in DECIDE and not (default == [] and not changed):
            argv += [f"--{name}", *(words(default) if not changed else [other_than(default)])]
    try:
        read(*argv, verb=verb)
    except SwiftError as error:
        assert unknown(error.message) == []


@pytest.mark.parametrize(("source", "verb"), [(s, v) for s in ("older", "scripts") for v in FLAGS[s]])
def test_every_flag_of_older_releases_and_of_scripts_is_known(source, verb, read):
    argv = ["--model", "m", *(BASE[2:] if verb in TRAINING else ())]
    for name, default in FLAGS[source][verb].items():
        argv += [f"--{name}", *([other_than(default)] if default in ([], None) else words(default))]
    try:
        read(*argv, verb=verb)
    except SwiftError as error:
        assert unknown(error.message) == []


@pytest.mark.parametrize("verb", FLAGS["verbs"])
def test_every_default_of_ms_swift_may_be_given_explicitly(verb, read):
    argv = ["--model", "m", *(BASE[2:] if verb in TRAINING else ())]
    for name, default in flags_of(verb).items():
        if name in DECIDE or name == "report_to" or default in (None, []):  # tensorboard is not installed in this test
            continue
        argv += [f"--{name}", *words(default)]
    unbuilt = []
    read(*argv, verb=verb, unbuilt=unbuilt)
    assert unbuilt == []


def test_aliases_point_to_fields_that_exist():
    trains, homes = schema.vocabulary("sft"), {v: schema.vocabulary(v) for v in ("sft", "infer", "export")}
    settings = {
        "tuner": {*parts().LoraSettings.model_fields, *parts().FullSettings.model_fields},
        "optimizer": {*parts().AdamWSettings.model_fields, "momentum"},
    }
    written_elsewhere = {"dropout", "modules_to_save", "use_rslora", "init", "lora_plus_lr_ratio", "train_on"}
    for rules in aliases.table().values():
        for rule in rules:
            if not isinstance(rule, aliases.Alias) or rule.new.startswith("option."):
                continue
            if rule.new.startswith("@"):
                slot, _, name = rule.new[1:].partition(".")
                assert slot in trains.sections
                assert rule.later is not None or name in settings.get(slot, set()) | written_elsewhere, rule
            else:
                path = ".".join(rule.new.split(".")[:2])
                assert any(words.prop(path) is not None for words in homes.values()), rule


def test_an_ms_swift_command_line_runs_unchanged(read):
    command = """
        --model Qwen/Qwen3-0.6B --tuner_type lora --dataset 'a.jsonl#500' b.jsonl --torch_dtype bfloat16
        --num_train_epochs 1 --per_device_train_batch_size 2 --per_device_eval_batch_size 4 --learning_rate 1e-4
        --lora_rank 16 --lora_alpha 64 --target_modules all-linear --gradient_accumulation_steps 16 --eval_steps 50
        --save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 2048 --output_dir output --system 'You are
        a helpful assistant.' --warmup_ratio 0.05 --dataloader_num_workers 4 --attn_impl flash_attn --packing true
        --use_liger_kernel false --deepspeed '' --report_to none --split_dataset_ratio 0.01 --truncation_strategy
        delete --model_author swift --model_name swift-robot --lr_scheduler_type cosine_with_min_lr
        --lr_scheduler_kwargs '{"min_lr_rate": 0.1}' --adam_beta2 0.98 --add_version False --ddp_timeout 1800
        --max_steps -1 --eval_strategy steps --seed 42
    """
    resolved = read(*shlex.split(command))
    train, data = resolved.sections["train"], resolved.sections["data"]
    assert (train.epochs, train.batch_size, train.eval_batch_size, train.learning_rate) == (1.0, 2, 4, 1e-4)
    assert (train.lr_scheduler, train.min_lr_ratio, train.max_steps) == ("cosine", 0.1, 0)
    assert (data.dataset, data.batching, data.val_split, data.overlong) == (["a.jsonl#500", "b.jsonl"], "packed", 0.01, "drop")
    assert (data.model_name, data.model_author) == ("swift-robot", "swift")
    assert resolved.sections["model"].dtype == "bfloat16" and resolved.sections["model"].attention == "flash_attention_2"
    assert resolved.sections["logging"].tracker == [] and resolved.sections["logging"].log_steps == 5
    assert resolved.sections["output"].dir == "output" and resolved.sections["parallel"].timeout == 1800
    assert resolved.settings["lora"] == {"rank": 16, "alpha": 64.0, "target_modules": ["all-linear"]}
    assert resolved.settings["adamw"] == {"beta2": 0.98}
    notes = list(resolved.notes)
    assert "--lora_rank is --lora.rank here" in notes and "--torch_dtype is --dtype here" in notes
    assert "--attn_impl flash_attn is --attention flash_attention_2 here" in notes
    assert len(notes) == len(set(notes)) and not any("--learning_rate" in note for note in notes)
    assert resolved.provenance["lora.rank"] == "flag --lora_rank (ms-swift's spelling of lora.rank)"


def test_an_ms_swift_yaml_runs_unchanged(read, tmp_path):
    file = tmp_path / "sft.yaml"
    file.write_text(
        "ENV:\n  NPROC_PER_NODE: 2\n  CUDA_VISIBLE_DEVICES: 0,1\n  OMP_NUM_THREADS: 8\n  MAX_PIXELS: 1003520\nmodel: m\n"
        "train_type: full\ndataset:\n  - d.jsonl\n"
        "freeze_parameters: [model.embed]\nfreeze_parameters_regex: .*bias\nlora_rank: 8\nval_dataset: null\n",
        encoding="utf-8",
    )
    environ = {"OMP_NUM_THREADS": "3"}
    resolved = read(str(file), environ=environ)
    assert environ == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert "sft.yaml:1: OMP_NUM_THREADS is set to 3 already, which goes before the file's value" in resolved.notes
    assert resolved.environment["CUDA_VISIBLE_DEVICES"] == ("0,1", "the devices that this run sees")
    assert resolved.sections["template"].max_pixels == 1003520
    assert resolved.sections["parallel"].nproc_per_node == 2 and resolved.sections["tuner"].name == "full"
    assert resolved.provenance["parallel.nproc_per_node"] == "sft.yaml:1 ENV NPROC_PER_NODE"
    assert resolved.settings["full"]["freeze"] == ["^model\\.embed", ".*bias"]
    assert "lora_rank has no effect with tuner full" in resolved.notes
    assert read(values=resolved.plain()).plain() == resolved.plain()


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (("--torch_dtype", "float16"), "model.dtype", "float16"),
        (("--dtype", "bf16"), "model.dtype", "bfloat16"),
        (("--fp16", "true"), "model.dtype", "float16"),
        (("--bf16", "false"), "model.dtype", "auto"),
        (("--use_flash_attn",), "model.attention", "flash_attention_2"),
        (("--use_hf", "true"), "model.hub", "huggingface"),
        (("--use_hf", "false"), "model.hub", "auto"),
        (("--packing", "false"), "data.batching", "unpacked"),
        (("--packing", "false", "--padding_free", "true"), "data.batching", "padding_free"),
        (("--padding_free", "true", "--packing", "false"), "data.batching", "padding_free"),
        (("--packing", "true", "--padding_free", "true"), "data.batching", "packed"),
        (("--truncation_strategy", "left"), "data.overlong", "truncate_left"),
        (("--truncation_strategy", "right"), "data.overlong", "truncate_right"),
        (("--strict", "true"), "data.max_bad_fraction", 0.0),
        (("--dataset_shuffle", "false"), "data.shuffle", False),
        (("--optim", "adamw_torch_fused"), "optimizer.name", "adamw"),
        (("--lr", "0.1"), "train.learning_rate", 0.1),
        (("--gradient_accumulation_steps", "None"), "train.gradient_accumulation_steps", 0),
        (("--use_cpu", "true"), "device.name", "cpu"),
        (("--disable_tqdm", "true"), "logging.progress", False),
        (("--enable_thinking", "false"), "template.options", {"enable_thinking": False}),
        (("--save_total_limit", "None"), "checkpoint.save_total_limit", 0),
        (("--model_type", "qwen3"), "model.id", "m"),
        (("--truncation_strategy", "truncation_left"), "data.overlong", "truncate_left"),
        (("--device_map", "auto"), "device.name", "auto"),
        (("--device_map", "cpu"), "device.name", "cpu"),
        (("--device_map", '{"": "cpu"}'), "device.name", "cpu"),
        (("--ref_model_id_or_path", "b"), "objective.ref_model", "b"),
    ],
)
def test_values_are_translated(read, argv, path, value):
    section, field = path.split(".")
    assert getattr(read(*BASE, *argv).sections[section], field) == value


def test_articles(read):
    resolved = read("--model_type", "qwen-7b", "--sft_type", "lora", "--train_dataset", "x.jsonl", "--quantization_bit", "0")
    assert resolved.sections["model"].id == "qwen-7b" and resolved.sections["data"].dataset == ["x.jsonl"]
    assert "--model_type is --model here" in resolved.notes
    assert any("not needed: the architecture" in note for note in read(*BASE, "--model_type", "qwen3").notes)
    by_python = read(
        values={"model": "m", "dataset": "x.jsonl", "enable_packing": True, "max_packed_length": 4096, "use_flash_attn": True}
    )
    assert by_python.sections["data"].batching == "packed" and by_python.sections["data"].packing_length == 4096
    assert "max_packed_length is packing_length here" in by_python.notes


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ("--deepspeed", "zero2"),
            "flag --deepspeed: zero2: understood, not built yet: ZeRO (comes with the deepspeed strategy)",
        ),
        (("--quant_bits", "4"), "understood, not built yet: quantization (comes with the quantizer plugins)"),
        (("--use_liger_kernel", "true"), "understood, not built yet: Liger kernels"),
        (("--use_liger_kernel",), "understood, not built yet: Liger kernels"),
        (("--task_type", "embedding"), "understood, not built yet"),
        (("--sequence_parallel_size", "2"), "understood, not built yet: sequence parallelism"),
        (("--optim", "galore_adamw_8bit"), "understood, not built yet: GaLore"),
        (("--loss_scale", "hermes"), "understood, not built yet: loss weights"),
        (("--use_chat_template", "false"), "understood, not built yet: plain text for tuning"),
        (("--lr_scheduler_kwargs", "{"), "wants JSON, got '{'"),
        (("--fp16", "maybe"), "argument maybe: unexpected; --fp16 takes true or false"),
        (("--fp16=maybe",), "flag --fp16: wants true or false, got 'maybe'"),
        (("--resume_from_checkpoint", "true"), "wants the run directory"),
        (("--save_steps", "0.1"), "save_steps as a share of all steps; give a whole number"),
        (("--lora_rank", "0"), "flag --lora_rank: wants a number of at least 1, got 0"),
    ],
)
def test_what_is_not_built_says_so(refused, argv, said):
    assert said in refused(*BASE, *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("--deepspeed", ""),
        ("--sequence_parallel_size", "1"),
        ("--freeze_vit", "true"),
        ("--router_aux_loss_coef", "0.0"),
        ("--callbacks", "[]"),
    ],
)
def test_what_is_switched_off_is_accepted_in_silence(read, argv):
    assert list(read(*BASE, *argv).notes) == []


def test_parallel_blocks_of_the_articles(refused, read, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "model: m\ndataset: d\nparallelization:\n  tensor_parallel_size: 2\n  zero_stage: 3\n  nnodes: 2\n", encoding="utf-8"
    )
    text = refused(str(file))
    assert "p.yaml:4: parallel.tensor_parallel_size 2: understood, not built yet: tensor and pipeline parallelism" in text
    assert "p.yaml:5: parallel.zero_stage 3: understood, not built yet: ZeRO" in text and "2 faults" in text
    file.write_text("model: m\ndataset: d\nparallel:\n  tensor_parallel_size: 1\n  data_parallel_size: 2\n", encoding="utf-8")
    assert read(str(file)).sections["parallel"].nproc_per_node == 2


def test_adapters_of_inference(read, refused):
    resolved = read(
        "--adapters",
        "runs/a",
        "poet=runs/b",
        "--max_batch_size",
        "4",
        "--infer_backend",
        "pt",
        "--stream",
        "true",
        verb="infer",
    )
    assert list(resolved.positional) == ["runs/a"] and resolved.sections["engine"].adapters == {"poet": "runs/b"}
    assert resolved.sections["infer"].batch_size == 4 and resolved.sections["engine"].name == "transformers"
    assert "wants name=path for every adapter but one" in refused("--adapters", "a", "b", verb="infer")
    for words in (['{"poet": "runs/b", "cook": "c=d"}'], ["poet=runs/b", '{"cook": "c=d"}']):
        resolved = read("runs/a", "--adapters", *words, verb="infer")
        assert list(resolved.positional) == ["runs/a"]
        assert resolved.sections["engine"].adapters == {"poet": "runs/b", "cook": "c=d"}
    assert "wants JSON" in refused("--adapters", "{poet: runs/b}", verb="infer")
    assert read("--val_dataset", "x.jsonl", "--model", "m", verb="infer").sections["infer"].input == ["x.jsonl"]
    assert list(read("--ckpt_dir", "runs/a", verb="infer").positional) == ["runs/a"]
    assert "starting from an adapter" in refused(*BASE, "--adapters", "runs/a")


def test_resume_from_checkpoint_is_resume(read):
    assert read("--resume_from_checkpoint", "runs/a").extra == {"resume": "runs/a"}


def test_lora_flags_follow_the_chosen_tuner(read):
    resolved = read(*BASE, "--tuner", "dora", "--lora_rank", "4", "--use_dora", "true")
    assert resolved.settings == {"dora": {"rank": 4, "use_dora": True}}
    assert "--lora_rank is --dora.rank here" in resolved.notes


def test_native_and_foreign_spelling_in_one_file_contradict(refused, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("model: m\ndataset: d\nlora_rank: 4\nlora:\n  rank: 8\n", encoding="utf-8")
    text = refused(str(file))
    assert "lora.rank is the same as lora_rank in x.yaml:3; keep one of them" in text and "x.yaml:5" in text
