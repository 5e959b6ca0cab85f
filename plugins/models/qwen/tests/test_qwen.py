from __future__ import annotations

import json
import re
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig

from swift.api import ModelSpec
from swift_model_qwen.catalog import MODELS

DOOR = "swift_model_qwen.swift_plugin"


# Shapes as in the published config.json files.
def qwen2(hidden, layers, heads, kv, inner, vocab=152064, tied=False):
    return Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=tied,
    )  # fmt: skip


def qwen3(hidden, layers, heads, inner, tied=False):
    return Qwen3Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=128,
        intermediate_size=inner, vocab_size=151936, tie_word_embeddings=tied,
    )  # fmt: skip


def qwen3_moe(hidden, layers, heads, kv, inner, experts=128):
    return Qwen3MoeConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=128,
        moe_intermediate_size=inner, num_experts=experts, num_experts_per_tok=8, vocab_size=151936, tie_word_embeddings=False,
    )  # fmt: skip


SHAPES = {
    "0.5b": qwen2(896, 24, 14, 2, 4864, 151936, True), "1.5b": qwen2(1536, 28, 12, 2, 8960, 151936, True),
    "3b": qwen2(2048, 36, 16, 2, 11008, 151936, True), "7b": qwen2(3584, 28, 28, 4, 18944),
    "14b": qwen2(5120, 48, 40, 8, 13824), "32b": qwen2(5120, 64, 40, 8, 27648), "72b": qwen2(8192, 80, 64, 8, 29568),
    "57b": Qwen2MoeConfig(
        hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, moe_intermediate_size=2560,
        shared_expert_intermediate_size=20480, num_experts=64, num_experts_per_tok=8, vocab_size=151936,
        tie_word_embeddings=False,
    ),
    "3-0.6b": qwen3(1024, 28, 16, 3072, True), "3-1.7b": qwen3(2048, 28, 16, 6144, True),
    "3-4b": qwen3(2560, 36, 32, 9728, True),
    "3-8b": qwen3(4096, 36, 32, 12288), "3-14b": qwen3(5120, 40, 40, 17408), "3-32b": qwen3(5120, 64, 64, 25600),
    "3-30b-a3b": qwen3_moe(2048, 48, 32, 4, 768), "3-235b-a22b": qwen3_moe(4096, 94, 64, 4, 1536),
    "3-480b-a35b": qwen3_moe(6144, 62, 96, 8, 2560, 160),
}  # fmt: skip
OLD = r"(qwen2(\.5)?(-coder|-math)?|qwq)-{}(-instruct|-preview)?(-1m)?"
PATTERNS = {
    key: rf"qwen3(-coder)?-{re.escape(key[2:])}(-.*)?" if key.startswith("3-") else
    r"qwen2-57b-a14b(-instruct)?" if key == "57b" else OLD.format(re.escape(key))
    for key in SHAPES
}  # fmt: skip


def test_names_and_aliases_are_legal_and_unique():
    names = [spec.name for spec in MODELS]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) for name in names)
    known = [word for spec in MODELS for word in (spec.name, *spec.aliases)]
    assert len(known) == len(set(known))
    for hub in ("huggingface", "modelscope"):
        ids = [spec.hub_ids[hub] for spec in MODELS if hub in spec.hub_ids]
        assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w.-]+/[\w.-]+", i) for i in ids)


def test_every_entry_is_complete_pure_data_and_survives_json():
    for spec in MODELS:
        assert not spec.impl and spec.loader == "transformers" and "huggingface" in spec.hub_ids
        assert (spec.parameters and spec.context_length >= 4096 and spec.summary.endswith(")")) or "pip install" in spec.summary
        assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_parameters_are_those_that_transformers_counts_for_the_published_shape():
    shaped = {name: count(config) for name, config in SHAPES.items()}
    for spec in MODELS:
        (key,) = [name for name, pattern in PATTERNS.items() if re.fullmatch(pattern, spec.name)]
        assert spec.parameters == shaped[key], spec.name
        assert AutoModelForCausalLM._model_mapping[type(SHAPES[key])].__name__ == spec.architecture


def test_linear_modules_are_linear_layers_of_the_architecture():
    for config in SHAPES.values():
        config = type(config)(**config.to_dict() | {"num_hidden_layers": 1, "layer_types": None})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        layers = {
            name.split(".")[-1] for name, module in model.model.layers.named_modules() if isinstance(module, torch.nn.Linear)
        }
        declared = {spec.linear_modules for spec in MODELS if spec.architecture == type(model).__name__}
        assert len(declared) == 1 and layers - {"gate", "shared_expert_gate"} == set(*declared)


def test_door_imports_nothing_heavy():
    heavy = ("torch", "transformers", "pydantic", "pluggy")
    code = f"import sys, {DOOR}; {DOOR}.swift_models(); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def count(config) -> int:
    """Parameters without allocating any; tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())
