"""Where tokens begin and end in a text, from the bytes that each token stands for. Proven for each row, or not answered."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
Span = tuple[int, int, float]
"""(start, stop, weight), in characters."""
Anchor = tuple[int, int]
"""A place where a token begins: (characters, tokens) in front of it."""


class TokenBytes:
    """The bytes of every token of a fast tokenizer: asking it for ids alone is a third faster than for ids and offsets.

    Args:
        backend: A `tokenizers.Tokenizer`. Byte-level ones are read exactly; of others what stands in a token is taken,
            with spaces for metaspaces.
    """

    def __init__(self, backend: Any) -> None:
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._bytes: list[bytes] = [b""] * (max(vocabulary.values(), default=-1) + 1)
        convert = _byte_level if is_byte_level(backend) else _metaspace
        for token, i in vocabulary.items():
            self._bytes[i] = convert(token)
        for i, added in backend.get_added_tokens_decoder().items():
            byte = convert is _metaspace and _BYTE_TOKEN.fullmatch(added.content)
            self._bytes[i] = convert(added.content) if byte else added.content.encode()
        self._sizes = list(map(len, self._bytes))

    def weights(
        self, text: str, ids: Sequence[int], spans: Sequence[Span], anchors: Sequence[Anchor] = ()
    ) -> list[float] | None:
        """Weight of each token. None where the tokens do not spell the text byte by byte, or a span cuts through one.

        Args:
            spans: In the order of the text.
            anchors: Known places in the order of the text, the first one its beginning; they also say that it is known to be
                spelled.
        """
        if not anchors and b"".join(map(self._bytes.__getitem__, ids)) != text.encode():
            return None
        weights: list[float] = []
        known = (0, 0)
        for start, stop, weight in spans:
            bounds = []
            for place in (start, stop):
                if anchors:
                    known = max(known, anchors[bisect_right(anchors, (place, len(ids))) - 1])
                character, token = known
                left = place - character if text.isascii() else len(text[character:place].encode())
                while left > 0:
                    left -= self._sizes[ids[token]]
                    token += 1
                if left:
                    return None
                known = (place, token)
                bounds.append(token)
            weights += [0.0] * (bounds[0] - len(weights)) + [weight] * (bounds[1] - bounds[0])
        return weights + [0.0] * (len(ids) - len(weights))


def is_byte_level(backend: Any) -> bool:
    """Whether tokens are written in GPT-2's byte-level alphabet."""
    return backend.decoder is not None and b'"ByteLevel"' in backend.decoder.__getstate__()


def weights_by_offsets(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[float]:
    """Weight of each token, from the offsets that the tokenizer gives."""
    places = np.asarray(offsets, np.int64).reshape(-1, 2)
    weights = np.zeros(len(places), np.float32)
    for start, stop, weight in spans:
        # A whitespace token in front of the span may have been trimmed to the empty (start, start): the second
        # condition leaves it out.
        weights[(places[:, 0] >= start) & (places[:, 1] > start) & (places[:, 0] < stop)] = weight
    return weights.tolist()


def _byte_alphabet() -> list[str]:
    """Byte -> character of GPT-2's byte-level alphabet: printable bytes stand for themselves, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(rest)) for b in range(256)]


BYTE_LEVEL = _byte_alphabet()
_BYTES = {c: b for b, c in enumerate(BYTE_LEVEL)}


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[c] for c in token)
    except KeyError:
        return token.encode()


def _metaspace(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace("▁", " ").encode()
