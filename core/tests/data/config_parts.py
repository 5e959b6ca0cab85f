"""Settings classes and specs of made-up components, for the tests of config and command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr

from swift.api import (
    CommandSpec,
    DeviceSpec,
    EngineSpec,
    ExporterSpec,
    HubSpec,
    ModelSpec,
    ObjectiveSpec,
    OptimizerSpec,
    TrackerSpec,
    TunerSpec,
)
from swift.api.settings import Settings
from swift.plugins.registry import Entry, Registry


class LoraSettings(Settings):
    rank: int = Field(8, ge=1)
    """Rank of the update."""
    alpha: float = 32.0
    """Scale."""
    use_dora: bool = False
    """Train the magnitude too."""
    target_modules: list[str] = Field(default_factory=lambda: ["all-linear"])
    """Layers."""
    bias: Literal["none", "all"] = "none"
    """Biases that train."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Anything else."""


class DoraSettings(LoraSettings):
    use_dora: bool = True
    """Train the magnitude too."""


class FullSettings(Settings):
    freeze: list[str] = Field(default_factory=list)
    """Regular expressions."""
    freeze_ratio: float = 0.0
    """Share of the blocks."""
    trainable: list[str] = Field(default_factory=list)
    """Regular expressions."""


class AdamWSettings(Settings):
    beta1: float = 0.9
    """First."""
    beta2: float = 0.95
    """Second."""
    eps: float = 1e-8
    """Epsilon."""


class TrackerSettings(Settings):
    project: str = "swift"
    """Project."""
    api_key: SecretStr | None = None
    """Key."""


class EngineSettings(Settings):
    max_batch: int = 8
    """Batch."""


class LoaderSettings(Settings):
    fast: bool = True
    """Fast."""


HOME = "config_parts"
SPECS = (
    TunerSpec(name="lora", settings=f"{HOME}:LoraSettings", summary="Low-rank."),
    TunerSpec(name="dora", settings=f"{HOME}:DoraSettings", summary="Magnitude and direction.", aliases=("weight-decomposed",)),
    TunerSpec(name="full", settings=f"{HOME}:FullSettings", summary="Everything.", artifact="model", trainable="all"),
    TunerSpec(name="broken", settings=f"{HOME}:NoSuchSettings", summary="Its settings are gone."),
    OptimizerSpec(name="adamw", settings=f"{HOME}:AdamWSettings"),
    OptimizerSpec(name="sgd"),
    ObjectiveSpec(name="sft", verbs=("sft",)),
    ObjectiveSpec(name="pt", verbs=("pt",)),
    ObjectiveSpec(name="acme-dpo", verbs=("acme-dpo",), summary="Acme's preference loss."),
    TrackerSpec(name="board", settings=f"{HOME}:TrackerSettings"),
    EngineSpec(name="transformers", settings=f"{HOME}:EngineSettings"),
    ModelSpec(name="transformers", impl=f"{HOME}:Loader", settings=f"{HOME}:LoaderSettings", generic=True),
    ExporterSpec(name="merged"),
    DeviceSpec(name="cpu"),
    HubSpec(name="huggingface"),
    CommandSpec(name="greet", impl=f"{HOME}:greet", summary="say hello", help="swift greet NAME"),
)


def greet(argv: list[str]) -> int:
    print(f"hello {' '.join(argv)}")
    return 0


def registry() -> Registry:
    return Registry(entries=[Entry(spec, "parts", "acme-parts", "1.0", "test") for spec in SPECS])
