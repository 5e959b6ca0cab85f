"""Do restarting position ids keep documents apart that share a row? Tried out, not looked up.

transformers builds a block mask from restarting position ids when no attention mask and no cache is given. Whether a model
class honours it (attention does; a recurrent or convolutional layer carries state across the border unless it is written
for it) shows on a tiny model of the same class in a fraction of a second.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import nn

from swift_model_transformers.varlen import TORCH_VARLEN, without_mask

_answers: dict[tuple[Any, ...], bool] = {}

DOCUMENTS = ((5, 3, 6), (4, 8, 2))
"""Lengths of the documents in each of two rows."""
TOLERANCE = 1e-4
"""Allowed difference of logits (which are of order 1), in float32."""


def keeps_documents_apart(model: nn.Module, attention: str, *, axes: int = 0) -> bool:
    """Whether documents in a row stay apart by their position ids alone (`use_cache=False`, no mask), or by these and bounds.

    Of multimodal models the text decoder is asked: what else they have works on single media. `axes`: its further axes of
    positions.

    FlashAttention is judged by the class's answer under sdpa or eager: the attention itself keeps documents apart by their
    lengths, so what remains to be shown is that no other layer mixes them. Any failure to find out is a no.
    """
    if hasattr(model, "config") and model.config.get_text_config() is not model.config:
        model = model.get_decoder()
    model_class = type(model)
    if attention.startswith("flash_attention"):
        attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    try:
        small = shrink(model.config)
        key = (model_class, attention, axes, json.dumps(small.to_dict(), sort_keys=True, default=str))
        if key not in _answers:
            _answers[key] = _try_out(model, small, attention, axes)
        return _answers[key]
    except Exception:  # remote code and exotic configs fail in any way; padded batches are always right
        return False


def shrink(config: Any) -> Any:
    """A config of the same architecture with few and narrow layers; every kind of layer that it has stays in."""
    small = copy.deepcopy(config)
    heads = getattr(config, "num_attention_heads", None)
    kv_heads = getattr(config, "num_key_value_heads", None)
    own_head_dim = getattr(config, "head_dim", None)
    head_dim = own_head_dim or config.hidden_size // heads  # kept: rotary settings depend on it
    kinds = list(getattr(config, "layer_types", None) or ())
    first = sorted({kinds.index(kind) for kind in kinds})  # one layer of each kind, in order
    layers = max(2, len(first))
    chosen = [kinds[i] for i in first] + [kinds[-1]] * (layers - len(first)) if kinds else None
    values = {
        "num_hidden_layers": layers, "layer_types": chosen, "hidden_size": 2 * head_dim, "intermediate_size": 64,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 1 if kv_heads and kv_heads < heads else 2, "num_experts": 4, "num_local_experts": 4,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "vocab_size": 64, "use_cache": False,
        "attention_dropout": 0.0, "initializer_range": 0.3,
    }  # fmt: skip
    for name, value in values.items():
        if getattr(config, name, None) is not None and value is not None:
            setattr(small, name, value)
    if getattr(config, "sliding_window", None):
        small.sliding_window = 4  # shorter than the documents, so that the window is tried too
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(config, name, None) is not None:
            setattr(small, name, 0)
    small.quantization_config = None
    return small


def layer_kinds(model: nn.Module) -> set[type[nn.Module]]:
    """Module classes that the architecture's own file defines, and those that carry state along a sequence."""
    stateful = (nn.Conv1d, nn.RNNBase)
    return {type(m) for m in model.modules() if type(m).__module__ == type(model).__module__ or isinstance(m, stateful)}


@torch.no_grad()
def _try_out(whole: nn.Module, config: Any, attention: str, axes: int) -> bool:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = type(whole)._from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
        if not layer_kinds(whole) <= layer_kinds(model):
            return False  # the small model lacks a kind of layer, so it proves nothing
        ids = torch.randint(1, config.vocab_size, (len(DOCUMENTS), sum(DOCUMENTS[0])))
    positions = torch.tensor([[p for length in row for p in range(length)] for row in DOCUMENTS])
    packed = _in_one_row(model, ids, positions) if attention == TORCH_VARLEN else _answer(model, ids, positions, axes)
    alone = torch.cat([_each_alone(model, row, lengths, axes) for row, lengths in zip(ids, DOCUMENTS, strict=True)])
    mixed = _answer(model, ids, torch.arange(ids.shape[1]).expand_as(ids), axes)
    scale = alone.abs().max()
    seen = (mixed - alone).abs().max() > 100 * TOLERANCE * scale  # the trial can tell mixed documents from separate ones
    return bool(seen and torch.allclose(packed, alone, rtol=0, atol=float(TOLERANCE * scale)))


def _each_alone(model: nn.Module, row: torch.Tensor, lengths: tuple[int, ...], axes: int) -> torch.Tensor:
    parts = [_answer(model, part[None], torch.arange(len(part))[None], axes) for part in row.split(list(lengths))]
    return torch.cat(parts, dim=1)


def _in_one_row(model: nn.Module, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """All documents after one another, with their bounds."""
    without_mask(model)
    lengths = torch.tensor([0, *(length for row in DOCUMENTS for length in row)])
    bounds, longest = lengths.cumsum(0, dtype=torch.int32), int(lengths.max())
    given = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    return _answer(model, ids.view(1, -1), positions.view(1, -1), 0, **given).view(*ids.shape, -1)


def _answer(model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, axes: int, **given: Any) -> torch.Tensor:
    """Logits; of a decoder without a head its last states."""
    if axes:
        positions = positions.expand(1 + axes, *positions.shape)
    out = model(input_ids=ids, position_ids=positions, use_cache=False, **given)
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).float()
