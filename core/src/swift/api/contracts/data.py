"""What rows are, and what reads and encodes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = dict[str, Any]
"""One canonical row: `messages` (list of {"role", "content", ...}) or `text`, plus `tools`, `rejected`, `label`, `images`,
... and `_origin` = "file:line"."""

Example = dict[str, Any]
"""One tokenized row: `input_ids` (list of int) and `loss_weight` (list of float, same length; 0 = not trained on).

A row of several documents that belong together (chosen and rejected answer, query and passages) also has `segments`, the
tokens of each document in order (their sum is the length); the documents stay in one micro-batch and never see each other.
Numbers that belong to the row as a whole (KTO's label, a margin) stand in `values`: {name: float}.
"""


class DatasetReader(ABC):
    """Optional `impl` of a dataset: yields raw rows where files alone do not do."""

    @abstractmethod
    def rows(self, *, seed: int) -> Iterator[Mapping[str, Any]]: ...


class Encoder(ABC):
    """Given to `Objective.encode`: text and conversations to token ids, with what is trained on."""

    tokenizer: PreTrainedTokenizerBase

    @abstractmethod
    def chat(self, record: Record) -> Example:
        """The conversation through the chat template; `loss_weight` is 1 on assistant turns (or as the message says)."""

    @abstractmethod
    def text(self, text: str) -> Example:
        """Plain text, with the tokenizer's begin and end tokens; `loss_weight` is 1 everywhere."""
