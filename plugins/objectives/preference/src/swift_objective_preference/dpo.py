"""Direct preference optimization over pairs of answers.

Shapes: B rows of the layout, S positions, D documents (2 N), N pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swift.api import Batch, DataError, Encoder, Example, LossSum, Objective, Record
from swift.api.ops import label_log_probs
from swift_objective_preference.losses import Pairs, divergence_score, preference_loss


class DPO(Objective):
    """A row is two documents, prompt with chosen and prompt with rejected answer; the loss is a sum over pairs."""

    def encode(self, record: Record, encoder: Encoder) -> Example:
        """Trained on are the assistant's turns of both answers. Raises `DataError` for a row that is no pair."""
        prompt, chosen, rejected = split_pair(record)
        if [_said(m) for m in chosen] == [_said(m) for m in rejected]:
            raise DataError("chosen and rejected are the same: there is nothing to prefer", fix="remove the row")
        asked = [m if m["role"] != "assistant" else {**m, "loss_weight": 0.0} for m in prompt]
        plain = all(m["role"] != "assistant" for m in prompt)
        # The record itself, where it will do: the encoder may have it ready.
        first = encoder.chat(record if plain else {**record, "messages": [*asked, *chosen]})
        second = encoder.chat({**record, "messages": [*asked, *rejected]})
        for name, example in (("chosen", first), ("rejected", second)):
            if len(example.get("segments", ())) > 1:
                raise DataError(f"the {name} answer became several documents", fix="--template.history all")
            if not any(example["loss_weight"][1:]):
                raise DataError(f"nothing of the {name} answer is trained on", fix="fill it in, or remove the row")
        return {
            "input_ids": [*first["input_ids"], *second["input_ids"]],
            "loss_weight": [*first["loss_weight"], *second["loss_weight"]],
            "segments": [len(first["input_ids"]), len(second["input_ids"])],
        }

    def count(self, batch: Batch) -> int:
        return batch.num_rows

    def reference(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> dict[str, Tensor]:
        of_tokens = label_log_probs(
            model, batch.inputs, batch.labels, memory_budget=memory_budget, label_positions=batch.label_positions
        )
        return {"log_probs": sum_documents(of_tokens * token_weights(batch, self.settings.ld_alpha), batch)}

    def loss(self, model: nn.Module, batch: Batch, *, memory_budget: int) -> LossSum:
        of_tokens = label_log_probs(
            model, batch.inputs, batch.labels, memory_budget=memory_budget, label_positions=batch.label_positions
        )
        own = sum_documents(of_tokens * token_weights(batch, self.settings.ld_alpha), batch)
        base = batch.reference.get("log_probs", torch.zeros_like(own))
        likelihood, length = (sum_documents(x, batch) for x in (of_tokens * label_weights(batch), label_weights(batch)))
        ratio = own - base
        score = divergence_score(ratio, self.settings)
        pairs = Pairs(ratio[0::2], ratio[1::2], score[0::2], score[1::2], length[0::2], length[1::2], likelihood[0::2])
        counts = slice(batch.num_rows)  # none of a micro-batch that only keeps ranks in step
        rewards = self.settings.beta * ratio.detach()
        chosen, rejected = rewards[0::2][counts], rewards[1::2][counts]
        metrics = {
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
            "rewards/accuracies": (chosen > rejected).float().sum(),
            "logps/chosen": own.detach()[0::2][counts].sum(),
            "logps/rejected": own.detach()[1::2][counts].sum(),
        }
        return LossSum(preference_loss(pairs, self.settings)[counts].sum(), metrics)


def split_pair(record: Record) -> tuple[list[Record], list[Record], list[Record]]:
    """(prompt, chosen answer, rejected answer), each a list of messages.

    One rejected message stands for the last one of the conversation; several stand for all after the user's last turn, or,
    beginning with a tool's result, for what follows the call that both have in common.
    """
    messages, rejected = record.get("messages"), record.get("rejected")
    if not messages or not rejected:
        lacking = "rejected" if messages else "messages"
        raise DataError(
            f"a row needs a chosen and a rejected answer; it has no {lacking}",
            fix='name the columns, e.g. --columns \'{"good": "chosen", "bad": "rejected"}\'',
        )
    if any(m["role"] == "user" for m in rejected):
        raise DataError("the rejected answer has turns of the user", fix="give both the same messages up to the last answer")
    start = len(messages) - 1
    if len(rejected) > 1:
        start = max((i + 1 for i, m in enumerate(messages) if m["role"] == "user"), default=0)
        if rejected[0]["role"] == "tool":
            start = next((i for i in range(start, len(messages)) if messages[i]["role"] == "tool"), start)
    prompt, chosen = list(messages[:start]), list(messages[start:])
    if not any(m["role"] == "assistant" for m in chosen):
        raise DataError("the conversation has no answer of the assistant at its end", fix="fill it in, or remove the row")
    return prompt, chosen, list(rejected)


def _said(message: Record) -> tuple[object, ...]:
    return tuple(message.get(key) for key in ("role", "content", "reasoning_content", "tool_calls"))


def label_weights(batch: Batch) -> Tensor:
    """[B, S] float32: 0 where there is no label."""
    counts = (batch.labels != -100).float()
    return counts if batch.loss_weight is None else counts * batch.loss_weight.float()


def token_weights(batch: Batch, ld_alpha: float | None) -> Tensor:
    """[B, S] factor of each label; LD-DPO (arXiv:2409.06411) weighs those beyond the shorter answer's length by `ld_alpha`."""
    weights = label_weights(batch)
    if ld_alpha is None:
        return weights
    counts = (batch.labels != -100).long()
    lengths = sum_documents(counts, batch)
    before = lengths.cumsum(0) - lengths
    document = _document_of(batch)
    place = counts.flatten().cumsum(0) - before[document]  # 1, 2, ... over the labels of each document
    shared = lengths.view(-1, 2).amin(1).repeat_interleave(2)[document]
    return torch.where((place > shared).view_as(weights), ld_alpha * weights, weights)


def sum_documents(values: Tensor, batch: Batch) -> Tensor:
    """[B, S], 0 outside of documents -> [D]."""
    assert batch.document_rows is not None
    return values.new_zeros(len(batch.document_rows)).index_add(0, _document_of(batch), values.flatten())


def _document_of(batch: Batch) -> Tensor:
    """[B * S]; padding counts to document 0."""
    assert batch.documents is not None
    return batch.documents.flatten().clamp(min=0)
