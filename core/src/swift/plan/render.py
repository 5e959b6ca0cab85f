"""A plan as plain text that reads at 100 columns. Left of the torch line."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swift.plan.plan import Plan, Problem

WIDTH = 100
GIB = 2**30


def render(plan: Plan, *, every_value: bool = False) -> str:
    """The whole plan.

    Args:
        every_value: List defaults too.
    """
    parts = [
        header(plan), _config(plan, every_value=every_value), _environment(plan), _components(plan), _model(plan),
        _memory(plan), _sharding(plan), _data(plan), _choices(plan), _problems(plan), verdict(plan),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def verdict(plan: Plan) -> str:
    """One line: may it run?"""
    refused = plan.refused
    if not refused:
        warnings = len(plan.problems)
        return "Nothing speaks against this run" + (
            f", but see the {warnings} warning{'s' if warnings > 1 else ''}." if warnings else "."
        )
    lines = [f"This run is refused, for {len(refused)} reason{'s' if len(refused) > 1 else ''}."]
    lines += [f"  {suggestion}" for suggestion in plan.suggestions]
    return "\n".join(lines)


def header(plan: Plan) -> str:
    """One line: what is run, by what, on what."""
    model = plan.estimate.get("model", {})
    size = f" ({count(model['parameters'])} parameters)" if model.get("parameters") else ""
    words = [f"swift {plan.verb}: {plan.config.get('model', {}).get('id') or 'no model'}{size}"]
    names = {slot: component.name for slot, component in plan.components.items()}
    for word, slot in (("objective", "objective"), ("tuner", "tuner"), ("on", "device"), ("by", "parallel")):
        if slot in names:
            words.append(f"{word} {names[slot]}")
    parallel = plan.config.get("parallel")
    if parallel:
        world = parallel["nproc_per_node"] * parallel["nnodes"]
        words.append(f"{world} process{'es' if world != 1 else ''}")
    return ", ".join(words)


def _config(plan: Plan, *, every_value: bool) -> str:
    values = [(f"{section}.{key}", value) for section, fields in plan.config.items() for key, value in fields.items()]
    values += [(f"{c.name}.{key}", value) for c in plan.components.values() for key, value in c.settings.items()]
    chosen = {choice.path for choice in plan.choices}
    rows = []
    for path, value in values:
        source = "chosen, see below" if path in chosen else plan.provenance.get(path, "default")
        if every_value or source != "default":
            rows.append((path, value_of(value), source))
    rows.sort(key=lambda row: row[2] == "default")
    title = "Configuration" if every_value else "Configuration (what differs from the defaults; --all shows all)"
    return f"{title}\n{columns(rows)}" if rows else ""


def _environment(plan: Plan) -> str:
    rows = [(name, value, f"environment: {what}") for name, (value, what) in plan.environment.items()]
    return f"Environment\n{columns(rows)}" if rows else ""


def _components(plan: Plan) -> str:
    rows = [(slot, c.name, f"{c.dist} {c.version}".strip()) for slot, c in plan.components.items()]
    return f"Components\n{columns(rows)}" if rows else ""


def _model(plan: Plan) -> str:
    model: Mapping[str, Any] = plan.estimate.get("model", {})
    if not model:
        return ""
    rows: list[tuple[str, ...]] = []
    if model.get("architecture"):
        rows.append(("architecture", str(model["architecture"])))
    if plan.model_folder:
        rows.append(("folder", plan.model_folder))
    total = model.get("parameters", 0)
    rows.append(("parameters", f"{total:,} (counted from {model.get('counted_from', 'config.json')})"))
    for name, size in (model.get("components") or {}).items():
        rows.append((f"  {name}", f"{size:,}"))
    if model.get("active_parameters", total) != total:
        rows.append(("active per token", f"{model['active_parameters']:,}"))
    if "trained_parameters" in model:
        trained = model["trained_parameters"]
        share = 100 * trained / max(total + model.get("adapter_parameters", 0), 1)
        about = "about " if model.get("adapter_assumed") else ""
        rows.append(
            (
                "trained",
                f"{about}{trained:,} ({share:.2f} %)"
                + ("; the size of this adapter is not known before it is made" if about else ""),
            )
        )
    stored = model.get("stored_dtype")
    rows.append(
        ("dtype", f"{model.get('dtype')}" + (f" (stored as {stored})" if stored and stored != model.get("dtype") else ""))
    )
    if model.get("context_length"):
        rows.append(("context length", f"{model['context_length']:,} tokens"))
    if model.get("approximate"):
        rows.append(("note", model["approximate"]))
    return "Model\n" + columns(rows)


def _memory(plan: Plan) -> str:
    memory: Mapping[str, Any] = plan.estimate.get("memory", {})
    if not memory:
        return ""
    rows = [(name, bytes_of(size)) for name, size in memory["per_rank"].items()]
    lines = ["Memory per process, at its peak"]
    if "total" in memory:
        rows.append(("total", bytes_of(memory["total"])))
    lines.append(columns(rows, right=(1,)))
    if memory.get("tokens_per_micro_batch"):
        lines.append(_wrapped(
            f"for micro-batches of {memory['tokens_per_micro_batch']:,} tokens; weights, adapters, gradients and optimizer are "
            "counted, the others estimated", indent="  "))  # fmt: skip
    if memory.get("kv_cache_per_token"):
        lines.append(f"  answering later takes {bytes_of(memory['kv_cache_per_token'])} of KV cache per token")
    if memory.get("budget") and "verdict" in memory:
        shared = (
            f" (one of {memory['ranks_per_device']} processes that share it)" if memory.get("ranks_per_device", 1) > 1 else ""
        )
        lines.append(f"  there are {bytes_of(memory['budget'])}{shared}: {memory['verdict']}")
    elif "verdict" in memory:
        lines.append("  the device's memory is not known here")
    if memory.get("advice"):
        lines.append("  what would save most at the least price, each on top of those before:")
        lines.append(
            columns([(a["flag"], bytes_of(a["total"]), a["why"]) for a in memory["advice"]], indent="    ", right=(1,))
        )
    return "\n".join(lines)


def _sharding(plan: Plan) -> str:
    memory = plan.estimate.get("memory", {})
    rows = memory.get("sharding")
    asked = any("parallel" in p.parties for p in plan.problems)
    if not rows or not (asked or memory.get("verdict") in ("does not fit", "unknown")):
        return ""
    table: list[tuple[str, ...]] = [("ranks", "not split", "ZeRO-1", "ZeRO-2", "ZeRO-3")]
    table += [(str(r["ranks"]), *(bytes_of(r[key]) for key in ("none", "zero1", "zero2", "zero3"))) for r in rows]
    text = (
        "ZeRO-1 splits the optimizer's state over the ranks, ZeRO-2 the gradients too, ZeRO-3 and FSDP also the weights. "
        "By that arithmetic each rank would need:"
    )
    return "Splitting over devices\n" + _wrapped(text, indent="  ") + "\n" + columns(table, right=(0, 1, 2, 3, 4))


def _data(plan: Plan) -> str:
    data: Mapping[str, Any] = plan.estimate.get("data", {})
    if not data:
        return ""
    about = "" if data["exact_rows"] else "about "
    by = "with the model's tokenizer" if data["counted_by"] == "tokenizer" else "as 4 characters a token: a guess"
    rows = [
        ("rows", f"{about}{data['rows']:,}"),
        ("tokens", f"about {data['tokens']:,} per epoch, from {data['sampled']} rows, counted {by}"),
        ("longest", f"{data['longest']:,} tokens among those rows"),
    ]
    rows += [("not counted", text) for text in data["unknown"]]
    time = plan.estimate.get("time")
    if time:
        rows.append(("steps", f"about {time['steps']:,}"))
        rows.append(("work", f"{time['tokens']:,} tokens, {time['flops']:.2e} floating-point operations"))
        rows.append(("time", f"about {duration(time['seconds'])} at {time['tflops']:g} TFLOP/s per device"
                     if time["seconds"] else "unknown: the speed of the device is not known"))  # fmt: skip
    return "Data and time\n" + columns(rows)


def _choices(plan: Plan) -> str:
    rows = [(c.path, value_of(c.value), c.why) for c in plan.choices]
    return f"Chosen for you\n{columns(rows)}" if rows else ""


def _problems(plan: Plan) -> str:
    return "Problems\n" + "\n".join(_problem(n, p) for n, p in enumerate(plan.problems, 1)) if plan.problems else ""


def _problem(number: int, problem: Problem) -> str:
    kind = "warning" if problem.level == "unverified" else problem.level
    code = f" [{problem.code}]" if problem.code else ""
    lines = [_wrapped(f"{number}. {kind}{code}: {problem.message}", indent="  ", hang="     ")]
    if problem.fix:
        lines.append(_wrapped(f"fix: {problem.fix}", indent="     ", hang="          "))
    if problem.level == "unsupported" and problem.code:
        lines.append(f"     --allow {problem.code} tries it all the same")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------------ text


def columns(rows: Sequence[Sequence[str]], *, indent: str = "  ", right: Iterable[int] = (), width: int = WIDTH) -> str:
    """Aligned columns; the last one is wrapped within its own."""
    if not rows:
        return ""
    right = set(right)
    count_ = max(len(row) for row in rows)
    cells = [[*row, *[""] * (count_ - len(row))] for row in rows]
    sizes = [min(max(len(row[i]) for row in cells), 44) for i in range(count_ - 1)]
    lines = []
    last_right = count_ - 1 in right
    last_size = max(len(row[-1]) for row in cells)
    for row in cells:
        head = indent + "".join(
            (cell.rjust(size) if i in right else cell.ljust(size)) + "  "
            for i, (cell, size) in enumerate(zip(row[:-1], sizes, strict=True))
        )
        if last_right:
            lines.append((head + row[-1].rjust(last_size)).rstrip())
            continue
        hang = " " * (len(indent) + sum(sizes) + 2 * len(sizes))
        room = max(width - len(hang), 24)
        pieces = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        lines.append((head + pieces[0]).rstrip())
        lines += [hang + piece for piece in pieces[1:]]
    return "\n".join(lines)


def _wrapped(text: str, *, indent: str, hang: str = "") -> str:
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            initial_indent=indent if n == 0 else hang or indent,
            subsequent_indent=hang or indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for n, line in enumerate(text.splitlines())
    )


def value_of(value: Any) -> str:
    """Of a setting, in at most 44 characters."""
    text = (
        value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 44 else text[:41] + "..."


def bytes_of(size: float) -> str:
    """`15.3 GiB`."""
    for unit, limit in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= limit:
            return f"{size / limit:,.1f} {unit}"
    return f"{size:.0f} B"


def count(number: float) -> str:
    """`8.19 B`."""
    for unit, limit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(int(number))


def duration(seconds: float) -> str:
    """`3 h 20 min`."""
    minutes = seconds / 60
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = int(minutes // 60)
    return f"{hours} h {minutes % 60:.0f} min" if hours < 48 else f"{hours / 24:.1f} days"
