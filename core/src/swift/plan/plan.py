"""The plan: everything decided, as a frozen value. A run is a pure consequence of it. Left of the torch line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.errors import CheckpointError

PLAN_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Component:
    """One chosen part: enough for a worker to import exactly it, and to notice that it is another one."""

    kind: str
    name: str
    impl: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_class: str = ""
    plugin: str = ""
    dist: str = ""
    version: str = ""
    digest: str = ""
    """sha256 of the distribution's RECORD (or of the package's files, where it is installed editable)."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """`Spec.to_dict()`, so that a worker needs no discovery."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that the planner chose, and why."""

    path: str
    value: Any
    why: str
    plain: bool = False
    """Nothing out of the ordinary was done: `swift plan` explains it, a start need not."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken need or clash, or something that does not fit."""

    code: str
    level: str
    """impossible, unsupported or unverified (a warning)."""
    message: str
    parties: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do.

    Args:
        verb: The command it answers (sft, pt, train, infer, chat, export).
        config: Resolved sections as plain data, secrets left out.
        provenance: Dotted path -> where the value came from ("default", "run.yaml:7", "flag --lr", "chosen because ...").
        components: Slot -> component; a slot with several is numbered (`tracker.0`, `dataset.1`).
        model_folder: Local folder of the base model, "" while it is not downloaded.
        reference_folder: That of the reference model, where `ref_model` names another one.
        facts: Facts of all components and of the config, over which needs and clashes were judged.
        choices, problems: What the planner chose, and what it found.
        suggestions: Smallest changes that would make a refused plan legal.
        environment: Variable that was set -> (value, what it does), for those that stand for no field.
        estimate: Parameters, memory per component, tokens, steps, time; empty where unknown.
    """

    verb: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)
    model_folder: str = ""
    reference_folder: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    problems: tuple[Problem, ...] = ()
    suggestions: tuple[str, ...] = ()
    estimate: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    swift_version: str = ""
    schema: int = PLAN_SCHEMA

    @property
    def refused(self) -> tuple[Problem, ...]:
        """Problems that stop the run."""
        return tuple(p for p in self.problems if p.level != "unverified")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Raises `CheckpointError` for text that is no plan of this schema."""
        try:
            data = json.loads(text)
            if data["schema"] != PLAN_SCHEMA:
                raise CheckpointError(
                    f"this plan has schema {data['schema']}; Swift here reads {PLAN_SCHEMA}",
                    fix=f"install swift-llm-core=={data.get('swift_version', '?')}, or start the run anew",
                )
            return cls(
                **{
                    **data,
                    "components": {slot: Component(**c) for slot, c in data["components"].items()},
                    "choices": tuple(Choice(**c) for c in data["choices"]),
                    "suggestions": tuple(data.get("suggestions", ())),
                    "problems": tuple(Problem(**{**p, "parties": tuple(p["parties"])}) for p in data["problems"]),
                }
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"not a plan: {error}") from error
