"""torch_varlen: the same logits and gradients as documents that never met, without a mask, or refused."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from swift.api import LoadRequest, ModelError
from swift.testing.ranks import PlainCpu
from swift.testing.tiny import tiny_folder
from swift_model_transformers import varlen as varlen_module
from swift_model_transformers.choices import Computes, attention_fault
from swift_model_transformers.loader import TransformersLoader
from swift_model_transformers.varlen import TORCH_VARLEN, varlen

LENGTHS = (7, 12, 1, 5)
ORDER = (TORCH_VARLEN, "sdpa", "eager")


FAMILIES: dict[str, dict] = {
    "llama": {},
    "mistral": {"sliding_window": 5},  # shorter than documents
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3": {},
}


class Cpu(PlainCpu):
    def attention(self) -> tuple[str, ...]:
        return ORDER


def load(folder: Path, attention: str = "auto", **changes):
    options = {"device": Cpu(), "attention": attention, "documents": True, **changes}
    return TransformersLoader().load(LoadRequest(folder=folder, **options))


def bounds_of(lengths) -> dict:
    bounds = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": max(lengths), "max_length_k": max(lengths)}


def gradients(model, calls) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of all documents, gradients of a weighted sum of them)."""
    model.train().zero_grad()
    logits = torch.cat([model(**call, use_cache=False).logits for call in calls], dim=1)
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def rows() -> tuple[list[torch.Tensor], dict]:
    parts = torch.randint(3, 250, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1)).split(LENGTHS, dim=1)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return list(parts), {"input_ids": torch.cat(parts, 1), "position_ids": positions}


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_gradients_are_those_of_documents_that_never_met(name, tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path, architecture=name, initializer_range=0.3, **FAMILIES[name])
    loaded = load(folder)
    assert (loaded.attention, loaded.takes_bounds, loaded.keeps_documents_apart) == (TORCH_VARLEN, True, True)
    parts, packed = rows()
    expected = gradients(load(folder, "eager").model, [{"input_ids": part} for part in parts])

    def no_mask(*_, **__):
        raise AssertionError("a mask was made")

    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, TORCH_VARLEN, no_mask)
    found = gradients(loaded.model, [{**packed, **bounds_of(LENGTHS)}])
    for what, got, want in zip(("logits", "gradients"), found, expected, strict=True):
        assert (got - want).norm() / want.norm() < 1e-5, what


@pytest.mark.parametrize("layout", ["padded", "packed by positions alone", "cache"])
def test_without_bounds_it_is_sdpa(layout, tmp_path):
    folder = tiny_folder(tmp_path, initializer_range=0.3)
    _parts, packed = rows()
    call = {
        "padded": {"input_ids": torch.randint(3, 250, (2, 9)), "attention_mask": torch.tensor([[0] * 3 + [1] * 6, [1] * 9])},
        "packed by positions alone": packed,
        "cache": {"input_ids": torch.randint(3, 250, (2, 9))},
    }[layout]
    models = [load(folder, attention).model.eval() for attention in (TORCH_VARLEN, "sdpa")]
    with torch.no_grad():
        if layout == "cache":
            answers = [model.generate(**call, max_new_tokens=6, do_sample=False) for model in models]
        else:
            answers = [model(**call, use_cache=False).logits for model in models]
    assert torch.equal(*answers)


def test_answers_are_not_given_by_it(tmp_path):
    folder = tiny_folder(tmp_path)
    loaded = load(folder, documents=False)
    assert (loaded.attention, loaded.takes_bounds) == ("sdpa", False)


@pytest.mark.parametrize(
    ("family", "values", "because"),
    [
        ("llama", {"attn_logit_softcapping": 50.0}, "softcap"),
        ("gpt_oss", {"num_local_experts": 2}, "does not take attention from outside"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(family, values, because, tmp_path):
    folder = tiny_folder(tmp_path, architecture=family, **values)
    with pytest.raises(ModelError, match=because):
        load(folder, TORCH_VARLEN)
    loaded = load(folder)
    assert loaded.attention != TORCH_VARLEN and because in " ".join(loaded.notes)


def test_a_layer_that_mixes_documents_leaves_it_unused(tmp_path):
    loaded = load(tiny_folder(tmp_path, architecture="lfm2", layer_types=["conv", "full_attention"]))
    assert not loaded.takes_bounds


def test_a_model_that_keeps_bounds_from_its_attention_is_noticed(tmp_path, monkeypatch):
    """The first layer forgets what it does not know: documents would never be told apart."""
    forward = LlamaForCausalLM.forward

    def forgetful(self, *args, cu_seq_lens_q=None, **kwargs):
        if cu_seq_lens_q is not None:
            kwargs["attention_mask"] = torch.empty((1, 1, 0, 0), dtype=torch.bool)
        return forward(self, *args, **kwargs)

    folder = tiny_folder(tmp_path, architecture="llama", rms_norm_eps=3e-6)
    monkeypatch.setattr(LlamaForCausalLM, "forward", forgetful)
    loaded = load(folder)
    assert (loaded.attention, loaded.takes_bounds) == ("sdpa", False)
    assert any("does not keep documents" in note for note in loaded.notes)


def test_on_cuda_the_kernel_sets_conditions(monkeypatch):
    monkeypatch.setattr(varlen_module, "varlen_attn", lambda *_, **__: None)
    monkeypatch.setattr(varlen_module, "_KERNEL", frozenset({"is_causal", "scale"}))  # torch 2.10's

    def fault(of, **values) -> str:
        computes = Computes(LlamaForCausalLM, of, "bfloat16", **{"half": True, "device": "cuda", **values})
        return attention_fault(TORCH_VARLEN, computes)

    def config(family: str = "llama", **values):
        return AutoConfig.for_model(family, **values)

    plain = config()
    assert fault(plain) == ""
    assert "16-bit" in fault(plain, half=False)
    assert "sliding window" in fault(config("mistral"))
    assert "dropout" in fault(config(attention_dropout=0.1))
    assert "heads of sizes" in fault(config("deepseek_v3"))
    assert "heads of sizes" in fault(config("qwen3", head_dim=20))
    monkeypatch.setattr(varlen_module, "varlen_attn", None)
    assert "no variable-length kernel" in fault(plain)


@pytest.mark.parametrize("takes", ["2.10", "2.11"])
def test_the_kernel_is_called_as_its_version_wants(takes, monkeypatch):
    """What would run on a GPU: queries of another dtype, a scale, groups and a window reach the kernel of either version."""
    seen = {}

    def kernel(q, k, v, bounds_q, bounds_k, longest_q, longest_k, **options):
        seen.update(options, dtypes={t.dtype for t in (q, k, v)}, heads=(q.shape[1], k.shape[1]))
        return q

    known = {"2.10": {"is_causal", "scale"}, "2.11": {"window_size", "scale", "enable_gqa"}}[takes]
    monkeypatch.setattr(varlen_module, "varlen_attn", kernel)
    monkeypatch.setattr(varlen_module, "_KERNEL", frozenset(known))
    q, k = torch.ones(4, 4, 8), torch.ones(4, 2, 8, dtype=torch.bfloat16)
    window = None if takes == "2.10" else 3
    varlen_module._by_kernel(q, k, k, torch.tensor([0, 4], dtype=torch.int32), 4, scale=0.5, window=window)
    assert seen["dtypes"] == {torch.bfloat16} and seen["scale"] == 0.5
    if takes == "2.10":
        assert seen["is_causal"] and seen["heads"] == (4, 4)
    else:
        assert seen["window_size"] == (2, 0) and seen["enable_gqa"] and seen["heads"] == (4, 2)


def test_empty_documents_dropout_and_other_head_sizes():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, heads, 8, generator=generator) for heads in (4, 2, 2))
    with_empty = varlen(q, k, v, torch.tensor([0, 4, 4, 9, 9], dtype=torch.int32), 9)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    assert torch.equal(with_empty, varlen(q, k, v, bounds, 9))
    narrow = varlen(q, k, v[..., :4], bounds, 9)  # goes document by document through sdpa itself
    assert torch.allclose(narrow, with_empty[..., :4], atol=1e-6)
    torch.manual_seed(0)
    assert not torch.allclose(varlen(q, k, v, bounds, 9, dropout=0.5), with_empty)


def test_the_operator_keeps_its_promises():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 9, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    torch.library.opcheck(varlen_module._each_on_cpu, (q, k, v, bounds, None))


def test_a_bend_that_it_does_not_know_is_no_silent_one():
    module = types.SimpleNamespace(is_causal=True)
    q = torch.ones(1, 1, 2, 8)
    with pytest.raises(ValueError, match="s_aux"):
        varlen_module.attention_forward(module, q, q, q, None, s_aux=torch.ones(1))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.skipif(varlen_module.varlen_attn is None, reason="this torch has no such kernel")
def test_the_kernel_takes_what_it_is_given(window):
    """Its arguments differ from torch to torch; tensors without a device's memory find out without a device."""
    with FakeTensorMode():
        q = torch.empty(sum(LENGTHS), 4, 64, device="cuda")  # float32, as norms under autocast hand on
        k = torch.empty(sum(LENGTHS), 2, 64, device="cuda")
        v = torch.empty(sum(LENGTHS), 2, 64, device="cuda", dtype=torch.bfloat16)
        bounds = torch.empty(len(LENGTHS) + 1, device="cuda", dtype=torch.int32)
        if window is not None and "window_size" not in varlen_module._KERNEL:
            pytest.skip("this kernel knows no window")
        out = varlen(q, k, v, bounds, max(LENGTHS), scale=0.1, window=window)
    assert (out.shape, out.dtype, out.device.type) == ((sum(LENGTHS), 4, 64), torch.bfloat16, "cuda")
