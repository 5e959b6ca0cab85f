"""What `auto` becomes where a setting trades time for memory, each with the figures behind it. Left of the torch line.

Activation checkpointing, the largest of them, has `swift.plan.checkpointing` to itself.
"""

from __future__ import annotations

from dataclasses import replace

from swift.plan import estimate as est
from swift.plan.checkpointing import ROOM, choose_blindly, faults_in_backward
from swift.plan.draft import SETTINGS, Draft, on_host
from swift.plan.render import bytes_of, duration
from swift.plugins.info import Entry
from swift.plugins.missing import nearest

MIB = 2**20
ANYWHERE = ("sdpa", "eager", "flex_attention")
"""Implementations of attention that torch has for every device."""
LOGITS_MIB = 256.0
LOGITS_SHARE = 0.02
"""Of the device's memory that `auto` gives to logits, at most, where they need more than `LOGITS_MIB`."""
COMPILE_SECONDS, COMPILE_GAIN = 40.0, 1.3
"""What compiling takes on a CPU, and how much faster steps were then at best; on another processor they were not
(docs/performance.md)."""


def choose_logits_memory(draft: Draft, setup: est.Setup, budget: int) -> est.Setup:
    """As much as chunks of labels need that are worth a matrix product, where a trained head asks for more than usual.

    Args:
        budget: Bytes of one process; 0: unknown.
    """
    if draft.get("objective", "logits_memory") != "auto":
        return setup
    narrow = setup.compute_itemsize if setup.compute_itemsize < 4 else 0
    label = setup.shapes.dims["v"] * (est.LOGIT_BYTES if setup.compared else 4 + narrow)
    chunks = not setup.compared and not setup.adapters and not setup.host and setup.itemsize == 4
    needed = min(est.CHUNK_TRAINED, setup.tokens) * label / MIB if chunks else 0.0
    value = float(-(-needed // 1)) if LOGITS_MIB < needed <= LOGITS_SHARE * budget / MIB else LOGITS_MIB
    chosen = replace(setup, logits_memory=int(value * MIB))
    whole, at_once = setup.tokens * label, est.logits(chosen)
    why = f"logits of {setup.tokens:,} labels take {bytes_of(whole)}, "
    why += "and are made in one piece" if at_once >= whole else f"of which {bytes_of(at_once)} live at once"
    if value > LOGITS_MIB:
        why += f"; fewer than {est.CHUNK_TRAINED} labels at once are not worth a matrix product"
    draft.choose("objective.logits_memory", value, why, plain=value == LOGITS_MIB)
    return chosen


def choose_in_backward(draft: Draft, setup: est.Setup, budget: int) -> est.Setup:
    """On where it is the last thing that makes the run fit, and changes no result."""
    if draft.get("train", "optimizer_in_backward") != "auto":
        return setup
    without = est.memory(setup).total
    eager = replace(setup, gradients_at_once=False)
    saved = without - est.memory(eager).total
    short, faults = bool(budget) and without > ROOM * budget, faults_in_backward(draft)
    what = f"it would spare {bytes_of(saved)} of gradients"
    if short and saved > 0 and not faults:
        draft.choose("train.optimizer_in_backward", True, f"it spares {bytes_of(saved)} of gradients, and memory is short")
        return eager
    if not short:
        why = f"{what}, which {'fit' if budget else 'may fit'} without; a gradient that is not finite would stop the run"
    else:
        why = f"{what}, but needs {' '.join(faults)}" if faults else "there are no gradients to spare"
    draft.choose("train.optimizer_in_backward", False, why, plain=True)
    return setup


def choose_compile(draft: Draft, device: Entry | None, seconds: float = 0.0) -> None:
    """Off, and why.

    Args:
        seconds: Of the whole run, by the estimate; 0: unknown.
    """
    if draft.get("train", "compile") != "auto":
        return
    if not on_host(device):
        why = 'its gain has not been measured on such a device; `swift bench train --against="--compile blocks"` does'
    else:
        why = f"on CPUs steps were 0.9 to {COMPILE_GAIN:g} times as fast, after about {duration(COMPILE_SECONDS)} of compiling"
        if seconds:
            gain = seconds * (1 - 1 / COMPILE_GAIN)
            why += f"; of this run's {duration(seconds)} it would spare {duration(gain)} at most"
        why += "; --compile blocks tries"
    draft.choose("train.compile", "off", why, plain=True)


def explain_attention(draft: Draft, device: Entry | None, setup: est.Setup | None = None) -> None:
    """What the loader will choose among; only it knows what the model's code and the installed packages do."""
    if draft.get("model", "attention") != "auto" or device is None:
        return
    order = ", ".join(device.spec.facts.get("device.attention", ()))
    if not order:
        return
    why = f"the run takes the first of {order} that model, dtype and packages allow, and says which"
    if setup is not None:
        scores = est.activations(replace(setup, quadratic_attention=True)) - est.activations(setup)
        why += f"; all but eager spare its scores, here {bytes_of(scores)}" if scores > 0 else ""
    draft.choose("model.attention", "auto", why, plain=True)


def judge_attention(draft: Draft, device: Entry | None) -> None:
    """Refuse an implementation that the device does not have."""
    asked = draft.get("model", "attention")
    order = device.spec.facts.get("device.attention", ()) if device is not None else ()
    known = dict.fromkeys(("auto", *order, *ANYWHERE))
    if device is None or not order or asked in known:
        return
    elsewhere = [e.name for e in draft.registry.entries("device") if asked in e.spec.facts.get("device.attention", ())]
    near = nearest(asked, known, 1)
    draft.problem(
        SETTINGS, f"attention {asked} is none of those on {device.name}: {', '.join(known)}"
        + (f"; {', '.join(elsewhere)} may have it" if elsewhere else ""),
        fix=f"--attention {near[0] if near and not elsewhere else 'auto'}",
        level="unverified" if elsewhere and not draft.here else "unsupported",
    )  # fmt: skip


def explain_computation(draft: Draft, setup: est.Setup) -> None:
    """Adds figures to what a tuner says about its `computation`."""
    tuner = draft.entries.get("tuner")
    if tuner is None or setup.adapter is None or not setup.adapter.lean:
        return
    copies = est.activations(replace(setup, adapter=replace(setup.adapter, lean=False)))
    lean, path = est.activations(setup), f"{tuner.name}.computation"
    figures = f": {bytes_of(lean)} instead of {bytes_of(copies)}" if lean < copies else ""
    draft.choices = [replace(c, why=c.why + figures) if c.path == path else c for c in draft.choices]


def choose_rest(draft: Draft, device: Entry | None) -> None:
    """Decide what no figures are known for."""
    choose_blindly(draft, device)
    choose_compile(draft, device)
    if draft.get("objective", "logits_memory") == "auto":
        draft.choose("objective.logits_memory", LOGITS_MIB, "the default; what the model needs is not known", plain=True)
    if draft.get("train", "optimizer_in_backward") == "auto":
        draft.choose("train.optimizer_in_backward", False, "what the run needs is not known", plain=True)
    if not any(choice.path == "model.attention" for choice in draft.choices):
        explain_attention(draft, device)
