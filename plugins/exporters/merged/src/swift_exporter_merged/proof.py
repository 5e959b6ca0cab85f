"""Do two models answer alike? S positions of a row, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from swift.api import Record

MAX_POSITIONS = 512
"""Of one prompt; what is longer is cut, as its logits are kept in memory."""
CHUNK = 64
"""Positions that are compared at once, in float64: in float32 the sum over a vocabulary is as noisy as what is measured."""


def token_rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Record]) -> list[list[int]]:
    """Ids of each prompt: conversations through the chat template, where there is one."""
    rows = []
    for record in prompts:
        messages = record.get("messages")
        if messages and tokenizer.chat_template:
            open_turn = messages[-1]["role"] != "assistant"
            encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn, tokenize=True, return_dict=True)
            ids = encoded["input_ids"]
        else:
            text = record["text"] if not messages else "\n".join(str(m["content"]) for m in messages)
            ids = tokenizer(text)["input_ids"]
        rows.append(list(ids)[:MAX_POSITIONS])
    return [row for row in rows if row]


@torch.no_grad()
def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """[S, V] in the model's own dtype, on the CPU, for each row; one row at a time, so that nothing is padded."""
    device = next(model.parameters()).device
    return [model(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0].cpu() for row in rows]


def compare(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> dict[str, float]:
    """KL(before || after) per position in nats, mean and worst; largest difference of logits; share of equal top tokens."""
    kl: list[torch.Tensor] = []
    difference, equal = 0.0, 0
    for old, new in zip(before, after, strict=True):
        for p, q in zip(old.split(CHUNK), new.split(CHUNK), strict=True):
            p, q = p.double(), q.double()
            log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
            difference = max(difference, (p - q).abs().max().item())
            equal += int((p.argmax(-1) == q.argmax(-1)).sum())
    all_kl = torch.cat(kl)
    return {
        "kl_mean": all_kl.mean().item(),
        "kl_max": all_kl.max().item(),
        "logit_max_difference": difference,
        "same_likeliest_token": equal / all_kl.numel(),
        "positions": float(all_kl.numel()),
    }
