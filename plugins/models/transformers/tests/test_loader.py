from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma3Config,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    T5Config,
)  # fmt: skip

from swift.api import CONTRACTS, Device, LoadRequest, Memory, ModelError
from swift_model_transformers.choices import Computes, choose_attention, choose_dtype
from swift_model_transformers.isolation import keeps_documents_apart
from swift_model_transformers.loader import TransformersLoader
from swift_model_transformers.swift_plugin import swift_models

# Real toy models: transformers' own classes at toy size, and a BPE tokenizer trained on the spot.
TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras",
]
TOY = dict(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


class ToyDevice(Device):
    """The CPU, with dtypes and attention order of the test's choice."""

    def __init__(self, dtypes=("float32", "bfloat16"), attention=("sdpa", "eager")):
        super().__init__(None, "toy")
        self.offered, self.order = dtypes, attention

    def setup(self, local_rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Memory:
        return Memory(0, 0, 0)

    def dtypes(self) -> tuple[str, ...]:
        return self.offered

    def attention(self) -> tuple[str, ...]:
        return self.order

    def collective_backend(self) -> str:
        return "gloo"


def train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def write_model(folder: Path, config, tokenizer, *, dtype: torch.dtype = torch.float32, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


@pytest.fixture(scope="session")
def llama(tmp_path_factory, tokenizer) -> Path:
    """A Llama of two layers; tests that break it copy it first."""
    return write_model(tmp_path_factory.mktemp("llama"), LlamaConfig(**TOY), tokenizer)


MOE = dict(num_experts_per_tok=2, moe_intermediate_size=32)
CONFIGS = {
    "llama": LlamaConfig(**TOY),
    "mistral": MistralConfig(**TOY, sliding_window=None),
    "mistral-window": MistralConfig(**TOY, sliding_window=16),
    "mixtral": MixtralConfig(**TOY, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": Qwen2Config(**TOY),
    "qwen2-moe": Qwen2MoeConfig(**TOY, **MOE, num_experts=4, shared_expert_intermediate_size=32),
    "qwen3": Qwen3Config(**TOY, head_dim=16),
    "qwen3-moe": Qwen3MoeConfig(**TOY, **MOE, head_dim=16, num_experts=4),
}


def load(folder: Path, **options):
    options.setdefault("device", ToyDevice())
    return TransformersLoader().load(LoadRequest(folder=folder, **options))


@pytest.fixture
def broken(llama, tmp_path) -> Path:
    """A copy of the toy model that a test may damage."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def edit_config(folder: Path, **values) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ the claim


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name, dtype, tmp_path, tokenizer):
    folder = write_model(tmp_path, CONFIGS[name], tokenizer, dtype=getattr(torch, dtype))
    loaded = load(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    ids = torch.randint(3, 300, (2, 17), generator=torch.Generator().manual_seed(5))
    assert next(loaded.model.parameters()).dtype == getattr(torch, dtype)
    with torch.no_grad():
        assert torch.equal(loaded.model.eval()(ids).logits, reference.eval()(ids).logits)


def test_tokenizer_is_that_of_the_folder(llama, tokenizer):
    mine = TransformersLoader().load_tokenizer(llama)
    assert mine("the quick brown fox").input_ids == tokenizer("the quick brown fox").input_ids


def test_random_weights_follow_the_seed_and_leave_the_generator_alone(broken):
    (broken / "model.safetensors").unlink()
    torch.manual_seed(7)
    expected_next = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (load(broken, init="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected_next)
    weight = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one.model.state_dict()[weight], same.model.state_dict()[weight])
    assert not torch.equal(one.model.state_dict()[weight], other.model.state_dict()[weight])
    torch.manual_seed(1)
    reference = AutoModelForCausalLM.from_config(LlamaConfig.from_pretrained(broken))
    assert torch.equal(one.model.state_dict()[weight], reference.state_dict()[weight])
    assert any("random" in note for note in one.notes)


def test_loading_prints_nothing(llama):
    code = """
import sys, torch
from pathlib import Path
from swift.api import Device, LoadRequest
from swift_model_transformers.loader import TransformersLoader
class Cpu(Device):
    setup = lambda self, local_rank: torch.device("cpu")
    dtypes = lambda self: ("float32",)
    attention = lambda self: ("sdpa",)
    memory = collective_backend = None
TransformersLoader().load(LoadRequest(folder=Path(sys.argv[1]), device=Cpu(None, "cpu")))
"""
    result = subprocess.run([sys.executable, "-c", code, str(llama)], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# ------------------------------------------------------------------------------------------------------- dtype, attention


@pytest.mark.parametrize(
    ("asked", "stored", "offered", "training", "taken"),
    [
        ("auto", "bfloat16", ("float32", "bfloat16"), True, "bfloat16"),
        ("auto", "float32", ("bfloat16", "float32"), True, "float32"),
        ("auto", "float16", ("bfloat16", "float32", "float16"), True, "bfloat16"),
        ("auto", "float16", ("bfloat16", "float32", "float16"), False, "float16"),
        ("auto", "float16", ("float32", "float16"), True, "float32"),
        ("auto", "bfloat16", ("float32", "float16"), True, "float32"),
        ("auto", "float8_e4m3fn", ("float32", "bfloat16"), True, "float32"),
        ("float16", "bfloat16", ("float32", "float16"), True, "float16"),
    ],
)
def test_dtype_choice(asked, stored, offered, training, taken):
    dtype, note = choose_dtype(asked, stored, offered, training=training)
    assert dtype == taken and taken in note
    assert dtype == stored or asked != "auto" or stored in note


def test_dtype_that_the_device_lacks_is_refused():
    with pytest.raises(ModelError, match="float32, bfloat16") as caught:
        choose_dtype("float16", "float16", ("float32", "bfloat16"), training=True)
    assert caught.value.fix == "--dtype float32"


def test_a_dtype_that_the_device_only_emulates_is_widened_unless_asked_for():
    offered = ("float32", "bfloat16")
    assert choose_dtype("auto", "bfloat16", offered, training=False, slow=("bfloat16",))[0] == "float32"
    assert choose_dtype("bfloat16", "bfloat16", offered, training=False, slow=("bfloat16",))[0] == "bfloat16"
    assert choose_dtype("auto", "bfloat16", offered, training=False)[0] == "bfloat16"


def test_dtype_comes_from_the_weights_where_config_is_silent(tmp_path, tokenizer):
    folder = write_model(tmp_path, LlamaConfig(**TOY), tokenizer, dtype=torch.bfloat16)
    edit_config(folder, dtype=None, torch_dtype=None)
    assert load(folder).model.dtype == torch.bfloat16


def test_attention_falls_back_and_says_why(llama):
    loaded = load(llama, device=ToyDevice(attention=("flash_attention_3", "flash_attention_2", "sdpa", "eager")))
    assert loaded.attention == "sdpa" == loaded.model.config._attn_implementation
    (note,) = [n for n in loaded.notes if n.startswith("attention")]
    assert "flash_attention_2 is not installed" in note


def test_attention_that_the_class_lacks_is_passed_over():
    class OnlyEager:
        pass

    assert choose_attention("auto", ("sdpa", "eager"), Computes(OnlyEager))[0] == "eager"


def test_attention_that_was_asked_for_is_taken_or_refused(llama):
    assert load(llama, attention="eager").model.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="not installed; it can be sdpa, eager") as caught:
        load(llama, attention="flash_attention_2")
    assert caught.value.fix == "--attention sdpa"
    with pytest.raises(ModelError, match="magic is unknown"):
        load(llama, attention="magic")


# ---------------------------------------------------------------------------------------------------- documents in a row


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_softmax_attention_keeps_documents_apart_and_the_loaded_model_shows_it(name, attention, tmp_path, tokenizer):
    loaded = load(write_model(tmp_path, CONFIGS[name], tokenizer), attention=attention)
    assert loaded.keeps_documents_apart
    parts = torch.randint(3, 300, (1, 24), generator=torch.Generator().manual_seed(1)).split([7, 12, 5], dim=1)
    positions = torch.cat([torch.arange(p.shape[1])[None] for p in parts], dim=1)
    with torch.no_grad():
        alone = torch.cat([loaded.model.eval()(p, use_cache=False).logits for p in parts], dim=1)
        packed = loaded.model(torch.cat(parts, dim=1), position_ids=positions, use_cache=False).logits
    assert torch.allclose(packed, alone, atol=1e-4)


def test_a_recurrent_model_does_not_keep_documents_apart(tmp_path, tokenizer):
    config = MambaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    loaded = load(write_model(tmp_path, config, tokenizer), attention="eager")
    assert not loaded.keeps_documents_apart


def test_the_trial_tells_a_leaking_class_from_a_clean_one():
    class Leaking(LlamaForCausalLM):
        def forward(self, input_ids, position_ids=None, **options):
            return super().forward(input_ids, **options)  # loses the position ids, as careless remote code does

    assert keeps_documents_apart(LlamaForCausalLM(LlamaConfig(**TOY)), "sdpa")
    assert not keeps_documents_apart(Leaking(LlamaConfig(**TOY)), "sdpa")


def test_short_convolutions_leak_and_are_found():
    kinds = ["conv", "full_attention"]
    mixed = Lfm2ForCausalLM(Lfm2Config(**TOY | {"num_hidden_layers": 4}, layer_types=kinds * 2, conv_L_cache=3))
    assert not keeps_documents_apart(mixed, "sdpa")
    assert keeps_documents_apart(Lfm2ForCausalLM(Lfm2Config(**TOY, layer_types=["full_attention"] * 2)), "sdpa")


def test_a_billion_parameter_config_is_tried_at_toy_size():
    with torch.device("meta"):
        big = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=3))  # as wide as the 8B model; nothing is allocated
    state = torch.get_rng_state()
    assert keeps_documents_apart(big, "sdpa")
    assert big.config.hidden_size == 4096 and torch.equal(state, torch.get_rng_state())


# --------------------------------------------------------------------------------------------------------------- bad input


def test_missing_folder_and_missing_config(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        load(tmp_path)


def test_broken_config(broken):
    (broken / "config.json").write_text('{"model_type": "llama",')
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load(broken)


def test_impossible_config(broken):
    edit_config(broken, hidden_size="wide")
    with pytest.raises(ModelError, match="cannot load"):
        load(broken)


def test_missing_tokenizer(broken):
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load(broken)
    with pytest.raises(ModelError, match="no tokenizer"):
        TransformersLoader().load_tokenizer(broken)


def test_tokenizer_of_another_model(broken):
    edit_config(broken, vocab_size=120)
    with pytest.raises(ModelError, match="embedding 120 rows"):
        load(broken, init="random")


def test_a_token_that_only_stands_for_the_unknown_may_lie_outside(tmp_path, tokenizer):
    folder = write_model(tmp_path, Qwen2Config(**TOY), tokenizer)
    loaded = load(folder)  # transformers gives a Qwen2 tokenizer an unknown token beyond its 300 others
    assert len(loaded.tokenizer) == 301 and any("<|endoftext|>" in note for note in loaded.notes)


def test_damaged_tokenizer(broken):
    (broken / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="tokenizer"):
        load(broken)


def test_missing_weights(broken):
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights") as caught:
        load(broken)
    assert "--init random" in caught.value.fix


def test_vendor_format_only(broken):
    (broken / "model.safetensors").rename(broken / "consolidated.safetensors")
    with pytest.raises(ModelError, match="vendor's own format"):
        load(broken)


def test_missing_shard(broken, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(broken)
    (broken / "model.safetensors").unlink()
    model.save_pretrained(broken, max_shard_size="50KB")
    shards = sorted(broken.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(load(broken).model.lm_head.weight, model.lm_head.weight)
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        load(broken)


@pytest.mark.parametrize("keep", [0, 5, 300, -8])
def test_truncated_weights_name_the_file(broken, keep):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is (corrupt|truncated)") as caught:
        load(broken)
    assert "delete" in caught.value.fix


def test_garbage_weights(broken):
    (broken / "model.safetensors").write_bytes(b"<html>404 not found</html>" * 20)
    with pytest.raises(ModelError, match="is corrupt"):
        load(broken)


def test_lfs_pointer(broken):
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match="git-lfs pointer"):
        load(broken)


def test_missing_parameters_are_never_left_random(broken):
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 parameters are missing, e.g. model.layers.1.mlp.up_proj.weight"):
        load(broken)


def test_wrong_shapes_are_refused(broken):
    edit_config(broken, intermediate_size=96)
    with pytest.raises(ModelError, match=r"another shape, e.g. .*\[\d+, \d+\] instead of"):
        load(broken)


def test_surplus_tensors_are_said(broken):
    edit_config(broken, num_hidden_layers=1)
    assert any("tensors of the files are not part" in note for note in load(broken).notes)


def test_tied_embeddings_count_as_there(tmp_path, tokenizer):
    folder = write_model(tmp_path, LlamaConfig(**TOY, tie_word_embeddings=True), tokenizer)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = load(folder).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM
class AcmeConfig(LlamaConfig):
    model_type = "acme"
class AcmeForCausalLM(LlamaForCausalLM):
    config_class = AcmeConfig
"""


def test_remote_code_is_refused_until_it_is_trusted(broken):
    (broken / "acme.py").write_text(REMOTE)
    edit_config(
        broken, model_type="acme", architectures=["AcmeForCausalLM"],
        auto_map={"AutoConfig": "acme.AcmeConfig", "AutoModelForCausalLM": "acme.AcmeForCausalLM"},
    )  # fmt: skip
    with pytest.raises(ModelError, match="needs Python code that ships in the folder") as caught:
        load(broken)
    assert "--trust_remote_code" in caught.value.fix and "your rights" in str(caught.value)
    loaded = load(broken, trust_remote_code=True)
    assert type(loaded.model).__name__ == "AcmeForCausalLM" and loaded.keeps_documents_apart


def test_unknown_architecture(broken):
    edit_config(broken, model_type="lama", architectures=["LamaForCausalLM"])
    with pytest.raises(ModelError, match=r"does not know the architecture LamaForCausalLM .*near: .*llama"):
        load(broken)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (T5Config().to_dict() | {"architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        (BertConfig().to_dict() | {"architectures": ["BertForMaskedLM"]}, "no causal language model"),
        (Gemma3Config().to_dict() | {"architectures": ["Gemma3ForConditionalGeneration"]}, "images or sound"),
    ],
)
def test_other_kinds_of_model_are_named_and_the_supported_ones_too(broken, config, words):
    (broken / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(ModelError, match=words) as caught:
        load(broken)
    assert "decoder-only text models" in caught.value.message


def test_missing_pad_token_is_said_and_left_alone(broken):
    file = broken / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    file.write_text(json.dumps(settings))
    special = broken / "special_tokens_map.json"
    special.unlink(missing_ok=True)
    loaded = load(broken)
    assert loaded.tokenizer.pad_token is None and any("no pad token" in note for note in loaded.notes)


# ------------------------------------------------------------------------------------------------------------------ door


def test_door_is_light_and_names_a_real_loader():
    heavy = ("torch", "transformers", "pydantic")
    code = f"import sys, swift_model_transformers.swift_plugin; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    (spec,) = swift_models()
    assert spec.generic and issubclass(TransformersLoader, CONTRACTS["model"])
