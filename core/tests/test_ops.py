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
from swift.api.ops import losses

T, H, V = 96, 24, 1500
ONE, CHUNKS, FEW, MANY = 1 << 30, 4 * V * 70, 8 * T * V // 3, 1


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


def test_budgets_force_one_few_and_many_pieces():
    few, many = losses._tile(T, V, FEW), losses._tile(T, V, MANY)
    assert T * V * 4 <= ONE
    tiles = [-(-T // n) * -(-V // w) for n, w in (few, many)]
    assert 2 <= tiles[0] < 5 < tiles[1]
    (hidden, weight, _), _, _ = tensors(torch.float32)
    chunks = [losses._chunk_tokens(hidden, weight, None, budget) for budget in (ONE, CHUNKS, MANY)]
    assert chunks == [T, 70, 0], "one piece, chunks, and what must be tiled"


def test_large_heads_are_chunked_where_that_pays():
    """A trained head in 16 bits would round its gradient with every chunk; the others are cut by the budget alone."""
    hidden, weight = torch.randn(1000, 8), torch.randn(50, 8)
    for dtype, trained, budget, wanted in [
        (torch.float32, False, 4 * 50 * 100, 100), (torch.float32, True, 4 * 50 * 100, 100), (torch.float32, True, ONE, 256),
        (torch.bfloat16, False, 6 * 50 * 100, 100), (torch.bfloat16, True, 6 * 50 * 100, 0), (torch.bfloat16, True, ONE, 1000),
        (torch.float32, False, 4 * 50 * 63, 0),
    ]:  # fmt: skip
        head = weight.detach().to(dtype, copy=True).requires_grad_(trained)
        assert losses._chunk_tokens(hidden.to(dtype), head, None, budget) == wanted


@pytest.mark.parametrize("budget", [ONE, CHUNKS, FEW, MANY])
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


@pytest.mark.parametrize(("softcap", "scale"), [(None, None), (3.0, 0.7)])
@pytest.mark.parametrize("size", [2, 7])
def test_gradients_pass_gradcheck(softcap, scale, size):
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 4), (11, 4), (11,))]
    tokens, loss_weight = torch.randint(0, 11, (7,)), torch.rand(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: losses._ChunkedLoss.apply(*t, tokens, loss_weight, softcap, scale or 1.0, size, True) / 3, leaves
    )


@pytest.mark.parametrize("budget", [ONE, CHUNKS, MANY])
def test_a_graph_that_is_kept_can_be_run_again(budget):
    (hidden, weight, bias), labels, _ = tensors(torch.float32)
    loss = ops.linear_cross_entropy(hidden, weight, labels, bias=bias, memory_budget=budget)
    first = torch.autograd.grad(loss * 0.5, (hidden, weight, bias), retain_graph=True)
    second = torch.autograd.grad(loss * 2.0, (hidden, weight, bias))
    assert all(torch.allclose(4 * a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("budget", [ONE, CHUNKS, MANY])
def test_a_head_used_twice_adds_up(budget):
    """As do two micro-batches, and a weight that is tied to the embedding."""
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    twin = [hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    for h, w, loss_of in (
        (hidden, weight, lambda h, w: ops.linear_cross_entropy(h, w, labels, memory_budget=budget)),
        (*twin, lambda h, w: reference(h, w, None, labels, None, None, None)),
    ):
        (loss_of(h, w) / 7 + loss_of(h * 0.5, w) / 3 + w.sum()).backward()
        (loss_of(h, w) / 5).backward()
    assert relative(hidden.grad, twin[0].grad) < 3e-6 and relative(weight.grad, twin[1].grad) < 3e-6


@pytest.mark.parametrize("budget", [ONE, CHUNKS])
@pytest.mark.parametrize("trained", [True, False])
def test_autocast_computes_in_its_dtype_and_keeps_the_gradients(budget, trained):
    (hidden, weight, bias), labels, _ = tensors(torch.float32)
    weight.requires_grad_(trained)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
    reference(*exact, labels, None, None, None).backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.linear_cross_entropy(hidden, weight, labels, bias=bias, memory_budget=budget)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == torch.float32
    for got, wanted in zip(
        (hidden, weight, bias) if trained else (hidden, bias), exact if trained else exact[::2], strict=True
    ):
        assert got.grad.dtype == torch.float32 and 1e-5 < relative(got.grad, wanted.grad) < 1.2e-2
    assert (weight.grad is None) != trained


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products over the vocabulary."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("trained", "grad", "products"), [(True, True, 3), (False, True, 2), (True, False, 1)])
def test_no_product_is_made_that_nobody_asked_for(trained, grad, products):
    """Logits once, one product for each gradient, none in evaluation; the backward pass makes none again."""
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    weight.requires_grad_(trained)
    with Products() as seen, torch.set_grad_enabled(grad):
        loss = ops.linear_cross_entropy(hidden, weight, labels, memory_budget=ONE)
        forward = seen.count
        if grad:
            loss.backward()
    assert seen.count == forward == products


@pytest.mark.parametrize("trained", [True, False])
def test_no_logits_are_kept_for_the_backward_pass(trained):
    (hidden, weight, _), labels, _ = tensors(torch.float32)
    weight.requires_grad_(trained)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        ops.linear_cross_entropy(hidden, weight, labels, memory_budget=ONE)
    assert all(V not in shape or shape == weight.shape for shape in kept) and (weight.shape in kept) == trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_that_are_known_change_nothing(dtype):
    (hidden, weight, _), labels, loss_weight = tensors(dtype)
    where = (labels != -100).nonzero().squeeze(1)
    losses = [
        ops.linear_cross_entropy(hidden, weight, labels, loss_weight=loss_weight, memory_budget=ONE, label_positions=given)
        for given in (None, where)
    ]
    assert torch.equal(*losses)
    model = build("llama")
    inputs, labels = batch()
    where = (labels.flatten() != -100).nonzero().squeeze(1)
    for ask in (ops.label_log_probs, ops.next_token_loss):
        plain, known = (ask(model, inputs, labels, memory_budget=ONE, label_positions=given) for given in (None, where))
        assert torch.equal(plain, known)


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


@pytest.mark.parametrize("budget", [ONE, 4 * 160 * 70, 1])
@pytest.mark.parametrize("kind", ["llama", Doubling])
def test_labels_that_were_taken_out_do_not_count_where_positions_stayed(kind, budget):
    """`replace(batch, labels=...)` leaves `label_positions` as they are."""
    model = build(kind) if kind == "llama" else kind(LlamaConfig(**SIZES))
    inputs, labels = batch()
    where = (labels.flatten() != -100).nonzero().squeeze(1)
    fewer = torch.where(torch.arange(labels.shape[1]) % 3 == 0, -100, labels)
    for ask in (ops.label_log_probs, ops.next_token_loss):
        results = []
        for given in (None, where):
            model.zero_grad()
            out = ask(model, inputs, fewer, memory_budget=budget, label_positions=given)
            out.sum().backward()
            results.append((out.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(*results, strict=True))
