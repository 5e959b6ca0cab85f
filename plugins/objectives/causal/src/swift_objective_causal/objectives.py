"""Next-token prediction: `pt` on plain text, `sft` on conversations."""

from __future__ import annotations

from typing import Any

from torch import nn

from swift.api import Batch, DataError, Encoder, Example, LossSum, Objective, Record
from swift.api.ops import next_token_loss


class _Causal(Objective):
    def loss(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> LossSum:
        total = next_token_loss(
            model, batch.inputs, batch.labels, loss_weight=batch.loss_weight, memory_budget=memory_budget,
            label_positions=batch.label_positions,
        )  # fmt: skip
        return LossSum(total)


class SFT(_Causal):
    """Cross entropy on the assistant's turns."""

    def encode(self, record: Record, encoder: Encoder) -> Example:
        if not record.get("messages"):
            if record.get("text"):
                raise DataError("a row of plain text has no assistant turn to train on", fix="swift pt (the same arguments)")
            raise DataError(
                f"a row needs messages; it has {', '.join(sorted(k for k in record if k != '_origin')) or 'nothing'}",
                fix='name the columns, e.g. --columns \'{"question": "query", "answer": "response"}\'',
            )
        example = encoder.chat(record)
        if self.settings.train_on == "all":
            return {**example, "loss_weight": [1.0] * len(example["input_ids"])}
        if self.settings.train_on == "last":
            return {**example, "loss_weight": _last_run(example["loss_weight"])}
        return example


class Pretrain(_Causal):
    """Cross entropy on every token."""

    def encode(self, record: Record, encoder: Encoder) -> Example:
        if media := [name for name in ("images", "videos", "audios") if record.get(name)]:
            raise DataError(f"the row has {' and '.join(media)}; pre-training is on text", fix="swift sft, on conversations")
        text = record.get("text") or self.settings.separator.join(
            content for message in record.get("messages") or () if (content := _plain(message.get("content")))
        )
        if not text:
            raise DataError(
                f"a row needs text; it has {', '.join(sorted(k for k in record if k != '_origin')) or 'nothing'}",
                fix='name the column, e.g. --columns \'{"body": "text"}\'',
            )
        return encoder.text(text)


def _plain(content: Any) -> str:
    """Text of a message's content: a string, or a list of parts of which the text ones count."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _last_run(weights: list[float]) -> list[float]:
    """Only the last stretch of trained tokens, which is the last assistant turn: turns are parted by the template's headers."""
    end = len(weights)
    while end and not weights[end - 1]:
        end -= 1
    start = end
    while start and weights[start - 1]:
        start -= 1
    return [0.0] * start + weights[start:end] + [0.0] * (len(weights) - end)
