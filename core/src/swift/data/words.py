"""Ids of texts from a memory of words: byte-level BPE cuts a text by a pattern and makes of equal words equal ids.

The tokenizers library remembers words too, but cuts the text anew with the bookkeeping of offsets, which is most of its time.
Here the pattern is read from the tokenizer and run over texts of a small alphabet, in which its character classes can be
written out; whatever else a tokenizer or a text has is not answered, and is left to the library.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

from swift.data.offsets import BYTE_LEVEL, Anchor, is_byte_level

MAX_WORDS = 1 << 16
"""Words that are remembered."""
MAX_WORD = 64
"""Characters of a word that is remembered."""

_ALPHABET = [*map(chr, range(0x100)), *map(chr, range(0x2010, 0x2028))]
"""Latin-1, dashes, quotation marks, bullets, ellipses: stable since Unicode began, and left alone by NFC."""
_SPACES = "\t\n\v\f\r \x85\xa0"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ByteLevel cuts by where it has `use_regex`."""
_SET = re.compile(r"\\p\{(L[ultmo]?|N[dlo]?|M|P|S)\}|\\s")
_ATOM = re.compile(r"\[(?:\\.|[^\]\\])+\]|\\p\{\w+\}|\\.")
_SYNTAX = re.compile(
    rf"(?:\[\^?(?:{_SET.pattern}|\\[rnt]|\\\W|[^\\\[\]&]|&(?!&))+\]|{_SET.pattern}|\\S|\\[rnt]|\\\W|\(\?i:[a-z'|]+\)|\(\?[:!=]|"
    r"[|)]|(?:[?*+]\??|\{\d+(?:,\d*)?\})(?![?*+])|[^\\\[\].^$(){}?*+])*"
)
"""What means the same to Oniguruma and to Python."""


class WordIds:
    """Ids that a `tokenizers.Tokenizer` gives to texts, without special tokens of its post-processor.

    Args:
        cuts: Patterns that texts are cut by, one after another. Each piece, and what stands between pieces, is a word.
        added: Added token -> id.
    """

    def __init__(self, model: Any, cuts: Sequence[re.Pattern[str]], added: dict[str, int]) -> None:
        self._cuts, self._added = cuts, added
        longest_first = sorted(added, key=len, reverse=True)
        self._by_added = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._words = _Words(model)

    @classmethod
    def of(cls, backend: Any) -> WordIds | None:
        """None for a tokenizer that is not plain byte-level BPE, or cuts texts in a way that is not known here."""
        model = backend.model
        tokens = backend.get_added_tokens_decoder()
        kinds = {token.normalized for token in tokens.values()}  # the library looks for one kind after the other
        known = (
            type(model).__name__ == "BPE"
            and is_byte_level(backend)
            and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
            and all(model.token_to_id(c) is not None for c in BYTE_LEVEL)
            and (backend.normalizer is None or _state(backend.normalizer) == {"type": "NFC"})
            and not any(t.single_word or t.lstrip or t.rstrip or not t.content for t in tokens.values())
            and (kinds <= {False} or (kinds == {True} and backend.normalizer is None))
        )
        cuts = _cuts(_state(backend.pre_tokenizer)) if known and backend.pre_tokenizer is not None else None
        return cls(model, cuts, {t.content: i for i, t in tokens.items()}) if cuts else None

    def ids(self, text: str) -> tuple[list[int], list[Anchor]] | None:
        """Ids that spell the text, and where its added tokens begin and end. None for a text outside of the alphabet."""
        ids: list[int] = []
        anchors: list[Anchor] = []
        place = 0
        for number, part in enumerate(self._by_added.split(text)):
            anchors.append((place, len(ids)))
            place += len(part)
            if number % 2:
                ids.append(self._added[part])
            elif part.isascii() or _KNOWN.fullmatch(part):
                words = [part]
                for cut in self._cuts:
                    words = [word for piece in words for word in _pieces(cut, piece)] if len(words) > 1 else _pieces(cut, part)
                ids += chain.from_iterable(map(self._words.__getitem__, words))
            else:
                return None
        return ids, anchors


class _Words(dict[str, tuple[int, ...]]):
    def __init__(self, model: Any) -> None:
        self._model = model

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(token.id for token in self._model.tokenize("".join([BYTE_LEVEL[byte] for byte in word.encode()])))
        if len(word) <= MAX_WORD:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _pieces(cut: re.Pattern[str], text: str) -> list[str]:
    words: list[str] = cut.findall(text)
    return words if "".join(words) == text else [word for word in cut.split(text) if word]


def _state(part: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state


def _cuts(state: dict[str, Any]) -> list[re.Pattern[str]] | None:
    """What a pre-tokenizer cuts by; None where it does anything else."""
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    patterns = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                patterns.append(pattern)
            case {"type": "Digits", "individual_digits": individual}:
                patterns.append(r"\p{N}" if individual else r"\p{N}+")
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": by_words} if step is steps[-1]:
                patterns += [_GPT2] if by_words else []
            case _:
                return None
    if steps[-1]["type"] != "ByteLevel" or not all(map(_SYNTAX.fullmatch, patterns)):
        return None
    try:
        return [re.compile(f"({_ATOM.sub(_written_out, pattern)})") for pattern in patterns]
    except re.error:
        return None


def _written_out(atom: re.Match[str]) -> str:
    """Classes of characters as the characters of the alphabet."""
    if atom[0].startswith("["):
        return _SET.sub(_members, atom[0])
    if atom[0] == r"\S":
        return f"[^{_SPACES}]"
    return _SET.sub(lambda found: f"[{_members(found)}]", atom[0])


def _members(found: re.Match[str]) -> str:
    if not found[1]:
        return _SPACES
    members = [c for c in _ALPHABET if unicodedata.category(c).startswith(found[1])]
    return "".join(map(re.escape, members)) or "\uffff"  # which is not in the alphabet


_KNOWN = re.compile(f"[{''.join(map(re.escape, _ALPHABET))}]*")
