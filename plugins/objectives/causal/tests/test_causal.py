"""sft and pt: what is trained on, and the loss against transformers' own."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from swift.api import Batch, DataError, Encoder
from swift_objective_causal.objectives import SFT, Pretrain
from swift_objective_causal.settings import PretrainSettings, SFTSettings

SIZES = dict(
    vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def build(name, lora):
    torch.manual_seed(0)
    if name == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    elif name == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_implementation="eager", final_logit_softcapping=2.0))
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False))
    return model


def documents():
    torch.manual_seed(3)
    rows = [torch.randint(3, 128, (n,)) for n in (17, 9, 12)]
    return rows, [n // 3 for n in (17, 9, 12)]  # ids, and how many tokens of each are prompt


def shifted(ids, prompt):
    labels = torch.cat([ids[1:], torch.tensor([-100])])
    labels[: prompt - 1] = -100
    return labels


def joined(rows, prompts):
    """Rows in one line, position ids restart: packed and padding-free look alike."""
    return Batch(
        {"input_ids": torch.cat(rows)[None], "position_ids": torch.cat([torch.arange(len(r)) for r in rows])[None]},
        torch.cat([shifted(r, p) for r, p in zip(rows, prompts, strict=True)])[None], None, 0, 0,
    )  # fmt: skip


def padded(rows, prompts):
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, : len(row)], mask[i, : len(row)], labels[i, : len(row)] = row, 1, shifted(row, prompt)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.arange(longest).repeat(len(rows), 1)}
    return Batch(inputs, labels, None, 0, 0)


def own_loss(model, rows, prompts):
    """Sum over labels by transformers' own loss, document by document."""
    total = 0.0
    for row, prompt in zip(rows, prompts, strict=True):
        labels = row.clone()
        labels[:prompt] = -100
        loss = model(input_ids=row[None], labels=labels[None], use_cache=False).loss
        total = total + loss * (labels[1:] != -100).sum()
    return total


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", [joined, padded])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_loss_and_gradients_equal_transformers_own(name, lora, layout):
    rows, prompts = documents()
    model = build(name, lora)
    wanted = own_loss(model, rows, prompts)
    wanted.backward()
    expected = gradients(model)
    for budget in (1 << 30, 1):
        model.zero_grad()
        loss = SFT(SFTSettings(), "sft").loss(model, layout(rows, prompts), memory_budget=budget).total
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        got = gradients(model)
        assert got.keys() == expected.keys()
        for key, value in got.items():
            assert (value - expected[key]).norm() <= 2e-6 * expected[key].norm() + 1e-7, key


def test_loss_weight_scales_single_labels():
    rows, prompts = documents()
    model = build("llama", False).eval()
    batch = joined(rows, prompts)
    plain = SFT(SFTSettings(), "sft").loss(model, batch, memory_budget=1 << 30).total
    batch.loss_weight = torch.full(batch.labels.shape, 2.0)
    assert SFT(SFTSettings(), "sft").loss(model, batch, memory_budget=1 << 30).total.item() == pytest.approx(2 * plain.item())
    batch.loss_weight[0, : len(rows[0])] = 0.0
    rest = 2 * own_loss(model, rows[1:], prompts[1:])
    assert SFT(SFTSettings(), "sft").loss(model, batch, memory_budget=1 << 30).total.item() == pytest.approx(rest.item())


class Letters(Encoder):
    """One token per letter; assistant turns are trained on, roles are headers."""

    def chat(self, record):
        ids, weights = [], []
        for message in record["messages"]:
            for text, weight in (
                (message["role"][0].upper(), 0.0),
                (message["content"], float(message["role"] == "assistant")),
            ):
                ids += map(ord, text)
                weights += [weight] * len(text)
        return {"input_ids": ids, "loss_weight": weights}

    def text(self, text):
        return {"input_ids": list(map(ord, text)), "loss_weight": [1.0] * len(text)}


CHAT = {
    "messages": [
        {"role": r, "content": c} for r, c in (("user", "ab"), ("assistant", "cd"), ("user", "e"), ("assistant", "fg"))
    ]
}


@pytest.mark.parametrize(("train_on", "trained"), [("assistant", "cdfg"), ("last", "fg"), ("all", "UabAcdUeAfg")])
def test_train_on(train_on, trained):
    example = SFT(SFTSettings(train_on=train_on), "sft").encode(CHAT, Letters())
    assert "".join(chr(i) for i, w in zip(example["input_ids"], example["loss_weight"], strict=True) if w) == trained


def test_last_turn_of_an_untrained_conversation_is_nothing():
    record = {"messages": [{"role": "user", "content": "ab"}]}
    assert not any(SFT(SFTSettings(train_on="last"), "sft").encode(record, Letters())["loss_weight"])


def test_plain_text_is_sent_to_pt():
    with pytest.raises(DataError, match="swift pt"):
        SFT(SFTSettings(), "sft").encode({"text": "abc", "_origin": "f:1"}, Letters())


def test_row_without_messages_names_what_it_has():
    with pytest.raises(DataError, match="it has label, other"):
        SFT(SFTSettings(), "sft").encode({"other": 1, "label": 2, "_origin": "f:1"}, Letters())


def test_pretraining_takes_text_or_joins_contents():
    pt = Pretrain(PretrainSettings(separator="|"), "pt")
    text = lambda record: "".join(map(chr, pt.encode(record, Letters())["input_ids"]))
    assert text({"text": "abc"}) == "abc"
    assert text(CHAT) == "ab|cd|e|fg"
    assert text({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "xy"}]}]}) == "xy"
    assert set(pt.encode({"text": "abc"}, Letters())["loss_weight"]) == {1.0}
    with pytest.raises(DataError, match="needs text"):
        pt.encode({"text": ""}, Letters())
