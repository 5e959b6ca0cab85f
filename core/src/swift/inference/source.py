"""What a user's SOURCE is: a run, a model folder, an adapter, a catalog name, a hub id. Left of the torch line.

Everything is decided here and nothing is loaded, so that a wrong word is answered at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.data.templates import template_text
from swift.errors import CheckpointError, ConfigError, ModelError
from swift.inference.foreign import ADAPTER_CONFIG as ADAPTER_CONFIG
from swift.inference.foreign import has_chat_template, newest, remembered
from swift.plan.models import TOKENIZER_FILES, loader_entry, locate
from swift.plan.plan import Component, Plan
from swift.plan.shapes import read_config
from swift.plugins.loading import component_of
from swift.run_dir import RunDir

RAW = "none"
"""`--template none`: prompts are continued as plain text."""


@dataclass(frozen=True)
class Source:
    """What to answer with.

    Args:
        given: As the user wrote it.
        folder: The run, adapter or model folder itself.
        model_folder: Whole weights: the base model, or the tuned one where the tuner saves whole models.
        loader: The model loader.
        tuner: Loads `adapter`; None without one.
        adapter: Folder of the adapter on top, if any.
        tokenizer_folder: Where the tokenizer and the chat template of training are.
        chat: False: prompts are continued as plain text.
        chat_template: Jinja text that replaces the tokenizer's own.
        system: System message for conversations that have none.
        adapters: Further adapters by name.
        run: The run directory, if it is one.
        notes: Lines for the user.
    """

    given: str
    folder: Path
    model_folder: Path
    loader: Component
    tuner: Component | None = None
    adapter: Path | None = None
    tokenizer_folder: Path | None = None
    dtype: str = "auto"
    attention: str = "auto"
    init: str = "pretrained"
    seed: int = 42
    trust_remote_code: bool = False
    chat: bool = True
    chat_template: str | None = None
    system: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    pixels: Mapping[str, int] = field(default_factory=dict)
    """min_pixels and max_pixels of images, where they are others than those that the model was saved with."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    run: RunDir | None = None
    notes: tuple[str, ...] = ()


def resolve_source(given: str, *, sections: Mapping[str, Any], registry: Any) -> Source:
    """Decide what SOURCE means.

    Args:
        given: The first positional argument, or "" (then `sections["model"].id` is the source). With both, `--model` names the
            base model of a run or adapter.
        sections: `model`, `engine` and, where the verb has it, `template`.

    Raises:
        ConfigError, ModelError, CheckpointError, PluginNotFound: Each says what to type instead.
    """
    model, engine, template = sections["model"], sections["engine"], sections.get("template")
    base = model.id if given else ""
    given = given or model.id
    if not given:
        raise ConfigError(
            "which model?", fix="name a run directory, a model folder or a model: swift infer runs/a, swift chat tiny"
        )
    notes: list[str] = []
    found = run_of(Path(given))
    folder = Path(given) if found is not None else newest(Path(given), engine.checkpoint)
    if folder != Path(given):
        notes.append(f"{given} is another trainer's output folder; answering with its {folder.name}")
        given = str(folder)
    if found is not None:
        source = _of_run(given, *found, base=base, sections=sections, registry=registry, notes=notes)
    elif (folder / ADAPTER_CONFIG).is_file():
        source = _of_adapter(given, base=base, sections=sections, registry=registry, notes=notes)
    else:
        if base:
            raise ConfigError(
                f"two models: {given} and --model {base}; --model names the base of a run or adapter, and {given} is neither",
                fix="give one of them",
            )
        named, (folder, loader) = folder, find_model(given, section=model, registry=registry)
        source = _as_trained(Source(given, folder, folder, loader, tokenizer_folder=folder), registry, notes)
        if (engine.checkpoint and named.name != engine.checkpoint) or engine.base_only:
            raise ConfigError(f"--checkpoint and --base_only are for runs; {given} is a model", fix="leave them out")
    chosen: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.dtype != "auto":
        chosen["dtype"] = model.dtype
    if model.attention != "auto":
        chosen["attention"] = model.attention
    if template is not None:
        if template.name == RAW:
            chosen["chat"] = False
        elif template.name != "auto":
            chosen |= {"chat": True, "chat_template": template_text(template.name, registry)}
        if template.system is not None:
            chosen["system"] = template.system
        if pixels := {key: value for key in ("min_pixels", "max_pixels") if (value := getattr(template, key))}:
            chosen["pixels"] = pixels
        if template.options:
            chosen["template_options"] = {**source.template_options, **template.options}
    adapters = {name: adapter_folder(name, path, source, notes) for name, path in engine.adapters.items()}
    return replace(source, **chosen, adapters=adapters, notes=tuple(notes))


def run_of(path: Path) -> tuple[RunDir, str] | None:
    """(run, checkpoint or "") for a run directory, its `final`, one of its checkpoints or a checkpoint's `model` folder."""
    if path.name == "model" and path.parent.parent.name == "checkpoints":
        path = path.parent
    if path.parent.name == "checkpoints" and RunDir.is_run(path.parent.parent):
        return RunDir(path.parent.parent), path.name
    if path.name == "final" and RunDir.is_run(path.parent):
        path = path.parent
    return (RunDir(path), "") if RunDir.is_run(path) else None


def _of_run(
    given: str, run: RunDir, checkpoint: str, *, base: str, sections: Mapping[str, Any], registry: Any, notes: list[str]
) -> Source:
    model, engine = sections["model"], sections["engine"]
    plan = run.plan
    config = plan.config
    weights = run.weights(checkpoint or engine.checkpoint)
    if weights != run.final and not (checkpoint or engine.checkpoint):
        notes.append(
            f"{run} is not finished; answering with its newest checkpoint {weights.parent.name} "
            f"(go on training: swift {plan.verb} --resume {run})"
        )
    tuner = plan.components.get("tuner")
    if tuner is None or "model" not in plan.components:
        raise CheckpointError(
            f"the plan of {run} names no tuner and no model: it is not a training run", fix="give a training run"
        )
    loader = installed(registry, plan.components["model"])
    whole = tuner.spec.get("artifact", "adapter") == "model"
    adapter = None if whole or engine.base_only else weights
    folder = weights
    if not whole or engine.base_only:
        folder = base_of_run(run, plan, base, section=model, registry=registry)
    elif base:
        raise ConfigError(f"{run} holds a whole model, so --model {base} has no place in it", fix="leave --model out")
    chose = str(plan.provenance.get("model.dtype", "")).startswith("chosen") or plan.facts.get("model.upcast_from")
    objective = plan.components.get("objective")
    chat = bool(objective is None or objective.spec.get("chat_template", True))
    if not chat:
        notes.append(
            "this run was trained on plain text: prompts are continued as they are (--template FILE.jinja makes it chat)"
        )
    return Source(
        given,
        run.path,
        folder,
        loader,
        tuner=installed(registry, tuner) if adapter else None,
        adapter=adapter,
        tokenizer_folder=next((f for f in (weights, run.final, folder) if has_tokenizer(f)), folder),
        dtype="auto" if chose or whole else config["model"]["dtype"],
        attention=config["model"].get("attention", "auto"),
        init="pretrained" if whole and not engine.base_only else config["model"].get("init", "pretrained"),
        seed=config.get("train", {}).get("seed", 42),
        chat=chat,
        system=config.get("template", {}).get("system"),
        template_options=dict(config.get("template", {}).get("options") or {}),
        run=run,
    )


def base_of_run(run: RunDir, plan: Plan, base: str, *, section: Any, registry: Any) -> Path:
    """Folder of the base model: as told, as in the plan, or found again by its id."""
    if base:
        return find_model(base, section=section, registry=registry)[0]
    if plan.model_folder and Path(plan.model_folder).is_dir():
        return Path(plan.model_folder)
    name = str(plan.config["model"]["id"])
    if not _is_path(name):
        return find_model(name, section=section, registry=registry)[0]
    raise ModelError(
        f"{run} was trained on the model in {plan.model_folder or name}, which is not there any more",
        fix=f"say where it is now: --model NEW (as in: swift infer {run} --model NEW)",
    )


def _of_adapter(given: str, *, base: str, sections: Mapping[str, Any], registry: Any, notes: list[str]) -> Source:
    folder = Path(given)
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        method = str(config["peft_type"]).lower()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}", fix="save the adapter again") from error
    trained_on, says = str(config.get("base_model_name_or_path") or ""), ADAPTER_CONFIG
    if not base and (not trained_on or (_is_path(trained_on) and not Path(trained_on).is_dir())):
        other = next((m for m in remembered(folder).models if not _is_path(m) or Path(m).is_dir()), "")
        trained_on, says = (other, "args.json") if other else (trained_on, says)
    if not base and not trained_on:
        raise ModelError(f"the adapter {given} does not say on which model it was trained", fix="name it: --model BASE")
    if not base and _is_path(trained_on) and not Path(trained_on).is_dir():
        raise ModelError(
            f"the adapter {given} was trained on {trained_on}, which is not there", fix="say where it is now: --model NEW"
        )
    model, loader = find_model(base or trained_on, section=sections["model"], registry=registry)
    if not base:
        notes.append(f"base model: {trained_on}, as {says} says")
    source = Source(
        given,
        folder,
        model,
        loader,
        tuner=None if sections["engine"].base_only else component_of(tuner_for_peft(registry, method), {}),
        adapter=None if sections["engine"].base_only else folder,
        tokenizer_folder=folder if has_tokenizer(folder) else model,
    )
    return _as_trained(source, registry, notes)


def _as_trained(source: Source, registry: Any, notes: list[str]) -> Source:
    """With the system message and the way of talking that ms-swift's args.json remembers."""
    known = remembered(source.folder)
    if known.system:
        notes.append(f"system message of args.json: {known.system}")
    if not known.chat:
        notes.append("this model was trained on plain text: prompts are continued as they are")
    template = None
    home = source.tokenizer_folder or source.model_folder
    if known.template and known.chat and not has_chat_template(home) and registry.has("template", known.template):
        template = template_text(known.template, registry)
        notes.append(f"the tokenizer brings no chat template: {known.template} is taken, as args.json says")
    return replace(source, system=known.system, chat=known.chat, chat_template=template, template_options=known.options)


def tuner_for_peft(registry: Any, method: str) -> Any:
    """The tuner that reads PEFT adapters of this method; one that only PEFT itself knows is read as LoRA's plugin reads all."""
    return registry.find("tuner", method if registry.has("tuner", method) else "lora")


def adapter_folder(name: str, given: str, source: Source, notes: list[str]) -> Path:
    """A run's adapter or a PEFT folder, for `--adapters NAME=...`."""
    found = run_of(Path(given))
    folder = found[0].weights(found[1]) if found else newest(Path(given))
    if not (folder / ADAPTER_CONFIG).is_file():
        what = "does not exist" if not folder.exists() else "holds no adapter (no adapter_config.json)"
        raise ConfigError(f"adapter {name}: {given} {what}", fix=f"--adapters {name}=RUN, or a PEFT adapter folder")
    if found and found[0].plan.model_folder and Path(found[0].plan.model_folder) != source.model_folder:
        notes.append(f"adapter {name} was trained on {found[0].plan.model_folder}, and answers here on {source.model_folder}")
    return folder


# --------------------------------------------------------------------------------------------------------------- models


def find_model(name: str, *, section: Any, registry: Any) -> tuple[Path, Component]:
    """(local folder, its loader) of a model folder, a catalog name or a hub id.

    Raises:
        ModelError: None of the three.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file() and not any(path.glob("*/config.json")):
        raise ModelError(
            f"{name} is neither a run directory (no plan.json), an adapter (no {ADAPTER_CONFIG}) nor a model (no config.json)",
            fix="give the folder that holds one of these files",
        )
    if not path.exists() and path.parent != Path() and any(path.parent.glob("*/plan.json")):
        runs = sorted(str(p.parent) for p in path.parent.glob("*/plan.json"))
        raise ModelError(f"there is no {name}", fix=f"runs there: {', '.join(runs[:5])}")
    source = locate(registry, section.model_copy(update={"id": name}), weights=True)
    if source.folder is None:
        raise source.fault or ModelError(f"{name} could not be fetched", fix="check the network, or give a local folder")
    architecture = next(iter(read_config(source.folder).get("architectures") or ()), "")
    return source.folder, component_of(loader_entry(registry, source, architecture, section.loader), {})


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name or Path(name).is_absolute()


def installed(registry: Any, component: Component) -> Component:
    """The installed counterpart of a plan's component, with the plan's settings: a plan file decides no import by itself."""
    qualified = f"{component.dist}/{component.kind}:{component.name}" if component.dist else component.name
    return component_of(registry.find(component.kind, qualified), dict(component.settings))


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)
