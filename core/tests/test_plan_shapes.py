"""Names, shapes and counts against transformers' own modules on the meta device."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swift.errors import ModelError
from swift.plan.shapes import FAMILIES, read_config, shapes_of, target_weights

SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "vocab_size": 320, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in (
        "llama", "mistral", "ministral3", "qwen2", "phi3", "olmo", "olmo2", "olmo3", "glm", "exaone4", "granite", "helium",
        "smollm3", "seed_oss", "ernie4_5", "stablelm", "cohere", "cohere2", "starcoder2",
    )),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 24}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("gemma", {"head_dim": 16}), ("gemma2", {"head_dim": 16}), ("gemma3_text", {"head_dim": 16}),
    ("glm4", {"head_dim": 16}),
    ("phi", {"num_key_value_heads": None}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen3_moe", {"num_experts": 6, "head_dim": 16, **MOE}),
    ("qwen3_moe", {"num_experts": 6, "mlp_only_layers": [0], **MOE}),
    ("qwen3_moe", {"num_experts": 6, "decoder_sparse_step": 2, **MOE}),
    ("qwen2_moe", {"num_experts": 6, "shared_expert_intermediate_size": 48, **MOE}),
    ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    ("glm4_moe", {"n_routed_experts": 4, "head_dim": 16, "n_group": 1, "topk_group": 1, **MOE}),
    ("gpt_oss", {"num_local_experts": 4, "head_dim": 16, "num_experts_per_tok": 2}),
    ("deepseek_v3", {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "q_lora_rank": 24, "kv_lora_rank": 16,
                     "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1, **MOE}),
    ("deepseek_v2", {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "q_lora_rank": None, "kv_lora_rank": 16,
                     "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1, **MOE}),
]  # fmt: skip


def meta_parameters(model_type: str, values: dict[str, Any]) -> tuple[dict[str, Any], torch.nn.Module]:
    config = AutoConfig.for_model(model_type, **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # What save_pretrained would write.
    return json.loads(config.to_json_string(use_diff=True)), model


@pytest.mark.parametrize(("model_type", "extra"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)))
def test_names_and_shapes_are_those_of_transformers(model_type: str, extra: dict[str, Any]) -> None:
    config, model = meta_parameters(model_type, {**SMALL, **extra})
    config.setdefault("model_type", model_type)
    shapes = shapes_of(config)
    assert {w.name: w.shape for w in shapes.weights} == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes.approximate == ""
    assert shapes.parameters == sum(p.numel() for p in model.parameters()) == sum(shapes.components.values())
    modules = {name for name, module in model.named_modules() if type(module).__name__ in {"Linear", "Conv1D"}}
    assert {w.module for w in shapes.weights if w.linear} | ({"lm_head"} if shapes.tied else set()) == modules


def test_gpt2_and_neox_layouts() -> None:
    for model_type, values in (
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 50}),
        (
            "gpt_neox",
            {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100},
        ),
    ):
        config, model = meta_parameters(model_type, {**values, "bos_token_id": None, "eos_token_id": None})
        assert shapes_of(config).parameters == sum(p.numel() for p in model.parameters()), model_type


QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    "tie_word_embeddings": False, "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
}  # fmt: skip


def dense(model_type: str, *sizes: int, **extra: Any) -> dict[str, Any]:
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    return {"model_type": model_type, **dict(zip(keys, sizes, strict=True)), **extra}


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen3-8B": (QWEN3_8B, 8_190_735_360),
    "Llama-3.1-8B": (dense("llama", 4096, 32, 32, 8, 14336, 128256), 8_030_261_248),
    "Qwen2.5-0.5B": (dense("qwen2", 896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True), 494_032_768),
    "Mistral-7B-v0.1": (dense("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
    "Mixtral-8x7B": (
        dense("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Qwen3-30B-A3B": (
        dense("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, moe_intermediate_size=768, num_experts=128),
        30_532_122_624,
    ),
}
"""Configs and counts as their model cards and safetensors indices state them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    config, published = PUBLISHED[name]
    assert shapes_of(config).parameters == published


def test_active_parameters_of_a_mixture_are_those_of_the_chosen_experts() -> None:
    shapes = shapes_of({"model_type": "mixtral", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 10, "num_local_experts": 4,
                        "num_experts_per_tok": 1})  # fmt: skip
    assert shapes.parameters - shapes.active_parameters == 3 * (3 * 8 * 16)


def test_an_unknown_architecture_is_counted_and_flagged() -> None:
    config = {**QWEN3_8B, "model_type": "newmodel", "architectures": ["NewForCausalLM"]}
    shapes = shapes_of(config)
    assert "newmodel" in shapes.approximate
    assert abs(shapes.parameters / 8_190_735_360 - 1) < 0.001


def test_the_text_part_of_a_multimodal_config_is_counted() -> None:
    shapes = shapes_of({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
        "model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}})  # fmt: skip
    assert shapes.dims["d"] == 256
    assert "vision" in shapes.approximate


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ModelError, match="hidden_size"):
        shapes_of({"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 10})


def test_a_folder_without_config_says_what_it_holds(tmp_path) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no config\.json in .*weights\.gguf"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="not an object"):
        read_config(tmp_path)


def test_targets_follow_peft() -> None:
    shapes = shapes_of(QWEN3_8B)
    assert {w.module.rpartition(".")[2] for w in target_weights(shapes, None)} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}  # fmt: skip
    assert len(target_weights(shapes, ["q_proj", "v_proj"])) == 72
    assert len(target_weights(shapes, [r".*\.[0-3]\.self_attn\.q_proj"])) == 4
    assert len(target_weights(shapes, ["all-linear"], exclude=["q_proj"], layers=[0, 5])) == 12


def test_every_family_of_the_table_is_compared_with_transformers() -> None:
    compared = {name for name, _ in VARIANTS} | {"gpt2", "gpt_neox"}
    remote = {"internlm2", "internlm3", "ministral"}  # remote code, or needs rope settings of its own
    assert set(FAMILIES) - compared == remote
