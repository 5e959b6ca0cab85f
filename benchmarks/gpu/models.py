"""What is trained: models of published sizes with random weights, rows with the lengths of Alpaca's, and their arithmetic.

Symbols: N parameters in matrices that tokens pass through (the input embedding is a lookup and left out), L layers, q width of
all heads, n length of a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from swift_model_transformers.varlen import TORCH_VARLEN, varlen_attn, without_mask

FORMULAS = {
    "mfu": "needed FLOPs / (seconds x peak). Needed are, per token, 2 P forward and 2 P for the gradient of the input, over "
    "all matrices P of the blocks, 2 P more for the gradient of those that train, and 6 L q n for attention (causal, n the "
    "length of the token's document); the output layer counts at labelled tokens alone. So LoRA needs 4 N, full training "
    "6 N. Recomputation is not counted.",
    "mfu_palm": "(6 N + 12 L q n) x tokens / (seconds x peak), as in PaLM (arXiv 2204.02311, appendix B), as if all weights "
    "trained and every token had a label; for comparison with published figures only.",
    "hfu": "needed FLOPs plus the recomputed forward pass of the blocks / (seconds x peak).",
}

CONFIGS: dict[str, dict[str, Any]] = {
    # The published config.json of Qwen/Qwen3-0.6B, -4B and -8B.
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "tie_word_embeddings": True},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
           "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "tie_word_embeddings": False},
}  # fmt: skip
SAME = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6}
TOY = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
       "head_dim": 16, "vocab_size": 512, "max_position_embeddings": 1024}  # fmt: skip


def config_of(size: str, *, toy: bool) -> Any:
    values = {**SAME, **CONFIGS[size], **(TOY if toy else {})}
    return AutoConfig.for_model(
        "qwen3",
        **values,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        use_cache=False,
        architectures=["Qwen3ForCausalLM"],
    )


def random_model(config: Any, *, attention: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> nn.Module:
    """Weights are drawn on the device, in `dtype`."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    if attention == TORCH_VARLEN:
        without_mask(model)
    return model


def knows_varlen(device: torch.device) -> bool:
    return varlen_attn is not None or device.type == "cpu"


def takes_bounds(attention: str) -> bool:
    return attention.startswith((TORCH_VARLEN, "flash_attention"))


# ------------------------------------------------------------------------------------------------------------------- rows

# Of the 999 rows of Alpaca's English demo set: log-normal lengths with these two, answers 83 % of the tokens.
LOG_MEAN, LOG_DEVIATION, ANSWER = 4.94, 0.82, 0.83


@dataclass
class Rows:
    """Tokenized rows with random ids, as the data stage gives them (`swift.data.batches.TokenRows`); made when asked for."""

    lengths: np.ndarray
    vocabulary: int

    @classmethod
    def drawn(cls, count: int, *, vocabulary: int, longest: int, scale: float = 1.0) -> Rows:
        """Lengths like Alpaca's, times `scale`."""
        drawn = np.random.default_rng(0).lognormal(LOG_MEAN, LOG_DEVIATION, count) * scale
        return cls(np.clip(drawn, 8, longest).astype(np.int32), vocabulary)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        length = int(self.lengths[index])
        ids = np.random.default_rng((1, index)).integers(3, self.vocabulary, length)
        return ids, (np.arange(length) >= round(length * (1 - ANSWER))).astype(np.float32)

    def segments(self, index: int) -> np.ndarray:
        return np.array([self.lengths[index]])

    def values(self, index: int) -> Mapping[str, float]:
        return {}


# -------------------------------------------------------------------------------------------------------------- arithmetic


@dataclass(frozen=True)
class Flops:
    """Of forward and backward passes over some tokens."""

    needed: float
    recomputed: float
    palm: float


def flops(model: nn.Module, *, tokens: float, labels: float, squares: float, recompute: bool) -> Flops:
    """For `tokens` in documents whose squared lengths sum to `squares`, of which `labels` are scored; see `FORMULAS`."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    outside = {id(head), id(model.get_input_embeddings().weight)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in outside]
    # bitsandbytes keeps packed bytes: the shape it stands for is on the quantization state.
    sizes = [(float(np.prod(getattr(getattr(p, "quant_state", None), "shape", p.shape))), p.requires_grad) for p in matrices]
    blocks, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    attention = 2.0 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * squares  # 2 q n causal, forward
    output = head.numel() * (6 if head.requires_grad else 4) * labels
    return Flops(
        needed=(4 * blocks + 2 * trained) * tokens + 3 * attention + output,
        recomputed=2 * blocks * tokens + attention if recompute else 0.0,
        palm=6 * (blocks + head.numel()) * tokens + 6 * attention,
    )


def squares_of(documents: Sequence[torch.Tensor]) -> float:
    """Sum of squared document lengths over micro-batches, from their numbers of documents ([B, S], -1 on padding)."""
    return sum(float((np.bincount(d.numpy()[d.numpy() >= 0]).astype(np.float64) ** 2).sum()) for d in documents)
