"""From a resolved configuration to a plan: choose what was left open, judge the combination, estimate. Left of the torch line.

`make_plan` never raises for what a user can mend in the plan: it collects problems. `refuse` raises them, all together.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from swift.api import DeviceInfo
from swift.errors import ConfigError, DataError, ModelError, PlanRefused, PluginError, PluginNotFound, SwiftError
from swift.plan import models
from swift.plan.chat import choose_template
from swift.plan.checkpointing import judge
from swift.plan.datasets import choose_task, named_datasets, register_files, take_data
from swift.plan.draft import CHECK, COMPONENT, DATA, DEVICE, MODEL, SETTINGS, Draft, on_host, trained_dtypes
from swift.plan.forecast import forecast
from swift.plan.models import ModelFacts, ModelSource
from swift.plan.plan import Plan, Problem
from swift.plan.reference import choose_reference, section_for
from swift.plan.trade_offs import choose_rest, judge_attention
from swift.plan.unread import report_unread
from swift.plugins import hooks
from swift.plugins.devices import probe
from swift.plugins.info import Entry
from swift.plugins.resolver import check, suggest

MASTER_PORT = 29500
LEVELS = {"impossible": 0, "unsupported": 1, "unverified": 2}
NOT_LEGAL_ALONE = {MODEL: ModelError, DATA: DataError, COMPONENT: PluginNotFound, SETTINGS: ConfigError}


def make_plan(
    resolved: Any, registry: Any, *, estimate: bool = True, here: bool | None = None, found: Sequence[Problem] = ()
) -> Plan:
    """Decide everything that was left open, and judge the result.

    Args:
        resolved: What `swift.config.loader.load` returned.
        estimate: Also estimate memory, tokens and time.
        here: The run starts on this machine now, so its device and weights must be here. Default: unless the verb is plan.
        found: Problems that were found before.

    Returns:
        The plan, with its problems as data: `refuse` raises them.
    """
    draft = Draft(registry, resolved, _plain(resolved.sections), resolved.verb != "plan" if here is None else here)
    extra = dict(getattr(resolved, "extra", None) or {})
    allowed = _words(extra.get("allow"))
    draft.problems += found

    report_unread(draft)
    register_files(draft)
    choose_task(draft)
    for slot in ("objective", "tuner", "optimizer", "quantizer"):
        if draft.has(slot) and draft.get(slot, "name") not in ("none", ""):
            draft.take(slot, draft.find(slot, draft.get(slot, "name")))
    device, info = _device(draft)
    source, facts = _model(draft)
    reference = choose_reference(draft)
    if draft.has("template"):
        choose_template(draft, source, facts)
    if draft.has("parallel"):
        _parallel(draft, device, info)
    _engine(draft)
    judge_attention(draft, device)
    if draft.has("train"):
        _training_values(draft, device, info, source, facts, resuming=bool(extra.get("resume")))
    if draft.has("logging"):
        for number, name in enumerate(draft.get("logging", "tracker")):
            draft.take(f"tracker.{number}", draft.find("tracker", name))
    if draft.has("export"):
        draft.take("exporter", draft.find("exporter", draft.get("export", "to")))
    data_sources = take_data(draft)
    _collect_facts(draft, device, info, source, facts)

    rules = registry.entries("rule")
    resolution = check(draft.entries, draft.facts, rules=rules, allow=allowed)
    estimated: dict[str, Any] = {}
    if estimate:
        estimated = forecast(draft, device, info, source, facts, data_sources, reference=reference)
    if draft.has("train"):
        choose_rest(draft, device)
    problems = [*draft.problems, *resolution.problems]
    problems = [replace(p, level="unverified") if p.level == "unsupported" and p.code in allowed else p for p in problems]
    refused = any(p.level != "unverified" for p in problems)
    if draft.here and not refused:
        try:  # the weights, now that nothing speaks against the run
            if source is not None and source.hub is not None:
                source = models.fetched(source, resolved.sections["model"], weights=True)
            if reference is not None:
                reference = models.fetched(reference, section_for(draft, reference.given), weights=True)
        except SwiftError as error:
            problems.append(Problem(MODEL, "impossible", error.message, fix=error.fix))
    plan = Plan(
        verb=str(extra.get("verb") or resolved.verb),
        config=draft.config,
        provenance={**resolved.provenance, **{c.path: f"chosen because {c.why}" for c in draft.choices}},
        components=draft.components,
        model_folder=str(source.folder) if source is not None and source.folder else "",
        reference_folder=str(reference.folder) if reference is not None and reference.folder else "",
        facts=_json(resolution.facts),
        choices=tuple(draft.choices),
        problems=tuple(sorted(problems, key=lambda p: LEVELS.get(p.level, 0))),
        suggestions=tuple(suggest(registry, draft.entries, draft.facts, resolution.problems, rules=rules, allow=allowed)),
        estimate=estimated,
        environment=dict(getattr(resolved, "environment", None) or {}),
        swift_version=_version(),
    )
    return replace(plan, problems=(*plan.problems, *_plugin_checks(plan, allowed)))


def refuse(plan: Plan) -> None:
    """Raise for a plan that must not run; return for one that may.

    Raises:
        PlanRefused: With every problem, its remedy, and the smallest legal change. Where one single problem is about the
            model, the data, a component or a setting, its own class of error instead.
    """
    refused = plan.refused
    if not refused:
        return
    if len(refused) == 1:
        only = refused[0]
        raise NOT_LEGAL_ALONE.get(only.code, PlanRefused)(
            f"{only.message}{_coded(only)}", fix="; or ".join(filter(None, (only.fix, *plan.suggestions)))
        )
    lines = [f"this run cannot start, for {len(refused)} reasons:"]
    for number, problem in enumerate(refused, 1):
        lines.append(f"  {number}. {problem.message}{_coded(problem)}")
        if problem.fix:
            lines.append(f"     fix: {problem.fix}")
    raise PlanRefused("\n".join(lines), fix="; or ".join(plan.suggestions))


def _coded(problem: Problem) -> str:
    if problem.level == "unsupported" and problem.code:
        return f" [{problem.code}: --allow {problem.code} tries it all the same]"
    return f" [{problem.code}]" if problem.code else ""


# ---------------------------------------------------------------------------------------------------------------- choices


def _device(draft: Draft) -> tuple[Entry | None, DeviceInfo]:
    """The device and what is there of it: the one that was asked for, else the present one of the highest priority."""
    none = DeviceInfo(count=0)
    if not draft.has("device"):
        return None, none
    found: dict[str, DeviceInfo] = {}
    faults: list[str] = []

    def look(entry: Entry) -> DeviceInfo:
        if entry.name not in found:
            try:
                found[entry.name] = probe(entry)
            except PluginError as error:
                faults.append(f"{entry.name}: {error.message}")
                found[entry.name] = none
        return found[entry.name]

    entries = sorted(draft.registry.entries("device"), key=lambda e: (-e.spec.priority, e.name))
    name = draft.get("device", "name")
    if name == "auto":
        absent: list[str] = []
        for entry in entries:
            if look(entry).count:
                also = f"; {', '.join(absent)} shows no device here" if absent else ""
                names = ", ".join(dict.fromkeys(look(entry).names))
                draft.choose("device.name", entry.name, f"it is the best device here{f' ({names})' if names else ''}{also}")
                return draft.take("device", entry), look(entry)
            absent.append(entry.name)
        reasons = "".join(f"; {fault}" for fault in faults)
        draft.problem(
            DEVICE,
            f"no device is present; installed: {', '.join(absent) or 'none'}{reasons}",
            fix="pip install swift-llm-device-cpu",
        )
        return None, none
    entry = draft.take("device", draft.find("device", name))
    if entry is None:
        return None, none
    if not look(entry).count:
        present = [f"{e.name} ({', '.join(dict.fromkeys(look(e).names)) or look(e).count})" for e in entries if look(e).count]
        message = f"this machine has no {entry.name} device; present: {', '.join(present) or 'none'}"
        if faults:
            message += "; " + "; ".join(faults)
        best = next((e.name for e in entries if look(e).count), "auto")
        if draft.here:
            draft.problem(DEVICE, message, fix=f"--device {best}")
        else:
            draft.problem(DEVICE, message + ": planned for a machine that has one", level="unverified")
    return entry, look(entry)


def _model(draft: Draft) -> tuple[ModelSource | None, ModelFacts]:
    """Where the model is and what its files say; its loader and hub as components."""
    section = draft.resolved.sections["model"]
    source, facts = None, ModelFacts()
    if not section.id:
        draft.problem(MODEL, "no model was named", fix="--model FOLDER, a name of `swift list models`, or a hub id ORG/NAME")
    else:
        try:
            source = models.locate(draft.registry, section, weights=False)
        except PluginError as error:
            draft.problem(COMPONENT, error)
        except ModelError as error:
            draft.problem(MODEL, error)
    if source is not None:
        if source.hub is not None:
            draft.take("hub", source.hub)
            if draft.get("model", "hub") == "auto":
                draft.choose("model.hub", source.hub.name, f"{source.given} is kept there ({source.why})")
        if source.fault is not None:
            draft.problem(
                MODEL, f"{source.fault.message}; what the catalog says is taken", fix=source.fault.fix, level="unverified"
            )
        if source.folder is not None:
            facts = _inspect(draft, source)
        try:
            architectures = facts.config.get("architectures") or [""]
            draft.take("model", models.loader_entry(draft.registry, source, str(architectures[0]), section.loader))
        except PluginError as error:
            draft.problem(COMPONENT, error)
        except ModelError as error:
            draft.problem(MODEL, error)
    return source, facts


def _inspect(draft: Draft, source: ModelSource) -> ModelFacts:
    folder = source.folder or Path()
    try:
        facts = models.inspect(folder)
    except ModelError as error:
        draft.problem(MODEL, error)
        return ModelFacts()
    if facts.fault is not None:
        draft.problem(MODEL, facts.fault)
    level = "impossible" if draft.here else "unverified"
    later = "" if draft.here else " (a plan needs none, the run does)"
    if not facts.tokenizer:
        draft.problem(
            MODEL, f"there is no tokenizer in {folder}{later}; looked for {', '.join(models.TOKENIZER_FILES[:4])}, ...",
            fix="copy the tokenizer's files there, or fetch the model again", level=level,
        )  # fmt: skip
    pretrained = draft.get("model", "init") == "pretrained"
    if pretrained and source.hub is None and facts.fault is None and facts.weights is None and not facts.other_weights:
        draft.problem(
            MODEL, f"there are no weights (*.safetensors) in {folder}{later}",
            fix="fetch the model with its weights, or --init random to train it from nothing", level=level,
        )  # fmt: skip
    return facts


def _parallel(draft: Draft, device: Entry | None, info: DeviceInfo) -> None:
    """Processes, strategy and launcher, by what specs claim and never by their names."""
    nnodes, asked, name = (
        draft.get("parallel", "nnodes"),
        draft.get("parallel", "nproc_per_node"),
        draft.get("parallel", "name"),
    )
    specs = sorted(draft.registry.entries("parallel"), key=lambda e: (e.spec.status != "stable", bool(e.spec.shards), e.name))
    chosen = draft.find("parallel", name) if name != "auto" else None
    several = next((e for e in specs if e.spec.multi_process and not e.spec.shards), None)
    if not asked:
        if on_host(device) or info.count <= 1:
            nproc, why = 1, "there is one device" if info.count else "it is not known how many devices there will be"
        elif chosen is not None and not chosen.spec.multi_process:
            nproc, why = 1, f"{chosen.name} runs in one process"
        elif chosen is None and several is None:
            nproc, why = 1, "no strategy for several processes is installed"
        else:
            nproc, why = info.count, f"there are {info.count} devices"
        draft.choose("parallel.nproc_per_node", nproc, why)
    nproc = draft.get("parallel", "nproc_per_node")
    world = nproc * nnodes
    if info.count and nproc > info.count and not on_host(device) and device is not None:
        draft.problem(
            DEVICE, f"{nproc} processes per machine need as many {device.name} devices; here are {info.count}",
            fix=f"--nproc_per_node {info.count}",
        )  # fmt: skip
    if name == "auto":
        chosen = several if world > 1 else next((e for e in specs if not e.spec.multi_process), several)
        if chosen is None:
            draft.problem(
                COMPONENT, f"no strategy for {world} process(es) is installed", fix="pip install swift-llm-parallel-torch"
            )
        else:
            draft.choose("parallel.name", chosen.name, f"the run has {world} process{'es' if world > 1 else ''}")
    draft.take("parallel", chosen)
    if chosen is None:
        return
    if world > 1 and not chosen.spec.multi_process and not _has_world_need(chosen):
        draft.problem(COMPONENT, f"{chosen.name} runs in one process, not in {world}", fix="--parallel auto")
    if world > 1 and chosen.spec.launcher:
        draft.take("launcher", draft.find("launcher", chosen.spec.launcher))
    if nnodes > 1 and not draft.get("parallel", "master_port"):
        draft.choose("parallel.master_port", MASTER_PORT, "all machines must agree on one")


def _has_world_need(entry: Entry) -> bool:
    return any("parallel.world_size" in need.condition for need in entry.spec.needs)


def _engine(draft: Draft) -> None:
    if not draft.has("engine"):
        return
    name = draft.get("engine", "name")
    if name != "auto":
        draft.take("engine", draft.find("engine", name))
        return
    engines = sorted(draft.registry.entries("engine"), key=lambda e: (e.spec.status != "stable", not e.spec.in_process, e.name))
    if not engines:
        draft.problem(COMPONENT, "no inference engine is installed", fix="pip install swift-llm-engine-transformers")
    else:
        draft.choose("engine.name", engines[0].name, "it is installed")
        draft.take("engine", engines[0])


def _training_values(
    draft: Draft, device: Entry | None, info: DeviceInfo, source: ModelSource | None, facts: ModelFacts, *, resuming: bool
) -> None:
    config, tuner = draft.config, draft.entries.get("tuner")
    train = config["train"]
    world = config["parallel"]["nproc_per_node"] * config["parallel"]["nnodes"]
    if not train["gradient_accumulation_steps"]:
        steps = max(1, math.ceil(train["rows_per_step"] / (train["batch_size"] * world)))
        rows = f"{train['batch_size']} x {world} x {steps}" if world > 1 else f"{train['batch_size']} x {steps}"
        draft.choose(
            "train.gradient_accumulation_steps", steps, f"{rows} makes {train['batch_size'] * world * steps} rows per step"
        )
    if train["learning_rate"] is None and tuner is not None:
        objective = draft.entries.get("objective")
        factor = objective.spec.learning_rate_factor if objective is not None else 1.0
        times = f", times {factor:g} for {objective.name}" if objective is not None and factor != 1.0 else ""
        rate = float(f"{tuner.spec.learning_rate * factor:.6g}")
        draft.choose("train.learning_rate", rate, f"it is the default of {tuner.name}{times}")
    judge(draft, device)
    context = (
        facts.shapes.context_length if facts.shapes else source.entry.spec.context_length if source and source.entry else 0
    )
    if config["data"]["max_length"] is None and context >= 8:
        draft.choose("data.max_length", context, "it is the model's context length")
    elif context and (config["data"]["max_length"] or 0) > context:
        draft.problem(
            DATA, f"max_length {config['data']['max_length']} is above the model's context length {context}",
            fix=f"--max_length {context}", level="unverified",
        )  # fmt: skip
    if draft.get("model", "dtype") == "auto":
        if facts.config:  # else nothing is known, and the loader decides
            _dtype(draft, device, info, facts)
    elif device is not None and draft.get("model", "dtype") not in trained_dtypes(device):
        draft.problem(
            DEVICE,
            f"{device.name} does not train in {draft.get('model', 'dtype')}; it trains in "
            f"{', '.join(trained_dtypes(device))}",
            fix=f"--dtype {trained_dtypes(device)[0]}",
        )  # fmt: skip
    if not config["data"]["dataset"] and not resuming:
        level = "impossible" if draft.here else "unverified"
        message = "no training data was named" if draft.here else "no training data was named, so steps and time are unknown"
        draft.problem(
            DATA,
            message,
            fix=named_datasets(draft),
            level=level,
        )


def _dtype(draft: Draft, device: Entry | None, info: DeviceInfo, facts: ModelFacts) -> None:
    """dtype of the weights: the checkpoint's where adapters are trained, float32 where the weights themselves are."""
    stored, able = facts.dtype or "float32", trained_dtypes(device)
    tuner = draft.entries.get("tuner")
    adapters = tuner is not None and tuner.spec.artifact == "adapter"
    if draft.get("model", "init") == "random":
        draft.choose("model.dtype", "float32", "new weights are drawn and trained in it")
        if stored in ("bfloat16", "float16"):
            draft.facts["model.upcast_from"] = stored
    elif stored == "float32" or not adapters:
        why = "the checkpoint has it"
        if stored != "float32":
            why = f"small updates of whole weights round away in {stored}; they are saved in {stored} again"
            if stored in ("bfloat16", "float16"):
                draft.facts["model.upcast_from"] = stored
        draft.choose("model.dtype", "float32", why)
    elif stored in able and stored != "float16" and _slow(stored, info, facts):
        draft.choose("model.dtype", "float32", f"this device has no arithmetic for {stored}, and there is memory for float32")
    elif stored in able and stored != "float16":
        draft.choose("model.dtype", stored, "the checkpoint has it")
    else:
        other = "bfloat16" if "bfloat16" in able else "float32"
        reason = "gradients underflow in float16" if stored == "float16" else f"{stored} is not trained in on this device"
        draft.choose("model.dtype", other, f"{reason}; the checkpoint has {stored}")


def _slow(dtype: str, info: DeviceInfo, facts: ModelFacts) -> bool:
    """The device has no arithmetic for it, and float32 weights leave half of its memory free."""
    fast = info.facts.get("device.fast_dtypes")
    parameters = facts.shapes.parameters if facts.shapes else 0
    return fast is not None and dtype not in fast and parameters * 8 <= info.memory


# ------------------------------------------------------------------------------------------------------------------ facts


def _collect_facts(draft: Draft, device: Entry | None, info: DeviceInfo, source: ModelSource | None, facts: ModelFacts) -> None:
    """Facts of the configuration, of probes and of the model's files, over which needs and clashes are judged."""
    config, known = draft.config, draft.facts
    if device is not None and info.count:
        known.update({"device.count": info.count, **({"device.memory": info.memory} if info.memory else {}), **info.facts})
    if "parallel" in config:
        known["parallel.world_size"] = config["parallel"]["nproc_per_node"] * config["parallel"]["nnodes"]
    if "data" in config:
        known["data.batching"] = config["data"]["batching"]
    known["model.dtype"] = config["model"]["dtype"]
    known["model.attention"] = config["model"]["attention"]
    architectures = facts.config.get("architectures") or []
    spec = source.entry.spec if source is not None and source.entry is not None else None
    architecture = str(architectures[0]) if architectures else spec.architecture if spec else ""
    if architecture:
        known["model.architecture"] = architecture
    if spec is not None:
        known["model.modality"] = tuple(spec.modality)


def _plugin_checks(plan: Plan, allowed: Iterable[str]) -> list[Problem]:
    """What plugins that own a part of the plan have to say about it (`swift_plan_check`)."""
    try:
        implementations = hooks.for_components(plan.components.values()).hook.swift_plan_check.get_hookimpls()
    except PluginError as error:
        return [Problem(COMPONENT, "impossible", error.message, fix=error.fix)]
    problems = []
    for implementation in implementations:
        try:
            arguments = {"plan": plan} if implementation.argnames else {}
            sentences = list(cast("Iterable[str]", implementation.function(**arguments)))
        except Exception as error:  # a third party's code; its fault must not hide the rest of the plan
            sentences = [f"the plan check of {implementation.plugin_name} failed: {type(error).__name__}: {error}"]
        level = "unverified" if CHECK in set(allowed) else "unsupported"
        problems += [Problem(CHECK, level, str(sentence), (implementation.plugin_name,)) for sentence in sentences]
    return problems


# ------------------------------------------------------------------------------------------------------------------ plain


def _plain(sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections as plain data, secrets left out."""
    plain = {}
    for name, section in sections.items():
        values = section.model_dump(mode="json")
        plain[name] = {k: None if isinstance(getattr(section, k), SecretStr) else v for k, v in values.items()}
    return plain


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else tuple(map(str, value))


def _json(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, (tuple, set, frozenset)) else v for k, v in sorted(facts.items())}


def _version() -> str:
    try:
        return importlib.metadata.version("swift-llm-core")
    except importlib.metadata.PackageNotFoundError:
        return ""
