"""What is minimised, over which batches, and by which optimizer.

Shapes: B rows of a batch, S positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swift.api.contracts.data import Encoder, Example, Record

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class Batch:
    """One micro-batch on the device.

    Args:
        inputs: What the model is called with: `input_ids` [B, S], `position_ids` [B, S], and `attention_mask` [B, S] only
            for padded batches. Of multimodal models also the tensors of the media, in the order of their placeholders, and
            where the model has further axes of positions, `position_ids` [1 + axes, B, S], those of the text first.
        labels: [B, S], already shifted: `labels[b, s]` is the token that position s must predict, or -100.
        loss_weight: [B, S] float, or None where every label counts 1.
        num_labels: Labels that count, i.e. `(labels != -100).sum()` (a plain int: no device sync).
        num_tokens: Real tokens (without padding).
        documents: [B, S] int64, the number of the document that each position belongs to, counted through the micro-batch
            from 0; -1 on padding. Batches of the loader always have it.
        document_rows: [documents] int64, the row (0, 1, ...) of the micro-batch that each document is part of; documents of
            a row stand in the order of the example's `segments`.
        values: name -> [rows] float32, numbers of the rows; empty unless examples have them.
        num_rows: Rows (examples), of which each may be several documents.
        reference: name -> tensor, what `Objective.reference` found out about the batch; empty where no reference model is used.
        label_positions: [num_labels] int64, positions in the flattened [B * S] that have a label, ascending, so that nobody has
            to ask the device which; None for batches that the loader did not make.
        bounds: [documents + 1] int32, where the documents of the single row end, first 0 (`cu_seqlens` of attention kernels);
            None for padded batches and those that the loader did not make.
        longest_document: Tokens of the longest document; 0: unknown.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    loss_weight: torch.Tensor | None
    num_labels: int
    num_tokens: int
    documents: torch.Tensor | None = None
    document_rows: torch.Tensor | None = None
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    num_rows: int = 0
    reference: dict[str, torch.Tensor] = field(default_factory=dict)
    label_positions: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    longest_document: int = 0


@dataclass
class LossSum:
    """Sum (never mean) over the labels of a micro-batch; the loop divides by the global count of the step."""

    total: torch.Tensor
    """0-d, with a gradient."""
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)
    """Further sums over labels, logged divided by the same count."""


class Objective(ABC):
    """What is minimised."""

    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def encode(self, record: Record, encoder: Encoder) -> Example:
        """One canonical record to one example. Raises `DataError` with the reason where the record does not fit."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> LossSum:
        """`memory_budget`: bytes that logits may take at once."""

    def reference(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> dict[str, torch.Tensor]:
        """What `loss` reads from `batch.reference`: facts that the frozen reference model gives about the batch.

        Called before `loss`, where the spec says `requires_reference`; without gradients, the model in evaluation mode. It is
        the base model with the adapter switched off, a frozen copy, or another model (`objective.reference`); with
        `--objective.reference none` it is not called.
        """
        return {}

    def count(self, batch: Batch) -> int:
        """By the sum of this over an optimizer step the loop divides the loss: labels, unless overridden (pairs, rows)."""
        return batch.num_labels


class OptimizerFactory(ABC):
    def __init__(self, settings: Any, name: str) -> None:
        self.settings = settings
        self.name = name

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """`groups` carry `params`, `lr` and `weight_decay`."""
