"""The loss over a vocabulary: against float64 and transformers' own loss, whatever the budget."""

import copy

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn import functional as F
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift.api import ops

T, H, V = 96, 24, 1500
ONE, FEW, MANY = 1 << 30, 8 * T * V // 3, 1


def tensors(dtype, seed=0):
    torch.manual_seed(seed)
    hidden, weight, bias = torch.randn(T, H), torch.randn(V, H) / 3, torch.randn(V) / 3
    labels = torch.randint(0, V, (T,))
    labels[::5] = -100
    return [t.to(dtype).requires_grad_() for t in (hidden, weight, bias)], labels, torch.rand(T) * 2


def reference(hidden, weight, bias, labels, loss_weight, softcap, scale):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * (1 if scale is None else scale)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    return (losses if loss_weight is None else losses * loss_weight.to(losses)).sum()


def relative(got, wanted):
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def test_budgets_force_one_few_and_many_tiles():
    few, many = ops._tile(T, V, FEW), ops._tile(T, V, MANY)
    assert T * V * 4 <= ONE
    tiles = [-(-T // n) * -(-V // w) for n, w in (few, many)]
    assert 2 <= tiles[0] < 5 < tiles[1]


@pytest.mark.parametrize("budget", [ONE, FEW, MANY])
@pytest.mark.parametrize(
    ("with_bias", "weighted", "softcap", "scale"),
    [
        (False, False, None, None),
        (True, True, None, None),
        (False, True, 5.0, None),
        (True, False, None, 0.3),
        (True, True, 4.0, 1.7),
    ],
)
@pytest.mark.parametrize(("dtype", "bound_loss", "bound_grad"), [(torch.float32, 2e-6, 3e-6), (torch.bfloat16, 2e-3, 1.2e-2)])
def test_loss_and_gradients_equal_float64(dtype, bound_loss, bound_grad, with_bias, weighted, softcap, scale, budget):
    (hidden, weight, bias), labels, loss_weight = tensors(dtype)
    leaves = [t for t in (hidden, weight, bias if with_bias else None) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    loss_weight = loss_weight if weighted else None
    wanted = reference(*exact[:2], exact[2] if with_bias else None, labels, loss_weight, softcap, scale)
    wanted.backward()
    loss = ops.linear_cross_entropy(
        hidden, weight, labels, loss_weight=loss_weight, bias=bias if with_bias else None,
        memory_budget=budget, softcap=softcap, logit_scale=scale,
    )  # fmt: skip
    (loss * 1.0).backward()
    assert loss.dtype == torch.float32 and loss.ndim == 0
    assert relative(loss, wanted) < bound_loss
    for got, exact_leaf in zip(leaves, exact, strict=True):
        assert got.grad.dtype == dtype
        assert relative(got.grad, exact_leaf.grad) < bound_grad


def test_tiles_of_bfloat16_are_as_good_as_one_piece():
    errors = []
    for budget in (ONE, MANY):
        (hidden, weight, _), labels, _ = tensors(torch.bfloat16)
        exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
        reference(*exact, None, labels, None, None, None).backward()
        ops.linear_cross_entropy(hidden, weight, labels, memory_budget=budget).backward()
        errors.append(max(relative(hidden.grad, exact[0].grad), relative(weight.grad, exact[1].grad)))
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("budget", [ONE, MANY])
def test_frozen_weight_gets_no_gradient(budget):
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    weight.requires_grad_(False)
    ops.linear_cross_entropy(hidden, weight, labels, memory_budget=budget).backward()
    assert weight.grad is None and hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("budget", [ONE, MANY])
def test_without_labels_the_zero_is_connected(budget):
    (hidden, weight, bias), labels, _ = tensors(torch.float32)
    loss = ops.linear_cross_entropy(hidden, weight, torch.full_like(labels, -100), bias=bias, memory_budget=budget)
    loss.backward()
    assert loss.item() == 0.0
    assert all(t.grad is not None and not t.grad.any() for t in (hidden, weight, bias))


@pytest.mark.parametrize("budget", [ONE, FEW, MANY])
def test_token_log_probs_are_those_of_log_softmax(budget):
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    tokens = labels.clamp_min(0)
    wanted = F.log_softmax(hidden @ weight.T, -1).gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(ops.token_log_probs(hidden, weight, tokens, memory_budget=budget), wanted, atol=2e-6)


def test_extreme_logits_stay_finite():
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    big = (hidden.detach() * 300).requires_grad_()
    loss = ops.linear_cross_entropy(big, weight, labels, memory_budget=MANY)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(big.grad).all()
    assert relative(loss, reference(big.double(), weight.double(), None, labels, None, None, None)) < 1e-5


class Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out


def test_no_tensor_exceeds_the_budget():
    torch.manual_seed(0)
    tokens, vocabulary, budget = 256, 20_000, 2 << 20
    hidden, weight = torch.randn(tokens, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    labels = torch.randint(0, vocabulary, (tokens,))
    with Allocations() as seen:
        ops.linear_cross_entropy(hidden, weight, labels, memory_budget=budget).backward()
    assert seen.largest <= budget < tokens * vocabulary * 4 / 9


# ------------------------------------------------------------------------------------------------- causal language models

SIZES = dict(
    vocab_size=160, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="sdpa",
)  # fmt: skip
MODELS = {
    "llama": lambda **k: LlamaForCausalLM(LlamaConfig(**SIZES, **k)),
    "qwen3": lambda **k: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True, **k)),
    "gemma2": lambda **k: Gemma2ForCausalLM(Gemma2Config(**{**SIZES, "attn_implementation": "eager"}, **k)),
    "cohere": lambda **k: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25, **k)),
    "granite": lambda **k: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0, **k)),
}


def build(name, **kwargs):
    torch.manual_seed(0)
    return MODELS[name](**kwargs)


def batch(rows=2, length=24, seed=1):
    torch.manual_seed(seed)
    ids = torch.randint(3, 160, (rows, length))
    labels = torch.cat([ids[:, 1:], torch.full((rows, 1), -100)], 1)
    labels[:, : length // 3] = -100
    return {"input_ids": ids, "position_ids": torch.arange(length).expand(rows, -1)}, labels


@pytest.mark.parametrize("name", MODELS)
def test_known_models_are_split_before_their_head(name):
    model = build(name).train()
    split = ops.decoder_and_head(model)
    assert split is not None and split.plain and model.training
    assert split.softcap == (30.0 if name == "gemma2" else None)
    assert split.logit_scale == {"cohere": 0.25, "granite": 1 / 3.0}.get(name)
    inputs, labels = batch()
    with torch.no_grad():
        wanted = F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum")
        for budget in (1 << 30, 1):
            assert ops.next_token_loss(model, inputs, labels, memory_budget=budget).item() == pytest.approx(
                wanted.item(), rel=1e-6
            )


def test_the_check_draws_no_random_numbers():
    model = get_peft_model(
        build("llama", attention_dropout=0.5), LoraConfig(lora_dropout=0.5, target_modules="all-linear")
    ).train()
    before = torch.get_rng_state()
    assert ops.decoder_and_head(model) is not None
    assert torch.equal(before, torch.get_rng_state()) and model.base_model.model.model.layers[0].training


class Doubling(LlamaForCausalLM):
    """Bends its logits in a way that no config tells."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        out = super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)
        out.logits = out.logits * 2
        return out


class Shifting(LlamaForCausalLM):
    """Changes hidden states between decoder and head."""

    def __init__(self, config):
        super().__init__(config)
        self.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.5,))


@pytest.mark.parametrize("kind", [Doubling, Shifting])
@pytest.mark.parametrize("rows", [1, 2])
def test_unknown_architectures_take_their_own_logits(kind, rows):
    torch.manual_seed(0)
    model = kind(LlamaConfig(**SIZES))
    if kind is Doubling:
        assert ops.decoder_and_head(model) is None
    inputs, labels = batch(rows)
    wanted = F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert ops.next_token_loss(model, inputs, labels, memory_budget=1 << 30).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_one_row_makes_logits_at_labels_only():
    torch.manual_seed(0)
    model = Doubling(LlamaConfig(**SIZES))
    inputs, labels = batch(1)
    seen = []
    model.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[1]))
    ops.next_token_loss(model, inputs, labels, memory_budget=1 << 30)
    assert seen[-1] == (labels != -100).sum()


@pytest.mark.parametrize("config", [PromptTuningConfig(num_virtual_tokens=3), PrefixTuningConfig(num_virtual_tokens=3)])
def test_prompt_learning_takes_its_own_logits(config):
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(build("llama"), config).eval()
    assert ops.decoder_and_head(model) is None
    inputs, labels = batch()
    inputs = {"input_ids": inputs["input_ids"], "attention_mask": torch.ones_like(inputs["input_ids"])}
    logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] :]
    wanted = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss = ops.next_token_loss(model, inputs, labels, memory_budget=1 << 30)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("budget", [1 << 30, 4 * 160 * 5])
def test_adapted_head_is_called_in_chunks(budget):
    """LoRA on the output layer: its own loss and gradients, whether in one piece or in chunks of five tokens."""
    model = get_peft_model(
        build("llama"), LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    split = ops.decoder_and_head(model)
    assert split is not None and not split.plain
    inputs, labels = batch()
    twin = copy.deepcopy(model)
    wanted = F.cross_entropy(twin(**inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    wanted.backward()
    loss = ops.next_token_loss(model, inputs, labels, memory_budget=budget)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        if p.requires_grad:
            assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_all_masked_batch_gives_every_parameter_a_gradient(name):
    model = build(name)
    inputs, labels = batch()
    ops.next_token_loss(model, inputs, torch.full_like(labels, -100), memory_budget=1 << 20).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
