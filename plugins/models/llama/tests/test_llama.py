from __future__ import annotations

import json
import re
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from swift.api import ModelSpec
from swift_model_llama.catalog import MODELS

DOOR = "swift_model_llama.swift_plugin"


# Shapes as in the published config.json files.
def llama(hidden, layers, heads, kv, inner, vocab, head_dim=128, tied=False):
    return LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=head_dim,
        intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=tied,
    )  # fmt: skip


SHAPES = {
    "2-7b": llama(4096, 32, 32, 32, 11008, 32000), "2-13b": llama(5120, 40, 40, 40, 13824, 32000),
    "2-70b": llama(8192, 80, 64, 8, 28672, 32000), "code-7b": llama(4096, 32, 32, 32, 11008, 32016),
    "code-13b": llama(5120, 40, 40, 40, 13824, 32016), "code-34b": llama(8192, 48, 64, 8, 22016, 32000),
    "3-8b": llama(4096, 32, 32, 8, 14336, 128256), "3-70b": llama(8192, 80, 64, 8, 28672, 128256),
    "3-405b": llama(16384, 126, 128, 8, 53248, 128256), "3-1b": llama(2048, 16, 32, 8, 8192, 128256, 64, True),
    "3-3b": llama(3072, 28, 24, 8, 8192, 128256, 128, True),
}  # fmt: skip
PATTERNS = {
    "2-7b": r"llama-2-7b(-chat)?|codellama-7b-python", "2-13b": r"llama-2-13b(-chat)?|codellama-13b-python",
    "2-70b": r"llama-2-70b(-chat)?", "code-7b": r"codellama-7b(-instruct)?", "code-13b": r"codellama-13b(-instruct)?",
    "code-34b": r"codellama-34b.*",
} | {key: rf"llama-3(\.\d)?-{key[2:]}(-instruct)?" for key in SHAPES if key.startswith("3-")}  # fmt: skip


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
