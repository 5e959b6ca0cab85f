from __future__ import annotations

import pytest

from swift_hub_huggingface.selection import dataset_files, model_files, split_of

MODEL = [
    "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "original/consolidated.00.pth",
    "onnx/model.onnx", "tf_model.h5", "flax_model.msgpack", "model.gguf", "training_args.bin", "image.png",
]  # fmt: skip


def test_safetensors_are_taken_and_no_other_format():
    files = model_files(MODEL, weights=True)
    assert [f for f in files if f.endswith((".safetensors", ".bin"))] == [f for f in MODEL if f.startswith("model-0000")]
    assert "model.safetensors.index.json" in files and "pytorch_model.bin.index.json" not in files
    assert not any("/" in f or f.endswith((".h5", ".msgpack", ".gguf", ".png", ".onnx")) for f in files)


def test_bin_is_taken_only_where_there_is_nothing_else():
    files = model_files([n for n in MODEL if not n.endswith(".safetensors")], weights=True)
    assert "pytorch_model.bin" in files and "training_args.bin" not in files


def test_without_weights_everything_else_stays():
    files = model_files(MODEL, weights=False)
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"} <= set(files)
    assert not any(f.endswith((".safetensors", ".bin")) for f in files)


CARD = """---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: extra
  default: true
  data_files: "extra/**/*.jsonl"
---
# Text
"""
DATA = [
    "README.md",
    "main/train-00000-of-00002.parquet",
    "main/train-00001-of-00002.parquet",
    "main/test-0.parquet",
    "extra/a/b.jsonl",
]


def test_the_card_decides():
    train = DATA[1:3]
    assert dataset_files(DATA, CARD, subset="main", split="train") == train
    assert dataset_files(DATA, CARD, subset="main", split="") == sorted(DATA[1:4])
    assert dataset_files(DATA, CARD, subset="", split="") == ["extra/a/b.jsonl"]
    with pytest.raises(LookupError, match="main, extra"):
        dataset_files(DATA, CARD, subset="mian", split="")
    with pytest.raises(LookupError, match="train, test"):
        dataset_files(DATA, CARD, subset="main", split="validation")


def test_names_decide_where_the_card_is_silent():
    names = ["data/train-0.parquet", "data/validation-0.parquet", "README.md", "dataset_infos.json"]
    assert dataset_files(names, "", subset="", split="train") == ["data/train-0.parquet"]
    assert dataset_files(names, "---\nbroken: [\n---", subset="", split="val") == ["data/validation-0.parquet"]
    assert dataset_files(["alpaca.json"], "", subset="", split="train") == ["alpaca.json"]
    assert dataset_files(["en/a.jsonl", "zh/a.jsonl"], "", subset="zh", split="train") == ["zh/a.jsonl"]
    with pytest.raises(LookupError, match="en, zh"):
        dataset_files(["en/a.jsonl", "zh/a.jsonl"], "", subset="fr", split="")
    with pytest.raises(LookupError, match="no split 'test'"):
        dataset_files(["alpaca.json"], "", subset="", split="test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("x-dev.csv", "validation"),
        ("test/0.parquet", "test"),
        ("trainer.json", ""),
        ("latest.json", ""),
    ],
)
def test_a_split_is_a_word_of_its_own(name, split):
    assert split_of(name) == split
