"""DPO against TRL's DPOTrainer: tokens, every loss with its gradients and metrics, and 10 steps of training, in float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import swift
from swift.api import Batch
from swift.data.batches import TokenRow, collate
from swift.data.encode import ChatEncoder
from swift.testing import tiny_folder
from swift.training.reference import Reference
from swift_objective_preference.dpo import DPO
from swift_objective_preference.losses import LOSSES
from swift_objective_preference.settings import BY_DIFFERENCE, DPOSettings

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
peft = pytest.importorskip("peft")
STEPS, BATCH = 10, 4
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "exclude_modules": ["lm_head"], "task_type": "CAUSAL_LM"}

# As ChatML, but no newline after the last turn: TRL trains on what a template writes after the end of the answer.
TEMPLATE = (
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)


def conversation(n: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"What is {n} plus {n}?"}]
    if n % 3 == 1:
        prompt = [*prompt, {"role": "assistant", "content": "Let me think."}, {"role": "user", "content": "Go on."}]
    if n % 4 == 2:
        prompt = [{"role": "system", "content": "Answer shortly."}, *prompt]
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": f"It is {2 * n}." + " Sure." * (n % 3)}],
        "rejected": [{"role": "assistant", "content": "It is nothing that I know." + " Sorry!" * (n * 5 % 4)}],
    }


ROWS = [conversation(n) for n in range(STEPS * BATCH)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_folder(tmp_path_factory.mktemp("policy"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def make_trainer(folder: Path, output: Path, *, kind: str, ref_model: Any = None, callbacks: Any = ()) -> Any:
    class Ordered(trl.DPOTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    args = trl.DPOConfig(
        output_dir=str(output), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-3, weight_decay=0.1,
        adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, lr_scheduler_type="constant", warmup_steps=0, max_grad_norm=1.0,
        logging_steps=1, save_strategy="no", report_to=[], seed=42, bf16=False, fp16=False, use_cpu=True, max_length=512,
        gradient_checkpointing=False, disable_tqdm=True, beta=0.3,
    )  # fmt: skip
    return Ordered(
        model=AutoModelForCausalLM.from_pretrained(folder), ref_model=ref_model, args=args, callbacks=list(callbacks),
        train_dataset=datasets.Dataset.from_list(ROWS), processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(**LORA) if kind == "lora" else None,
    )  # fmt: skip


def record(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*row["prompt"], *row["chosen"]], "rejected": row["rejected"]}


def our_batch(tokenizer: Any, objective: DPO, rows: list[dict[str, Any]], layout: Any = "padded") -> Batch:
    encoder = ChatEncoder(tokenizer)
    examples = [objective.encode(record(row), encoder) for row in rows]
    return collate([TokenRow(np.array(e["input_ids"]), np.array(e["loss_weight"]), e["segments"]) for e in examples], layout)


# ------------------------------------------------------------------------------------------------------------------- tokens


def test_ids_and_masks_are_trls(folder: Path, tmp_path: Path) -> None:
    """With ChatML's own newline after the answer, that one token is all that TRL trains on besides."""
    trainer = make_trainer(folder, tmp_path, kind="full")
    plain = trainer.processing_class
    newline = AutoTokenizer.from_pretrained(tiny_folder(tmp_path / "chatml"))
    own = trl.DPOTrainer._prepare_dataset(trainer, datasets.Dataset.from_list(ROWS), newline, trainer.args, "chatml")
    for tokenizer, theirs, left in ((plain, trainer.train_dataset, 0), (newline, own, 1)):
        encoder = ChatEncoder(tokenizer)
        for row, other in zip(ROWS, theirs, strict=True):
            example = DPO(DPOSettings(), "dpo").encode(record(row), encoder)
            prompt, chosen, rejected = (other[f"{name}_ids"] for name in ("prompt", "chosen", "rejected"))
            assert example["input_ids"] == [*prompt, *chosen, *prompt, *rejected]
            assert example["segments"] == [len(prompt) + len(chosen), len(prompt) + len(rejected)]
            mask = [0] * len(prompt) + [1] * (len(chosen) - left) + [0] * left
            mask += [0] * len(prompt) + [1] * (len(rejected) - left) + [0] * left
            assert example["loss_weight"] == mask


# ---------------------------------------------------------------------------------------------------------------- one batch


@pytest.fixture(scope="module", params=["lora", "full"])
def both(request: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Reference]:
    """TRL's trainer, our model with the same weights, and our reference."""
    other = tiny_folder(tmp_path_factory.mktemp("reference"), seed=7)
    ref_model = AutoModelForCausalLM.from_pretrained(other) if request.param == "full" else None
    trainer = make_trainer(folder, tmp_path_factory.mktemp("trl"), kind=request.param, ref_model=ref_model)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if ".lora_B." in name:
                p.normal_(std=0.1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if request.param == "full":
        return trainer, model, Reference(AutoModelForCausalLM.from_pretrained(other))
    model = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    model.load_state_dict(trainer.model.state_dict())
    return trainer, model, Reference(model, model.disable_adapter)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def theirs(trainer: Any, settings: DPOSettings, rows: slice) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    trainer.loss_types = list(settings.loss_type)
    trainer.loss_weights = settings.loss_weights or [1.0] * len(trainer.loss_types)
    for name in ("beta", "label_smoothing", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef"):
        setattr(trainer, name, getattr(settings, name))
    trainer.args.discopop_tau = settings.discopop_tau
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    trainer.model.train()
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))[rows]])
    loss = trainer._compute_loss(trainer.model, inputs, False)
    loss.backward()
    return loss.item(), gradients(trainer.model), {k: v[0] for k, v in trainer._metrics["train"].items()}


CASES: dict[str, dict[str, Any]] = {
    **{name: {"loss_type": name} for name in LOSSES},
    "discopop": {"loss_type": "discopop", "discopop_tau": 0.5},  # its default is so steep that rounding shows
    **{name: {"loss_type": name, "label_smoothing": 0.1} for name in ("robust", "exo_pair")},
    **{f"{name}, {f}": {"loss_type": name, "f_divergence_type": f, "discopop_tau": 0.5}
       for f, name in zip(("forward_kl", "js_divergence", "alpha_divergence"), ("sigmoid", "ipo", "discopop"), strict=True)},
    "ld_alpha": {"ld_alpha": 0.3},
    "MPO": {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
    "RPO": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_metrics(case: str, both: tuple[Any, Any, Reference]) -> None:
    trainer, model, reference = both
    settings = DPOSettings(beta=0.3, **CASES[case])
    # TRL's sft is a mean over the tokens of a micro-batch, ours over those of a pair: the same for one pair.
    rows = slice(1, 2) if "sft" in settings.loss_type else slice(4)
    loss, grads, metrics = theirs(trainer, settings, rows)
    if case == "RPO":
        settings = DPOSettings(beta=0.3, rpo_alpha=0.7)
    objective = DPO(settings, "dpo")
    for layout in ("padded", "padding_free"):
        batch = our_batch(trainer.processing_class, objective, ROWS[rows], layout)
        known = reference(objective, batch, memory_budget=1 << 26)
        out, ours = gone_through(model, objective, known)
        shaken, moved = gone_through(model, objective, rounded(known))
        pairs = objective.count(batch)
        slack = abs(float(shaken.total - out.total)) / pairs
        assert float(out.total) / pairs == pytest.approx(loss, rel=1e-5, abs=1e-6 + slack)
        assert ours.keys() == grads.keys()
        for name, gradient in ours.items():
            slack = (moved[name] - gradient).norm()
            assert (gradient - grads[name]).norm() <= 5e-5 * grads[name].norm() + 1e-7 + slack, name
        for name, total in out.metrics.items():
            slack = abs(float(shaken.metrics[name] - total)) / pairs
            assert float(total) / pairs == pytest.approx(metrics[name], rel=1e-4, abs=1e-5 + slack), name


def gone_through(model: Any, objective: DPO, batch: Batch) -> tuple[Any, dict[str, torch.Tensor]]:
    """The loss, and the gradients of its mean over pairs."""
    model.zero_grad()
    model.train()
    out = objective.loss(model, batch, memory_budget=1 << 26)
    (out.total / objective.count(batch)).backward()
    return out, gradients(model)


def rounded(batch: Batch) -> Batch:
    """With the reference's sums of log-probabilities moved by a unit in their last place, up and down in turns. Rounding may do
    that to each of the four sums of a pair, on either side, and losses that square their differences show it."""
    sums = batch.reference["log_probs"]
    units = torch.nextafter(sums.abs(), torch.full_like(sums, torch.inf)) - sums.abs()
    return replace(
        batch, reference={**batch.reference, "log_probs": sums + units * torch.tensor([1, -1]).repeat(len(sums) // 2)}
    )


def test_all_of_trls_losses_are_offered_but_those_that_sort() -> None:
    text = trl.DPOConfig.__doc__
    words = text[text.index("loss_type (") : text.index("loss_weights (")]
    named = {word.strip("`'") for word in words.replace(",", " ").replace(".", " ").split() if word.startswith("`'")}
    assert named - set(LOSSES) == {"aot", "aot_unpaired"} and set(LOSSES) <= named and named >= BY_DIFFERENCE


# --------------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_losses_of_a_run(kind: str, folder: Path, tmp_path: Path) -> None:
    class Keep(TrainerCallback):
        def __init__(self) -> None:
            self.logs: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                self.logs.append(logs)

    keep = Keep()
    trainer = make_trainer(folder, tmp_path / "trl", kind=kind, callbacks=[keep])
    if kind == "lora":
        torch.manual_seed(42)  # the seed that Swift gives the tuner: the same matrix A
        start = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(**LORA))
        trainer.model.load_state_dict(start.state_dict())
    trainer.train()

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    settings = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}} if kind == "lora" else {}
    run = swift.train(
        model=folder, dataset=data, output=tmp_path / "ours", objective="dpo", tuner=kind, dtype="float32", max_steps=STEPS,
        batch_size=BATCH, gradient_accumulation_steps=1, learning_rate=1e-3, lr_scheduler="constant", warmup_ratio=0.0,
        weight_decay=0.1, shuffle=False, batching="padded", progress=False, report=False, dpo={"beta": 0.3}, **settings,
    )  # fmt: skip
    log = [row for row in run.log() if "loss" in row]
    assert len(log) == len(keep.logs) == STEPS
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=1e-6) and log[-1]["loss"] < 0.9 * log[0]["loss"]
    for ours, other in zip(log, keep.logs, strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], abs=1e-4), ours["step"]
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
            assert ours[name] == pytest.approx(other[name], abs=2e-3), f"step {ours['step']}, {name}"
