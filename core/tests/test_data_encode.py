"""Ids are those of `apply_chat_template`; the loss falls on what the assistant says and on nothing else."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from swift.data import conversations
from swift.data.encode import NO_END, ChatEncoder
from swift.data.offsets import TokenBytes
from swift.data.records import load_records
from swift.data.turns import LAST, REASONING_LOST, REWRITES, TOOLS_LOST
from swift.errors import ConfigError, DataError, ModelError

DATA = Path(__file__).parent / "data"
SPECIAL = [
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>",
]  # fmt: skip
CORPUS = [
    "system user assistant model tool think Hello there. How are you today? I am fine, thank you.",
    "What is two plus two? It is four.",
    "You are a helpful assistant. Be brief.\n\nSure:\n  - one\n  - two\n", '{"name": "add", "arguments": {"a": 1}}',
] * 4  # fmt: skip


def tokenizer(template: str | None, style: str = "bytes") -> PreTrainedTokenizerFast:
    """A real BPE tokenizer trained on a few lines: byte-level (with or without trimmed offsets), or with metaspaces."""
    backend = Tokenizer(models.BPE(unk_token="<pad>", byte_fallback=style == "metaspace"))
    alphabet: list[str] = []
    if style == "metaspace":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special = SPECIAL + [f"<0x{i:02X}>" for i in range(256)]
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.ByteLevel(trim_offsets=style == "trimmed")
        alphabet, special = pre_tokenizers.ByteLevel.alphabet(), SPECIAL
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet))
    text = (DATA / "templates" / f"{template}.jinja").read_text(encoding="utf-8") if template else None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=text,
        clean_up_tokenization_spaces=False,
    )


STYLES = ("bytes", "trimmed", "metaspace")
ASK, ASK2 = {"role": "user", "content": "Hello there."}, {"role": "user", "content": "What is two plus two?"}
SAY, SAY2 = {"role": "assistant", "content": "Sure:\n  - one\n  - two ü"}, {"role": "assistant", "content": "It is four."}
BRIEF = {"role": "system", "content": "Be brief."}
ADD = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}],
}

CASES = {
    "qwen2.5": ("qwen2.5", [BRIEF, ASK, SAY, ASK2, SAY2], [f"{SAY['content']}<|im_end|>", "It is four.<|im_end|>"]),
    "qwen2.5 default system": ("qwen2.5", [ASK, SAY2], ["It is four.<|im_end|>"]),
    "llama3": ("llama3", [BRIEF, ASK, SAY, ASK2, SAY2], [f"{SAY['content']}<|eot_id|>", "It is four.<|eot_id|>"]),
    "mistral": ("mistral", [ASK, SAY, ASK2, SAY2], [f" {SAY['content']}</s>", " It is four.</s>"]),
    "gemma": ("gemma", [ASK, SAY, ASK2, SAY2], [f"{SAY['content']}<end_of_turn>", "It is four.<end_of_turn>"]),
    "marked": ("marked", [BRIEF, ASK, SAY, ASK2, SAY2], [f"{SAY['content']}<|im_end|>", "It is four.<|im_end|>"]),
    # Templates that rewrite history: only the last turn stands as the model would have written it.
    "qwen3": ("qwen3", [ASK, SAY, ASK2, SAY2], ["<think>\n\n</think>\n\nIt is four.<|im_end|>"]),
    "qwen3 reasoning": ("qwen3", [ASK, {**SAY, "reasoning_content": "Hm."}, ASK2, {**SAY2, "reasoning_content": "2 and 2"}],
                        ["<think>\n2 and 2\n</think>\n\nIt is four.<|im_end|>"]),
    "deepseek r1": ("deepseek_r1", [ASK, {**SAY, "content": "<think>Hm.</think>Sure."}, ASK2, SAY2],
                    ["Sure.</s>", "It is four.</s>"]),
}  # fmt: skip


def trained(encoder: ChatEncoder, example: dict[str, Any]) -> list[str]:
    """The text of each run of tokens that is trained on."""
    pairs = zip(example["input_ids"], example["loss_weight"], strict=True)
    runs = [[i for i, _ in run] for weight, run in groupby(pairs, key=lambda pair: pair[1]) if weight]
    return [encoder.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("case", CASES)
def test_ids_and_masks(case: str, style: str) -> None:
    template, messages, expected = CASES[case]
    encoder = ChatEncoder(tokenizer(template, style))
    example = encoder.chat({"messages": messages})
    assert example["input_ids"] == encoder.tokenizer.apply_chat_template(messages)["input_ids"]
    assert len(example["loss_weight"]) == len(example["input_ids"])
    assert set(example["loss_weight"]) == {0.0, 1.0}
    assert trained(encoder, example) == expected
    rewritten = len([m for m in messages if m["role"] == "assistant"]) > len(expected)
    assert encoder.counters[REWRITES] == rewritten
    assert bool(encoder.notes) == rewritten


@pytest.mark.parametrize("style", STYLES)
def test_marks_agree_with_transformers(style: str) -> None:
    encoder = ChatEncoder(tokenizer("marked", style))
    messages = CASES["marked"][1]
    oracle = encoder.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert encoder.chat({"messages": messages})["loss_weight"] == [float(m) for m in oracle["assistant_masks"]]


def test_thinking_can_be_switched_off_by_run_and_by_row() -> None:
    plain = tokenizer("qwen3")
    expected = plain.apply_chat_template([ASK, SAY2], enable_thinking=False)["input_ids"]
    by_run = ChatEncoder(plain, options={"enable_thinking": False})
    by_row = ChatEncoder(plain)
    row = {"messages": [ASK, SAY2]}
    for encoder, record in ((by_run, row), (by_row, {**row, "chat_template_kwargs": {"enable_thinking": False}})):
        example = encoder.chat(record)
        assert example["input_ids"] == expected
        assert trained(encoder, example) == ["It is four.<|im_end|>"], "the empty thought belongs to the prompt"


def test_tools_are_rendered_and_calls_are_learnt() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"))
    messages = [ASK2, CALL, {"role": "tool", "content": "4"}, SAY2]
    example = encoder.chat({"messages": messages, "tools": [ADD]})
    assert example["input_ids"] == encoder.tokenizer.apply_chat_template(messages, tools=[ADD])["input_ids"]
    call, answer = trained(encoder, example)
    assert call.strip().startswith("<tool_call>") and call.endswith("</tool_call><|im_end|>")
    assert json.loads(call.split("\n")[-2])["arguments"] == {"a": 2, "b": 2}
    assert answer == "It is four.<|im_end|>"


def test_real_tool_rows() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"))
    for record in load_records([str(DATA / "toolcall_sharegpt.json")]):
        example = encoder.chat(record)
        assert (
            example["input_ids"]
            == encoder.tokenizer.apply_chat_template(record["messages"], tools=record.get("tools"))["input_ids"]
        )
        assert len(trained(encoder, example)) == sum(m["role"] == "assistant" for m in record["messages"])


def test_loss_of_single_messages() -> None:
    for template in ("qwen2.5", "marked"):
        encoder = ChatEncoder(tokenizer(template))
        example = encoder.chat({"messages": [ASK, {**SAY, "loss_weight": 0.0}, ASK2, {**SAY2, "loss_weight": 0.5}]})
        assert trained(encoder, example) == ["It is four.<|im_end|>"]
        assert set(example["loss_weight"]) == {0.0, 0.5}
        assert example["input_ids"] == encoder.tokenizer.apply_chat_template([ASK, SAY, ASK2, SAY2])["input_ids"]


def test_a_default_system_message() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"), system="Be brief.")
    assert encoder.chat({"messages": [ASK, SAY]}) == ChatEncoder(encoder.tokenizer).chat({"messages": [BRIEF, ASK, SAY]})
    own = {"messages": [{"role": "system", "content": "Be long."}, ASK, SAY]}
    assert encoder.chat(own) == ChatEncoder(encoder.tokenizer).chat(own)


def test_an_assistant_that_speaks_first() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"))
    assert trained(encoder, encoder.chat({"messages": [SAY2]})) == ["It is four.<|im_end|>"]


def test_many_at_once_are_as_one_by_one() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"))
    records = [
        {"messages": [ASK, SAY]},
        {"text": "Hello there."},
        {"messages": [ASK2, SAY2]},
        {"messages": [ASK], "images": ["x.png"]},
    ]
    single = [encoder.chat(records[0]), encoder.text("Hello there."), encoder.chat(records[2])]
    encoder.prepare(records)
    assert [encoder.chat(records[0]), encoder.text("Hello there."), encoder.chat(records[2])] == single
    for _ in range(2):
        with pytest.raises(DataError, match="the row has images"):
            encoder.chat(records[3])


def test_text_begins_and_ends_as_the_tokenizer_does() -> None:
    plain = tokenizer(None)
    ids = plain("Hello there.", add_special_tokens=False)["input_ids"]
    example = ChatEncoder(plain).text("Hello there.")
    assert example == {"input_ids": [*ids, plain.eos_token_id], "loss_weight": [1.0] * (len(ids) + 1)}
    with_bos = tokenizer(None)
    with_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert ChatEncoder(with_bos).text("Hello there.")["input_ids"] == [1, *ids, 2]


def test_no_chat_template() -> None:
    with pytest.raises(ModelError, match="has no chat template") as caught:
        ChatEncoder(tokenizer(None)).chat({"messages": [ASK, SAY]})
    assert "--template FILE.jinja" in caught.value.fix and "swift pt" in caught.value.fix
    file = str(DATA / "templates" / "llama3.jinja")
    encoder = ChatEncoder(tokenizer(None), template=file)
    assert encoder.chat({"messages": [ASK, SAY]}) == ChatEncoder(tokenizer("llama3")).chat({"messages": [ASK, SAY]})
    with pytest.raises(ConfigError, match="there is no template file"):
        ChatEncoder(tokenizer(None), template="nowhere.jinja")


def test_what_the_template_refuses_is_a_rejected_row() -> None:
    with pytest.raises(DataError, match="the chat template refuses the conversation: .*must alternate"):
        ChatEncoder(tokenizer("mistral")).chat({"messages": [ASK, ASK, SAY]})
    with pytest.raises(DataError, match="must alternate"):
        ChatEncoder(tokenizer("gemma")).chat({"messages": [BRIEF, ASK, ASK, SAY]})


def test_a_system_message_that_the_template_refuses_is_part_of_the_first_users_turn() -> None:
    encoder = ChatEncoder(tokenizer("gemma"))
    merged = {"role": "user", "content": "Be brief.\n\nHello there."}
    assert encoder.chat({"messages": [BRIEF, ASK, SAY, ASK2, SAY2]}) == encoder.chat({"messages": [merged, SAY, ASK2, SAY2]})
    assert encoder.counters == {conversations.SYSTEM_REFUSED: 1}


def test_a_system_message_that_the_template_drops_stands_where_the_prompt_has_it() -> None:
    """Mistral v0.3's own template shows the system message only while the user's turn is the last."""
    encoder = ChatEncoder(tokenizer("mistral"))
    example = encoder.chat({"messages": [BRIEF, ASK, SAY, ASK2, SAY2]})
    prompt = encoder.tokenizer.apply_chat_template([BRIEF, ASK, SAY, ASK2], tokenize=False, add_generation_prompt=True)
    assert encoder.tokenizer.decode(example["input_ids"]).startswith(prompt) and "Be brief." in prompt
    assert trained(encoder, example) == [" It is four.</s>"], "the first answer was given to a prompt with a system message"
    assert encoder.counters == {conversations.SYSTEM_DROPPED: 1, REWRITES: 1}


def test_a_template_that_rewrites_everything_is_refused() -> None:
    plain = tokenizer(None)
    plain.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="no turn of the assistant can be located"):
        ChatEncoder(plain).chat({"messages": [ASK, SAY]})


# --------------------------------------------------------------------------------------------------------------- history


THOUGHT = [ASK, {**SAY, "reasoning_content": "Hm."}, ASK2, {**SAY2, "reasoning_content": "2 and 2"}]


def test_split_makes_a_document_of_every_turn_that_is_rewritten_later() -> None:
    plain = tokenizer("qwen3")
    example = ChatEncoder(plain, history="split").chat({"messages": THOUGHT})
    alone = [ChatEncoder(plain).chat({"messages": THOUGHT[:n]}) for n in (2, 4)]
    assert example["segments"] == [len(a["input_ids"]) for a in alone]
    assert example["input_ids"] == alone[0]["input_ids"] + alone[1]["input_ids"]
    assert example["loss_weight"] == alone[0]["loss_weight"] + alone[1]["loss_weight"]
    calm = ChatEncoder(tokenizer("llama3"), history="split")
    assert calm.chat({"messages": THOUGHT}) == ChatEncoder(tokenizer("llama3")).chat({"messages": THOUGHT})
    assert "segments" not in calm.chat({"messages": THOUGHT})


def test_split_keeps_the_loss_weights_of_messages() -> None:
    encoder = ChatEncoder(tokenizer("qwen3"), history="split")
    muted = [ASK, {**SAY, "loss_weight": 0.0}, ASK2, {**SAY2, "loss_weight": 0.5}]
    example = encoder.chat({"messages": muted})
    assert "segments" not in example and set(example["loss_weight"]) == {0.0, 0.5}


@pytest.mark.parametrize("template", ["qwen2.5", "marked", "qwen3"])
def test_last_trains_on_what_follows_the_last_users_turn(template: str) -> None:
    encoder = ChatEncoder(tokenizer(template), history="last")
    plain = ChatEncoder(tokenizer(template))
    example = encoder.chat({"messages": [ASK, SAY, ASK2, SAY2]})
    assert example["input_ids"] == plain.chat({"messages": [ASK, SAY, ASK2, SAY2]})["input_ids"]
    (spoken,) = trained(encoder, example)
    assert spoken.endswith("It is four.<|im_end|>")
    assert encoder.counters == {LAST: 1}, "nothing was rewritten that would have been trained on"


# ------------------------------------------------------------------------------------------------------- tools, turns' ends


def test_arguments_of_tool_calls_may_be_an_object_or_its_text() -> None:
    as_text = {**CALL, "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}]}
    joins = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
        + ("{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}<|im_end|>{% endfor %}")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for template in ("qwen2.5", joins, joins.replace("' ' + c.", "' ', c.").replace("c.function.name + ", "c.function.name, ")):
        plain = tokenizer(None if "{" in template else template)
        plain.chat_template = plain.chat_template or template
        encoder = ChatEncoder(plain)
        example = encoder.chat({"messages": [ASK2, CALL, {"role": "tool", "content": "4"}, SAY2]})
        assert encoder.chat({"messages": [ASK2, as_text, {"role": "tool", "content": "4"}, SAY2]}) == example
        call, _ = trained(encoder, example)
        assert '{"a": 2, "b": 2}' in call and "4" not in call


def test_ids_of_tool_calls_are_given_where_the_template_asks_for_them() -> None:
    plain = tokenizer(None)
    plain.chat_template = (
        "{% for m in messages %}{% for c in m.tool_calls %}{% if (c.id or '') | length != 9 %}{{ raise_exception('length 9') }}"
        "{% endif %}{{ c.function.name }} {{ c.id }}{% endfor %}[INST]{{ m.tool_call_id }}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[INST]{% endif %}"
    )
    encoder = ChatEncoder(plain)
    two = {**CALL, "tool_calls": [{**CALL["tool_calls"][0], "id": "x"}, {**CALL["tool_calls"][0], "id": "y"}]}
    answers = [{"role": "tool", "content": "5", "tool_call_id": "y"}, {"role": "tool", "content": "4", "tool_call_id": "x"}]
    text = encoder.tokenizer.decode(encoder.chat({"messages": [ASK2, two, *answers, SAY2]})["input_ids"])
    assert "add call00000add call00001[INST]</s>[INST]call000015</s>[INST]call000004</s>" in text
    assert encoder.counters == {conversations.CALL_IDS: 1}


def test_an_answer_that_ends_without_a_token_is_reported() -> None:
    plain = tokenizer(None)
    plain.chat_template = (
        "{% for m in messages %}[INST]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[INST]{% endif %}"
    )
    encoder = ChatEncoder(plain)
    assert trained(encoder, encoder.chat({"messages": [ASK, SAY2]})) == ["It is four."]
    assert encoder.counters == {NO_END: 1}


def test_reasoning_that_the_template_leaves_out_is_reported() -> None:
    for template, count in (("qwen3", 0), ("llama3", 1)):
        encoder = ChatEncoder(tokenizer(template))
        encoder.chat({"messages": THOUGHT[:2]})
        assert encoder.counters[REASONING_LOST] == count


def test_a_template_that_knows_no_tools_does_not_train_empty_answers() -> None:
    encoder = ChatEncoder(tokenizer("gemma"))
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    with pytest.raises(DataError, match="leaves tool calls out: that of add would not be learnt"):
        encoder.chat({"messages": [ASK2, CALL], "tools": tools})
    encoder.chat({"messages": [ASK2, SAY2], "tools": tools})
    assert encoder.counters == {TOOLS_LOST: 1}


def test_trailing_whitespace_of_an_answer_is_learnt_and_the_templates_own_is_not() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"))
    example = encoder.chat({"messages": [ASK, {"role": "assistant", "content": " Sure. \n"}]})
    assert trained(encoder, example) == [" Sure. \n<|im_end|>"]


# ----------------------------------------------------------------------------------------------------------- bytes, offsets


@pytest.mark.parametrize("style", STYLES)
def test_weights_by_bytes_are_those_by_offsets(style: str) -> None:
    records = [*load_records([str(DATA / "alpaca.json"), str(DATA / "toolcall_sharegpt.json")])]
    records.append({"messages": [ASK, {"role": "assistant", "content": "ünïcode 汉字 🙂\n\n  x"}]})
    for template in ("qwen2.5", "llama3"):
        encoder = ChatEncoder(tokenizer(template, style))
        taken = [r for r in records if template != "llama3" or not any("tool_calls" in m for m in r["messages"])]
        documents = [document for record in taken for document in encoder.turns.documents(record, Counter())]
        spans = encoder.span_tokenizer
        assert spans.encode(documents) == spans._by_offsets(documents)
        assert spans.spelled[True] == len(documents), "the tokens spell the text, so that no offsets were needed"


def test_a_span_inside_a_token_and_tokens_that_do_not_spell_the_text_are_left_to_the_offsets() -> None:
    plain = tokenizer("qwen2.5")
    spelled = TokenBytes(plain.backend_tokenizer)
    ids = plain("Hello there.", add_special_tokens=False)["input_ids"]
    assert spelled.weights("Hello there.", ids, [(0, 12, 1.0)]) == [1.0] * len(ids)
    assert spelled.weights("Hello there!", ids, [(0, 12, 1.0)]) is None
    assert spelled.weights("Hello there.", ids, [(0, 3, 1.0)]) is None, "the tokenizer joined 'Hello'"
    plain.backend_tokenizer.normalizer = normalizers.Lowercase()
    encoder = ChatEncoder(plain)
    for _ in range(30):
        assert trained(encoder, encoder.chat({"messages": [ASK, {"role": "assistant", "content": "SURE"}]})) == [
            "sure<|im_end|>"
        ]
    assert encoder.span_tokenizer.spelled[False] < 30, "after some rows the offsets are asked for at once"


def test_the_digest_follows_what_the_ids_depend_on() -> None:
    plain = tokenizer("qwen2.5")
    base = ChatEncoder(plain).digest()
    plain(["a", "longer text"], padding=True)  # leaves its padding behind in the tokenizer
    assert ChatEncoder(plain).digest() == base == ChatEncoder(tokenizer("qwen2.5")).digest()
    others = [
        ChatEncoder(plain, system="s"), ChatEncoder(plain, options={"x": 1}), ChatEncoder(tokenizer("qwen3")),
        ChatEncoder(plain, template=str(DATA / "templates" / "qwen3.jinja")), ChatEncoder(tokenizer("qwen2.5", "metaspace")),
        ChatEncoder(plain, history="last"),
    ]  # fmt: skip
    assert len({base, *(o.digest() for o in others)}) == 7


def test_an_encoder_travels_to_another_process() -> None:
    encoder = ChatEncoder(tokenizer("qwen2.5"), system="Be brief.")
    encoder.chat({"messages": [ASK, SAY]})
    assert len(pickle.dumps(encoder)) < len(pickle.dumps(encoder.tokenizer)) + 2000
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy.chat({"messages": [ASK, SAY]}) == encoder.chat({"messages": [ASK, SAY]})
    assert copy.digest() == encoder.digest()
