"""The frozen model that an objective compares the trained one with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift.api import Batch, LoadRequest, ModelLoader, Objective, Tuner
from swift.api.ops import evaluating
from swift.data.batches import with_bounds
from swift.errors import ModelError
from swift.plan.plan import Plan


@dataclass(frozen=True)
class Reference:
    """Asked for each micro-batch. Not a module: nothing of it is wrapped, trained or saved.

    Args:
        model: The trained model itself, or a frozen one.
        as_reference: Within this context `model` answers as the reference.
        takes_bounds: As `LoadedModel.takes_bounds`.
    """

    model: nn.Module
    as_reference: Callable[[], AbstractContextManager[None]] = nullcontext
    takes_bounds: bool = False

    def __call__(self, objective: Objective, batch: Batch, *, memory_budget: int) -> Batch:
        """The batch with what the objective asks of the reference. Draws no random numbers: there is no dropout."""
        with torch.no_grad(), evaluating(self.model), self.as_reference():
            given = with_bounds(batch) if self.takes_bounds else batch
            return replace(batch, reference=objective.reference(self.model, given, memory_budget=memory_budget))


def make_reference(
    plan: Plan, request: LoadRequest, *, models: ModelLoader, tuner: Tuner, model: nn.Module, tokenizer: Any,
    takes_bounds: bool = False,
) -> Reference | None:  # fmt: skip
    """As the plan says; None where the objective needs none, or shall do without.

    Args:
        request: What the trained model was loaded by; a copy differs from it in the folder at most.
        takes_bounds: Of the trained model.

    Raises:
        ModelError: Another model was named, whose tokens are others.
    """
    how = plan.config["objective"].get("reference", "auto")  # plans of older runs know none
    if how == "adapter_off":
        return Reference(model, lambda: tuner.disabled(model), takes_bounds)
    if how != "copy":
        return None
    folder = Path(plan.reference_folder or plan.model_folder)
    loaded = models.load(replace(request, folder=folder, training=False))
    if plan.reference_folder and loaded.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the reference model {folder} has another vocabulary than {plan.model_folder}, so they cannot be compared",
            fix="name a --ref_model of the same family",
        )
    return Reference(loaded.model.requires_grad_(False), takes_bounds=loaded.takes_bounds)
