"""Media of token rows as tensors of a batch, made from the files when the batch is made. Right of the torch line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from swift.api.contracts.models import Medium
from swift.data.media_rows import RowMedia


def add_media(
    inputs: dict[str, torch.Tensor], documents: Sequence[np.ndarray], document_of: np.ndarray, row_media: Sequence[RowMedia],
    documents_per_row: Sequence[int],
) -> None:  # fmt: skip
    """Put the tensors of the media into a batch's inputs, and give `position_ids` the model's further axes.

    Args:
        documents: int [S] ids of each.
        document_of: int [B, S], the document of each position, -1 on padding.
        row_media: Of each row.
    """
    processor = row_media[0].processor
    media: list[list[Medium]] = []
    start = 0
    for row, count in zip(row_media, documents_per_row, strict=True):
        media += row.of_documents(documents[start : start + count])
        start += count
    if processor.axes:
        further = torch.zeros(processor.axes, *document_of.shape, dtype=torch.int64)
        for number, (ids, own) in enumerate(zip(documents, media, strict=True)):
            positions = processor.positions(torch.from_numpy(np.ascontiguousarray(ids, np.int64)), _joined(own))
            further[:, torch.from_numpy(document_of == number)] = positions
        inputs["position_ids"] = torch.cat([inputs["position_ids"][None], further])
    inputs.update(_joined([medium for own in media for medium in own]))


def _joined(media: Sequence[Medium]) -> Mapping[str, Any]:
    return {name: torch.cat([medium.tensors[name] for medium in media]) for name in (media[0].tensors if media else ())}
