"""What a dataset is like: lengths, turns, roles, languages, and what a max_length would do to it. Left of the torch line.

Shapes: N rows.
"""

from __future__ import annotations

import importlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from swift.api.contracts.data import Record
from swift.data.packing import best_fit_decreasing, efficiency

PERCENTILES = (50, 75, 90, 95, 99)
LANGUAGE_ROWS = 2000
"""Rows whose language is determined, spread evenly over the data."""
LANGUAGE_CHARACTERS = 1000
"""Characters of a row that are looked at for that."""
SURE = 0.8
"""Below this probability a language counts as unclear."""
PACK_ROWS = 200_000
"""Rows that are packed for a forecast, spread evenly; more would take long and change nothing."""
ROUND_TO = 64
CUT_SHARE = 0.01
"""Share of rows that a suggested max_length may cut: what `overlong: ask` drops without stopping."""
MEDIA = ("images", "videos", "audios")
LANGUAGE_PACKAGE = "py3langid"


@dataclass
class Content:
    """What rows hold.

    Attributes:
        characters: Of the texts, by row.
        turns: Messages of a row -> rows.
        has: tools, rejected, label, images, ... and "system message" -> rows.
        languages: ISO 639-1 code or "unclear" -> share of the rows looked at; empty where no library is there to tell.
        scripts: Unicode script -> share of the letters.
    """

    rows: int = 0
    characters: array[int] = field(default_factory=lambda: array("q"))
    turns: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    has: Counter[str] = field(default_factory=Counter)
    languages: dict[str, float] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)
    language_rows: int = 0


@dataclass(frozen=True)
class Forecast:
    """What one `max_length` does.

    Args:
        rows_cut: Rows that are longer.
        tokens_lost: Beyond max_length, where rows are truncated.
        packs: Packs of that length; `efficiency` is the share of their room that holds tokens.
        padded: The same share, were each row padded to max_length.
    """

    max_length: int
    rows_cut: int
    rows_cut_share: float
    tokens_lost: int
    tokens_lost_share: float
    packs: int
    efficiency: float
    padded: float


def text_of(record: Record) -> str:
    """The texts that people wrote: of users and assistants, or the text."""
    if "messages" not in record:
        return str(record.get("text", ""))
    return "\n".join(str(m.get("content") or "") for m in record["messages"] if m["role"] in ("user", "assistant"))


def content(records: Sequence[Record]) -> Content:
    """One pass over the rows."""
    found = Content()
    step = max(1, len(records) // LANGUAGE_ROWS)
    sample: list[str] = []
    for number, record in enumerate(records):
        found.rows += 1
        messages = record.get("messages") or ()
        roles = [m["role"] for m in messages]
        found.turns[len(messages)] += 1
        found.roles.update(roles)
        found.characters.append(sum(len(str(m.get("content") or "")) for m in messages) or len(record.get("text", "")))
        found.has["system message"] += "system" in roles or "developer" in roles
        found.has["tool calls"] += any(m.get("tool_calls") for m in messages)
        found.has["reasoning"] += any(m.get("reasoning_content") for m in messages)
        for name in ("text", "tools", "rejected", "label", "objects", *MEDIA):
            found.has[name] += record.get(name) not in (None, "", [])
        if number % step == 0:
            sample.append(text_of(record)[:LANGUAGE_CHARACTERS])
    found.has = +found.has
    found.scripts = scripts(sample)
    found.languages = languages(sample)
    found.language_rows = len(sample)
    return found


def languages(texts: Iterable[str]) -> dict[str, float]:
    """Language -> share of the texts, the largest first; empty without `py3langid`."""
    library = language_library()
    if library is None:
        return {}
    identifier = library.LanguageIdentifier.from_model_file(library.MODEL_FILE, norm_probs=True)
    found: Counter[str] = Counter()
    for text in texts:
        code, probability = identifier.classify(text) if any(map(str.isalpha, text)) else ("", 0.0)
        found[code if probability >= SURE else "unclear"] += 1
    return shares(found)


def language_library() -> ModuleType | None:
    try:
        return importlib.import_module(f"{LANGUAGE_PACKAGE}.langid")
    except ImportError:
        return None


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Unicode script -> share of the letters, the largest first."""
    found: Counter[str] = Counter()
    for text in texts:
        for letter, count in Counter(filter(str.isalpha, text)).items():
            found[script_of(letter)] += count
    return shares(found)


@lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """The first word of a letter's Unicode name: Latin, Cyrillic, CJK, Hiragana, Arabic, ..."""
    word = unicodedata.name(letter, "unnamed").split(" ")[0].split("-")[0]
    return "Latin" if word in ("FULLWIDTH", "FEMININE", "MASCULINE") else word if word == "CJK" else word.capitalize()


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in Counter(counts).most_common()} if total else {}


# ---------------------------------------------------------------------------------------------------------------- lengths


def percentiles(lengths: np.ndarray) -> dict[str, int]:
    """min, p50, ..., max of int [N]; each is the length of some row."""
    named = {f"p{p}": int(np.percentile(lengths, p, method="higher")) for p in PERCENTILES}
    return {"min": int(lengths.min()), **named, "max": int(lengths.max()), "mean": round(float(lengths.mean()))}


def suggest(lengths: np.ndarray, context_length: int = 0) -> tuple[int, str]:
    """(max_length, why): the longest row, unless a few outliers would make it twice as long as the others need.

    Args:
        lengths: int [N], tokens.
        context_length: Tokens that the model takes; 0: not known.
    """
    longest, p99 = int(lengths.max()), int(np.percentile(lengths, 100 * (1 - CUT_SHARE), method="higher"))
    value, why = longest, "no row is cut"
    if longest > 2 * p99:
        cut = int(np.count_nonzero(lengths > p99))
        value, why = p99, f"cuts {cut} of {len(lengths)} rows; the longest has {longest} tokens"
    value = -(-value // ROUND_TO) * ROUND_TO
    if context_length and value > context_length:
        cut = int(np.count_nonzero(lengths > context_length))
        value, why = context_length, f"what the model takes; {cut} of {len(lengths)} rows are longer"
    return value, why


def candidates(lengths: np.ndarray, suggested: int, context_length: int = 0) -> list[int]:
    """max_lengths that are worth a look: powers of two from the median to the longest row, and the suggested one."""
    low, high = int(np.percentile(lengths, 50)), int(lengths.max())
    powers = [2**i for i in range(5, 24) if 2**i >= low and 2 ** (i - 1) < high]
    powers = [p for p in powers if not context_length or p <= context_length]
    return sorted({*powers[-6:], suggested})


def forecast(lengths: np.ndarray, max_length: int) -> Forecast:
    """Args:
    lengths: int [N], tokens.
    """
    over = lengths > max_length
    total = int(lengths.sum(dtype=np.int64))
    lost = int((lengths[over].astype(np.int64) - max_length).sum())
    kept = np.minimum(lengths, max_length)
    rows = kept if len(kept) <= PACK_ROWS else kept[np.linspace(0, len(kept) - 1, PACK_ROWS).astype(np.int64)]
    packs = best_fit_decreasing(rows, max_length)
    return Forecast(
        max_length, int(over.sum()), float(over.mean()), lost, lost / max(total, 1),
        round(len(packs) * len(kept) / len(rows)), efficiency(packs, rows, max_length),
        float(kept.sum(dtype=np.int64)) / (len(kept) * max_length),
    )  # fmt: skip


def histogram(lengths: np.ndarray, bins: int = 16) -> list[tuple[int, int, int]]:
    """(from, to, rows) of ranges that are equally wide up to the 99th percentile; the last one takes the rest."""
    low, high, longest = int(lengths.min()), int(np.percentile(lengths, 99, method="higher")), int(lengths.max())
    width = max(1, -(-(high - low + 1) // bins))
    edges = [*range(low, high + 1, width)]
    edges.append(edges[-1] + width)
    counts = [(a, b - 1, int(np.count_nonzero((lengths >= a) & (lengths < b)))) for a, b in pairwise(edges)]
    rest = int(np.count_nonzero(lengths >= edges[-1]))
    return [*counts, (edges[-1], longest, rest)] if rest else counts


def as_dict(found: Content) -> dict[str, Any]:
    """`found` as JSON data, with percentiles instead of every row."""
    return {
        "rows": found.rows,
        "characters": int(sum(found.characters)),
        "messages_per_row": {str(k): v for k, v in sorted(found.turns.items())},
        "roles": dict(found.roles.most_common()),
        "rows_with": dict(found.has.most_common()),
        "languages": found.languages,
        "scripts": found.scripts,
        "language_rows": found.language_rows,
    }
