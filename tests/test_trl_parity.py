"""20 steps against TRL's SFTTrainer: same model, rows, order and hyperparameters; losses agree to 1e-4 in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import swift
from swift.testing import CONVERSATIONS

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
peft = pytest.importorskip("peft")
STEPS, BATCH = 20, 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    rows = [
        {"messages": [{"role": m["role"], "content": f"{m['content']} ({'x' * (n * 5 % 17)})"} for m in row["messages"]]}
        for n, row in enumerate(CONVERSATIONS * (STEPS * BATCH // len(CONVERSATIONS)))
    ]
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows, file


def trl_losses(model_folder: Path, rows: list[dict[str, Any]], output: Path, peft_config: Any) -> list[float]:
    class Keep(TrainerCallback):
        losses: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    class Ordered(trl.SFTTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    keep = Keep()
    keep.losses = []
    args = trl.SFTConfig(
        output_dir=str(output), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-3, weight_decay=0.1,
        adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, lr_scheduler_type="constant", warmup_steps=0, max_grad_norm=1.0,
        logging_steps=1, save_strategy="no", report_to=[], seed=42, bf16=False, fp16=False, use_cpu=True, packing=False,
        assistant_only_loss=True, gradient_checkpointing=False, disable_tqdm=True, max_length=512,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    if peft_config is not None:
        torch.manual_seed(42)  # the seed that Swift gives the tuner: the same matrix A
        model = peft.get_peft_model(model, peft_config)
    trainer = Ordered(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_folder), callbacks=[keep],
    )  # fmt: skip
    trainer.train()
    return keep.losses


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_losses_agree(tuner: str, model_folder: Path, rows: tuple[list[dict[str, Any]], Path], tmp_path: Path) -> None:
    data, file = rows
    config = (
        peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM") if tuner == "lora" else None
    )
    theirs = trl_losses(model_folder, data, tmp_path / "trl", config)
    settings = {"lora": {"rank": 8, "alpha": 16, "dropout": 0.0}} if tuner == "lora" else {}
    run = swift.train(
        model=model_folder, dataset=file, output=tmp_path / "ours", tuner=tuner, dtype="float32", max_steps=STEPS,
        batch_size=BATCH, gradient_accumulation_steps=1, learning_rate=1e-3, lr_scheduler="constant", warmup_ratio=0.0,
        weight_decay=0.1, shuffle=False, batching="padded", progress=False, report=False, **settings,
    )  # fmt: skip
    assert len(run.losses) == len(theirs) == STEPS
    assert theirs[-1] < theirs[0]
    for step, (ours, other) in enumerate(zip(run.losses, theirs, strict=True), start=1):
        assert ours == pytest.approx(other, abs=1e-4), f"step {step}"
