"""Ids from the memory of words are those of the tokenizers library, or there are none."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from swift.data import words
from swift.data.encode import ChatEncoder
from swift.data.offsets import TokenBytes
from swift.data.tokenizing import SpanTokenizer
from swift.data.words import WordIds

DATA = Path(__file__).parent / "data"
TEXT = "".join((DATA / name).read_text(encoding="utf-8") for name in ("wiki.txt", "alpaca.json"))
PATTERNS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
              r"\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}  # fmt: skip
DEEPSEEK = (
    r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
)  # fmt: skip
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def cut_by(*patterns: str) -> Any:
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(p), "isolated") for p in patterns), BYTES])


CUTS = {
    **{name: cut_by(pattern) for name, pattern in PATTERNS.items()},
    "deepseek": cut_by(*DEEPSEEK),
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}


def backend(cut: Any) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = cut
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<|im_start|>", "<|im_start|><s>"]
    made.train_from_iterator(
        TEXT.split("\n\n"),
        trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def strings(count: int) -> list[str]:
    """Every kind of character beside every other; a tenth of them have some outside of the alphabet."""
    draw = random.Random(0)
    known = [
        *map(chr, range(0x100)), *map(chr, range(0x2010, 0x2028)), *"abstreXYZ 019''''", *" \n\r\t" * 4, "  ", "\r\n", "'s",
        "'LL", "<s>", "<|im_start|>", "<|im_start|><s>", "<|im_", "don't ", "word", "123456789", "Über ", "…", " \n \n",
    ]  # fmt: skip
    other = ["中", "の", "ſ", "\u212a", "e\u0301", "\u2028", "\u1680", "😀", "'ſ", "ǅ", "\u0345"]
    return ["".join(draw.choices(known + other * (i % 10 == 0), k=draw.randrange(1, 30))) for i in range(count)]


@pytest.mark.parametrize("name", CUTS)
def test_ids_are_those_of_the_library(name: str) -> None:
    library = backend(CUTS[name])
    library.normalizer = normalizers.NFC()
    memory = WordIds.of(library)
    assert memory is not None
    texts = [*strings(6000), *(TEXT[i : i + 700] for i in range(0, 40000, 700))]
    answers = [memory.ids(text) for text in texts]
    found = [answer and answer[0] for answer in answers]
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    spelling = TokenBytes(library)
    draw = random.Random(1)
    for text, answer in zip(texts, answers, strict=True):
        if answer is not None:
            a, b, c = sorted(draw.choices(range(len(text) + 1), k=3))
            spans = [(a, b, 1.0), (b, c, 0.5)]
            assert spelling.weights(text, answer[0], spans, answer[1]) == spelling.weights(text, answer[0], spans)
    assert [ids for ids in found if ids is not None] == [e for ids, e in zip(found, expected, strict=True) if ids is not None]
    assert sum(ids is None for ids in found) < 0.15 * len(texts)


def test_a_full_memory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 50)
    library = backend(CUTS["qwen2"])
    memory = WordIds.of(library)
    texts = strings(500)
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert memory is not None and len(memory._words) <= 50
    for text, ids in zip(texts, expected, strict=True):
        answer = memory.ids(text)
        assert answer is None or answer[0] == ids
        assert len(memory._words) <= 50


def test_the_alphabet_is_left_alone_by_nfc() -> None:
    alphabet = words._ALPHABET
    assert all(unicodedata.normalize("NFC", c) == c and not unicodedata.combining(c) for c in alphabet)
    composed = {unicodedata.normalize("NFC", a + b) for a in alphabet for b in alphabet}
    assert all(len(pair) == 2 for pair in composed)


def test_what_is_not_known_is_left_to_the_library() -> None:
    def refused(cut: Any = CUTS["gpt2"], **parts: Any) -> bool:
        made = backend(cut)
        for name, part in parts.items():
            setattr(made, name, part)
        return WordIds.of(made) is None

    assert not refused()
    assert refused(BYTES), "the whole text would be one word"
    assert refused(pre_tokenizers.ByteLevel(add_prefix_space=True))
    assert refused(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), BYTES]))
    assert refused(pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), BYTES]))
    assert refused(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+"), "removed"), BYTES]))
    for pattern in (
        r"\w+",
        r"\p{Greek}+",
        r"^a",
        r"a$",
        r"(a|b)\1",
        r"[a&&b]",
        r"(?i:\p{Lu})",
        r".+",
        r"\p{N}{1,3}+",
        r"\p{L}++",
    ):
        assert refused(cut_by(pattern)), pattern
    assert refused(decoder=decoders.Fuse())
    assert refused(normalizer=normalizers.Lowercase())
    assert refused(model=models.BPE(vocab={"a": 0}, merges=[]))
    assert refused(model=models.WordLevel({"a": 0}, unk_token="a"))
    for token in (AddedToken("<x>", lstrip=True), AddedToken("<x>", single_word=True), AddedToken("<x>", normalized=True)):
        made = backend(CUTS["gpt2"])
        made.add_tokens([token])
        assert WordIds.of(made) is None


def test_an_encoder_uses_it_only_where_nothing_else_changes_the_ids() -> None:
    text = "Hello there <s>"
    for change in ("none", "split", "bos"):
        plain = PreTrainedTokenizerFast(tokenizer_object=backend(CUTS["gpt2"]), eos_token="<s>", special_tokens=["<s>"])
        if change == "split":
            plain.split_special_tokens = True
        if change == "bos":
            plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        assert ChatEncoder(plain).text(text)["input_ids"] == plain(text)["input_ids"] + [0] * (
            plain(text)["input_ids"][-1] != 0
        )
        ((ids, anchors),) = SpanTokenizer(plain).ids([text], special=True)
        assert bool(anchors) == (change == "none") and ids == plain(text)["input_ids"]
