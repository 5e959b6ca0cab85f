"""Repeated rows and contamination are found, and nothing else is."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from swift.data.duplicates import contaminated, find_duplicates, record_text, words
from swift.errors import DataError

VOCABULARY = [f"word{i}" for i in range(2000)]


def sentence(rng: random.Random, length: int = 60) -> list[str]:
    return [rng.choice(VOCABULARY) for _ in range(length)]


def jaccard(a: str, b: str) -> float:
    """Of the sets of word 5-grams, counted by hand."""
    grams = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (words(a), words(b))]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_exact_repeats_name_the_first_row() -> None:
    texts = ["a b", "c", "a  b\n", "A b", "c", ""]
    assert find_duplicates(texts, near=False).tolist() == [-1, -1, 0, -1, 1, -1]
    assert find_duplicates([], near=False).dtype == np.int64


def test_near_repeats_are_those_above_the_threshold() -> None:
    pytest.importorskip("datasketch")
    rng = random.Random(7)
    originals = [sentence(rng) for _ in range(60)]
    texts = [" ".join(s) for s in originals]
    expected: list[int | None] = [-1] * 60
    for i, s in enumerate(originals):
        for places in ([i % 2], rng.sample(range(60), 25)):  # of 60 words: hardly, and beyond recognition
            copy = list(s)
            for at in places:
                copy[at] = "changed"
            texts.append(" ".join(copy))
            alike = jaccard(texts[i], texts[-1])
            expected.append(i if alike > 0.84 else -1 if alike < 0.5 else None)
    texts += [texts[3], texts[61].upper() + "!"]
    found = find_duplicates(texts, near=True)
    wrong = [i for i, e in enumerate(expected) if e is not None and found[i] != e]
    assert sum(e is not None and e >= 0 for e in expected) >= 50
    assert len(wrong) <= 2, "MinHash is an estimate, but not a bad one"
    assert found[-2] == 3
    assert all(n < i and (n < 0 or found[n] < 0) for i, n in enumerate(found)), "each names a row that is kept"
    short = ["", "", "a b", "a b c", "你好世界今天天气很好", "你好世界今天天气很好啊"]
    assert find_duplicates(short, near=True, threshold=0.5).tolist() == [
        -1, 0, -1, -1, -1, 4,
    ]  # fmt: skip


def test_the_same_question_about_another_image_is_another_row() -> None:
    record = {"messages": [{"role": "user", "content": "<image>" + "what is in this picture " * 5}]}
    texts = [record_text({**record, "images": [name]}) for name in ("a.png", "b.png", "a.png")]
    assert find_duplicates(texts, near=False).tolist() == [-1, -1, 0]
    pytest.importorskip("datasketch")
    assert find_duplicates(texts, near=True).tolist() == [-1, -1, 0]
    assert contaminated(texts[:2], texts[1:2]) == {1: 0}


def test_record_text_holds_what_a_row_is() -> None:
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [
        {"text": "q"}, {"messages": said}, {"messages": said[:1]}, {"messages": said, "label": True},
        {"messages": said, "label": False}, {"messages": said, "rejected": said[1:]},
        {"messages": said[:1], "positive": [said[1:]]},
        {"messages": [said[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]},
    ]  # fmt: skip
    assert len({record_text(r) for r in records}) == len(records)
    assert record_text({**records[1], "_origin": "x:1"}) == record_text({**records[1], "_origin": "y:2"})


def test_contamination_is_equal_text_or_thirteen_words_in_a_row() -> None:
    rng = random.Random(3)
    train = [" ".join(sentence(rng)) for _ in range(300)]
    held = [" ".join(sentence(rng)) for _ in range(20)]
    shared = sentence(rng, 13)
    held[5] = " ".join([*sentence(rng, 20), *shared, *sentence(rng, 20)])
    train[40] = " ".join([*sentence(rng, 9), *(w.upper() + "," for w in shared), *sentence(rng, 9)])
    train[41] = " ".join([*sentence(rng, 9), *shared[:12], *sentence(rng, 9)])  # twelve are not enough
    train[250] = held[9]
    train[260], held[11] = "a short row", "A short row!"
    assert contaminated(iter(train), iter(held)) == {40: 5, 250: 9, 260: 11}
    assert contaminated(train, []) == {} and contaminated([], held) == {}


@pytest.mark.parametrize(
    ("alphabet", "enough"),
    [("".join(map(chr, range(0x4E00, 0x5600))), 21), ("".join(map(chr, range(0x3042, 0x3093))), 30),
     ("".join(map(chr, range(0xAC00, 0xB400))), 30), ("".join(map(chr, range(0x0E01, 0x0E2F))), 52),
     ("".join(map(chr, range(0x1780, 0x17A3))), 52)],
    ids=["Chinese", "Japanese", "Korean", "Thai", "Khmer"],
)  # fmt: skip
def test_where_no_spaces_stand_a_run_is_as_long_as_thirteen_words(alphabet: str, enough: int) -> None:
    rng = random.Random(5)

    def some(count: int) -> str:
        return "".join(rng.choices(alphabet, k=count))

    shared = some(enough)
    held = [some(40) + shared + some(40)]
    train = [some(80) + shared + some(7), some(80) + shared[:-1] + some(7), f"{some(3)}, {shared[:9]}. {shared[9:]}?"]
    assert contaminated(train, held) == {0: 0, 2: 0}


def test_chinese_rows_that_only_ask_alike_are_no_contamination() -> None:
    train = ["user: 请把下面的句子翻译成英文：今天天气很好。\nassistant: The weather is nice today.",
             "user: 中国的首都是哪里？请简单介绍一下这座城市。\nassistant: 北京。"]  # fmt: skip
    held = ["user: 请把下面的句子翻译成英文：我喜欢读书。\nassistant: I like reading.",
            "user: 法国的首都是哪里？请简单介绍一下这座城市。\nassistant: 巴黎。"]  # fmt: skip
    assert contaminated(train, held) == {}
    thai = ["user: ช่วยแปลประโยคนี้เป็นภาษาอังกฤษ วันนี้อากาศดีมาก", "user: ช่วยแปลประโยคนี้เป็นภาษาอังกฤษ ฉันชอบอ่านหนังสือ"]
    assert contaminated(thai[:1], thai[1:]) == {}


def test_words_are_whole_with_their_vowel_signs() -> None:
    assert words("यह हिन्दी है। Ça VA?") == ["यह", "हिन्दी", "है", "ça", "va"]
    assert words("தமிழ் மொழி") == ["தமிழ்", "மொழி"]
    assert words("cafe\u0301 东京tower") == ["cafe\u0301", "东", "京", "tower"]


def test_a_phrase_that_many_rows_share_is_no_contamination() -> None:
    rng = random.Random(4)
    frame = sentence(rng, 15)
    rows = [" ".join([*frame, *sentence(rng, 20)]) for _ in range(40)]
    assert contaminated(rows[:30], rows[30:]) == {}
    assert contaminated(rows[:30], [*rows[30:], rows[4]]) == {4: 10}
    few = contaminated(rows[:5], rows[30:31])
    assert few == dict.fromkeys(range(5), 0)


def test_batches_of_texts_do_not_run_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    run = [f"w{i}" for i in range(26)]
    halves = [" ".join(run[:7]), " ".join(run[7:20]), " ".join(run[20:])]
    assert contaminated(halves, [" ".join(run)]) == {1: 0}
    for size in (1, 10, 1000):
        monkeypatch.setattr("swift.data.duplicates._BATCH_WORDS", size)
        assert contaminated(itertools.chain(halves, halves), [" ".join(run)]) == {1: 0, 4: 0}


def test_without_datasketch_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(DataError, match="datasketch") as caught:
        find_duplicates(["a"], near=True)
    assert "pip install" in caught.value.fix
