"""The weights of a model, from its config.json alone: names, shapes, count. Left of the torch line.

One table row per architecture says in what it differs from a llama-like decoder; names and shapes are those of transformers'
own modules (where expert weights are stacked into one tensor). An architecture that is not in the table is counted as a
llama-like decoder and flagged `approximate`.

Shapes are written as sums of products over these symbols:

    h hidden size          a attention heads    q = a*d        e experts                      ql, kl ranks (MLA)
    i intermediate size    k key/value heads    kv = k*d       m expert intermediate          nope, rope, vd head dims (MLA)
    v vocabulary           d head dim           p positions    s shared-expert intermediate
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from swift.errors import ModelError

COMPONENTS = ("vision", "aligner", "embeddings", "attention", "mlp", "experts", "norms", "lm_head")


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor. `linear` marks the weight of a linear layer, which low-rank adapters may target."""

    name: str
    shape: tuple[int, ...]
    component: str
    linear: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


class L(NamedTuple):
    """A linear layer [out, in]. `bias`: no, yes, or the config key that says so."""

    name: str
    out: str
    inn: str
    bias: bool | str = False


def _biased(bias: bool | str, *layers: L) -> tuple[L, ...]:
    return tuple(layer._replace(bias=bias) for layer in layers)


Q, K, V = L("self_attn.q_proj", "q", "h"), L("self_attn.k_proj", "kv", "h"), L("self_attn.v_proj", "kv", "h")
OUT = L("self_attn.o_proj", "h", "q")
PLAIN_ATTENTION = (Q, K, V, OUT)
KEYED_ATTENTION = _biased("attention_bias", Q, K, V, OUT)
QKV_BIAS = (*_biased(True, Q, K, V), OUT)
MLA = (
    L("self_attn.q_a_proj", "ql", "h", "attention_bias"),
    L("self_attn.q_b_proj", "a*nope+a*rope", "ql"),
    L("self_attn.kv_a_proj_with_mqa", "kl+rope", "h", "attention_bias"),
    L("self_attn.kv_b_proj", "a*nope+a*vd", "kl"),
    L("self_attn.o_proj", "h", "a*vd", "attention_bias"),
)
GATED = (L("mlp.gate_proj", "i", "h"), L("mlp.up_proj", "i", "h"), L("mlp.down_proj", "h", "i"))
GATED_BIAS = _biased("mlp_bias", *GATED)
GATED_FUSED = (L("mlp.gate_up_proj", "2*i", "h"), L("mlp.down_proj", "h", "i"))
TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """In what an architecture differs from a llama-like decoder."""

    attention: tuple[L, ...] = PLAIN_ATTENTION
    mlp: tuple[L, ...] = GATED
    norms: tuple[str, ...] = TWO_NORMS
    norm_bias: bool = False
    qk_norm: str = ""
    """head: one vector of head_dim each; full: as wide as the projections."""
    vectors: tuple[tuple[str, str], ...] = ()
    """Further one-dimensional attention weights."""
    mla: bool = False
    moe: bool = False
    router: str = "mlp.gate"
    router_bias: bool = False
    experts: tuple[tuple[str, tuple[str, ...]], ...] = (("gate_up_proj", ("e", "2*m", "h")), ("down_proj", ("e", "h", "m")))
    experts_module: str = "mlp.experts"
    shared: str = ""
    """Module of the shared expert."""
    shared_gate: str = ""
    blocks: str = "model.layers"
    embeddings: tuple[tuple[str, tuple[str, str]], ...] = (("model.embed_tokens", ("v", "h")),)
    final_norm: str = "model.norm"
    head: str = "lm_head"
    head_bias: bool = False
    transposed: bool = False
    """Weights are stored [in, out] (GPT-2's Conv1D)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that config.json may leave out."""


LLAMA = Family(KEYED_ATTENTION, GATED_BIAS)
TIED = {"tie_word_embeddings": True}

# fmt: off
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family(defaults={"num_key_value_heads": 8}),
    "ministral": Family(defaults={"num_key_value_heads": 8}),
    "ministral3": Family(defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "qwen2": Family(QKV_BIAS),
    "qwen3": Family(KEYED_ATTENTION, qk_norm="head", defaults={"head_dim": 128}),
    "gemma": Family(KEYED_ATTENTION, defaults={**TIED, "head_dim": 256, "num_key_value_heads": 16}),
    "gemma2": Family(
        KEYED_ATTENTION,
        norms=(*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        defaults={**TIED, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 256000},
    ),
    "gemma3_text": Family(
        KEYED_ATTENTION,
        norms=(*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        qk_norm="head",
        defaults={**TIED, "head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208,
                  "max_position_embeddings": 131072},
    ),
    "phi3": Family((L("self_attn.qkv_proj", "q+2*kv", "h"), OUT), GATED_FUSED),
    "internlm2": Family(
        (L("attention.wqkv", "q+2*kv", "h", "bias"), L("attention.wo", "h", "q", "bias")),
        (L("feed_forward.w1", "i", "h"), L("feed_forward.w3", "i", "h"), L("feed_forward.w2", "h", "i")),
        norms=("attention_norm", "ffn_norm"),
        embeddings=(("model.tok_embeddings", ("v", "h")),),
        head="output",
    ),
    "internlm3": Family(
        (*_biased("qkv_bias", Q, K, V), OUT._replace(bias="bias")), _biased("bias", *GATED),
        defaults={"num_key_value_heads": 2, "head_dim": 128},
    ),
    "glm": Family((*_biased("attention_bias", Q, K, V), OUT), GATED_FUSED, defaults={"attention_bias": True, "head_dim": 128}),
    "glm4": Family(
        (*_biased("attention_bias", Q, K, V), OUT),
        GATED_FUSED,
        norms=(*TWO_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm"),
        defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2},
    ),
    "olmo": Family(KEYED_ATTENTION, norms=(), final_norm=""),
    "olmo2": Family(KEYED_ATTENTION, norms=POST_NORMS, qk_norm="full"),
    "olmo3": Family(KEYED_ATTENTION, norms=POST_NORMS, qk_norm="full"),
    "exaone4": Family(norms=POST_NORMS, qk_norm="head"),
    "granite": LLAMA,
    "helium": Family((*_biased("attention_bias", Q, K, V), L("self_attn.o_proj", "h", "h")), GATED_BIAS),
    "smollm3": Family(KEYED_ATTENTION, GATED_BIAS, defaults=TIED),
    "seed_oss": Family(
        (*_biased("attention_bias", Q, K, V), OUT._replace(bias="attention_out_bias")), GATED_BIAS,
        defaults={"attention_bias": True, "head_dim": 128},
    ),
    "ernie4_5": Family(_biased("use_bias", Q, K, V, OUT), _biased("use_bias", *GATED), defaults={**TIED, "head_dim": 128}),
    "stablelm": Family((*_biased("use_qkv_bias", Q, K, V), OUT), norm_bias=True),
    "cohere": Family(KEYED_ATTENTION, norms=("input_layernorm",), defaults=TIED),
    "cohere2": Family(KEYED_ATTENTION, norms=("input_layernorm",), defaults=TIED),
    "starcoder2": Family(
        _biased("use_bias", Q, K, V, OUT), _biased("use_bias", L("mlp.c_fc", "i", "h"), L("mlp.c_proj", "h", "i")),
        norm_bias=True, defaults={**TIED, "use_bias": True},
    ),
    "phi": Family(
        (*_biased(True, Q, K, V), L("self_attn.dense", "h", "q", True)),
        (L("mlp.fc1", "i", "h", True), L("mlp.fc2", "h", "i", True)),
        norms=("input_layernorm",), norm_bias=True, final_norm="model.final_layernorm", head_bias=True,
    ),
    "gpt2": Family(
        (L("attn.c_attn", "3*h", "h", True), L("attn.c_proj", "h", "h", True)),
        (L("mlp.c_fc", "i", "h", True), L("mlp.c_proj", "h", "i", True)),
        norms=("ln_1", "ln_2"), norm_bias=True, blocks="transformer.h", final_norm="transformer.ln_f", transposed=True,
        embeddings=(("transformer.wte", ("v", "h")), ("transformer.wpe", ("p", "h"))), defaults=TIED,
    ),
    "gpt_neox": Family(
        (L("attention.query_key_value", "3*h", "h", "attention_bias"), L("attention.dense", "h", "h", "attention_bias")),
        (L("mlp.dense_h_to_4h", "i", "h", True), L("mlp.dense_4h_to_h", "h", "i", True)),
        norm_bias=True, blocks="gpt_neox.layers", final_norm="gpt_neox.final_layer_norm", head="embed_out",
        embeddings=(("gpt_neox.embed_in", ("v", "h")),), defaults={"attention_bias": True},
    ),
    "mixtral": Family(moe=True, defaults={"num_key_value_heads": 8, "num_local_experts": 8}),
    "qwen2_moe": Family(
        (*_biased("qkv_bias", Q, K, V), OUT), moe=True, shared="mlp.shared_expert", shared_gate="mlp.shared_expert_gate",
        defaults={"qkv_bias": True, "num_experts": 60, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    ),
    "qwen3_moe": Family(
        KEYED_ATTENTION, moe=True, qk_norm="head",
        defaults={"num_key_value_heads": 4, "num_experts": 128, "moe_intermediate_size": 768},
    ),
    "olmoe": Family(KEYED_ATTENTION, moe=True, qk_norm="full", defaults={"num_experts": 64}),
    "glm4_moe": Family(
        (*_biased("attention_bias", Q, K, V), OUT), moe=True, shared="mlp.shared_experts",
        defaults={"n_routed_experts": 128, "n_shared_experts": 1, "moe_intermediate_size": 1408, "first_k_dense_replace": 1},
    ),
    "gpt_oss": Family(
        KEYED_ATTENTION, moe=True, router="mlp.router", router_bias=True, vectors=(("self_attn.sinks", "a"),),
        experts=(("gate_up_proj", ("e", "h", "2*m")), ("gate_up_proj_bias", ("e", "2*m")),
                 ("down_proj", ("e", "m", "h")), ("down_proj_bias", ("e", "h"))),
        defaults={"attention_bias": True, "head_dim": 64, "num_local_experts": 128},
    ),
    "deepseek_v2": Family(
        MLA, mla=True, moe=True, shared="mlp.shared_experts",
        defaults={"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                  "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407, "first_k_dense_replace": 0},
    ),
    "deepseek_v3": Family(
        MLA, mla=True, moe=True, shared="mlp.shared_experts",
        defaults={"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                  "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3},
    ),
}
# fmt: on
"""`model_type` of config.json -> family."""

_KEYS: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "h": ("hidden_size", "n_embd", "d_model", "hidden_dim"),
    "a": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "k": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv"),
    "d": ("head_dim", "kv_channels"),
    "i": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff"),
    "v": ("vocab_size", "padded_vocab_size"),
    "p": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_sequence_length"),
    "e": ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
    "active": ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k"),
    "m": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "ql": ("q_lora_rank",), "kl": ("kv_lora_rank",), "nope": ("qk_nope_head_dim",), "rope": ("qk_rope_head_dim",),
    "vd": ("v_head_dim",),
}  # fmt: skip
"""Symbol -> config keys that hold it, in order."""


@dataclass(frozen=True)
class Shapes:
    """What a config says about a model.

    Args:
        weights: Every tensor once: tied output weights are not listed.
        dims: Symbol -> number, see the head of this file; `layers` and `active` (experts per token) too.
        approximate: Why the list is a guess; "" where it is exact.
    """

    model_type: str
    architecture: str
    weights: tuple[Weight, ...]
    dims: Mapping[str, int]
    tied: bool
    approximate: str = ""

    @cached_property
    def parameters(self) -> int:
        return sum(w.size for w in self.weights)

    @cached_property
    def components(self) -> dict[str, int]:
        """Component -> parameters, empty ones left out."""
        counts = {name: sum(w.size for w in self.weights if w.component == name) for name in COMPONENTS}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: of the routed experts, those that are chosen."""
        share = min(self.dims["active"] / self.dims["e"], 1.0) if self.dims.get("e") and self.dims.get("active") else 1.0
        routed = sum(w.size for w in self.weights if w.component == "experts" and len(w.shape) == 3)
        return self.parameters - round(routed * (1 - share))

    @property
    def context_length(self) -> int:
        return self.dims.get("p", 0)

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Key/value cache of one token over all layers, as transformers keeps it (MLA is kept expanded)."""
        d = self.dims
        width = d["a"] * (d["nope"] + d["rope"] + d["vd"]) if d.get("kl") else 2 * d["kv"]
        return d["layers"] * width * itemsize


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises `ModelError`."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir()) if folder.is_dir() else []
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
        raise ModelError(
            f"there is no config.json in {folder}; it contains: {shown}",
            fix="name a folder in transformers' format (config.json, tokenizer.json, *.safetensors), or a hub id",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", fix="fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, not an object", fix="fetch the model again")
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a multimodal config; a plain config itself."""
    for key in ("text_config", "llm_config", "language_config"):
        inner = config.get(key)
        if isinstance(inner, Mapping) and "hidden_size" in inner:
            return inner
    thinker = config.get("thinker_config")
    return text_config(thinker) if isinstance(thinker, Mapping) else config


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    """Weights of the model that `config` (the content of config.json) describes.

    Raises:
        ModelError: A size is missing that no default stands for.
    """
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    architectures = config.get("architectures") or text.get("architectures") or []
    architecture = str(architectures[0]) if architectures else ""
    approximate = ""
    family = FAMILIES.get(model_type) or FAMILIES.get(model_type.removesuffix("_text"))
    if family is None:
        family = _guess(text)
        approximate = (
            f"{model_type or architecture or 'this architecture'} is not in Swift's table; counted as a llama-like decoder"
        )
    elif text is not config:
        approximate = "only the language model is counted, not the vision or audio part"
    values = {**_defaults(family, text), **text}
    dims = _dims(values, family)
    tied = bool(config.get("tie_word_embeddings", values.get("tie_word_embeddings", False)) if text is not config
                else values.get("tie_word_embeddings", False))  # fmt: skip
    return Shapes(model_type, architecture, tuple(_weights(family, values, dims, tied)), dims, tied, approximate)


def _defaults(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those defaults for which the config has no value, under any of the names of that size."""
    synonyms = {key: keys for keys in _KEYS.values() for key in keys}
    return {
        key: value for key, value in family.defaults.items() if not any(name in given for name in synonyms.get(key, (key,)))
    }


def _guess(values: Mapping[str, Any]) -> Family:
    moe = any(values.get(key) for key in _KEYS["e"])
    mla = bool(values.get("kv_lora_rank"))
    return Family(MLA if mla else KEYED_ATTENTION, GATED_BIAS, mla=mla, moe=moe, shared="mlp.shared_experts" if moe else "")


def _dims(values: Mapping[str, Any], family: Family) -> dict[str, int]:
    dims: dict[str, int] = {}
    for symbol, keys in _KEYS.items():
        for key in keys:
            value = values.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                dims[symbol] = int(value)
                break
    missing = [symbol for symbol in ("layers", "h", "a", "v") if dims.get(symbol, 0) < 1]
    if missing:
        names = ", ".join(_KEYS[symbol][0] for symbol in missing)
        raise ModelError(f"config.json lacks {names}", fix="use the config.json that the model was published with")
    dims.setdefault("k", dims["a"])
    dims.setdefault("d", dims["h"] // dims["a"])
    dims.setdefault("i", 4 * dims["h"])
    dims.setdefault("m", dims["i"])
    dims["q"], dims["kv"] = dims["a"] * dims["d"], dims["k"] * dims["d"]
    shared = values.get("shared_expert_intermediate_size") or (
        (values.get("n_shared_experts") or values.get("moe_num_shared_experts") or 0) * dims["m"]
    )
    dims["s"] = int(shared)
    if family.mla:
        dims.setdefault("ql", 0)
        for symbol in ("kl", "nope", "rope", "vd"):
            dims.setdefault(symbol, dims["d"])
    return dims


def _number(expression: str, dims: Mapping[str, int]) -> int:
    """`"q+2*kv"` -> a number."""
    return sum(
        math.prod(int(factor) if factor.isdigit() else dims[factor] for factor in term.split("*"))
        for term in expression.split("+")
    )


def _linear(
    family: Family, layer: L, prefix: str, component: str, values: Mapping[str, Any], dims: Mapping[str, int]
) -> list[Weight]:
    out, inn = _number(layer.out, dims), _number(layer.inn, dims)
    shape = (inn, out) if family.transposed else (out, inn)
    weights = [Weight(f"{prefix}{layer.name}.weight", shape, component, linear=True)]
    if layer.bias is True or (layer.bias and values.get(str(layer.bias))):
        weights.append(Weight(f"{prefix}{layer.name}.bias", (out,), component))
    return weights


def _weights(family: Family, values: Mapping[str, Any], dims: Mapping[str, int], tied: bool) -> list[Weight]:
    def norm(name: str, width: int, bias: bool) -> list[Weight]:
        suffixes = ("weight", "bias") if bias else ("weight",)
        return [Weight(f"{name}.{suffix}", (width,), "norms") for suffix in suffixes]

    weights = [
        Weight(f"{name}.weight", (_number(rows, dims), _number(columns, dims)), "embeddings")
        for name, (rows, columns) in family.embeddings
    ]
    attention = family.attention
    if family.mla and not dims["ql"]:
        attention = (L("self_attn.q_proj", "a*nope+a*rope", "h"), *attention[2:])
    for index in range(dims["layers"]):
        block = f"{family.blocks}.{index}."
        for layer in attention:
            weights += _linear(family, layer, block, "attention", values, dims)
        weights += [Weight(block + name, (_number(width, dims),), "attention") for name, width in family.vectors]
        if family.qk_norm:
            for name, full in (("q_norm", dims["q"]), ("k_norm", dims["kv"])):
                weights += norm(f"{block}self_attn.{name}", dims["d"] if family.qk_norm == "head" else full, False)
        if family.mla:
            if dims["ql"]:
                weights += norm(f"{block}self_attn.q_a_layernorm", dims["ql"], False)
            weights += norm(f"{block}self_attn.kv_a_layernorm", dims["kl"], False)
        if family.moe and _sparse(index, values):
            weights += _experts(family, block, values, dims)
        else:
            for layer in family.mlp:
                weights += _linear(family, layer, block, "mlp", values, dims)
        for name in family.norms:
            weights += norm(block + name, dims["h"], family.norm_bias)
    if family.final_norm:
        weights += norm(family.final_norm, dims["h"], family.norm_bias)
    if not tied:
        weights.append(Weight(f"{family.head}.weight", (dims["v"], dims["h"]), "lm_head", linear=True))
    if family.head_bias:
        weights.append(Weight(f"{family.head}.bias", (dims["v"],), "lm_head"))
    return weights


def _sparse(index: int, values: Mapping[str, Any]) -> bool:
    """Whether layer `index` of a mixture of experts has experts (Qwen's and DeepSeek's ways to say so)."""
    return (
        index not in (values.get("mlp_only_layers") or ())
        and (index + 1) % max(int(values.get("decoder_sparse_step") or 1), 1) == 0
        and index >= int(values.get("first_k_dense_replace") or 0)
    )


def _experts(family: Family, block: str, values: Mapping[str, Any], dims: Mapping[str, int]) -> list[Weight]:
    if not dims.get("e"):
        raise ModelError("config.json lacks the number of experts", fix="use the config.json that the model was published with")
    # A router is no linear layer for adapters: transformers keeps it as a bare parameter.
    weights = [Weight(f"{block}{family.router}.weight", (dims["e"], dims["h"]), "experts")]
    if family.router_bias:
        weights.append(Weight(f"{block}{family.router}.bias", (dims["e"],), "experts"))
    for name, shape in family.experts:
        weights.append(Weight(f"{block}{family.experts_module}.{name}", tuple(_number(x, dims) for x in shape), "experts"))
    if family.shared and dims["s"]:
        for name, out, inn in (("gate_proj", "s", "h"), ("up_proj", "s", "h"), ("down_proj", "h", "s")):
            weights += _linear(family, L(f"{family.shared}.{name}", out, inn), block, "experts", values, dims)
    if family.shared_gate:
        weights.append(Weight(f"{block}{family.shared_gate}.weight", (1, dims["h"]), "experts", linear=True))
    return weights


_COMPONENT_OF_NAME = (
    ("aligner", re.compile(r"(^|\.)(multi_modal_projector|visual\.(deepstack_)?merger(_list)?)\.")),
    ("vision", re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")),
    ("lm_head", re.compile(r"(^|\.)(lm_head|embed_out|output)\.(weight|bias)$")),
    ("norms", re.compile(r"norm|\bln_|\.ln\d?\b", re.I)),
    ("embeddings", re.compile(r"embed|\bwte\b|\bwpe\b", re.I)),
    ("experts", re.compile(r"expert|\.router\.|mlp\.gate\.weight$|block_sparse_moe", re.I)),
    ("attention", re.compile(r"attn|attention", re.I)),
)


def from_tensors(shapes: Shapes, tensors: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The same model, with the tensors that its weight files really hold (name -> shape) in place of the computed list."""
    weights = []
    for name, shape in tensors.items():
        component = next((c for c, pattern in _COMPONENT_OF_NAME if pattern.search(name)), "mlp")
        linear = len(shape) == 2 and name.endswith(".weight") and component not in ("embeddings", "norms")
        weights.append(Weight(name, tuple(shape), component, linear))
    return Shapes(shapes.model_type, shapes.architecture, tuple(weights), shapes.dims, shapes.tied)


_REGEX_CHARACTERS = re.compile(r"[*+?^$|()\[\]{}\\]")


def target_weights(
    shapes: Shapes, targets: str | Sequence[str] | None, exclude: Sequence[str] = (), layers: Sequence[int] = (), *,
    frozen: Collection[str] = (),
) -> list[Weight]:  # fmt: skip
    """Linear weights that adapters sit on, by PEFT's rule: names match the end of module paths, one entry with regex characters
    the whole path, and `all-linear` (or nothing) takes every linear layer but the output.

    Args:
        exclude: Names that are left alone.
        layers: Numbers of the blocks; empty: all.
        frozen: Components that are left alone.
    """
    linear = [w for w in shapes.weights if w.linear and w.component not in frozen]
    words = [targets] if isinstance(targets, str) else list(targets or ())
    if not words or set(words) & {"all-linear", "all", "auto"}:
        chosen = [w for w in linear if w.component != "lm_head"]
    elif len(words) == 1 and _REGEX_CHARACTERS.search(words[0]):
        chosen = [w for w in linear if re.fullmatch(words[0], w.module)]
    else:
        chosen = [w for w in linear if _named(w, words)]
    block = re.compile(r"\.(\d+)\.")
    wanted = set(layers)
    return [
        w for w in chosen if not _named(w, exclude) and (not wanted or ((m := block.search(w.name)) and int(m[1]) in wanted))
    ]


def _named(weight: Weight, words: Sequence[str]) -> bool:
    return any(weight.module == word or weight.module.endswith(f".{word}") for word in words)
