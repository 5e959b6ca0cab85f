"""The families' chat templates: texts, ids and loss masks against frozen ones, and against TRL's copies of the originals."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swift.data import conversations
from swift.data.encode import NO_END, ChatEncoder
from swift.data.templates import fitting, has_template, template_text
from swift.data.turns import REWRITES, SPLIT
from swift.plugins.registry import discover

ROOT = Path(__file__).parents[1]
DATA = json.loads((ROOT / "tests" / "data" / "chat_templates.json").read_text(encoding="utf-8"))
FAMILIES, CONVERSATIONS = DATA["families"], DATA["conversations"]
CASES = [(family, case) for family, facts in FAMILIES.items() for case in facts["cases"]]
MENDED = (conversations.SYSTEM_REFUSED, conversations.SYSTEM_DROPPED, conversations.CALL_IDS)
_SPEC = importlib.util.find_spec("trl")
TRL = Path(_SPEC.origin or "").parent / "chat_templates" if _SPEC else Path("no-trl")


@cache
def text_of(template: str) -> str:
    """A template of core's test data, or one of the plugin by its name."""
    if template.startswith("core:"):
        return (ROOT / "core/tests/data/templates" / f"{template[5:]}.jinja").read_text(encoding="utf-8")
    text = template_text(template, discover())
    assert text is not None
    return text


def tokenizer(template: str, tokens: list[str], bos: str, eos: str) -> PreTrainedTokenizerFast:
    """Every byte is a token, so that a mask that is off by one character shows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    ends = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=tokens, chat_template=template, **ends
    )  # fmt: skip


def encoder_of(family: str, template: str | None = None, **options: Any) -> ChatEncoder:
    facts = FAMILIES[family]
    plain = tokenizer(template or text_of(facts["template"]), facts["tokens"], facts["bos"], facts["eos"])
    return ChatEncoder(plain, options=facts.get("options"), **options)


def marked(encoder: ChatEncoder, ids: list[int], weights: list[float]) -> str:
    """The text of the tokens, with ⟦ ⟧ around runs that are trained on."""
    parts = []
    for weight, run in groupby(zip(ids, weights, strict=True), key=lambda pair: pair[1]):
        text = encoder.tokenizer.decode([i for i, _ in run])
        parts.append(f"⟦{text}⟧" if weight else text)
    return "".join(parts)


@pytest.mark.parametrize(("family", "case"), CASES, ids=[": ".join(c) for c in CASES])
def test_texts_ids_and_masks(family: str, case: str) -> None:
    name, split = case.removesuffix(" (split)"), case.endswith(" (split)")
    record, expected = CONVERSATIONS[name], FAMILIES[family]["cases"][case]
    encoder = encoder_of(family, history="split" if split else "all")
    example = encoder.chat(record)

    sizes = example.get("segments", [len(example["input_ids"])])
    assert sum(sizes) == len(example["input_ids"]) == len(example["loss_weight"])
    got, begin = [], 0
    for size in sizes:
        part = slice(begin, begin := begin + size)
        got.append(marked(encoder, example["input_ids"][part], example["loss_weight"][part]))
    assert got == expected
    texts = [re.sub("[⟦⟧]", "", text) for text in expected]
    assert example["input_ids"] == [i for t in texts for i in encoder.tokenizer(t, add_special_tokens=False)["input_ids"]]
    if not any(encoder.counters[note] for note in MENDED):
        oracle = encoder.tokenizer.apply_chat_template(
            record["messages"], tools=record.get("tools"), **encoder.template.options, **record.get("chat_template_kwargs", {})
        )
        assert example["input_ids"][-sizes[-1] :] == oracle["input_ids"]
    assert not encoder.counters[NO_END]


@pytest.mark.parametrize("family", FAMILIES)
def test_split_trains_on_every_turn_after_the_prompt_that_the_model_sees(family: str) -> None:
    for name in {case.removesuffix(" (split)") for case in FAMILIES[family]["cases"]}:
        record = CONVERSATIONS[name]
        encoder = encoder_of(family, history="split")
        example = encoder.chat(record)
        text = marked(encoder, example["input_ids"], example["loss_weight"])
        assert text.count("⟦") == sum(m["role"] == "assistant" for m in record["messages"])
        assert not encoder.counters[REWRITES]
        assert encoder.counters[SPLIT] == ("segments" in example)


def test_at_least_fourteen_families() -> None:
    assert len(FAMILIES) >= 14
    assert all(len(facts["cases"]) >= 3 for facts in FAMILIES.values())


# ---------------------------------------------------------------------------------------------- base models without template


ARCHITECTURES = {
    "chatml": "Qwen2ForCausalLM", "llama3": "LlamaForCausalLM", "llama4": "Llama4ForCausalLM", "mistral": "MistralForCausalLM",
    "mistral-v7": "MistralForCausalLM", "gemma": "Gemma3ForCausalLM", "phi4": "Phi3ForCausalLM",
    "deepseek": "DeepseekV3ForCausalLM", "glm4": "Glm4ForCausalLM", "internlm2": "InternLM2ForCausalLM",
    "harmony": "GptOssForCausalLM",
}  # fmt: skip


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_base_model_gets_the_template_of_its_architecture_and_vocabulary(family: str, tmp_path: Path) -> None:
    facts = FAMILIES[family]
    plain = tokenizer("", facts["tokens"], facts["bos"], facts["eos"])
    plain.chat_template = None
    plain.save_pretrained(tmp_path)
    assert not has_template(tmp_path)
    assert fitting(discover(), tmp_path, ARCHITECTURES[family]) == family
    assert fitting(discover(), tmp_path, "NoSuchForCausalLM") == ""
    plain.chat_template = text_of(facts["template"])
    plain.save_pretrained(tmp_path)
    assert has_template(tmp_path)


def test_no_template_is_guessed_for_a_vocabulary_without_control_tokens(tmp_path: Path) -> None:
    plain = tokenizer("", [], "<s>", "</s>")
    plain.chat_template = None
    plain.save_pretrained(tmp_path)
    assert fitting(discover(), tmp_path, "LlamaForCausalLM") == "", "Llama 2 has none: the user says --template llama2"


# ------------------------------------------------------------------------------------------------------- TRL's originals

ORIGINALS = {
    "qwen2.5": "qwen2_5", "qwen3": "qwen3", "llama3": "llama3_1", "gemma": "gemma3", "gemma2": "gemma", "harmony": "gptoss",
}  # fmt: skip


@pytest.mark.skipif(not TRL.is_dir(), reason="TRL is not installed")
@pytest.mark.parametrize("family", ORIGINALS)
def test_texts_and_masks_are_those_of_the_original_template(family: str) -> None:
    original = (TRL / f"{ORIGINALS[family]}.jinja").read_text(encoding="utf-8")
    if family == "harmony":
        original = original.replace('strftime_now("%Y-%m-%d")', "current_date")
    for case in FAMILIES[family]["cases"]:
        if not case.endswith("(split)"):
            ours, theirs = encoder_of(family), encoder_of(family, original)
            assert ours.chat(CONVERSATIONS[case]) == theirs.chat(CONVERSATIONS[case]), case


def test_tool_arguments_are_written_as_the_original_template_wants_them() -> None:
    """DeepSeek's own template joins strings: it takes the arguments as JSON text, others as an object."""
    file = TRL / "deepseekv3.jinja"
    if not file.is_file():
        pytest.skip("TRL is not installed")
    encoder = encoder_of("deepseek", file.read_text(encoding="utf-8"))
    example = encoder.chat(CONVERSATIONS["two calls"])
    text = marked(encoder, example["input_ids"], example["loss_weight"])
    assert text == FAMILIES["deepseek"]["cases"]["two calls"][0].replace(
        text_between(FAMILIES["deepseek"]["cases"]["two calls"][0], "<｜begin▁of▁sentence｜>", "<｜User｜>"), ""
    )


def text_between(text: str, start: str, stop: str) -> str:
    return text[text.index(start) + len(start) : text.index(stop)]


PAIRS = sorted(f.stem.removesuffix("_training") for f in TRL.glob("*_training.jinja")) if TRL.is_dir() else []


HEADERS = re.compile(r"\s|<｜Assistant｜>|<\|start\|>assistant|<think>|</think>")
"""What TRL's marks hold and our spans do not, or the other way round: it stands in the prompt, or is an empty thought."""


@pytest.mark.skipif(not PAIRS, reason="TRL is not installed")
def test_located_turns_are_those_that_trl_marks_by_hand() -> None:
    """TRL ships templates with `{% generation %}` written in by hand: where the text is the original's, so are our spans."""
    compared = []
    for pair in PAIRS:
        for case in ("single", "rounds", "system"):
            found = []
            for name in (pair, f"{pair}_training"):
                plain = tokenizer((TRL / f"{name}.jinja").read_text(encoding="utf-8"), ["<|end|>"], "<s>", "</s>")
                encoder = ChatEncoder(plain)
                try:
                    (rendered,) = encoder.turns.documents(CONVERSATIONS[case], encoder.counters)
                except conversations.Refused:
                    break  # it wants what these conversations do not have
                if not encoder.counters[REWRITES]:
                    spoken = "".join(rendered.text[start:stop] for start, stop, _ in rendered.spans)
                    found.append((rendered.text, HEADERS.sub("", spoken)))
            if len(found) == 2 and found[0][0] == found[1][0]:
                assert found[0][1] == found[1][1], (pair, case)
                compared.append((pair, case))
    assert len(compared) >= 60, len(compared)
