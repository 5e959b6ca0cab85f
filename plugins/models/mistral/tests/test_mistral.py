from __future__ import annotations

import json
import re
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, MistralConfig, MixtralConfig

from swift.api import ModelSpec
from swift_model_mistral.catalog import MODELS

DOOR = "swift_model_mistral.swift_plugin"


# Shapes as in the published config.json files.
def mistral(hidden, layers, heads, inner, vocab, cls=MistralConfig, **more):
    return cls(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=128,
        intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=False, **more,
    )  # fmt: skip


SHAPES = {
    "v1": mistral(4096, 32, 32, 14336, 32000), "v3": mistral(4096, 32, 32, 14336, 32768),
    "nemo": mistral(5120, 40, 32, 14336, 131072), "ministral": mistral(4096, 36, 32, 12288, 131072),
    "22b": mistral(6144, 56, 48, 16384, 32768), "24b": mistral(5120, 40, 32, 32768, 131072),
    "large": mistral(12288, 88, 96, 28672, 32768),
    "8x7b": mistral(4096, 32, 32, 14336, 32000, MixtralConfig, num_local_experts=8),
    "8x22b": mistral(6144, 56, 48, 16384, 32000, MixtralConfig, num_local_experts=8),
    "8x22b-instruct": mistral(6144, 56, 48, 16384, 32768, MixtralConfig, num_local_experts=8),
}  # fmt: skip
PATTERNS = {
    "v1": r"mistral-7b(-instruct)?-v0\.[12]",
    "v3": r"(mistral-7b(-instruct)?-v0\.3|mathstral-7b-v0\.1)",
    "nemo": "mistral-nemo-.*",
    "ministral": "ministral-8b-.*", "22b": r"codestral-22b-v0\.1|mistral-small-instruct-2409",
    "24b": "mistral-small-24b-.*|devstral-small-.*", "large": "mistral-large-.*", "8x7b": "mixtral-8x7b-.*",
    "8x22b": r"mixtral-8x22b-v0\.1", "8x22b-instruct": r"mixtral-8x22b-instruct-v0\.1",
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
