"""One run, from plan to result, in the order of execution. Every process of a run executes this file."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swift.api import Device, LoadRequest, ModelLoader, Objective, OptimizerFactory, Strategy, Tracker, Tuner
from swift.config.sections import checkpointing_mode
from swift.data.batches import StepLoader, StepSource, evaluation_batches
from swift.data.preview import of_dataset
from swift.data.streaming import StreamLoader
from swift.errors import CheckpointError, Interrupted, SwiftError
from swift.plan.plan import Plan
from swift.plugins.hooks import Observers, for_components
from swift.plugins.loading import instantiate, load_impl, load_object, verify
from swift.plugins.requirements import unmet
from swift.run_dir import RunDir
from swift.training import oom
from swift.training.activations import checkpoint_activations
from swift.training.bench import Bench
from swift.training.checkpoint import TrainState, load_checkpoint, save_checkpoint, save_final
from swift.training.compiling import CompiledBlocks
from swift.training.data import Batches, left_out, load_data, pad_token_id, stream_data
from swift.training.in_backward import InBackward
from swift.training.live import LiveModel
from swift.training.loop import Loop, LoopConfig, LossModule, StopRequest, evaluate
from swift.training.memory import held
from swift.training.parts import close_parts, frozen_parts, load_media, media_parameters, with_rates
from swift.training.progress import Display, Notes
from swift.training.reference import make_reference
from swift.training.schedule import warmup
from swift.upstream import quiet_libraries

PLOTS_NEED = ("matplotlib>=3.8",)


@dataclass
class RunSummary:
    """What a run came to."""

    metrics: dict[str, float]
    notes: list[str]
    report: Path | None = None
    model: Any = None
    """The trained model with its adapter, as it is in this process."""


def run(plan: Plan, run_dir: RunDir, live: LiveModel | None = None) -> RunSummary:
    """Train as planned; goes on from the newest whole checkpoint where there is one.

    Args:
        live: A model that the caller holds; it is trained instead of a copy of the plan's model, which it was made from.

    Raises:
        SwiftError: Each fault with its remedy; what was saved stays.
        Interrupted: Stopped by a signal, after saving.
    """
    config = plan.config
    for component in plan.components.values():
        verify(component)
    device: Device = instantiate(plan.components["device"])
    strategy: Strategy = instantiate(plan.components["parallel"], device)
    torch_device = strategy.start(timeout_s=config["parallel"]["timeout"])
    stop = StopRequest()
    try:
        with stop.listening():
            return _run(plan, run_dir, device, strategy, torch_device, stop, live)
    except (oom.StepOutOfMemory, MemoryError, RuntimeError, OSError) as error:
        if not oom.is_out_of_memory(error):
            raise
        raise oom.post_mortem(error, plan, run_dir, device) from None
    finally:
        strategy.stop()


def _run(
    plan: Plan, run_dir: RunDir, device: Device, strategy: Strategy, torch_device: torch.device, stop: StopRequest,
    live: LiveModel | None,
) -> RunSummary:  # fmt: skip
    quiet_libraries()
    config, main = plan.config, strategy.is_main
    train, logging = config["train"], config["logging"]
    started = time.perf_counter()
    seed_everything(train["seed"], deterministic=train["full_determinism"])
    notes = Notes(Display(0, progress=logging["progress"], watch=False) if main else None)
    bench = Bench.of(plan, device, torch_device)

    # Plugins and data first: their faults are found before gigabytes are loaded.
    for component in plan.components.values():
        if component.impl and component.kind != "launcher":  # that has done its work
            load_impl(component)
    if logging["report"] and (lacking := unmet(PLOTS_NEED)):
        raise SwiftError(
            f"the report's plots are drawn by a library that is not here: {lacking[0].describe()}",
            fix=f"pip install '{lacking[0].requirement}', or --report false",
        )
    folder = Path(plan.model_folder)
    models: ModelLoader = instantiate(plan.components["model"])
    if live is not None:
        tokenizer = live.tokenizer
    else:
        tokenizer = models.load_tokenizer(folder, trust_remote_code=config["model"]["trust_remote_code"])
    media = None if live is not None else load_media(plan, models, tokenizer)
    objective: Objective = instantiate(plan.components["objective"])
    with strategy.main_first():  # rank 0 fills the token cache, the others map it
        data, held_out = load_data(plan, run_dir, tokenizer, objective, notes, write=main, media=media)
    stream = stream_data(plan, run_dir, tokenizer, objective, notes, write=main, media=media) if data is None else None

    request = LoadRequest(
        folder=folder, device=device, dtype=config["model"]["dtype"], attention=config["model"]["attention"],
        init=config["model"]["init"], trust_remote_code=config["model"]["trust_remote_code"], training=True,
        seed=train["seed"], local_rank=strategy.local_rank, documents=True,
        autocast="bfloat16" if casts(train["mixed_precision"], device, torch_device) else "",
    )  # fmt: skip
    loaded = models.load(request) if live is None else models.adopt(live.model, live.tokenizer, request)
    for line in loaded.notes:
        notes(line)
    tuner: Tuner = instantiate(plan.components["tuner"])
    tuner.frozen = frozen_parts(loaded.parts, config["tuner"])
    model = tuner.apply(loaded.model, seed=train["seed"]).to(torch_device)
    close_parts(model, tuner.frozen)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    notes(f"training {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %) with {tuner.name}")
    checkpoint_activations(model, checkpointing_mode(train["gradient_checkpointing"]))
    reference = make_reference(
        plan, request, models=models, tuner=tuner, model=model, tokenizer=tokenizer,
        takes_bounds=loaded.takes_bounds,
    )  # fmt: skip
    plugins = for_components(plan.components.values())
    plugins.hook.swift_build_model(plan=plan, model=model)
    tell = Observers(plugins, notes)

    compiles = train.get("compile") == "blocks" and not loaded.parts  # plans of older runs know none
    if train.get("compile") == "blocks" and not compiles:
        notes("compile: off, as batches with media have many shapes")
    batches = Batches(
        plan, run_dir, data, stream, strategy, torch_device, apart=loaded.keeps_documents_apart,
        pad_token_id=pad_token_id(tokenizer), notes=notes, takes_bounds=loaded.takes_bounds,
        one_length=compiles,
    )  # fmt: skip
    total_steps = batches.total_steps
    if bench is not None:
        total_steps = bench.total_steps

    autocast = autocast_dtype(train["mixed_precision"], model, device, torch_device)
    if kernels := device.choose_kernels({autocast} if autocast else {parameter.dtype for parameter in model.parameters()}):
        notes(kernels)
    compiled = None
    if compiles:
        compiled = CompiledBlocks(model, torch_device)
        notes(
            compiled.trial(
                batches.packing_length * train["batch_size"], bounds=loaded.takes_bounds, autocast=autocast, device=device
            )
        )
    module = strategy.wrap(
        LossModule(
            model, objective, memory_budget=int(config["objective"]["logits_memory"] * 2**20),
            autocast=autocast, reference=reference, takes_bounds=loaded.takes_bounds,
            media_parameters=media_parameters(model, loaded.parts),
        )
    )  # fmt: skip
    factory: OptimizerFactory = instantiate(plan.components["optimizer"])
    groups = tuner.parameter_groups(model, learning_rate=train["learning_rate"], weight_decay=train["weight_decay"])
    optimizer = factory.build(with_rates(groups, model, loaded.parts, train))
    peaks = [group["lr"] for group in optimizer.param_groups]
    state = TrainState(rows_per_step=batches.rows * strategy.world_size, data_key=batches.key)
    checkpoint = strategy.broadcast(run_dir.resume_point() if main else None)
    if checkpoint is not None:
        state = resume(checkpoint, state, strategy=strategy, device=device, tuner=tuner, model=model, optimizer=optimizer)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak  # the optimizer's state carries the scheduled one
        notes(f"resumed from {checkpoint.name}, step {state.step} of {total_steps}")
    if main:
        keep_log_until(run_dir, state.step)
    auto = None
    if train.get("auto_batch_size"):  # plans of older runs know none
        auto = oom.AutoBatchSize(batches.micro_batch(state), batches.rows, state, partial(batches.loader, state), notes)
    loader: StepSource = batches.loader(state, auto.micro_batch if auto else train["batch_size"])
    if isinstance(loader, StreamLoader):
        notes(loader.describe())
    elif auto and isinstance(loader, StepLoader) and strategy.world_size > 1 and not state.micro_batch:
        loader = auto.ahead(
            loader, module, strategy=strategy, device=device, torch_device=torch_device, optimizer=optimizer,
            state_bytes=int(plan.estimate.get("memory", {}).get("per_rank", {}).get("optimizer", 0)),
        )  # fmt: skip
    if bench is not None:
        loader = bench.watched(loader, state, model, reference.model if reference else None)

    trackers: list[Tracker] = [
        instantiate(c, run_dir.path) for slot, c in plan.components.items() if main and slot.startswith("tracker")
    ]
    for tracker in trackers:
        tracker.start(config)
    display = Display(total_steps, progress=logging["progress"] and main, watch=logging["watch"] and main)
    notes.display = display if main else None
    metrics: dict[str, float] = {}

    def on_log(values: Mapping[str, float]) -> None:
        metrics.update(values)
        append_line(run_dir.log_file, dict(values))
        display.update(values)
        for tracker in trackers:
            tracker.log(int(values["step"]), values)
        tell("swift_train_step_end", step=int(values["step"]), metrics=dict(values))

    def on_eval(at: TrainState) -> None:
        if held_out is None:
            return
        held_out_batches = evaluation_batches(
            held_out, batches.evaluation_layout, rank=strategy.rank,
            batch_size=train["eval_batch_size"] or train["batch_size"], world_size=strategy.world_size,
            pad_token_id=pad_token_id(tokenizer), limit=config["evaluation"]["eval_max_batches"],
        )  # fmt: skip
        values = evaluate(module, held_out_batches, count=objective.count, strategy=strategy, torch_device=torch_device)
        if main:
            metrics.update(values)
            append_line(run_dir.log_file, {"step": at.step, **values})
            display.update(values)
            for tracker in trackers:
                tracker.log(at.step, values)

    def on_save(at: TrainState) -> None:
        path = save_checkpoint(
            run_dir, at, plan=plan, strategy=strategy, device=device, tuner=tuner, module=module,
            optimizer=None if config["checkpoint"]["save_only_model"] else optimizer, tokenizer=media or tokenizer,
            keep=config["checkpoint"]["save_total_limit"],
        )  # fmt: skip
        if main:
            tell("swift_checkpoint", step=at.step, folder=path)

    loop = Loop(
        LoopConfig(
            total_steps=total_steps,
            warmup_steps=warmup(total_steps, steps=train["warmup_steps"], ratio=train["warmup_ratio"]),
            lr_scheduler=train["lr_scheduler"], min_lr_ratio=train["min_lr_ratio"], max_grad_norm=train["max_grad_norm"],
            log_steps=logging["log_steps"],
            save_steps=0 if bench else config["checkpoint"]["save_steps"] or max(1, total_steps // 10),
            eval_steps=0 if bench else config["evaluation"]["eval_steps"],
        ),
        state, strategy, device, torch_device, module, optimizer, loader, objective.count, stop, on_log, on_save, on_eval,
        # Several ranks cannot agree in the midst of a step: they have looked ahead instead.
        shrink=auto.shrink if auto and strategy.world_size == 1 else None,
        in_backward=updates_in_backward(train, optimizer, module, torch_device, state),
    )  # fmt: skip
    if bench is not None:
        loop.mark = bench.mark
    tell("swift_train_begin", plan=plan, run_dir=run_dir.path)
    seconds_before = state.seconds
    with display:
        try:
            done = loop.run()
        except oom.StepOutOfMemory as fault:
            fault.held = held(model, optimizer, adapters=plan.components["tuner"].spec.get("artifact") == "adapter")
            raise
    if compiled is not None:
        compiled.off()
    loader = loop.loader
    if bench is not None:
        if not done:
            raise Interrupted("stopped; nothing was measured to the end")
        bench.finish(plan, run_dir if main else None, strategy=strategy, module=module, model=model, optimizer=optimizer)
        return RunSummary(metrics, notes.lines)
    if main and isinstance(loader, StreamLoader) and loader.rejects:
        notes(left_out(loader.rejects, run_dir.rejects_file))
    if not done:
        on_save(state)
        signal_name = max(strategy.gather(stop.signal_name))
        raise Interrupted(
            f"stopped by {signal_name} after step {state.step} of {total_steps}; everything is saved in {run_dir}",
            fix=f"go on: swift {plan.verb} --resume {run_dir}",
        )
    on_eval(state)
    if checkpoint is None or state.step > 0:
        on_save(state)
    if plan.facts.get("model.upcast_from"):
        # Trained in float32 for exact small updates; given out as it came.
        with strategy.unwrapped(module) as whole:
            if whole is not None:
                whole.model.to(getattr(torch, plan.facts["model.upcast_from"]))
    save_final(run_dir, plan=plan, strategy=strategy, tuner=tuner, module=module, tokenizer=media or tokenizer)
    metrics |= {
        "step": state.step,
        "epoch": loader.epoch(state.step),
        "tokens": state.tokens,
        "memory_peak": device.memory().peak,
        "train_seconds": state.seconds,
        "total_seconds": time.perf_counter() - started,
        "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        "trained_tokens": float(state.labels),
        "data_wait": loop.waited / max(state.seconds - seconds_before, 1e-9),
    }
    report = None
    if main:
        for tracker in trackers:
            tracker.finish(metrics)
        tell("swift_train_end", run_dir=run_dir.path, metrics=dict(metrics))
        if logging["report"]:
            # Only now: matplotlib takes a third of a second to import.
            write_report = load_object("swift.training.report:write_report")
            report = write_report(run_dir, metrics, notes.lines, of_dataset(data, tokenizer) if data is not None else ())
    return RunSummary(metrics, notes.lines, report, model)


def resume(
    checkpoint: Path, fresh: TrainState, *, strategy: Strategy, device: Device, tuner: Tuner, model: Any, optimizer: Any
) -> TrainState:
    """Load, and refuse where the data or the step size would silently be others."""
    state = load_checkpoint(checkpoint, strategy=strategy, device=device, tuner=tuner, model=model, optimizer=optimizer)
    if state.data_key != fresh.data_key:
        raise CheckpointError(
            f"{checkpoint} was trained on other data, template or batching than this run would use",
            fix="put the data back as it was, or start a new run from its weights",
        )
    if state.rows_per_step != fresh.rows_per_step:
        raise CheckpointError(
            f"{checkpoint} took {state.rows_per_step} rows per step, this run would take {fresh.rows_per_step} "
            "(batch_size x gradient_accumulation_steps x processes)",
            fix=f"choose batch_size and gradient_accumulation_steps so that the product is {state.rows_per_step} again",
        )
    return state


def updates_in_backward(
    train: Mapping[str, Any], optimizer: torch.optim.Optimizer, module: torch.nn.Module, torch_device: torch.device,
    state: TrainState,
) -> InBackward | None:  # fmt: skip
    if not train.get("optimizer_in_backward"):  # plans of older runs know none
        return None
    names = {id(parameter): name.removeprefix("model.") for name, parameter in module.named_parameters()}
    return InBackward(optimizer, torch_device, names=names, step=state.step)


def seed_everything(seed: int, *, deterministic: bool) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def autocast_dtype(wish: str, model: torch.nn.Module, device: Device, torch_device: torch.device) -> torch.dtype | None:
    """bfloat16 compute over float32 weights where the accelerator gains from it; None where nothing is cast."""
    full = next(model.parameters()).dtype == torch.float32
    return torch.bfloat16 if casts(wish, device, torch_device) and (full or wish == "bfloat16") else None


def casts(wish: str, device: Device, torch_device: torch.device) -> bool:
    """Whether products of float32 weights are computed in bfloat16."""
    return wish == "bfloat16" or (wish == "auto" and torch_device.type != "cpu" and "bfloat16" in device.dtypes())


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=True) + "\n")


def keep_log_until(run_dir: RunDir, step: int) -> None:
    """Drop lines after the checkpoint that the run goes on from: they are written again."""
    rows = [row for row in run_dir.log() if row["step"] <= step]
    temporary = run_dir.log_file.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(run_dir.log_file)
