"""One right objective, and objectives with one fault each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from swift.api import Batch, Encoder, Example, LossSum, Objective, Record
from swift.api.ops import next_token_loss


class Right(Objective):
    def encode(self, record: Record, encoder: Encoder) -> Example:
        return encoder.chat(record)

    def loss(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> LossSum:
        return LossSum(
            next_token_loss(model, batch.inputs, batch.labels, loss_weight=batch.loss_weight, memory_budget=memory_budget)
        )


class Mean(Right):
    def loss(self, model, batch, *, memory_budget):
        return LossSum(super().loss(model, batch, memory_budget=memory_budget).total / max(batch.num_labels, 1))


class NoGradient(Right):
    def loss(self, model, batch, *, memory_budget):
        if not (batch.labels != -100).any():
            return LossSum(torch.zeros(()))
        return super().loss(model, batch, memory_budget=memory_budget)


class NotZero(Right):
    def loss(self, model, batch, *, memory_budget):
        total = super().loss(model, batch, memory_budget=memory_budget).total
        return LossSum(total if (batch.labels != -100).any() else total + 0.5)


class DependsOnBudget(Right):
    def loss(self, model, batch, *, memory_budget):
        labels = batch.labels.clone()
        labels.view(-1)[memory_budget // 512 :] = -100  # what does not fit is left out
        return super().loss(model, replace(batch, labels=labels), memory_budget=memory_budget)


class IgnoresWeights(Right):
    def loss(self, model, batch, *, memory_budget):
        return super().loss(model, replace(batch, loss_weight=None), memory_budget=memory_budget)


class ShortWeights(Right):
    def encode(self, record, encoder):
        example = super().encode(record, encoder)
        return {**example, "loss_weight": example["loss_weight"][1:]}


class TrainsOnNothing(Right):
    def encode(self, record, encoder):
        example = super().encode(record, encoder)
        return {**example, "loss_weight": [0.0] * len(example["input_ids"])}
