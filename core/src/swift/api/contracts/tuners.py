"""What decides which parameters train, in runs and on models that Python users hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import Unsupported

if TYPE_CHECKING:
    from torch import nn


class Tuner(ABC):
    """Decides what is trained and how it is parametrized.

    Args:
        settings: Instance of the spec's settings class.
        name: Name under which the component was chosen (one class may serve several specs).
    """

    frozen: str = ""
    """Regular expression of modules (whole dotted paths) that are not trained: parts of multimodal models (`tuner.freeze_vit`,
    ...). Set before `apply`; what a tuner opens there all the same is closed again."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @classmethod
    def library(cls) -> AdapterLibrary:
        """What Python users prepare models of their own with (`swift.Swift`). Only where there is such a library."""
        raise Unsupported(f"{cls.__name__} has no adapters for models of one's own")

    @abstractmethod
    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Prepare a freshly loaded model for training: `requires_grad` is set on exactly what trains."""

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what `load` (adapter) or a model loader (whole model) reads back, in the field's own format."""

    @abstractmethod
    def restore(self, model: nn.Module, folder: Path) -> None:
        """Put the trained tensors that `save` wrote into a model that `apply` has just prepared, bit by bit (resume)."""

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """For inference: a freshly loaded base plus the saved adapter. Only where the artifact is an adapter.

        Raises:
            ModelError: The adapter does not belong to this model.
        """
        raise Unsupported(f"tuner {self.name} saves whole models; load the folder itself")

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into the base weights and return the plain model. Only where the spec says `mergeable`."""
        raise Unsupported(f"tuner {self.name} cannot be merged")

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        """The base model's answers, for as long as the context is open. Only where the spec says `switchable`."""
        raise Unsupported(f"tuner {self.name} cannot be switched off")

    def parameter_groups(self, model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer: weight decay on matrices, none on vectors (norms, biases)."""
        matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
        groups = [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        ]
        return [g for g in groups if g["params"]]


class AdapterLibrary(ABC):
    """Adapters on models that a Python user holds. Configurations are the library's own objects.

    Models may be any `nn.Module`; what comes back has `print_trainable_parameters` and `save_pretrained`. Faults of a
    configuration are `ConfigError`, of a model `ModelError`.
    """

    @abstractmethod
    def fields(self, method: str) -> frozenset[str]:
        """Names that a method's configuration knows."""

    @abstractmethod
    def config(self, method: str, values: Mapping[str, Any]) -> Any:
        """A configuration, checked."""

    @abstractmethod
    def describe(self, config: Any) -> tuple[str, dict[str, Any]]:
        """(method, the values that say something) of a configuration, or of the one that a prepared model carries.

        Raises:
            ConfigError: It is neither.
        """

    @abstractmethod
    def is_prepared(self, model: nn.Module) -> bool:
        """The model carries adapters of this library already."""

    @abstractmethod
    def prepare(self, model: nn.Module, config: Any, *, adapter_name: str = "default") -> nn.Module:
        """Put a fresh adapter on a plain model, or a further one on a prepared model, and make it the active one."""

    @abstractmethod
    def attach(self, model: nn.Module, folder: Path, *, adapter_name: str = "default", trainable: bool = False) -> nn.Module:
        """Put a saved adapter on, as `prepare`."""

    @abstractmethod
    def activate(self, model: nn.Module, names: Sequence[str]) -> None:
        """Exactly these adapters answer and train."""

    @abstractmethod
    def deactivate(self, model: nn.Module) -> None:
        """The base model answers, until `activate`."""

    @abstractmethod
    def merge(self, model: nn.Module, *, unload: bool) -> nn.Module:
        """Fold the active adapters into the weights; `unload` also takes the adapters away and returns the plain model."""

    @abstractmethod
    def unmerge(self, model: nn.Module) -> nn.Module:
        """Undo a `merge` that did not unload."""
