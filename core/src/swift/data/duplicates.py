"""Rows that repeat each other, and training rows that stand in the held-out data. Left of the torch line."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from swift.api.contracts.data import Record
from swift.data.formats.columns import MEDIA
from swift.errors import DataError

SHINGLE = 5
"""Words that near duplicates are compared by."""
PERMUTATIONS = 128
NGRAM = 13
"""Words in a row that training and held-out data must not share, or as much of a script that puts no spaces between words."""
COMMON = 10
"""An n-gram in more training rows than this is a phrase (a prompt's frame, a licence), not contamination."""

_HAN = r"\u3400-\u9fff\uf900-\ufaff"
_SYLLABLES = r"\u3040-\u30ff\uac00-\ud7af"  # kana, Hangul
_LETTERS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_UNSPACED = _HAN + _SYLLABLES + _LETTERS
_MARKS = r"\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0970-\u0dff"  # vowels of Hindi, ...: no \w to Python
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:[{_MARKS}]+[^\W{_UNSPACED}]*)*")
_WORD_WEIGHT = 60
_WEIGHTS = tuple((re.compile(f"[{script}]"), weight) for script, weight in ((_HAN, 38), (_SYLLABLES, 26), (_LETTERS, 15)))
"""Characters of a script without spaces against a word of 60: 13 words are 21 Chinese characters (1.6 a word in running text),
30 kana or Korean syllables, 52 Thai letters (4 a word), about the 50 letters that GPT-4's report compares by."""
_MEDIA_END = "\x1e"
_BATCH_WORDS = 1 << 18
_POWERS = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_LOW = np.uint64(0xFFFFFFFF)


def record_text(record: Record) -> str:
    """All of a record that makes it what it is. Where there are media, a digest of them stands in front: the same question
    about another image is another row."""
    parts = [record["text"]] if "text" in record else []
    parts += [_said(message) for message in record.get("messages", ())]
    parts += [f"rejected {_said(message)}" for message in record.get("rejected", ())]
    for name in ("positive", "negative", "candidates"):
        parts += [f"{name} {_said(message)}" for messages in record.get(name, ()) for message in messages]
    parts += [f"{name} {record[name]}" for name in ("label", "scores", "tools", "objects", "columns") if name in record]
    text = "\n".join(parts)
    media = [[name, record[name]] for name in MEDIA if record.get(name)]
    if media:
        digest = hashlib.sha256(json.dumps(media, default=str).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{digest}{_MEDIA_END}{text}"
    return text


def _said(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    reasoning = message.get("reasoning_content")
    said = f"{message['role']}: {message.get('content') or ''}"
    if reasoning:
        said += f"\n{reasoning}"
    return f"{said}\n{json.dumps(calls, ensure_ascii=False, default=str)}" if calls else said


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; in scripts without spaces each character is one."""
    return _WORD.findall(text.lower())


def find_duplicates(texts: Iterable[str], *, near: bool, threshold: float = 0.8) -> np.ndarray:
    """For each text the number of the earlier one that it repeats, or -1.

    Exact: the same but for white space, by 128-bit hashes. Near: an estimated Jaccard similarity of their sets of word
    5-grams of at least `threshold`, by MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman,
    "Mining of Massive Datasets", chapter 3), of the library datasketch. Signatures lie on disk; memory takes some 150 bytes
    (near: 2 kB) a text.

    Args:
        texts: As `record_text` gives them; read once.

    Returns:
        int64 [n]; a number that is not -1 is smaller than its index, and that of a text which repeats none.

    Raises:
        DataError: Near duplicates are asked for and datasketch is not installed.
    """
    return _near(texts, threshold) if near else _exact(texts)


def _exact(texts: Iterable[str]) -> np.ndarray:
    first: dict[bytes, int] = {}
    found = [first.setdefault(_hash(text), i) for i, text in enumerate(texts)]
    repeats = np.array(found, dtype=np.int64)
    repeats[repeats == np.arange(len(repeats))] = -1
    return repeats


def _hash(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _near(texts: Iterable[str], threshold: float) -> np.ndarray:
    try:
        datasketch = importlib.import_module("datasketch")
    except ImportError as error:
        raise DataError("near duplicates need the package datasketch",
                        fix='pip install "swift-llm-core[data]", or --deduplicate exact') from error  # fmt: skip
    lsh = datasketch.MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)  # tells how many bands serve the threshold best
    buckets: list[dict[int, list[int]]] = [{} for _ in range(lsh.b)]
    empty = datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    same: dict[bytes, int] = {}
    repeats: list[int] = []
    width = PERMUTATIONS * 4
    with tempfile.TemporaryFile() as signatures:
        rows: list[int] = []  # texts that repeat none, in the order of their signatures
        for i, text in enumerate(texts):
            key = _hash(text)
            if key in same:
                earlier = same[key]
                repeats.append(earlier if repeats[earlier] < 0 else repeats[earlier])
                continue
            same[key] = i
            sketch = empty.copy()
            sketch.update_batch(_shingles(text))
            signature = np.asarray(sketch.hashvalues, dtype=np.uint32)
            bands = [hash(signature[k * lsh.r : (k + 1) * lsh.r].tobytes()) for k in range(lsh.b)]
            match = -1
            for place in sorted({p for bucket, band in zip(buckets, bands) for p in bucket.get(band, ())}):
                signatures.seek(place * width)
                if np.mean(np.frombuffer(signatures.read(width), dtype=np.uint32) == signature) >= threshold:
                    match = rows[place]
                    break
            repeats.append(match)
            if match < 0:
                signatures.seek(len(rows) * width)
                signatures.write(signature.tobytes())
                for bucket, band in zip(buckets, bands):
                    bucket.setdefault(band, []).append(len(rows))
                rows.append(i)
    return np.array(repeats, dtype=np.int64)


def _shingles(text: str) -> list[int]:
    """32-bit hashes of the word 5-grams; a text of fewer words is one. Texts with other media share none."""
    media, _, said = text.rpartition(_MEDIA_END)
    found = words(said)
    hashes = (
        _rolling(_word_hashes(found), SHINGLE) if len(found) > SHINGLE else _rolling(_word_hashes(found), max(1, len(found)))
    )
    if media:
        hashes = hashes ^ np.uint64(int.from_bytes(_hash(media)[:8], "little"))
    mixed = hashes ^ (hashes >> np.uint64(32))
    return np.unique(mixed.astype(np.uint32)).tolist()


def _word_hashes(found: list[str]) -> np.ndarray:
    """uint64 [n]; the same in every process, unlike `hash`, so that borderline cases fall out alike in every run."""
    return _weighed(found) & _LOW


def _weighed(found: list[str]) -> np.ndarray:
    """uint64 [n]: the hash of each word below its weight."""
    return np.fromiter(map(_weighed_hash, found), dtype=np.uint64, count=len(found))


@functools.lru_cache(maxsize=1 << 17)
def _weighed_hash(word: str) -> int:
    weight = next((weight for script, weight in _WEIGHTS if script.match(word)), _WORD_WEIGHT)
    return weight << 32 | zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _rolling(hashes: np.ndarray, size: int) -> np.ndarray:
    """Hashes of all runs of `size` words: uint64 [n - size + 1]."""
    count = len(hashes) - size + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        total = total * _POWERS + hashes[offset : offset + count]
    return total


def _runs(found: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64, words int64) of the shortest runs worth `NGRAM` words, from each word on that begins one."""
    weighed = _weighed(found)
    reached = np.concatenate([np.zeros(1, np.int64), np.cumsum(weighed >> np.uint64(32)).astype(np.int64)])
    ends = np.searchsorted(reached, reached[:-1] + NGRAM * _WORD_WEIGHT)
    ends = ends[ends <= len(found)]  # they never fall, so that these belong to the first words
    count = len(ends)
    if not count:
        return np.zeros(0, dtype=np.uint64), ends
    # The sum of hash * P^place, shifted back by its first place: the same wherever a run stands. All is modulo 2^64.
    powers, back = (np.concatenate([np.ones(1, np.uint64), np.full(len(found) - 1, p, np.uint64)]) for p in (_POWERS, _INVERSE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((weighed & _LOW) * np.cumprod(powers))])
    return (sums[ends] - sums[:count]) * np.cumprod(back)[:count], ends - np.arange(count)


def contaminated(train: Iterable[str], held_out: Iterable[str]) -> dict[int, int]:
    """Training texts that stand in the held-out data: {number of the training text: number of the held-out text}.

    They are the same word for word, or share 13 words in a row without regard to case and punctuation (Brown et al. 2020,
    "Language Models are Few-Shot Learners", appendix C; n-grams in more than 10 training texts count as common phrases, as
    there), or as much of a script without spaces: 21 Chinese characters, 30 kana or Korean syllables, 52 Thai letters. Memory
    grows with the held-out texts only.

    Args:
        train: Read once.
        held_out: Read once, first.
    """
    whole: dict[bytes, int] = {}
    grams: dict[int, int] = {}
    for number, text in enumerate(held_out):
        whole.setdefault(_plain_hash(text), number)
        for gram in _runs(_compared(text))[0].tolist():
            grams.setdefault(gram, number)
    known = np.array(sorted(grams), dtype=np.uint64)
    found: dict[int, int] = {}
    hits: dict[int, list[int]] = {}
    for numbers, hashes, texts in _batches(train):
        for number, text in texts:
            if (held := whole.get(_plain_hash(text))) is not None:
                found[number] = held
        if not len(known) or not len(hashes):
            continue
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        shared = known[places] == hashes
        for gram, number in dict.fromkeys(zip(hashes[shared].tolist(), numbers[shared].tolist())):
            rows = hits.setdefault(gram, [])
            if len(rows) <= COMMON:
                rows.append(number)
    for gram, rows in hits.items():
        if len(rows) <= COMMON:
            for number in rows:
                found.setdefault(number, grams[gram])
    return dict(sorted(found.items()))


def _compared(text: str) -> list[str]:
    """Words of which runs are compared. The same words about other media are no repetition."""
    return words(text) if _MEDIA_END not in text else []


def _plain_hash(text: str) -> bytes:
    return _hash(" ".join(_compared(text)) or text)


def _batches(texts: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]]:
    """(text of each run worth 13 words, its hash, texts), some texts at a time."""
    numbered = iter(enumerate(texts))
    for first in numbered:
        batch, found, lengths = [first], _compared(first[1]), []
        lengths.append(len(found))
        while len(found) < _BATCH_WORDS and (following := next(numbered, None)) is not None:
            more = _compared(following[1])
            batch.append(following)
            lengths.append(len(more))
            found += more
        owners = np.repeat([number for number, _ in batch], lengths)
        hashes, lengths_of_runs = _runs(found)
        starts = np.arange(len(hashes))
        whole = owners[starts] == owners[starts + lengths_of_runs - 1]
        yield owners[starts][whole], hashes[whole], batch
