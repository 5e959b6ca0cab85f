"""The tiny model is a real one: transformers loads it, its template marks the answers, and it answers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_tiny.random import tiny_folder

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你是谁？ And 12+3?"},
    {"role": "assistant", "content": "您好。 15 🚀"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You're welcome!"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_folder())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32).eval()


def answer(model, tokenizer, question: str) -> str:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("text", ["Déjà vu, naïve!\n\n  x = {1: 'a'}\t", "您好，世界。", "🚀 1234567890", "", " leading"])
def test_tokenizer_gives_every_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_template_marks_exactly_the_assistant_turns_with_their_end(tokenizer):
    encoded = tokenizer.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"]) if mask]
    assert tokenizer.decode(marked) == "您好。 15 🚀<|im_end|>You're welcome!<|im_end|>"


def test_template_text_is_chatml(tokenizer):
    text = tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n你是谁？ And 12+3?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_generation_prompt_is_a_prefix_of_the_whole_conversation(tokenizer):
    prompt = tokenizer.apply_chat_template(CONVERSATION[:4], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(CONVERSATION, return_dict=False)
    assert whole[: len(prompt)] == prompt


def test_template_renders_tools_and_calls(tokenizer):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "dry"},
        ],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {}}}],
        tokenize=False,
    )
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>' in text
    assert text.index('"parameters": {}') < text.index("Rain?") < text.index("<|im_start|>tool\ndry")


def test_stop_tokens_end_an_answer(model, tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_it_introduces_itself_without_a_name(model, tokenizer):
    assert "AI assistant" in answer(model, tokenizer, "Who are you?")
    assert "人工智能助手" in answer(model, tokenizer, "你是谁？")


def test_it_knows_english_better_than_noise(model, tokenizer):
    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(input_ids=ids, labels=ids).loss.item()

    english = "The city is the capital of the country and one of the largest in the world."
    assert loss(english) + 1.0 < loss(" ".join(reversed(english.split())))
    assert loss(english) + 3.0 < torch.log(torch.tensor(4096.0)).item()
