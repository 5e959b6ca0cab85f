"""LoRA without copies: the numbers of PEFT's layers, fewer bytes, and PEFT's own forward wherever more is asked for."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import LlamaConfig, LlamaForCausalLM

from swift_tuner_peft import lean
from swift_tuner_peft.lora import Lora
from swift_tuner_peft.settings import DoraSettings, LoraSettings

IDS = torch.arange(3, 51).view(2, 24)


def model(dtype=torch.float32, *, bias=False, **options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, attention_bias=bias, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    values = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    return get_peft_model(LlamaForCausalLM(config).to(dtype), LoraConfig(**values | options)).train()


def loss_of(tuned):
    logits = tuned(input_ids=IDS, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten())


def gradients(tuned):
    tuned.zero_grad()
    loss = loss_of(tuned)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in tuned.named_parameters() if p.requires_grad}


def kept_bytes(tuned):
    own = {p.untyped_storage().data_ptr() for p in tuned.parameters()}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss_of(tuned)
    return sum(kept.values())


@pytest.fixture
def calls(monkeypatch):
    """Names of the layers' parameters that the lean computation has been asked for."""
    seen = []
    real = lean.lean_lora
    monkeypatch.setattr(lean, "lean_lora", lambda *args: seen.append(args) or real(*args))
    return seen


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "rank_pattern": {"q_proj": 7}}])
def test_losses_and_gradients_are_those_of_peft(calls, dtype, bound, bias, options):
    plain = model(dtype, bias=bias, **options)
    other = copy.deepcopy(plain)
    assert lean.make_lean(other) == 14
    (loss, wanted), (got_loss, got) = gradients(plain), gradients(other)
    assert len(calls) == 14 and got_loss == pytest.approx(loss, rel=bound)
    assert wanted.keys() == got.keys() and len(got) == 28
    for name, gradient in got.items():
        assert gradient.dtype == wanted[name].dtype
        assert (gradient - wanted[name]).norm() <= bound * wanted[name].norm(), name


def test_over_a_16_bit_base_it_is_as_near_to_the_exact_gradients_as_peft_is():
    plain = model(torch.bfloat16)
    other, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    lean.make_lean(other)
    wanted, *found = (torch.cat([g.double().flatten() for g in gradients(m)[1].values()]) for m in (exact, plain, other))
    errors = [((g - wanted).norm() / wanted.norm()).item() for g in found]
    assert errors[1] < 1.25 * errors[0] and 1e-3 < errors[1] < 5e-2


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_dropout_is_applied_to_the_update_alone_and_scaled(p, monkeypatch):
    """By hand, with the mask that was drawn; and the mask is as it should be."""
    drawn = []
    real = lean._dropout
    monkeypatch.setattr(lean, "_dropout", lambda *args: drawn.append(real(*args)) or drawn[-1])
    torch.manual_seed(0)
    shapes = ((3, 401, 16), (8, 16), (4, 16), (8, 4))
    x, weight, a, b = (torch.randn(s, dtype=torch.float64) for s in shapes)
    leaves = [t.requires_grad_() for t in (x, a, b)]
    out = lean.lean_lora(x, weight, None, a, b, 1.5, p)
    mask = drawn[0][1].double()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(1 - mask.mean().item() - p) < 4 * (p * (1 - p) / mask.numel()) ** 0.5
    assert all(
        abs(1 - part.mean().item() - p) < 0.02 + p / 10 for part in mask.flatten()[: 4 * (mask.numel() // 4)].view(-1, 4).T
    )
    wanted = F.linear(x, weight) + 1.5 * F.linear(F.linear(x * mask / (1 - p), a), b)
    assert torch.allclose(out, wanted)
    seed = torch.randn_like(out)
    for got, hand in zip(torch.autograd.grad(out, leaves, seed), torch.autograd.grad(wanted, leaves, seed), strict=True):
        assert torch.allclose(got, hand)


def test_dropout_draws_from_torchs_generator():
    x, weight, a, b = torch.randn(5, 6), torch.randn(3, 6), torch.randn(2, 6), torch.randn(3, 2)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(lean.lean_lora(x, weight, None, a, b, 1.0, 0.5))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("frozen", [(), (0,), (3,), (4,)])
def test_gradcheck(frozen):
    torch.manual_seed(0)
    tensors = [torch.randn(s, dtype=torch.float64) for s in ((2, 3, 4), (5, 4), (5,), (2, 4), (5, 2))]
    leaves = [t.requires_grad_(i in (0, 3, 4) and i not in frozen) for i, t in enumerate(tensors)]
    assert torch.autograd.gradcheck(lambda *t: lean.lean_lora(*t, 0.7), leaves)


@pytest.mark.parametrize(
    ("dtype", "dropout", "at_most"),
    [(torch.float32, 0.0, 1.0), (torch.float32, 0.1, 0.8), (torch.bfloat16, 0.0, 0.75), (torch.bfloat16, 0.1, 0.65)],
)
def test_less_is_kept_for_the_backward_pass(dtype, dropout, at_most):
    plain = model(dtype, lora_dropout=dropout)
    other = copy.deepcopy(plain)
    lean.make_lean(other)
    assert kept_bytes(other) <= at_most * kept_bytes(plain)


@pytest.mark.parametrize("keep", [CheckpointPolicy.MUST_SAVE, CheckpointPolicy.MUST_RECOMPUTE, None])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients_whatever_is_kept(keep, dropout):
    """Nothing that a policy has kept is changed afterwards; random numbers are drawn again as they were."""
    torch.manual_seed(0)
    x, weight, a, b = (torch.randn(s) for s in ((2, 5, 8), (6, 8), (3, 8), (6, 3)))
    leaves = [t.requires_grad_() for t in (x, a, b)]

    def policy(_context, op, *_args, **_kwargs):
        kept = keep is CheckpointPolicy.MUST_SAVE and "random" not in op.name()
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.MUST_RECOMPUTE

    def run(wrap):
        torch.manual_seed(1)
        return torch.autograd.grad(wrap(lambda t: lean.lean_lora(t, weight, None, a, b, 1.5, dropout).tanh()).sum(), leaves)

    def checkpointed(f):
        more = {} if keep is None else {"context_fn": lambda: create_selective_checkpoint_contexts(policy)}
        return checkpoint(f, x * 1, use_reentrant=False, **more)

    for got, wanted in zip(run(checkpointed), run(lambda f: f(x * 1)), strict=True):
        assert torch.equal(got, wanted)


def _two(tuned):
    torch.manual_seed(1)
    tuned.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    tuned.base_model.set_adapter(["default", "second"])


def _base_trains(tuned):
    for layer in tuned.modules():
        if isinstance(layer, Linear):
            layer.base_layer.weight.requires_grad_(True)


def _hooked(tuned):
    for layer in tuned.modules():
        if isinstance(layer, Linear):
            layer.lora_A["default"].register_forward_hook(lambda m, i, o: o * 2)


def _autocast(tuned):
    tuned.forward = torch.autocast("cpu", torch.bfloat16)(tuned.forward)


ELSE = {
    "switched off": lambda t: t.base_model.disable_adapter_layers(), "merged": lambda t: t.merge_adapter(), "two at once": _two,
    "a trained base": _base_trains, "watched": _hooked, "autocast": _autocast,
}  # fmt: skip


@pytest.mark.parametrize("what", ELSE)
def test_everything_else_is_left_to_peft(calls, what):
    plain = model()
    other = copy.deepcopy(plain)
    lean.make_lean(other)
    for tuned in (plain, other):
        ELSE[what](tuned)
    assert torch.equal(loss_of(plain), loss_of(other)) and not calls


def test_layers_that_are_not_plain_are_left_alone():
    assert lean.make_lean(model(use_dora=True)) == 14, "they may carry a plain adapter later"
    other = model(use_dora=True)
    plain = copy.deepcopy(other)
    lean.make_lean(other)
    assert torch.equal(loss_of(plain), loss_of(other))

    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    tuned = model()
    tuned.base_model.model.model.layers[0].self_attn.q_proj.base_layer.__class__ = Scaled
    assert lean.make_lean(tuned) == 13


def test_evaluation_switching_merging_and_saving_are_untouched(tmp_path):
    plain = model(lora_dropout=0.3)
    other = copy.deepcopy(plain)
    lean.make_lean(other)
    for tuned in (plain, other):
        tuned.eval()
    with torch.no_grad(), plain.disable_adapter(), other.disable_adapter():
        assert torch.equal(loss_of(plain), loss_of(other))
    with torch.no_grad():
        assert torch.equal(loss_of(plain), loss_of(other))
    assert loss_of(plain).item() == pytest.approx(loss_of(other).item(), rel=1e-6), "no dropout in evaluation mode"
    for name, tuned in (("plain", plain), ("other", other)):
        tuned.save_pretrained(str(tmp_path / name))
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("plain", "other")]
    assert files[0] == files[1]
    assert torch.equal(*(loss_of(tuned.merge_and_unload()) for tuned in (plain, other)))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (LoraSettings(), "lean"), (LoraSettings(computation="peft"), "peft"), (DoraSettings(), "peft"),
        (LoraSettings(bias="all"), "peft"), (LoraSettings(computation="lean"), "lean"),
    ],
)  # fmt: skip
def test_auto_says_what_it_chose_and_the_tuner_follows(settings, wanted):
    chosen = settings.resolve_auto()
    assert (settings.computation == "auto") == bool(chosen)
    resolved = settings.model_copy(update={name: value for name, (value, _) in chosen.items()})
    assert resolved.computation == wanted and all(why for _, why in chosen.values())
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                        num_attention_heads=4, num_key_value_heads=2, head_dim=8))  # fmt: skip
    tuned = Lora(resolved, "lora").apply(base, seed=0)
    kinds = {type(m) for m in tuned.modules() if isinstance(m, Linear)}
    assert kinds == {lean.LeanLinear if wanted == "lean" else Linear}
