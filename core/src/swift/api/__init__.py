"""The public contract between Swift and its plugins. A plugin imports `swift.api` and `swift.testing`, nothing else of core.

This module and what it imports need only the standard library, so that a descriptor file costs nothing:

- specs (`TunerSpec`, ...), `Need`, `Clash`: what a descriptor returns;
- `hookimpl`: marks the hooks in it;
- contracts (`Tuner`, `Objective`, ...): what implementations subclass;
- errors.

Two heavier modules are for implementation files only: `swift.api.settings` (pydantic) and `swift.api.ops` (torch).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from swift.api.specs import (
    KINDS, SPECS, Clash, CommandSpec, DatasetSpec, DeviceSpec, EngineSpec, EvaluatorSpec, ExporterSpec, Fact, FactValue,
    HubSpec, LauncherSpec, Level, LossSpec, MetricSpec, ModelSpec, Need, ObjectiveSpec, OptimizerSpec, ParallelSpec,
    QuantizerSpec, RewardSpec, RuleSpec, Spec, TaskSpec, TemplateSpec, TrackerSpec, TunerSpec, plural,
)  # fmt: skip
from swift.api.version import API_VERSION, API_VERSION_TEXT
from swift.errors import (
    CheckpointError, ConfigError, DataError, Interrupted, ModelError, PlanRefused, PluginBroken, PluginConflict, PluginError,
    PluginNotFound, SwiftError, Unsupported,
)  # fmt: skip

if TYPE_CHECKING:
    from swift.api.contracts.data import DatasetReader, Encoder, Example, Record
    from swift.api.contracts.devices import Device, DeviceInfo, Launcher, Memory, Strategy
    from swift.api.contracts.exchange import ExportContext, Exporter, ExportReport, Hub, Tracker
    from swift.api.contracts.inference import Engine, EngineContext, Generation, GenerationRequest, GenerationResult
    from swift.api.contracts.models import LoadedModel, LoadRequest, MediaProcessor, Medium, ModelLoader
    from swift.api.contracts.table import CONTRACTS
    from swift.api.contracts.training import Batch, LossSum, Objective, OptimizerFactory
    from swift.api.contracts.tuners import AdapterLibrary, Tuner
    from swift.api.facts import FACTS

F = TypeVar("F", bound=Callable[..., Any])

# A descriptor needs none of these, and defining them costs as much as the rest of this package: first use imports them.
_LATE = {
    "contracts.data": ("DatasetReader", "Encoder", "Example", "Record"),
    "contracts.devices": ("Device", "DeviceInfo", "Launcher", "Memory", "Strategy"),
    "contracts.exchange": ("ExportContext", "Exporter", "ExportReport", "Hub", "Tracker"),
    "contracts.inference": ("Engine", "EngineContext", "Generation", "GenerationRequest", "GenerationResult"),
    "contracts.models": ("LoadedModel", "LoadRequest", "MediaProcessor", "Medium", "ModelLoader"),
    "contracts.table": ("CONTRACTS",),
    "contracts.training": ("Batch", "LossSum", "Objective", "OptimizerFactory"),
    "contracts.tuners": ("AdapterLibrary", "Tuner"),
    "facts": ("FACTS",),
}
_HOMES = {name: f"swift.api.{module}" for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'swift.api' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def hookimpl(function: F) -> F:
    """Mark a function of a descriptor module as a hook.

    The same mark as `pluggy.HookimplMarker("swift")` makes, set by hand so that a descriptor does not import pluggy.
    """
    function.swift_impl = {  # type: ignore[attr-defined]
        "wrapper": False, "hookwrapper": False, "optionalhook": False, "tryfirst": False, "trylast": False, "specname": None,
    }  # fmt: skip
    return function


__all__ = [
    "API_VERSION", "API_VERSION_TEXT", "AdapterLibrary", "Batch", "CONTRACTS", "CheckpointError", "Clash", "CommandSpec",
    "ConfigError", "DataError", "DatasetReader", "DatasetSpec", "Device", "DeviceInfo", "DeviceSpec", "Encoder", "Engine",
    "EngineContext", "EngineSpec", "EvaluatorSpec", "Example", "ExportContext", "ExportReport", "Exporter", "ExporterSpec",
    "FACTS", "Fact", "FactValue", "Generation", "GenerationRequest", "GenerationResult", "Hub", "HubSpec", "Interrupted",
    "KINDS", "Launcher", "LauncherSpec", "Level", "LoadRequest", "LoadedModel", "LossSpec", "LossSum", "MediaProcessor",
    "Medium", "Memory", "MetricSpec", "ModelError", "ModelLoader", "ModelSpec", "Need", "Objective", "ObjectiveSpec",
    "OptimizerFactory", "OptimizerSpec", "ParallelSpec", "PlanRefused", "PluginBroken", "PluginConflict", "PluginError",
    "PluginNotFound", "QuantizerSpec", "Record", "RewardSpec", "RuleSpec", "SPECS", "Spec", "Strategy", "SwiftError",
    "TaskSpec", "TemplateSpec", "Tracker", "TrackerSpec", "Tuner", "TunerSpec", "Unsupported", "hookimpl", "plural",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
