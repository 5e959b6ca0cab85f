"""The estimate of a plan: memory per process, tokens, steps and time, from what was decided. Left of the torch line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from swift.api import DeviceInfo
from swift.config.sections import ACCELERATOR_PACK, BY_BOUNDS, HOST_PACK, MIN_PACKED_STEPS, TunerSection, checkpointing_mode
from swift.plan import estimate as est
from swift.plan.advice import Advice, advise
from swift.plan.checkpointing import choose_checkpointing, ranks_per_device
from swift.plan.draft import MEMORY, Draft, on_host, trained_dtypes
from swift.plan.models import ModelFacts, ModelSource
from swift.plan.plan import Component
from swift.plan.reference import copied_parameters
from swift.plan.sample import DataSize, measure
from swift.plan.shapes import Shapes
from swift.plan.trade_offs import (
    LOGITS_MIB,
    choose_compile,
    choose_in_backward,
    choose_logits_memory,
    explain_attention,
    explain_computation,
)  # fmt: skip
from swift.plan.work import packs_of, work
from swift.plugins.info import Entry
from swift.plugins.loading import load_object

SHARDING_RANKS = (2, 4, 8, 16)


def setup_of(
    config: Mapping[str, Mapping[str, Any]], components: Mapping[str, Component], entries: Mapping[str, Entry],
    shapes: Shapes, *, host: bool, dtypes: tuple[str, ...], size: DataSize | None, reference: int = 0,
) -> tuple[est.Setup, int]:  # fmt: skip
    """(what the memory of a training run depends on, packs of an epoch or 0 where rows are not packed).

    Args:
        reference: Parameters of a frozen copy.
    """
    train = config["train"]
    mode = checkpointing_mode(train["gradient_checkpointing"])
    tuner, optimizer, parallel = (entries.get(slot) for slot in ("tuner", "optimizer", "parallel"))
    dtype = config["model"]["dtype"] if config["model"]["dtype"] != "auto" else "float32"
    mixed = train.get("mixed_precision", "auto")
    compute = (
        "bfloat16"
        if mixed == "bfloat16" or (mixed == "auto" and dtype == "float32" and not host and "bfloat16" in dtypes)
        else dtype
    )
    world = config["parallel"]["nproc_per_node"] * config["parallel"]["nnodes"]
    max_length = config["data"]["max_length"] or shapes.context_length or HOST_PACK
    longest = min(size.longest, max_length * size.documents) if size is not None and size.rows else 0
    row = config["data"]["packing_length"] or max(min(max_length, HOST_PACK if host else ACCELERATOR_PACK), longest)
    batching, packs = config["data"]["batching"], 0
    joining_pays = not host or config["model"]["attention"] in BY_BOUNDS
    if size is not None and longest and (batching == "packed" or (batching == "auto" and joining_pays)):
        packs = packs_of(
            size.tokens, row,
            per_step=train["batch_size"] * train["gradient_accumulation_steps"] * world, epochs=train["epochs"],
            min_steps=MIN_PACKED_STEPS if batching == "auto" else 0,
        )  # fmt: skip
    if longest and not packs:
        row = longest
    logits = config["objective"]["logits_memory"]
    quantizer = entries.get("quantizer")
    adapters = tuner is not None and tuner.spec.artifact == "adapter"
    settings = components["tuner"].settings if tuner is not None else {}
    frozen = est.frozen_components(config["tuner"]) if "vision" in shapes.components else ()
    setup = est.Setup(
        shapes=shapes,
        dtype=dtype,
        compute_dtype=compute,
        adapters=adapters,
        adapter=est.adapter_size(shapes, settings, frozen) if adapters else None,
        trained=0 if adapters else est.trained_size(shapes, settings, frozen),
        state_bytes_per_parameter=optimizer.spec.state_bytes_per_parameter if optimizer is not None else 8.0,
        fixed_state=bool(optimizer is not None and optimizer.spec.fixed_state),
        tokens=row * train["batch_size"],
        batch_size=train["batch_size"],
        span=longest or row,
        checkpointing="off" if mode == "auto" else mode,
        gradients_at_once=train.get("optimizer_in_backward") is not True,
        quadratic_attention=config["model"]["attention"] == "eager",
        logits_memory=int((LOGITS_MIB if logits == "auto" else logits) * 2**20),
        world_size=world,
        shards=tuple(parallel.spec.shards) if parallel is not None else (),
        quant_bits=min(quantizer.spec.bits) if quantizer is not None and quantizer.spec.bits else 0,
        host=host,
        reference=reference,
        compared=bool(reference) or config["objective"]["reference"] == "adapter_off",
    )
    return setup, packs


def forecast(
    draft: Draft, device: Entry | None, info: DeviceInfo, source: ModelSource | None, facts: ModelFacts,
    data: list[tuple[tuple[Path, ...], int | None]] | None, *, reference: ModelSource | None = None,
) -> dict[str, Any]:  # fmt: skip
    shapes, spec = facts.shapes, source.entry.spec if source and source.entry else None
    if shapes is None:
        known = spec.parameters if spec is not None else 0
        return (
            {"model": {"parameters": known, "counted_from": "the catalog", "dtype": draft.get("model", "dtype")}}
            if known
            else {}
        )
    weights = facts.weights
    model: dict[str, Any] = {
        "architecture": shapes.architecture or shapes.model_type,
        "parameters": shapes.parameters,
        "active_parameters": shapes.active_parameters,
        "components": shapes.components,
        "tied": shapes.tied,
        "context_length": shapes.context_length,
        "stored_dtype": facts.dtype,
        "dtype": draft.get("model", "dtype"),
        "counted_from": "safetensors headers" if weights and weights.parameters == shapes.parameters else "config.json",
        "approximate": shapes.approximate,
    }
    if weights is not None and weights.parameters != shapes.parameters:
        model["weight_files"] = {"parameters": weights.parameters, "bytes": weights.bytes, "dtype": weights.dtype}
    if not draft.has("train"):
        item = est.ITEMSIZE.get(draft.get("model", "dtype"), est.ITEMSIZE.get(facts.dtype, 2))
        per_token = shapes.kv_bytes_per_token(item)
        return {"model": model, "memory": {"per_rank": {"weights": shapes.parameters * item, "overhead": est.OVERHEAD},
                                           "kv_cache_per_token": per_token, "budget": info.memory}}  # fmt: skip

    size = _size(draft, source, facts, data) if data else None
    host, able = on_host(device), trained_dtypes(device)
    setup, packs = setup_of(
        draft.config, draft.components, draft.entries, shapes, host=host, dtypes=able, size=size,
        reference=copied_parameters(draft, reference, shapes),
    )  # fmt: skip
    sharing = ranks_per_device(draft, info)
    budget = info.memory // sharing
    setup = choose_logits_memory(draft, setup, budget)
    setup = choose_checkpointing(draft, setup, device, budget)
    setup = choose_in_backward(draft, setup, budget)
    explain_attention(draft, device, setup)
    explain_computation(draft, setup)
    memory = est.memory(setup)
    model |= {
        "trained_parameters": memory.trained_parameters,
        "adapter_parameters": setup.adapter_parameters,
        "adapter_assumed": setup.adapters and setup.adapter is None,
    }
    default = TunerSection().name
    small = [e.name for e in draft.registry.entries("tuner") if e.spec.trainable == "low-rank" and e.spec.status == "stable"]
    lowrank = default if default in small else next(iter(small), "")
    advice: list[Advice] = []
    verdict = "unknown"
    if budget:
        verdict = "fits" if memory.total <= 0.9 * budget else "tight" if memory.total <= budget else "does not fit"
        if memory.total > 0.9 * budget:
            advice = advise(setup, budget=round(0.9 * budget), batch_size=draft.get("train", "batch_size"), dtypes=able,
                                tuner_flag=f"--tuner {lowrank}" if lowrank else "")  # fmt: skip
        if verdict == "does not fit":
            _does_not_fit(draft, memory, budget, advice, certain=not shapes.approximate)
    world = setup.world_size
    expected = _work(draft, setup, size, packs, info)
    choose_compile(draft, device, expected.get("time", {}).get("seconds", 0.0))
    return {
        "model": model,
        "memory": {
            "per_rank": dict(memory.components),
            "total": memory.total,
            "counted": memory.counted,
            "budget": budget,
            "device_memory": info.memory,
            "ranks_per_device": sharing,
            "verdict": verdict,
            "advice": [{"flag": a.flag, "why": a.why, "total": a.total} for a in advice],
            "sharding": est.sharding_table(
                replace(setup, shards=()), tuple(sorted({*SHARDING_RANKS, *((world,) if world > 1 else ())}))
            ),
            "tokens_per_micro_batch": setup.tokens,
            "compute_dtype": setup.compute_dtype,
            "kv_cache_per_token": shapes.kv_bytes_per_token(2 if setup.itemsize <= 2 else 4),
        },
        **expected,
    }


def _size(
    draft: Draft, source: ModelSource | None, facts: ModelFacts, data: list[tuple[tuple[Path, ...], int | None]]
) -> DataSize:
    """Of the data, with the tokens of its images where the loader's plugin counts them."""
    tokenizer = source.folder / "tokenizer.json" if source is not None and source.folder else None
    objective = draft.entries.get("objective")
    pairs = objective is not None and "rejected" in objective.spec.columns
    sees = "vision_config" in facts.config
    images = _image_tokens(draft, source, sees=sees)
    size = measure(data, tokenizer, draft.get("data", "max_length"), pairs=pairs, images=images)
    if images.unread if images is not None else sees:
        some = f" in {images.unread} place(s) of the sample, where they are missing or URLs" if images is not None else ""
        size = replace(size, unknown=(*size.unknown, f"the tokens of images{some}"))
    return size


def _image_tokens(draft: Draft, source: ModelSource | None, *, sees: bool) -> Any:
    """`ImageTokens` by the count of the model's loader; None where there is none.

    Args:
        sees: config.json has a part for images. Generic loaders, which also load text models, are not asked without one.
    """
    loader, template, section = draft.entries.get("model"), draft.config["template"], draft.config["data"]
    if source is None or source.folder is None or loader is None or not loader.spec.image_tokens:
        return None
    if loader.spec.generic and not sees:
        return None
    pixels = {key: template[key] for key in ("min_pixels", "max_pixels")}
    # Behind a dotted path: plans of text models import none of it.
    count = load_object("swift.plan.images:counter")(loader, source.folder, **pixels)
    if count is None:
        return None
    made = load_object("swift.plan.images:ImageTokens")
    return made(count, columns=section["columns"], media_folder=section["media_folder"])


def _work(draft: Draft, setup: est.Setup, size: DataSize | None, packs: int, info: DeviceInfo) -> dict[str, Any]:
    if size is None:
        return {}
    data: dict[str, Any] = {
        "rows": size.rows, "tokens": size.tokens, "longest": size.longest, "sampled": size.sampled, "exact_rows": size.exact,
        "counted_by": size.counted_by, "unknown": list(size.unknown), "image_tokens": size.image_tokens,
    }  # fmt: skip
    if "vision" in setup.shapes.components:
        data["unknown"].append("what the vision tower computes")
    if not size.rows:
        return {"data": data}
    train, section = draft.config["train"], draft.config["data"]
    share = 0.0 if section["val_dataset"] else section["val_split"]
    tflops = info.facts.get("device.tflops")
    per_device = draft.get("parallel", "nproc_per_node")
    total = work(
        setup, units=max(round((packs or size.rows) * (1 - share)), 1),
        tokens_per_epoch=max(round(size.tokens * (1 - share)), 1),
        per_step=train["batch_size"] * train["gradient_accumulation_steps"] * setup.world_size, epochs=train["epochs"],
        max_steps=train["max_steps"], devices=min(per_device, info.count or per_device) * draft.get("parallel", "nnodes"),
        tflops=float(tflops) if tflops else None,
    )  # fmt: skip
    time = {**asdict(total), "tflops": tflops or 0.0}
    return {"data": data, "time": time}


def _does_not_fit(draft: Draft, memory: est.MemoryEstimate, budget: int, advice: list[Advice], *, certain: bool) -> None:
    gib = 2**30
    fix = " ".join(a.flag for a in advice)
    if not advice or advice[-1].total > budget:
        fix = (
            f"{fix} is not enough; a" if fix else "a"
        ) + " smaller model, or more memory: sharding over devices (fsdp2, ZeRO) is not built yet"
    there = f"per process, and there are {budget / gib:.1f} GiB"
    if memory.counted > budget and certain:
        alone = f"weights, gradients and optimizer state alone take {memory.counted / gib:.1f} GiB"
        draft.problem(MEMORY, f"{alone} {there}", fix=fix, level="unsupported")
    else:
        draft.problem(MEMORY, f"the run needs about {memory.total / gib:.1f} GiB {there}", fix=fix, level="unverified")
