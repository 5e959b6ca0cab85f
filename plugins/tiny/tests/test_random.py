"""build_random writes folders that transformers reads, the same ones for the same seed."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift_tiny.random import ARCHITECTURES, build_random


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folder_loads_and_answers_finite_logits(tmp_path, architecture):
    model = AutoModelForCausalLM.from_pretrained(build_random(tmp_path, architecture))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == architecture
    logits = model(**tokenizer("Hello there", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer) and torch.isfinite(logits).all()
    assert tokenizer.chat_template


def test_same_seed_same_bytes_other_seed_others(tmp_path):
    weights = [
        (build_random(tmp_path / str(i), "llama", seed) / "model.safetensors").read_bytes() for i, seed in enumerate((1, 1, 2))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_random(tmp_path, "llama", seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_overrides_reach_the_config(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_random(tmp_path, "llama", num_hidden_layers=3, dtype="bfloat16"))
    assert model.config.num_hidden_layers == 3 and model.dtype == torch.bfloat16


def test_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nosuch"):
        build_random(tmp_path, "nosuch")
