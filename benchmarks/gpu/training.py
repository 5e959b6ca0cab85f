"""How fast, how full, and against whom: Swift's own loop beside transformers.Trainer and TRL on the same packs."""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from correctness import compile_blocks
from records import Case, Skip
from torch import nn

LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": ["all-linear"]}
LENGTH, TOY_LENGTH = 4096, 256
LONGEST = 1024
"""Tokens of a row, at most."""
WARM, WINDOWS = 3, 3
"""Steps before the clock, and stretches on it."""
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """How a model is trained. The defaults are what Swift chooses by itself on a GPU today."""

    size: str = "8B"
    tuner: str = "lora"
    attention: str = "auto"
    dtype: str = "bfloat16"
    """Of the weights; adapters stand in float32 beside them."""
    adapter_dtype: str = "float32"
    autocast: bool = False
    """Matrix products in bfloat16 whatever the weights are."""
    tf32: bool = False
    checkpointing: bool = True
    compile: bool = False
    logits_mib: float = 256.0
    fused: bool = True
    layout: str = "packed"
    micro_batch: int = 1
    steps: int = 3
    """Optimizer steps of each stretch on the clock."""


FULL = Setting(tuner="full", dtype="float32", autocast=True)


def first(context: Any, pieces: Sequence[str], command: Sequence[str]) -> list[Case]:
    """What must be known: 8B LoRA, against the peers, the profile, and the whole command."""
    return [
        *_against("lora-8B", Setting(), pieces, 25),
        Case("training/lora-8B/profile", partial(profiled, setting=Setting()), pieces, 15),
        Case("training/command", command_run, command, 40),
        *_against("lora-0.6B", Setting(size="0.6B", steps=8), pieces, 12),
    ]


def more(context: Any, pieces: Sequence[str]) -> list[Case]:
    """The rest of the table. At toy size all models are the same, so that one is enough."""
    qlora = Setting(tuner="qlora")
    best = Setting(autocast=True, checkpointing=False)
    cases = [
        Case("training/lora-8B/profile-candidate", partial(profiled, setting=best), pieces, 15),
        *_against("full-0.6B", replace(FULL, size="0.6B", steps=8), pieces, 15),
        *_against("lora-4B", Setting(size="4B"), pieces, 18),
        Case("training/qlora-8B/swift", partial(swift_run, setting=qlora), (*pieces, "bitsandbytes"), 35),
        *_against("full-4B", replace(FULL, size="4B"), pieces, 25),
        Case("training/full-8B/swift", partial(swift_run, setting=replace(FULL, dtype="bfloat16", autocast=False)), pieces, 30),
    ]
    return [case for case in cases if not context.toy or ("4B" not in case.name and "full-8B" not in case.name)]


def _against(name: str, setting: Setting, pieces: Sequence[str], seconds: float) -> list[Case]:
    return [
        Case(f"training/{name}/swift", partial(swift_run, setting=setting), pieces, seconds),
        Case(f"training/{name}/trainer", partial(trainer_run, setting=setting), (*pieces, "accelerate"), seconds),
        Case(f"training/{name}/trl", partial(trl_run, setting=setting), (*pieces, "accelerate", "trl", "datasets"), seconds),
    ]


# ------------------------------------------------------------------------------------------------------------ what is trained


def chosen_attention(context: Any, setting: Setting) -> str:
    """What Swift's model loader would take: the first of the device's order that is there."""
    if setting.attention != "auto":
        return setting.attention
    choices = importlib.import_module("swift_model_transformers.choices")
    classes = importlib.import_module("transformers.models.qwen3.modeling_qwen3")
    device = context.piece("device", context.device_name)
    half = setting.autocast or setting.dtype != "float32"
    computes = choices.Computes(
        classes.Qwen3ForCausalLM, models.config_of(setting.size, toy=context.toy), setting.dtype, half=half,
        device=context.torch_device.type, documents=True,
    )  # fmt: skip
    return choices.choose_attention("auto", device.attention(), computes)[0]


def base_model(context: Any, setting: Setting) -> nn.Module:
    """Random weights on the device; for QLoRA with the linear layers in 4 bits."""
    implementation = chosen_attention(context, setting)
    if implementation == models.TORCH_VARLEN and not models.knows_varlen(context.torch_device):
        raise Skip("this torch has no variable-length attention (2.10 and later)")
    config = models.config_of(setting.size, toy=context.toy)
    dtype = getattr(torch, setting.dtype)
    model = models.random_model(config, attention=implementation, dtype=dtype, device=context.torch_device)
    if setting.tuner == "qlora":
        quantize(model, context.torch_device)
    return model


def quantize(model: nn.Module, device: torch.device) -> None:
    """NF4 with double quantization, in place, layer by layer, as bitsandbytes and PEFT know it (not the output layer)."""
    bnb = importlib.import_module("bitsandbytes")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            new = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=torch.bfloat16,
                compress_statistics=True, quant_type="nf4",
            )  # fmt: skip
            new.weight = bnb.nn.Params4bit(module.weight.data.cpu(), requires_grad=False, quant_type="nf4")
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new.to(device))
    model.is_loaded_in_4bit = True  # by which PEFT knows


def tuner_of(context: Any, setting: Setting) -> Any:
    if setting.tuner == "full":
        return context.piece("tuner", "full")
    return context.piece("tuner", "lora", **LORA, adapter_dtype=setting.adapter_dtype)


def length_of(context: Any) -> int:
    return TOY_LENGTH if context.toy else LENGTH


def loader_of(context: Any, setting: Setting, steps: int) -> Any:
    """Swift's loader over rows enough for `steps`."""
    batches = importlib.import_module("swift.data.batches")
    length = length_of(context)
    config = models.config_of(setting.size, toy=context.toy)
    mean = 30 if context.toy else 190
    count = int(1.3 * (steps + 1) * setting.micro_batch * length / mean) + 64
    scale = 0.15 if context.toy else 1.0
    rows = models.Rows.drawn(count, vocabulary=config.vocab_size, longest=min(LONGEST, length), scale=scale)
    units = batches.choose_units(rows, setting.layout, packing_length=length, keeps_documents_apart=True)
    # Without packs a micro-batch holds as many rows as make about as many tokens.
    micro = setting.micro_batch * (1 if setting.layout == "packed" else max(1, round(length / float(rows.lengths.mean()))))
    filled = length * setting.micro_batch if setting.compile else 0
    return batches.StepLoader(rows, units, micro_batch=micro, accumulation=1, seed=0, length=filled)


# ------------------------------------------------------------------------------------------------------------------- the clock


class Clock:
    """Stretches of steps between waits for the device, so that nothing is missed that is still queued."""

    def __init__(self, context: Any) -> None:
        self.context, self.marks = context, []

    def mark(self, steps: int) -> None:
        self.context.synchronize()
        self.marks.append((steps, time.perf_counter()))

    def seconds_per_step(self) -> list[float]:
        return [(t1 - t0) / (s1 - s0) for (s0, t0), (s1, t1) in pairwise(self.marks) if s1 > s0]


def work_of(batches: Sequence[Any]) -> dict[str, float]:
    """Real tokens, labels and squared document lengths of some micro-batches."""
    return {
        "tokens": float(sum(batch.num_tokens for batch in batches)),
        "labels": float(sum(batch.num_labels for batch in batches)),
        "squares": models.squares_of([batch.documents for batch in batches]),
        "computed": float(sum(batch.labels.numel() for batch in batches)),
    }


def figures(
    context: Any, setting: Setting, model: nn.Module, clock: Clock, batches: Sequence[Sequence[Any]], **more: Any
) -> dict[str, Any]:
    """What a run on `batches` (of each step on the clock) came to."""
    seconds = clock.seconds_per_step()
    work = work_of([batch for step in batches for batch in step])
    done = models.flops(
        model, tokens=work["tokens"], labels=work["labels"], squares=work["squares"], recompute=setting.checkpointing
    )
    steps, best, middle = len(batches), min(seconds), statistics.median(seconds)
    result: dict[str, Any] = {
        "tokens_per_second": work["tokens"] / steps / middle,
        "tokens_per_second_best": work["tokens"] / steps / best,
        "seconds_per_step": seconds,
        "tokens_per_step": work["tokens"] / steps,
        "labels_per_step": work["labels"] / steps,
        "padding": 1 - work["tokens"] / work["computed"],
        "flops_per_step": done.needed / steps,
        "mfu": None,
        **memory(context),
        **more,
        "setting": {**asdict(setting), "attention": model.config._attn_implementation},
    }
    if context.peak:
        per_second = steps * middle * context.peak
        result["mfu"], result["mfu_palm"] = done.needed / per_second, done.palm / per_second
        result["hfu"] = (done.needed + done.recomputed) / per_second
    return result


def memory(context: Any) -> dict[str, int]:
    """Bytes: peaks of torch's allocator (what tensors took, what it held), and all that the process takes on the device."""
    if not context.cuda:
        return {"peak_allocated": 0, "peak_reserved": 0, "device_used": context.piece("device", "cpu").memory().peak}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
        "device_used": total - free,
    }


# ----------------------------------------------------------------------------------------------------------------------- Swift


@contextlib.contextmanager
def float32_products(setting: Setting) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if setting.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def swift_loop(context: Any, setting: Setting, steps: int, on_log: Callable[[Mapping[str, float]], None]) -> Any:
    """Swift's loop, put together from the pieces that a run takes. It logs after step 1 and every `setting.steps`."""
    loop = importlib.import_module("swift.training.loop")
    state = importlib.import_module("swift.training.checkpoint").TrainState()
    device = context.piece("device", context.device_name)
    strategy = context.piece("parallel", "single", device)
    torch_device = strategy.start(timeout_s=60.0)
    refuse_where_it_cannot_fit(context, setting)
    tuner, objective = tuner_of(context, setting), context.piece("objective", "sft")
    model = tuner.apply(base_model(context, setting), seed=0).to(torch_device)
    if setting.checkpointing:
        importlib.import_module("swift.training.activations").checkpoint_activations(model, "full")
    if setting.compile:
        compile_blocks(model, context)
    module = strategy.wrap(
        loop.LossModule(
            model,
            objective,
            memory_budget=int(setting.logits_mib * MIB),
            autocast=torch.bfloat16 if setting.autocast else None,
            takes_bounds=models.takes_bounds(model.config._attn_implementation),
        )
    )
    optimizer = context.piece("optimizer", "adamw", fused=setting.fused).build(
        tuner.parameter_groups(model, learning_rate=1e-4, weight_decay=0.0)
    )
    return loop.Loop(
        config=loop.LoopConfig(
            total_steps=steps, warmup_steps=1, lr_scheduler="constant", min_lr_ratio=0.0, max_grad_norm=1.0,
            log_steps=setting.steps, save_steps=0, eval_steps=0,
        ),
        state=state, strategy=strategy, device=device, torch_device=torch_device, module=module, optimizer=optimizer,
        loader=loader_of(context, setting, steps), count=objective.count, stop=loop.StopRequest(), on_log=on_log,
        on_save=lambda _: None, on_eval=lambda _: None,
    )  # fmt: skip


def swift_run(context: Any, setting: Setting) -> dict[str, Any]:
    setting = fitted(context, setting)
    steps, skipped = plan_steps(setting)
    clock, losses = Clock(context), []

    def on_log(values: Mapping[str, float]) -> None:
        losses.append(values["loss"])
        if values["step"] >= skipped:
            clock.mark(int(values["step"]))

    with float32_products(setting):
        loop = swift_loop(context, setting, steps, on_log)
        loop.run()
    source = loader_of(context, setting, steps)
    batches = [source.step(step) for step in range(skipped, steps)]
    model = loop.module.model
    return figures(
        context, setting, model, clock, batches, data_wait=loop.waited / loop.state.seconds, losses=losses,
        **estimate(context, setting, batches),
    )  # fmt: skip


def plan_steps(setting: Setting) -> tuple[int, int]:
    """(all steps, those before the clock starts): it starts where the loop logs."""
    skipped = setting.steps * max(1, -(-WARM // setting.steps))
    return skipped + WINDOWS * setting.steps, skipped


def fitted(context: Any, setting: Setting) -> Setting:
    """At toy size few steps; on a CPU, which emulates bfloat16 slowly, no autocast."""
    setting = replace(setting, steps=1) if context.toy else setting
    return setting if context.cuda else replace(setting, autocast=False)


# ------------------------------------------------------------------------------------------------------- the planner's memory


def setup_of(context: Any, setting: Setting, tokens: int, span: int) -> Any:
    """The planner's question about this run."""
    est = importlib.import_module("swift.plan.estimate")
    shapes = importlib.import_module("swift.plan.shapes").shapes_of(models.config_of(setting.size, toy=context.toy).to_dict())
    adapters = setting.tuner != "full"
    return est.Setup(
        shapes=shapes, dtype=setting.dtype, compute_dtype="bfloat16" if setting.autocast else "", adapters=adapters,
        adapter=est.adapter_size(shapes, {**LORA, "adapter_dtype": setting.adapter_dtype}) if adapters else None,
        tokens=tokens, span=span, checkpointing="full" if setting.checkpointing else "off",
        quadratic_attention=setting.attention == "eager", logits_memory=int(setting.logits_mib * MIB),
        quant_bits=4 if setting.tuner == "qlora" else 0, host=not context.cuda,
    )  # fmt: skip


def estimate(context: Any, setting: Setting, batches: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """What the planner says before the run, and its ratio to what the device gave away. Its overhead stands for what the
    process takes beside torch's allocator, so that the whole is compared with the whole."""
    est = importlib.import_module("swift.plan.estimate")
    each = [batch for step in batches for batch in step]
    tokens = max(batch.labels.numel() for batch in each)
    span = max(int(np.bincount(batch.documents.numpy()[batch.documents.numpy() >= 0]).max()) for batch in each)
    found = est.memory(setup_of(context, setting, tokens, span))
    measured = memory(context)
    return {
        "estimate": found.total,
        "estimate_parts": dict(found.components),
        "estimate_ratio": found.total / measured["device_used"] if context.cuda else None,
        "estimate_over_allocated": (found.total - est.OVERHEAD) / measured["peak_allocated"] if context.cuda else None,
    }


def refuse_where_it_cannot_fit(context: Any, setting: Setting) -> None:
    if not context.cuda:
        return
    est = importlib.import_module("swift.plan.estimate")
    length = length_of(context) * setting.micro_batch
    needed = est.memory(setup_of(context, setting, length, length)).total
    free, _ = torch.cuda.mem_get_info()
    if needed > free:
        raise Skip(f"the planner counts {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free")


# ----------------------------------------------------------------------------------------------------------------- the profile

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::item", "aten::_local_scalar_dense",
         "aten::nonzero", "aten::_to_copy", "aten::copy_", "cudaMemcpyAsync", "cudaLaunchKernel",
         "cuLaunchKernelEx")  # fmt: skip


def profiled(context: Any, setting: Setting) -> dict[str, Any]:
    """Where the time of two steps of the loop goes: the twenty operations with most time of their own, and what waits."""
    setting = fitted(context, setting)
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * context.cuda
    with float32_products(setting):
        loop = swift_loop(context, setting, WARM + 2, lambda _: None)
        loop.config = replace(loop.config, total_steps=WARM)
        loop.run()
        loop.config = replace(loop.config, total_steps=WARM + 2)
        context.synchronize()
        started = time.perf_counter()
        with torch.profiler.profile(activities=activities) as profile:
            loop.run()
            context.synchronize()
        seconds = time.perf_counter() - started
    own, whole = ("self_device_time_total", "device_time_total") if context.cuda else ("self_cpu_time_total", "cpu_time_total")
    events = profile.key_averages()
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA] if context.cuda else list(events)
    busy = sum(getattr(event, own) for event in kernels) / 1e6
    top = sorted(kernels, key=lambda event: -getattr(event, own))[:20]
    return {
        "steps": 2,
        "seconds": seconds,
        "device_busy": busy / seconds,
        "top": [
            {"name": e.key[:160], "calls": e.count, "share": getattr(e, own) / 1e6 / busy, "seconds": getattr(e, own) / 1e6}
            for e in top
        ],
        "operations": [
            {"name": e.key[:80], "calls": e.count, "seconds": getattr(e, whole) / 1e6}
            for e in sorted(events, key=lambda e: -getattr(e, whole))
            if e.key.startswith("aten::") or "Backward" in e.key
        ][:20],
        "waits_and_copies": {event.key: event.count / 2 for event in events if event.key in WAITS},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- the peers


def packs(context: Any, setting: Setting, steps: int) -> list[Any]:
    """Swift's own batches, in its order."""
    source = loader_of(context, replace(setting, attention="sdpa", compile=False), steps)
    return [source.step(step)[0] for step in range(steps)]


def as_rows(batches: Sequence[Any]) -> list[dict[str, torch.Tensor]]:
    """The same for transformers: labels are not shifted there, and the model shifts them."""
    return [
        {
            "input_ids": batch.inputs["input_ids"][0],
            "position_ids": batch.inputs["position_ids"][0],
            "labels": torch.cat([torch.tensor([-100]), batch.labels[0, :-1]]),
        }
        for batch in batches
    ]


def peer_model(context: Any, setting: Setting, *, lora: bool) -> nn.Module:
    peft = importlib.import_module("peft")
    if chosen_attention(context, setting) == models.TORCH_VARLEN:
        setting = replace(setting, attention="sdpa")  # the best that they have
    model = base_model(context, setting)
    return peft.get_peft_model(model, peer_lora()) if lora else model


def peer_lora() -> Any:
    return importlib.import_module("peft").LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def peer_arguments(context: Any, setting: Setting, steps: int, folder: str) -> dict[str, Any]:
    """Both peers at their own best: fused AdamW, bfloat16, no logging between."""
    return {
        "output_dir": folder, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": steps,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0,
        "logging_steps": steps, "save_strategy": "no", "report_to": [], "bf16": context.cuda, "use_cpu": not context.cuda,
        "gradient_checkpointing": setting.checkpointing, "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "optim": "adamw_torch_fused" if context.cuda else "adamw_torch", "disable_tqdm": True,
    }  # fmt: skip


def timed(context: Any, setting: Setting) -> tuple[Clock, Any]:
    """A clock, and the callback that marks it where Swift's is marked."""
    callbacks = importlib.import_module("transformers.trainer_callback")
    clock, (_, skipped) = Clock(context), plan_steps(setting)

    class Marks(callbacks.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= skipped and state.global_step % setting.steps == 0:
                clock.mark(state.global_step)

    return clock, Marks()


def trainer_run(context: Any, setting: Setting) -> dict[str, Any]:
    """transformers.Trainer on the same packs in the same order, with the same attention."""
    transformers = importlib.import_module("transformers")
    setting = fitted(context, setting)
    steps, skipped = plan_steps(setting)
    batches = packs(context, setting, steps)
    refuse_where_it_cannot_fit(context, setting)
    clock, marks = timed(context, setting)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(batches)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = InOrder(
            peer_model(context, setting, lora=setting.tuner == "lora"),
            args=transformers.TrainingArguments(**peer_arguments(context, setting, steps, folder), dataloader_num_workers=0),
            train_dataset=as_rows(batches), data_collator=lambda rows: {k: torch.stack([r[k] for r in rows]) for k in rows[0]},
            callbacks=[marks],
        )  # fmt: skip
        trainer.train()
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return figures(context, setting, trainer.model, clock, [[batch] for batch in batches[skipped:]], losses=losses)


def trl_run(context: Any, setting: Setting) -> dict[str, Any]:
    """TRL's SFTTrainer, which packs the same rows itself."""
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    setting = fitted(context, setting)
    steps, skipped = plan_steps(setting)
    batches = packs(context, setting, steps)
    refuse_where_it_cannot_fit(context, setting)
    clock, marks = timed(context, setting)
    rows = [row for pack in as_rows(batches) for row in _apart(pack)]
    tokenizer = importlib.import_module("swift.testing.tiny").byte_tokenizer()  # the rows are token ids already
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.SFTTrainer(
            peer_model(context, setting, lora=False),
            args=trl.SFTConfig(
                **peer_arguments(context, setting, steps, folder), packing=True, max_length=length_of(context),
                padding_free=True, dataset_kwargs={"skip_prepare_dataset": False}, shuffle_dataset=False,
            ),
            train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[marks],
            peft_config=peer_lora() if setting.tuner == "lora" else None,
        )  # fmt: skip
        trainer.train()
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    found = figures(context, setting, trainer.model, clock, [[batch] for batch in batches[skipped:]], losses=losses)
    # Its packs hold other rows than Swift's: their mean stands for those on the clock.
    share = statistics.mean(len(row["input_ids"]) for row in trainer.train_dataset) / found["tokens_per_step"]
    scaled = ("tokens_per_second", "tokens_per_second_best", "tokens_per_step", "labels_per_step", "flops_per_step", "mfu",
              "mfu_palm", "hfu")  # fmt: skip
    return {**found, **{key: found[key] * share for key in scaled if found.get(key) is not None}}


def _apart(row: Mapping[str, torch.Tensor]) -> Iterator[dict[str, list[int]]]:
    starts = [*(row["position_ids"] == 0).nonzero().squeeze(1).tolist(), len(row["input_ids"])]
    for start, end in pairwise(starts):
        labels = row["labels"][start:end].tolist()
        yield {"input_ids": row["input_ids"][start:end].tolist(), "completion_mask": [int(label >= 0) for label in labels]}


# ------------------------------------------------------------------------------------------------------------ the whole command


def command_run(context: Any) -> dict[str, Any]:
    """`swift sft` as a user types it, on a folder with the 0.6B config: plan, data, loop, checkpoint and report."""
    cli = importlib.import_module("swift.cli.main")
    steps = 3 if context.toy else 20
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = models.config_of("0.6B", toy=context.toy)
        config.save_pretrained(folder / "model")
        importlib.import_module("swift.testing.tiny").byte_tokenizer().save_pretrained(folder / "model")
        write_rows(folder / "rows.jsonl", count=64 if context.toy else 800, toy=context.toy)
        started = time.perf_counter()
        code = cli.main(
            [
                "sft", "--model", str(folder / "model"), "--dataset", str(folder / "rows.jsonl"), "--init", "random", "--tuner",
                "lora", "--lora.rank", "16", "--device", context.device_name, "--max_steps", str(steps), "--batch_size", "1",
                "--gradient_accumulation_steps", "1", "--batching", "packed", "--max_length", str(length_of(context)),
                "--log_steps", "1", "--progress", "false", "--report", "false", "--save_only_model", "true",
                "--cache_dir", str(folder / "tokens"), "--output_dir", str(folder / "run"),
            ]
        )  # fmt: skip
        seconds = time.perf_counter() - started
        if code:
            raise RuntimeError(f"swift sft ended with {code}")
        lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        plan = next(iter((folder / "run").rglob("plan.json")), None)
        planned = json.loads(plan.read_text(encoding="utf-8")).get("estimate", {}).get("memory", {}) if plan else {}
    logged = [line for line in lines if "loss" in line]
    late = logged[len(logged) // 3 :]
    clocked = late[-1]["seconds"] - late[0]["seconds"]
    peak = logged[-1]["memory_peak"]
    return {
        "tokens_per_second": (late[-1]["tokens"] - late[0]["tokens"]) / clocked,
        "seconds_whole_command": seconds,
        "steps": steps,
        "losses": [line["loss"] for line in logged],
        "data_wait": statistics.mean(line["data_wait"] for line in late),
        "memory_peak": peak,
        "estimate": planned.get("total"),
        "estimate_parts": planned.get("per_rank"),
        "estimate_ratio": planned["total"] / peak if planned.get("total") and context.cuda else None,
    }


def write_rows(path: Path, *, count: int, toy: bool) -> None:
    """Conversations of made-up words; a byte is a token of the tokenizer that is used."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(models.LOG_MEAN, models.LOG_DEVIATION, count) * (0.3 if toy else 1), 16, 1000)
    with path.open("w", encoding="utf-8") as file:
        for length in lengths.astype(int):
            text = "".join(generator.choice(list("abcdefghij "), int(length)))
            cut = max(1, int(length * (1 - models.ANSWER)))
            messages = [{"role": "user", "content": text[:cut]}, {"role": "assistant", "content": text[cut:] or "yes"}]
            file.write(json.dumps({"messages": messages}) + "\n")
