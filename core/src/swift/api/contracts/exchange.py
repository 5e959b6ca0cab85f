"""What a run exchanges with the world: hubs that it fetches from, trackers that hear of it, formats that it is exported to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from swift.api.contracts.data import Record
from swift.api.contracts.models import LoadedModel
from swift.api.contracts.tuners import Tuner


class Hub(ABC):
    """Finds models and datasets by id.

    Args:
        token: Access token; None leaves it to the hub's own environment. It stands in no message.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    @abstractmethod
    def resolve_model(self, repo_id: str, *, revision: str | None = None, weights: bool = True) -> Path:
        """Local folder of the model, downloaded if need be. `weights=False` fetches config and tokenizer only.

        Raises:
            ModelError: Unknown id, no network, or offline and not in the cache.
        """

    @abstractmethod
    def resolve_dataset(self, repo_id: str, *, revision: str | None = None, subset: str = "", split: str = "") -> Path:
        """Local folder of the dataset's files. Raises `DataError`."""


class Tracker(ABC):
    def __init__(self, settings: Any, name: str, run_dir: Path) -> None:
        self.settings = settings
        self.name = name
        self.run_dir = run_dir

    def start(self, config: Mapping[str, Any]) -> None:
        """The resolved config, without secrets."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self, summary: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class ExportContext:
    """A run, opened for export."""

    run_dir: Path
    output: Path
    """A new folder to fill; core renames it into place when `export` returns."""
    tuner: Tuner | None
    """None where the source is a plain model folder."""
    load_tuned: Callable[[], LoadedModel]
    """The run's model with its tuner applied, on the device."""
    load_folder: Callable[[Path], LoadedModel]
    """Loads the written result, for the proof."""
    prompts: Sequence[Record]
    """Held prompts for the proof."""
    max_shard_size: str = "5GB"
    """Of one file of weights, as transformers spells sizes."""
    dtype: str = ""
    """dtype that written weights have; "": as loaded. It differs from that only where the device cannot compute in it."""


@dataclass(frozen=True)
class ExportReport:
    files: tuple[str, ...]
    """Names of what was written, relative to the output."""
    checks: Mapping[str, float] = field(default_factory=dict)
    """What was measured between the source and the result, e.g. `kl_mean`, `logit_max_difference`."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Stated bound for each check; above it core refuses the result unless forced."""


class Exporter(ABC):
    format: ClassVar[str] = ""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def export(self, context: ExportContext) -> ExportReport: ...
