"""Full tuning: what trains, what is saved, what comes back."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from swift.api import CheckpointError, ConfigError, ModelError
from swift_tuner_full.full import RESUME, Full
from swift_tuner_full.settings import FullSettings

IDS = torch.arange(3, 27).view(2, 12)
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def base(kind="llama", seed=0, dtype=torch.float32, **sizes):
    torch.manual_seed(seed)
    sizes = SIZES | sizes
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "tied": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True)),
        "moe": lambda: Qwen3MoeForCausalLM(
            Qwen3MoeConfig(**sizes, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
        ),
    }[kind]()
    return model.to(dtype).eval()


def tuner(**values):
    return Full(FullSettings(**values), "full")


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def step(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    optimizer.step()
    return model


def test_everything_trains_by_default():
    model = base()
    assert trained(tuner().apply(model, seed=1)) == {name for name, _ in model.named_parameters()}


def test_freeze_and_trainable_choose_by_name():
    model = tuner(freeze=[r"."], trainable=[r"layers\.3\.", "lm_head"]).apply(base(), seed=1)
    assert {name.split(".")[2] if "layers" in name else name for name in trained(model)} == {"3", "lm_head.weight"}
    before = copy.deepcopy(dict(model.named_parameters()))
    step(model)
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained(model)


def test_freeze_ratio_counts_blocks_from_the_bottom():
    model = tuner(freeze_ratio=0.5).apply(base(), seed=1)
    names = trained(model)
    assert {name.split(".")[2] for name in names if "layers" in name} == {"2", "3"}
    assert {name for name in names if "layers" not in name} == {"model.norm.weight", "lm_head.weight"}


def test_tied_head_is_frozen_with_its_embedding():
    assert not any("embed" in name for name in trained(tuner(freeze_ratio=1.0).apply(base("tied"), seed=1)))


@pytest.mark.parametrize("kind", ["llama", "tied", "moe"])
def test_saved_folder_is_a_transformers_model_and_restores_bit_by_bit(kind, tmp_path):
    model = step(tuner().apply(base(kind), seed=1))
    tuner().save(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    again = tuner().apply(base(kind, seed=7), seed=1)
    tuner().restore(again, tmp_path)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name
    if kind == "tied":
        assert again.lm_head.weight is again.model.embed_tokens.weight


def test_only_renamed_tensors_are_kept_twice(tmp_path):
    """transformers saves the fused experts of an MoE one by one."""
    tuner().save(tuner().apply(base("moe"), seed=1), tmp_path / "moe")
    tuner().save(tuner().apply(base(), seed=1), tmp_path / "llama")
    assert not (tmp_path / "llama" / RESUME).exists()
    assert all("experts" in name for name in load_file(tmp_path / "moe" / RESUME))


def test_dtype_is_kept(tmp_path):
    tuner().save(tuner().apply(base(dtype=torch.bfloat16), seed=1), tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(CheckpointError, match=r"saved in torch\.bfloat16"):
        tuner().restore(tuner().apply(base(), seed=1), tmp_path)


@pytest.mark.parametrize("setting", ["freeze", "trainable"])
def test_expression_without_a_match_names_near_ones(setting):
    with pytest.raises(ModelError, match=rf"full\.{setting}: 'layer_norm' matches no parameter; near it: .*layernorm"):
        tuner(**{setting: ["layer_norm"]}).apply(base(), seed=1)
    with pytest.raises(ConfigError, match="no regular expression"):
        tuner(**{setting: ["("]}).apply(base(), seed=1)


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ConfigError, match="nothing to train"):
        tuner(freeze=["."]).apply(base(), seed=1)


def test_restore_refuses_another_model_and_damage(tmp_path):
    tuner().save(tuner().apply(base(num_hidden_layers=2), seed=1), tmp_path)
    model = tuner().apply(base(), seed=1)
    with pytest.raises(CheckpointError, match=r"does not hold what this run trains: .*layers\.2"):
        tuner().restore(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="no readable weights"):
        tuner().restore(model, tmp_path)


def test_vectors_do_not_decay():
    model = tuner().apply(base(), seed=1)
    groups = tuner().parameter_groups(model, learning_rate=1e-5, weight_decay=0.1)
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [(0.1, {2}), (0.0, {1})]
