"""Contract of objectives: real batches of a real tiny model, with a reference model where one is needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from swift.api import Batch, Example, Objective, Record
from swift.data.batches import Layout, TokenRow, collate
from swift.data.encode import ChatEncoder
from swift.plugins.loading import load_object
from swift.testing.descriptor import DescriptorContract
from swift.testing.tiny import CONVERSATIONS, byte_tokenizer, tiny_folder

LAYOUTS: tuple[Layout, ...] = ("padded", "padding_free")


def batch_of(*examples: Example, layout: Layout = "padding_free", silent: bool = False) -> Batch:
    """One micro-batch, as the loader makes it."""
    rows = [
        TokenRow(
            np.array(e["input_ids"]), np.array(e["loss_weight"], np.float32), e.get("segments"), e.get("values") or {}
        )
        for e in examples
    ]  # fmt: skip
    return collate(rows, layout, silent=silent)


class ObjectiveContract(DescriptorContract):
    """The loss is a sum over what is counted: additive over rows, zero where nothing is labelled, with a gradient.

    Attributes:
        records: Canonical rows to encode, where neither conversations (with a rejected answer, where the spec's columns name
            it) nor plain texts are what the objective reads.
    """

    records: ClassVar[Sequence[Record]] = ()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
        folder = tiny_folder(tmp_path_factory.mktemp("base"))
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()

    @pytest.fixture(scope="class")
    @classmethod
    def frozen(cls, model: nn.Module) -> nn.Module:
        """A reference model with answers of its own."""
        other = copy.deepcopy(model).eval().requires_grad_(False)
        noise = torch.Generator().manual_seed(0)
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
        return other

    @pytest.fixture
    def asked(self, objective: Any, spec: Any, frozen: nn.Module) -> Callable[[Batch], Batch]:
        """Puts into a batch what the objective asks of a reference model."""

        def ask(batch: Batch) -> Batch:
            if not spec.requires_reference:
                return batch
            with torch.no_grad():
                return replace(batch, reference=objective.reference(frozen, batch, memory_budget=1 << 28))

        return ask

    @pytest.fixture
    def objective(self, spec: Any, settings: Any) -> Any:
        return load_object(spec.impl)(settings, spec.name)

    def rows(self, spec: Any) -> list[Record]:
        texts = [{"text": "Some text. " * (n + 1)} for n in range(8)]
        chats = copy.deepcopy(CONVERSATIONS)
        for number, chat in enumerate(chats):  # of different lengths
            chat["messages"][0]["content"] += " Please." * number
        if "rejected" in spec.columns:
            for number, chat in enumerate(chats):
                chat["rejected"] = [{"role": "assistant", "content": "I do not know." + " Sorry." * (number % 3)}]
        return list(self.records or (chats if spec.chat_template else texts))

    def examples(self, objective: Any, spec: Any) -> list[Any]:
        encoder = ChatEncoder(byte_tokenizer())
        return [objective.encode(copy.deepcopy(row), encoder) for row in self.rows(spec)]

    def test_examples_are_well_formed(self, objective: Any, spec: Any) -> None:
        for example in self.examples(objective, spec):
            ids, weights = len(example["input_ids"]), len(example["loss_weight"])
            assert ids == weights > 0, f"{ids} input_ids, {weights} loss_weight"
            assert any(example["loss_weight"]), "nothing is trained on"
            documents = sum(example.get("segments", [ids]))
            assert documents == ids, f"the segments hold {documents} tokens of {ids}"

    def test_the_columns_are_enough(self, objective: Any, spec: Any) -> None:
        """The planner and the data checks ask rows for the columns that the spec names, and for no others."""
        encoder = ChatEncoder(byte_tokenizer())
        named = {name for column in spec.columns for name in column.split("|")}
        for row in self.rows(spec):
            whole = objective.encode(copy.deepcopy(row), encoder)
            try:
                part = objective.encode({key: copy.deepcopy(value) for key, value in row.items() if key in named}, encoder)
            except Exception as error:
                pytest.fail(
                    f"encode needs more of a row than the spec's columns {spec.columns}: {type(error).__name__}: {error}"
                )
            assert list(part["input_ids"]) == list(whole["input_ids"]), (
                f"encode reads more of a row than the spec's columns {spec.columns}: the tokens differ without the rest"
            )

    def test_loss_is_a_sum_over_rows(self, objective: Any, spec: Any, model: nn.Module, asked: Any) -> None:
        """However the rows are laid out, and whatever their documents are padded to or joined with."""
        examples = self.examples(objective, spec)[:3]
        apart = sum(self.total(objective, model, asked(batch_of(example))) for example in examples)
        for layout in LAYOUTS:
            together = self.total(objective, model, asked(batch_of(*examples, layout=layout)))
            assert together == pytest.approx(apart, rel=1e-4), (
                f"the loss of {len(examples)} {layout} rows is {together:.5f}, not {apart:.5f}, the sum of their losses"
            )

    def test_what_is_counted_is_a_sum_over_rows(self, objective: Any, spec: Any) -> None:
        """By the count of a step the loop divides: the layout must not change it, and a rank's filler counts nothing."""
        examples = self.examples(objective, spec)[:3]
        apart = sum(objective.count(batch_of(example)) for example in examples)
        assert apart > 0, "nothing is counted, so that the loss is divided by nothing"
        for layout in LAYOUTS:
            together = objective.count(batch_of(*examples, layout=layout))
            assert together == apart, f"{together} is counted in {len(examples)} {layout} rows, {apart} in each alone"
            filler = objective.count(batch_of(examples[0], layout=layout, silent=True))
            assert filler == 0, f"{filler} is counted in a {layout} micro-batch whose labels are all masked"

    def test_memory_budget_does_not_change_the_loss(self, objective: Any, spec: Any, model: nn.Module, asked: Any) -> None:
        one = asked(batch_of(self.examples(objective, spec)[0]))
        large, small = (self.total(objective, model, one, memory_budget=b) for b in (1 << 28, 4096))
        assert small == pytest.approx(large, rel=1e-5), "the loss depends on the memory budget"

    def test_weights_of_labels_count(self, objective: Any, spec: Any, model: nn.Module, asked: Any) -> None:
        example = self.examples(objective, spec)[0]
        if len(example.get("segments", ())) > 1:
            pytest.skip("a loss over documents, not labels")
        batch = batch_of(example)
        half = torch.arange(batch.labels.numel()).reshape(batch.labels.shape) % 2
        weighted = asked(replace(batch, loss_weight=2.0 * half))
        labels = batch.labels.masked_fill(half == 0, -100)
        dropped = asked(replace(batch, labels=labels, num_labels=int((labels != -100).sum())))
        got, want = self.total(objective, model, weighted), 2 * self.total(objective, model, dropped)
        assert got == pytest.approx(want, rel=1e-5), "loss_weight of the batch is not what the labels are multiplied with"

    def test_nothing_labelled_is_zero_with_a_gradient(self, objective: Any, spec: Any, model: nn.Module, asked: Any) -> None:
        filler = asked(batch_of(self.examples(objective, spec)[0], silent=True))
        total = objective.loss(model, filler, memory_budget=1 << 28).total
        assert float(total.detach()) == 0.0, f"the loss of no label is {float(total.detach())}, not 0"
        assert total.requires_grad, "the loss of no label has no gradient: a rank without labels must take part in the backward"

    def test_a_reference_is_announced(self, objective: Any, spec: Any) -> None:
        """Only where the spec says so is there a reference model, and `reference` is called."""
        asks = type(objective).reference is not Objective.reference
        assert asks == spec.requires_reference, (
            "`reference` is defined, but the spec does not say requires_reference: it is never called"
            if asks else "the spec says requires_reference, but `reference` asks nothing of it"
        )  # fmt: skip

    def total(self, objective: Any, model: nn.Module, batch: Batch, *, memory_budget: int = 1 << 28) -> float:
        return float(objective.loss(model, batch, memory_budget=memory_budget).total.detach())
