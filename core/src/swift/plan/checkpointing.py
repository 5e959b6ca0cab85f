"""Which activations a run keeps, and whether it can update parameters in the backward pass. Left of the torch line."""

from __future__ import annotations

import math
from dataclasses import replace

from swift.api import DeviceInfo
from swift.plan import estimate as est
from swift.plan.draft import SETTINGS, Draft, on_host
from swift.plan.work import slowdown
from swift.plugins.info import Entry

ROOM = 0.8
"""Share of the device's memory that `auto` fills by the estimate, at most: activations are not exact."""
SETTING = "train.gradient_checkpointing"


def ranks_per_device(draft: Draft, info: DeviceInfo) -> int:
    return math.ceil(draft.get("parallel", "nproc_per_node") / info.count) if info.count else 1


def choose_checkpointing(draft: Draft, setup: est.Setup, device: Entry | None, budget: int) -> est.Setup:
    """Decide `auto` by the estimate: the mode that computes least again among those that leave room.

    Args:
        budget: Bytes of one process; 0: unknown.
    """
    if draft.get("train", "gradient_checkpointing") != "auto":
        return setup
    if not budget:
        choose_blindly(draft, device)
        return replace(setup, checkpointing=draft.get("train", "gradient_checkpointing"))
    before, gib = "", 2**30
    for mode in ("off", "selective", "full"):
        chosen = replace(setup, checkpointing=mode)
        total = est.memory(chosen).total
        if total <= ROOM * budget:
            break
        before = before or f"; off would take {total / gib:.1f} GiB"
    fits = "fits" if total <= ROOM * budget else "is the least, and may not fit"
    why = f"an estimate of {total / gib:.1f} GiB {fits} {100 * ROOM:.0f} % of the {budget / gib:.1f} GiB there are{before}"
    if mode != "off":
        why += f"; steps take about {slowdown(setup, mode):.2f} times as long"
    draft.choose(SETTING, mode, why)
    return chosen


def choose_blindly(draft: Draft, device: Entry | None) -> None:
    """Decide `auto` where shapes or memory are not known."""
    if draft.get("train", "gradient_checkpointing") == "auto":
        host = on_host(device)
        why = "memory is rarely short on a CPU and time is" if host else "memory is what is short on accelerators"
        draft.choose(SETTING, "off" if host else "full", f"what the run needs is not known, and {why}")


def judge(draft: Draft, device: Entry | None) -> None:
    """Refuse what cannot be."""
    train = draft.config["train"]
    if train["gradient_checkpointing"] == "offload" and device is not None and on_host(device):
        draft.problem(
            SETTINGS,
            f"gradient_checkpointing offload moves activations to the host's memory, where {device.name} computes anyway",
            fix="--gradient_checkpointing full", level="impossible" if draft.here else "unverified",
        )  # fmt: skip
    if train["optimizer_in_backward"] is True:
        wrong = faults_in_backward(draft)
        if wrong:
            why = "; ".join(wrong.values())
            message = f"optimizer_in_backward updates each parameter as soon as its gradient is there: {why}"
            draft.problem(SETTINGS, message, fix=" ".join(wrong))


def faults_in_backward(draft: Draft) -> dict[str, str]:
    """What speaks against updates in the backward pass: the flag that mends it -> why."""
    train = draft.config["train"]
    world = draft.get("parallel", "nproc_per_node") * draft.get("parallel", "nnodes")
    strategy = draft.entries.get("parallel")
    wraps = world == 1 and strategy is not None and strategy.spec.multi_process
    reasons = {
        "--max_grad_norm 0": train["max_grad_norm"] > 0 and "the norm of all gradients is known only when all are there",
        "--gradient_accumulation_steps 1": train["gradient_accumulation_steps"] > 1
        and f"each of the {train['gradient_accumulation_steps']} micro-batches of a step would be a step of its own",
        "--nproc_per_node 1": world > 1 and "the ranks' gradients are summed after the backward pass",
        "--parallel auto": wraps and f"{strategy.name if strategy else ''} collects gradients",
        "--auto_batch_size false": train["auto_batch_size"] and "a step that has begun cannot be done again",
    }
    return {flag: str(why) for flag, why in reasons.items() if why}
