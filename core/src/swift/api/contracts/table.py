"""The contract of each kind."""

from __future__ import annotations

from swift.api.contracts.data import DatasetReader
from swift.api.contracts.devices import Device, Launcher, Strategy
from swift.api.contracts.exchange import Exporter, Hub, Tracker
from swift.api.contracts.inference import Engine
from swift.api.contracts.models import ModelLoader
from swift.api.contracts.training import Objective, OptimizerFactory
from swift.api.contracts.tuners import Tuner

CONTRACTS: dict[str, type] = {
    "model": ModelLoader, "dataset": DatasetReader, "tuner": Tuner, "objective": Objective, "parallel": Strategy,
    "device": Device, "engine": Engine, "optimizer": OptimizerFactory, "hub": Hub, "tracker": Tracker,
    "launcher": Launcher, "exporter": Exporter,
}  # fmt: skip
"""Kind -> what `Spec.impl` must be a subclass of."""
