"""Child of training.py, the floor: a hand-written PyTorch loop over ready batches, and nothing else. Argument: a JSON task."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def padded(group: list[dict]) -> tuple[dict, Any]:
    width = max(len(row["input_ids"]) for row in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), -100)
    mask = torch.zeros(len(group), width, dtype=torch.long)
    for i, row in enumerate(group):
        n = len(row["input_ids"])
        ids[i, :n], labels[i, :n], mask[i, :n] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"]), 1
    return {"input_ids": ids, "attention_mask": mask}, labels


def packs(rows: list[dict], length: int = 1024) -> list[list[dict]]:
    """Best fit, longest rows first."""
    found: list[list[dict]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
        n = len(row["input_ids"])
        fits = [i for i, free in enumerate(room) if free >= n]
        if fits:
            i = min(fits, key=lambda i: room[i])
            found[i].append(row)
            room[i] -= n
        else:
            found.append([row])
            room.append(length - n)
    return found


def packed(group: list[dict]) -> tuple[dict, Any]:
    """One row without a mask: transformers tells its documents apart by position ids that restart."""
    ids = torch.tensor([[i for row in group for i in row["input_ids"]]])
    positions = torch.tensor([[p for row in group for p in range(len(row["input_ids"]))]])
    # The first token of a document is not to be learnt from the last one of the document before.
    labels = torch.tensor([[label for row in group for label in (-100, *row["labels"][1:])]])
    return {"input_ids": ids, "position_ids": positions}, labels


def main(task: dict) -> None:
    torch.manual_seed(0)
    print('@@ {"event": "imported"}', flush=True)
    folder = Path(task["folder"])
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=getattr(torch, task["dtype"]), attn_implementation="sdpa"
    )
    if task["tuner"] == "lora":
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    rows = [json.loads(line) for line in (folder / "tokens.jsonl").open(encoding="utf-8")]
    batch = task["batch"]
    packing = task["setting"] == "best"
    groups = packs(rows) if packing else [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]
    groups = (groups * (1 + task["steps"] // max(len(groups), 1)))[: task["steps"]]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    model.train()
    tokens, seconds, losses = [], [], []
    for group in groups:
        started = time.perf_counter()
        inputs, labels = packed(group) if packing else padded(group)
        loss = model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not seconds:
            print('@@ {"event": "first_step"}', flush=True)
        seconds.append(time.perf_counter() - started)
        tokens.append(sum(len(row["input_ids"]) for row in group))
    print("@@ " + json.dumps({"event": "done", "tokens": tokens, "seconds": seconds, "losses": losses}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
