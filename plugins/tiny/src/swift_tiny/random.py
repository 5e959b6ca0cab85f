"""Tiny random models of many architectures, for tests. Right of the torch line.

    build_random("/tmp/m", "llama", num_hidden_layers=3)

The folder is one that any loader reads: config.json, generation_config.json, float32 safetensors, and the tiny model's
tokenizer with its chat template.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
"""Under a hundred thousand parameters beside the embedding (4096 x 32)."""
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, **_EXPERTS},
    "llama": {},
    "mistral": {"head_dim": 8},
    "mixtral": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "glm4": {"head_dim": 8},
    "smollm3": {},
    "starcoder2": {},
    "gpt_neox": {},
}
"""`model_type` of transformers -> what its config needs beyond SHAPE."""


def tiny_folder() -> Path:
    """Folder of the model that ships with this package."""
    return Path(str(resources.files("swift_tiny") / "model"))


def build_random(folder: str | Path, architecture: str = "qwen3", seed: int = 0, **overrides: Any) -> Path:
    """Write a randomly initialised model folder and return its path.

    Args:
        folder: Created if need be.
        architecture: A key of ARCHITECTURES, or any other decoder-only `model_type` known to transformers.
        seed: Of the weights; the same seed gives the same bytes. torch's global generator is left as it was.
        overrides: Fields of the config; `dtype` (default "float32") is that of the stored weights.

    Raises:
        ValueError: transformers does not know the architecture.
    """
    folder = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    dtype = getattr(torch, overrides.pop("dtype", "float32"))
    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **SHAPE,
            **ARCHITECTURES.get(architecture, {}),
            **overrides,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
