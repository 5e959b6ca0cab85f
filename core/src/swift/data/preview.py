"""Token rows as people can read them: text of each token, what is trained on, and the media. Left of the torch line.

Shapes: S tokens of a row.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.text import Text

from swift.api.contracts.data import Example, Record
from swift.data.media import open_image
from swift.errors import DataError
from swift.plan.render import bytes_of

MEDIA = ("images", "videos", "audios")
REPEATED = 8
"""So many equal special tokens in a row (the places of an image) are shown as one with a count."""
OPEN, CLOSE = "⟦", "⟧"
"""Around what is trained on, where there are no colours."""
THUMBNAIL = (384, 256)
"""Pixels that an image takes at most in a page."""


@dataclass(frozen=True, slots=True)
class Token:
    """Args:
    ids: More than one where a character is spread over several tokens, or `count` equal ones are shown as one.
    weight: Of the loss; 0 is not trained on.
    """

    ids: tuple[int, ...]
    text: str
    weight: float
    special: bool = False
    count: int = 1


@dataclass(frozen=True)
class Medium:
    """An image, a video or an audio of a row.

    Args:
        picture: A small PNG; b"" where there is none to show.
        fault: Why it cannot be shown.
    """

    kind: str
    name: str
    size: str = ""
    picture: bytes = b""
    fault: str = ""


@dataclass(frozen=True)
class Document:
    """A stretch of tokens that belong together; a row of a preference has one for each answer."""

    title: str
    tokens: list[Token]
    """Perhaps only the first ones."""
    length: int
    trained: int
    """Tokens with a loss."""


@dataclass(frozen=True)
class PreviewRow:
    origin: str
    documents: list[Document]
    media: list[Medium] = field(default_factory=list)
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return sum(d.length for d in self.documents)


def preview_row(record: Record, example: Example, tokenizer: Any) -> PreviewRow:
    """A record with the tokens that an objective made of it."""
    values = dict(example.get("values") or {})
    return of_tokens(
        example["input_ids"], example["loss_weight"], tokenizer, segments=example.get("segments"), values=values,
        origin=str(record.get("_origin", "")), pair=bool(record.get("rejected")), media=media_of(record),
    )  # fmt: skip


def of_dataset(data: Any, tokenizer: Any, count: int = 3, limit: int = 1500) -> list[PreviewRow]:
    """The first rows of a `TokenDataset`, as they are trained on.

    Args:
        limit: Tokens of each document that are kept.
    """
    rows = []
    for i in range(min(count, len(data))):
        ids, weights = data[i]
        rows.append(
            of_tokens(
                ids, weights, tokenizer, segments=data.segments(i), values=data.values(i), origin=data.origin(i), limit=limit
            )
        )
    return rows


def of_tokens(
    ids: Sequence[int] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    tokenizer: Any,
    *,
    segments: Sequence[int] | np.ndarray | None = None,
    values: Mapping[str, float] | None = None,
    origin: str = "",
    pair: bool | None = None,
    media: Sequence[Medium] = (),
    limit: int = 0,
) -> PreviewRow:
    """Args:
    ids, weights: [S]
    segments: Tokens of each document; their sum is S.
    pair: The documents are a chosen and a rejected answer; None: two documents are taken for that.
    limit: Tokens of each document that are kept; 0: all.
    """
    ids, weights = [int(i) for i in ids], [float(w) for w in weights]
    lengths = [int(n) for n in segments] if segments is not None and len(segments) else [len(ids)]
    titles = (
        ["chosen", "rejected"]
        if len(lengths) == 2 and pair is not False
        else [f"document {n + 1}" for n in range(len(lengths))]
    )
    documents, start = [], 0
    for title, length in zip(titles if len(lengths) > 1 else [""], lengths, strict=True):
        kept = slice(start, start + min(length, limit or length))
        trained = sum(1 for weight in weights[start : start + length] if weight)
        documents.append(Document(title, list(tokens_of(ids[kept], weights[kept], tokenizer)), length, trained))
        start += length
    return PreviewRow(origin, documents, list(media), dict(values or {}))


def tokens_of(ids: Sequence[int], weights: Sequence[float], tokenizer: Any) -> Iterator[Token]:
    """Each token with the text that it adds. Tokens that are parts of one character stand together."""
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    for start, stop, text in _texts(ids, special, tokenizer):
        # A character whose tokens are not all trained on alike is shown as trained where its last token is.
        yield Token(tuple(ids[start:stop]), text, weights[stop - 1], ids[start] in special, _repeats(ids, start, stop))


def _repeats(ids: Sequence[int], start: int, stop: int) -> int:
    return stop - start if stop - start >= REPEATED and len(set(ids[start:stop])) == 1 else 1


def _texts(ids: Sequence[int], special: set[int], tokenizer: Any) -> Iterator[tuple[int, int, str]]:
    """(start, stop, text). Decoded with the tokens before, as the text of a token depends on them (sentencepiece's spaces)."""

    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    before, start, i = 0, 0, 0
    while i < len(ids):
        if ids[i] in special:
            if start < i:
                yield start, i, decode(ids[start:i])
            stop = i + 1
            while stop < len(ids) and ids[stop] == ids[i]:
                stop += 1
            stop = stop if stop - i >= REPEATED else i + 1
            yield i, stop, decode(ids[i : i + 1])
            before = start = i = stop
            continue
        i += 1
        known = decode(ids[before:start]) if start > before else ""
        text = decode(ids[before:i])
        if text.endswith("\ufffd") and i < len(ids) and i - start < 8:
            continue
        yield start, i, text[len(known) :]
        before, start = start, i
    if start < len(ids):
        yield start, len(ids), decode(ids[start:])


def media_of(record: Record) -> list[Medium]:
    """What a record shows besides text; faults are told, not raised."""
    found = []
    for kind in MEDIA:
        for item in record.get(kind) or ():
            name = Path(item).name if isinstance(item, str) and len(item) < 1024 else f"{kind[:-1]} in the row"
            size = ""
            if isinstance(item, str) and len(item) < 1024 and Path(item).is_file():
                size = bytes_of(Path(item).stat().st_size)
            if kind != "images":
                found.append(Medium(kind[:-1], name, size))
                continue
            try:
                image = open_image(item)
                shape = f"{image.width} x {image.height}"
                image = image.convert("RGB")
                image.thumbnail(THUMBNAIL)
                stream = io.BytesIO()
                image.save(stream, format="PNG", optimize=True)
                found.append(Medium("image", name, ", ".join(filter(None, (shape, size))), stream.getvalue()))
            except (DataError, OSError, ValueError) as error:
                found.append(Medium("image", name, size, fault=getattr(error, "message", str(error))))
    return found


def visible(text: str) -> str:
    """Control characters as pictures; line ends stay, with a mark."""
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text).replace("\n", "↵\n")


# --------------------------------------------------------------------------------------------------------------- terminal


def render(row: PreviewRow, console: Console, *, ids: bool = True, limit: int = 0) -> RenderableType:
    """What is trained on is green, the prompt dim; where there are no colours, it stands between marks.

    Args:
        limit: Tokens of a document that are shown; 0: all.
    """
    marks = console.color_system is None
    parts: list[RenderableType] = [Text(headline(row), style="bold")]
    for medium in row.media:
        parts.append(Text("  " + caption(medium), style="red" if medium.fault else "cyan"))
        if medium.picture and console.is_terminal and not marks:
            parts.append(thumbnail(medium.picture, min(48, console.width - 4)))
    for document in row.documents:
        if document.title:
            parts.append(Text(f"{document.title}: {document.length} tokens, {document.trained} trained on", style="bold"))
        shown = document.tokens[:limit] if limit else document.tokens
        parts.append(_marked(shown) if marks else _coloured(shown))
        if len(shown) < len(document.tokens):
            parts.append(Text(f"... {len(document.tokens) - len(shown)} more; --show 0 shows all", style="italic"))
        if ids:
            listed = " ".join(f"{t.ids[0]}x{t.count}" if t.count > 1 else " ".join(map(str, t.ids)) for t in shown)
            parts.append(Text("ids " + listed, style="dim"))
    return Group(*parts)


def headline(row: PreviewRow) -> str:
    trained = sum(d.trained for d in row.documents)
    values = "".join(f", {name} {value:g}" for name, value in row.values.items())
    return f"{row.origin or 'row'}: {row.length} tokens, {trained} trained on{values}"


def caption(medium: Medium) -> str:
    return f"{medium.kind} {medium.name}" + (f" ({medium.size})" if medium.size else "") + (
        f": {medium.fault}" if medium.fault else ""
    )  # fmt: skip


def _shown(token: Token) -> str:
    return visible(token.text) + (f" x{token.count}" if token.count > 1 else "")


def _coloured(tokens: Iterable[Token]) -> Text:
    text = Text(overflow="fold")
    weight = 0.0
    for token in tokens:
        if token.weight and token.weight not in (1.0, weight):
            text.append(f"×{token.weight:g} ", style="bold yellow")
        weight = token.weight
        style = ("green" if weight == 1.0 else "yellow") if weight else "dim"
        text.append(_shown(token), style=f"{style} reverse" if token.special else style)
    return text


def _marked(tokens: Iterable[Token]) -> Text:
    text = Text(overflow="fold")
    weight = 0.0
    for token in tokens:
        if token.weight != weight:
            text.append(CLOSE if weight else "")
            text.append((OPEN + ("" if token.weight == 1.0 else f"×{token.weight:g} ")) if token.weight else "")
        weight = token.weight
        text.append(_shown(token))
    text.append(CLOSE if weight else "")
    return text


def thumbnail(picture: bytes, width: int) -> Text:
    """Two pixels of an image in each character, upper and lower half."""
    image = open_image(picture).convert("RGB")
    height = max(2, round(image.height * width / image.width / 2) * 2)
    pixels = np.asarray(image.resize((width, min(height, 48))), np.uint8)
    text = Text()
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=False):
        for a, b in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", style="rgb({},{},{}) on rgb({},{},{})".format(*a, *b))
        text.append("\n")
    return text


# ------------------------------------------------------------------------------------------------------------------- HTML

STYLE = """<style>
.swift-row{border:1px solid #d8dee4;border-radius:8px;margin:1rem 0;overflow:hidden;color:#24292f;background:#fff}
.swift-row>header{background:#f6f8fa;border-bottom:1px solid #d8dee4;padding:.4rem .8rem;font:600 13px system-ui,sans-serif}
.swift-row h4{font:600 12px system-ui,sans-serif;margin:.6rem .8rem 0;color:#57606a}
.swift-row pre{margin:0;padding:.7rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.65 ui-monospace,monospace}
.swift-row figure{display:inline-block;margin:.7rem 0 0 .8rem;font:12px system-ui,sans-serif;color:#57606a}
.swift-row figure img{display:block;max-width:100%;border-radius:4px}
.swift-row .t{color:#6e7781;border-radius:2px}
.swift-row .t:nth-child(odd){background:#f6f8fa}
.swift-row .t.y{color:#0a3d1c;background:#d2f4dc}
.swift-row .t.y:nth-child(odd){background:#b8ecc8}
.swift-row .t.w{color:#4d3800;background:#fff0b8}
.swift-row .t.w:nth-child(odd){background:#ffe58a}
.swift-row .t.s{font-weight:600;outline:1px solid #afb8c1;outline-offset:-1px}
.swift-row .t:hover{background:#0969da;color:#fff}
.swift-row .e{opacity:.45}
.swift-key{font:13px system-ui,sans-serif;color:#57606a}
.swift-key .t{padding:0 .3rem}
@media (prefers-color-scheme:dark){.swift-page .swift-row{border-color:#30363d;color:#e6edf3;background:#0d1117}
.swift-page .swift-row>header{background:#161b22;border-color:#30363d}
.swift-page .t,.swift-page .t:nth-child(odd){color:#8b949e;background:#161b22}
.swift-page .t.y,.swift-page .t.y:nth-child(odd){color:#aff5b4;background:#12341f}
.swift-page .t.w,.swift-page .t.w:nth-child(odd){color:#f8e3a1;background:#3b2e08}}
</style>"""
KEY = (
    '<p class="swift-key swift-row" style="border:0;margin:0;background:none"><span class="t y">trained on</span> '
    '<span class="t w">trained on with another weight</span> <span class="t">not trained on</span> '
    '<span class="t s">special token</span>; the id and the weight show under the pointer.</p>'
)


def preview_html(rows: Iterable[PreviewRow]) -> str:
    """Rows as a piece of a page, with its style. Needs no other file and no script."""
    return "\n".join([STYLE, KEY, *map(_row_html, rows)])


def page(rows: Iterable[PreviewRow], title: str) -> str:
    """A whole page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>body{{max-width:64rem;margin:2rem auto;padding:0 1rem;"
        "font:15px/1.5 system-ui,sans-serif;color-scheme:light dark}</style>"
        f'<body class="swift-page"><h1>{html.escape(title)}</h1>{preview_html(rows)}</body></html>'
    )


def _row_html(row: PreviewRow) -> str:
    parts = [f"<header>{html.escape(headline(row))}</header>"]
    for medium in row.media:
        picture = base64.b64encode(medium.picture).decode("ascii")
        image = f'<img alt="{html.escape(medium.name)}" src="data:image/png;base64,{picture}">' if picture else ""
        parts.append(f"<figure>{image}<figcaption>{html.escape(caption(medium))}</figcaption></figure>")
    for document in row.documents:
        if document.title:
            parts.append(f"<h4>{document.title}: {document.length} tokens, {document.trained} trained on</h4>")
        more = document.length - sum(len(t.ids) for t in document.tokens)
        rest = f'<span class="e"> ... and {more:,} more tokens</span>' if more else ""
        parts.append("<pre>" + "".join(map(_token_html, document.tokens)) + rest + "</pre>")
    return f'<section class="swift-row">{"".join(parts)}</section>'


def _token_html(token: Token) -> str:
    kind = "t" + (" y" if token.weight == 1.0 else " w" if token.weight else "") + " s" * token.special
    ids = f"{token.ids[0]} ×{token.count}" if token.count > 1 else " ".join(map(str, token.ids))
    weight = "" if token.weight in (0.0, 1.0) else f", weight {token.weight:g}"
    text = html.escape(visible(token.text)).replace("↵", '<span class="e">↵</span>')
    count = f"<small> ×{token.count}</small>" if token.count > 1 else ""
    return f'<span class="{kind}" title="id {ids}{weight}">{text}{count}</span>'
