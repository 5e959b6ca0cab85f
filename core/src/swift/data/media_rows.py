"""Rows with media: as text (tags, parts that chat templates read, placeholders as long as their medium), and their files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.api.contracts.data import Record
from swift.api.contracts.models import MediaProcessor, Medium
from swift.data.formats.columns import MEDIA
from swift.data.media import image_size, open_image
from swift.data.offsets import Span
from swift.errors import DataError

_MARK = "\u2063{}\u2063"
_MARKS = re.compile("\u2063(" + "|".join(MEDIA) + ")\u2063")
_TYPES = {"images": "image", "videos": "video", "audios": "audio"}


def with_marks(messages: Sequence[Mapping[str, Any]], record: Record, processor: MediaProcessor) -> list[dict[str, Any]]:
    """The messages with tags that stand for media changed into marks that no text holds.

    Raises:
        DataError: Media that the model does not take.
    """
    kinds = [name for name in MEDIA if record.get(name)]
    if foreign := [name for name in kinds if name not in processor.kinds]:
        raise DataError(f"the row has {' and '.join(foreign)}; this model takes {' and '.join(processor.kinds)} only",
                        fix="remove them from the row, or take another model")  # fmt: skip
    changed = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            for kind in kinds:
                content = content.replace(MEDIA[kind], _MARK.format(kind))
            message = {**message, "content": content}
        changed.append(dict(message))
    return changed


def number_of_marks(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(_MARKS.findall(m["content"])) for m in messages if isinstance(m.get("content"), str))


def as_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Contents as the lists of parts that templates of multimodal models read: {"type": "image"}, {"type": "text", "text"}."""
    return [{**m, "content": _parts(m["content"])} if isinstance(m.get("content"), str) else dict(m) for m in messages]


def _parts(content: str) -> list[dict[str, str]]:
    pieces = _MARKS.split(content)  # text, kind, text, kind, ..., text
    parts = []
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append({"type": _TYPES[piece]})
        elif piece or len(pieces) == 1:
            parts.append({"type": "text", "text": piece})
    return parts


def with_files(record: Record) -> list[dict[str, Any]]:
    """The record's messages with parts {"type": "image", "path": ...} in the place of tags, as engines take them."""
    files = {kind: iter(record.get(kind) or ()) for kind in MEDIA}
    changed = []
    for message in record["messages"]:
        content = message.get("content")
        if isinstance(content, str) and any(MEDIA[kind] in content for kind in MEDIA if record.get(kind)):
            for kind in MEDIA:
                if record.get(kind):
                    content = content.replace(MEDIA[kind], _MARK.format(kind))
            kinds = _MARKS.findall(content)
            paths = iter([next(files[kind]) for kind in kinds])
            content = [p if p["type"] == "text" else {**p, "path": next(paths)} for p in _parts(content)]
            message = {**message, "content": content}
        changed.append(dict(message))
    return changed


def as_strings(messages: Sequence[Mapping[str, Any]], processor: MediaProcessor) -> list[dict[str, Any]]:
    """Contents as text, the model's placeholders in it: for templates that know no parts."""
    return [
        {**m, "content": _MARKS.sub(lambda found: processor.placeholders[found[1]], m["content"])}
        if isinstance(m.get("content"), str) else dict(m)
        for m in messages
    ]  # fmt: skip


def expanded(
    text: str, spans: Sequence[Span], record: Record, processor: MediaProcessor, *, wanted: int | None
) -> tuple[str, list[Span]]:
    """The text with each placeholder as long as its medium, and the spans where they are then.

    Args:
        wanted: Media that the conversation holds; None: a part of it, with the first ones.

    Raises:
        DataError: The text has another number of placeholders, or a medium cannot be read.
    """
    kinds = {placeholder: kind for kind, placeholder in processor.placeholders.items()}
    found = list(re.finditer("|".join(map(re.escape, kinds)), text))
    if wanted is not None and len(found) != wanted:
        surplus = len(found) > wanted
        raise DataError(
            f"{wanted} media, but the chat template wrote {len(found)} placeholders ({' '.join(kinds)})",
            fix="remove such words from the texts of the row" if surplus else "--template with one that knows media",
        )
    used = dict.fromkeys(processor.kinds, 0)
    pieces, moves, last = [], [], 0
    for place in found:
        kind = kinds[place[0]]
        files = record.get(kind) or ()
        if used[kind] == len(files):
            raise DataError(f"{len(files)} {kind}, but more placeholders ({place[0]})", fix="remove such words from the texts")
        long = processor.text(kind, image_size(files[used[kind]]))
        used[kind] += 1
        pieces += [text[last : place.start()], long]
        last = place.end()
        moves.append((last, len(long) - len(place[0])))

    def moved(position: int) -> int:
        return position + sum(by for end, by in moves if end <= position)

    return "".join([*pieces, text[last:]]), [(moved(start), moved(stop), weight) for start, stop, weight in spans]


@dataclass(frozen=True)
class RowMedia:
    """Where the media of a row are.

    Args:
        record: Gives the row's record, its media as files that are there; raises `DataError`.
        origin: Gives "file:line".
    """

    processor: MediaProcessor
    record: Callable[[], Record]
    origin: Callable[[], str]

    def of_documents(self, documents: Sequence[np.ndarray]) -> list[list[Medium]]:
        """Media of each document of the row (int [S] ids). A document has the first media of the row, as many as fill its
        placeholders: documents of a row are answers to the same prompt, or beginnings of one conversation.

        Raises:
            DataError: A file is missing, damaged, or another one than when the row was tokenized.
        """
        ids = sorted(self.processor.placeholder_ids)
        counts = [int(np.isin(document, ids).sum()) for document in documents]
        if not any(counts):
            return [[] for _ in documents]
        try:
            record = self.record()
            media = [
                self.processor.medium(kind, open_image(file)) for kind in self.processor.kinds for file in record.get(kind, ())
            ]
        except DataError as error:
            raise DataError(f"{self.origin()}: {error.message}", fix=error.fix) from error
        ends = np.cumsum([0, *(medium.tokens for medium in media)]).tolist()
        if foreign := [count for count in counts if count not in ends]:
            raise DataError(
                f"{self.origin()}: its media take {ends[-1]} tokens now, and took {foreign[0]} when the row was tokenized: a "
                "file was changed",
                fix="start the run anew: rows of files that were changed are tokenized again",
            )
        return [media[: ends.index(count)] for count in counts]
