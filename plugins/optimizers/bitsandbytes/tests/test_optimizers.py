"""8-bit steps stay near those of 32 bits; runs resume to the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import swift

pytest.importorskip("bitsandbytes")
from swift_optimizer_bitsandbytes import optimizers, settings


def trained(make, steps: int = 20, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(96, 96).to(dtype))
    start = weight.detach().clone()
    optimizer = make([{"params": [weight], "lr": 1e-3, "weight_decay": 0.1}])
    for step in range(steps):
        weight.grad = torch.randn(96, 96, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.step()
    return (weight - start).detach().float()


def test_the_8_bit_path_is_near_that_of_torch() -> None:
    want = trained(lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95)))
    got = trained(optimizers.AdamW8bit(settings.AdamWSettings(), "adamw_8bit").build)
    assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.99
    assert not torch.equal(got, want)


def test_32_paged_bits_are_torchs_adamw() -> None:
    want = trained(lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95)))
    got = trained(optimizers.PagedAdamW32bit(settings.AdamWSettings(), "paged_adamw_32bit").build)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_small_parameters_keep_32_bits() -> None:
    want = trained(lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95)))
    got = trained(optimizers.AdamW8bit(settings.AdamWSettings(min_8bit_size=10_000), "adamw_8bit").build)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw_8bit", "lion_8bit"])
def test_a_run_resumes_to_the_same_weights(name: str, tmp_path: Path) -> None:
    options = {
        "model": "tiny", "dataset": "tiny-chat", "tuner": "full", "optimizer": name, "max_steps": 4, "batch_size": 2,
        "gradient_accumulation_steps": 1, "progress": False, "report": False, "learning_rate": 1e-3, "save_steps": 2,
        "save_total_limit": 0,
    }  # fmt: skip
    whole = swift.train(output=tmp_path / "whole", **options)
    state = torch.load(tmp_path / "whole/checkpoints/step-000002/optimizer/optimizer.pt", weights_only=True)
    assert any(
        tensor.dtype == torch.uint8 for values in state["state"].values() for inner in values.values()
        if isinstance(inner, dict) for tensor in inner.values()
    )  # fmt: skip
    want = [row["loss"] for row in whole.log()]
    for folder in [*whole.checkpoints()[1:], whole.final]:
        shutil.rmtree(folder)
    again = swift.train(resume=whole)
    assert [row["loss"] for row in again.log()] == want
