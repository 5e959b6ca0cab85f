"""Media of rows as they are written, tags that stand for them in the text, and grounding objects.

A medium in a record is text: a path, a URL, or a `data:` URI that holds the bytes. `swift.data.media` makes files of them.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from swift.api.contracts.data import Record
from swift.data.formats.columns import MEDIA
from swift.data.formats.values import kind, parsed
from swift.errors import DataError

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+=*\s*")
_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "SUQz", "ZkxhQ", "T2dnU", "AAAA")
"""How base64 of the headers of JPEG, PNG, GIF, RIFF (WebP, WAV, AVI), TIFF, MP3, FLAC, OGG and MP4 begins."""
_OBJECT_TAGS = {"ref": "<ref-object>", "bbox": "<bbox>"}


def media_list(value: Any, name: str) -> list[str]:
    value = parsed(value)
    if isinstance(value, (list, tuple)):
        return [media_item(item, name) for item in value if item is not None]
    return [media_item(value, name)] if value else []


def media_item(value: Any, name: str) -> str:
    """A path, a URL or a `data:` URI, from any way of writing a medium.

    Args:
        value: Text; bytes; a mapping with `bytes`, `path`, `url` or Anthropic's and OpenAI's `data`; or a PIL image.
        name: images, videos or audios.
    """
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"a path in {name} is empty", fix="give the path, or remove the entry")
        if len(value) >= 64 and value.startswith(_BASE64_STARTS) and _BASE64.fullmatch(value):
            return _uri("".join(value.split()))
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        if not value:
            raise DataError(f"an entry of {name} has no bytes", fix="give them, or remove the entry")
        return _uri(base64.b64encode(bytes(value)).decode("ascii"))
    if isinstance(value, Mapping):
        return _from_mapping(value, name)
    if hasattr(value, "save") and type(value).__module__.startswith("PIL."):
        sink = io.BytesIO()
        value.save(sink, format="PNG")
        return _uri(base64.b64encode(sink.getvalue()).decode("ascii"), "image/png")
    raise DataError(f"an entry of {name} is {kind(value)}; it is a path, a URL, bytes or base64",
                    fix="write the path of the file")  # fmt: skip


def _from_mapping(value: Mapping[str, Any], name: str) -> str:
    content = value.get("bytes", value.get("data"))
    if isinstance(content, str):
        if content.startswith("data:"):
            return content
        declared = value.get("media_type") or ("audio/" + value["format"] if isinstance(value.get("format"), str) else "")
        try:
            base64.b64decode("".join(content.split()), validate=True)
        except binascii.Error as error:
            raise DataError(f"bytes in {name} are not base64: {error}", fix="encode the file's bytes as base64") from None
        return _uri("".join(content.split()), declared or "application/octet-stream")
    if content:
        return media_item(content, name)
    for key in ("path", "url", "image_url", "image", "video", "audio", "file"):
        if value.get(key):
            return media_item(value[key], name)
    keys = ", ".join(map(str, value)) or "nothing"
    raise DataError(f"an entry of {name} holds {keys}, but neither path, url nor bytes", fix='write {"path": ...}')


def _uri(content: str, media_type: str = "application/octet-stream") -> str:
    return f"data:{media_type};base64,{content}"


def fit_tags(record: Record, conversations: Sequence[list[dict[str, Any]]], *, strict: bool) -> bool:
    """Make as many tags as there are media; True where tags had to be put in.

    Tags that are missing are put in front of the first user's turn of the first conversation.

    Args:
        conversations: All lists of messages that may hold tags.
        strict: A tag without a medium is an error; else it is text that happens to look like one.

    Raises:
        DataError: There are more tags than media.
    """
    added = ""
    for name, tag in MEDIA.items():
        media = len(record.get(name, ()))
        tags = sum(message["content"].count(tag) for messages in conversations for message in messages)
        if tags > media and (media or strict):
            raise DataError(
                f"{tags} {tag} tags, but {media} {name}", fix=f"add the missing {name}, or remove the surplus {tag}"
            )
        added += tag * (media - tags)
    if not added:
        return False
    asked = next((m for m in conversations[0] if m["role"] == "user"), None)
    if asked is None:
        raise DataError("there are media, but no message of the user that could hold them", fix="add a user's message")
    asked["content"] = added + asked["content"]
    return True


def check_objects(objects: Any, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Grounding: {"ref": [names], "bbox": [[x1, y1, x2, y2] or [x, y]]}, one for each `<ref-object>` and `<bbox>`."""
    objects = parsed(objects)
    if not isinstance(objects, Mapping):
        raise DataError(f"objects is {kind(objects)}", fix='write {"ref": [...], "bbox": [[x1, y1, x2, y2], ...]}')
    for key, tag in _OBJECT_TAGS.items():
        entries = objects.get(key)
        entries = [] if entries is None else entries
        if not isinstance(entries, (list, tuple)):
            raise DataError(f"objects.{key} is {kind(entries)}; it is a list", fix='write {"ref": [...], "bbox": [[...]]}')
        tags = sum(message["content"].count(tag) for message in messages)
        if tags != len(entries):
            raise DataError(f"{tags} {tag} tags, but {len(entries)} entries in objects.{key}",
                            fix=f"write one {tag} for each entry")  # fmt: skip
    for number, box in enumerate(objects.get("bbox") or (), 1):
        _check_box(box, number)
    return dict(objects)


def _check_box(box: Any, number: int) -> None:
    numbers = isinstance(box, (list, tuple)) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or len(box) not in (2, 4):
        raise DataError(f"box {number} is {box!r}", fix="a box is [x1, y1, x2, y2], a point [x, y], in numbers")
    if any(v < 0 or v != v or v == float("inf") for v in box):
        raise DataError(
            f"box {number} is {box!r}: a coordinate is negative or no number", fix="count from the upper left corner"
        )
    if len(box) == 4 and (box[0] > box[2] or box[1] > box[3]):
        x1, x2 = sorted(box[::2])
        y1, y2 = sorted(box[1::2])
        raise DataError(f"box {number} is {box!r}: its corners are not ordered", fix=f"write {[x1, y1, x2, y2]}")
