"""The contract kit: one line gives a plugin its test suite.

    from swift.testing import contract
    TestLora = contract("tuner:lora")

The suite has the tests that every component of the kind must pass, plus one class per claim of its spec (`CLAIMS`): a claim
without a passing test fails, also where this version has no test to try it by. `swift.plugins.claims` accounts for every field
of every spec. Plain pytest; versioned with `swift.api.API_VERSION`. Class attributes may be overridden by keyword
(`contract("tuner:x", ids=...)`).
"""

from __future__ import annotations

from typing import Any

from swift.plugins import claims
from swift.plugins.registry import discover
from swift.testing import engines, images, kinds, objectives, parallel, services
from swift.testing.datasets import DatasetCatalogContract
from swift.testing.descriptor import DescriptorContract, Untried
from swift.testing.tiny import CONVERSATIONS, byte_tokenizer, tiny_folder

CONTRACT_CLASSES: dict[str, type[DescriptorContract]] = {
    "model": kinds.ModelContract,
    "dataset": kinds.DatasetContract,
    "tuner": kinds.TunerContract,
    "objective": objectives.ObjectiveContract,
    "parallel": parallel.ParallelContract,
    "device": kinds.DeviceContract,
    "engine": engines.EngineContract,
    "optimizer": services.OptimizerContract,
    "hub": services.HubContract,
    "tracker": services.TrackerContract,
    "launcher": services.LauncherContract,
    "exporter": services.ExporterContract,
}
"""Kind -> its suite; the other kinds have the descriptor's claims only."""

CLAIMS: dict[tuple[str, str], type[DescriptorContract]] = {
    ("tuner", "mergeable"): kinds.Mergeable,
    ("tuner", "identity_at_init"): kinds.IdentityAtInit,
    ("tuner", "switchable"): kinds.Switchable,
    ("engine", "streaming"): engines.Streaming,
    ("engine", "multi_adapter"): engines.MultiAdapter,
    ("model", "image_tokens"): images.CountsImages,
    ("parallel", "multi_process"): parallel.MultiProcess,
    ("parallel", "shards"): parallel.Sharded,
}
"""(kind, field of the spec) -> the tests that a value which is not empty brings; later ones may build on earlier ones."""


def contract(component: str, **overrides: Any) -> type[DescriptorContract]:
    """The test class of `component` (`kind:name`), to be bound to a name that starts with `Test`.

    Raises:
        PluginError: The component is not installed, broken, or claimed twice.
    """
    kind, _, name = component.partition(":")
    spec = discover().find(kind, name).spec
    claimed = [cls for (k, field), cls in CLAIMS.items() if k == kind and getattr(spec, field)]
    bases: list[type] = [*reversed(claimed), CONTRACT_CLASSES.get(kind, DescriptorContract)]
    if reasons := dict(claims.untried(spec)):
        bases.insert(0, Untried)
        overrides = {"reasons": reasons, **overrides}
    title = "Test" + "".join(part.capitalize() for part in component.replace(":", "-").replace("_", "-").split("-"))
    return type(title, tuple(bases), {"component": component, **overrides})


__all__ = [
    "CLAIMS", "CONTRACT_CLASSES", "CONVERSATIONS", "DatasetCatalogContract", "DescriptorContract", "byte_tokenizer", "contract",
    "tiny_folder",
]  # fmt: skip
