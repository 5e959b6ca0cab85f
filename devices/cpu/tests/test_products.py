"""16-bit products in float32: against float64, against torch's own kernels, through autograd, autocast and models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from swift_device_cpu import products
from swift_device_cpu.device import CpuDevice
from swift_device_cpu.settings import CpuSettings

pytestmark = pytest.mark.skipif(not products.available(), reason="this torch does not let kernels be replaced")
EPS = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Half of the distance between neighbouring numbers: what one rounding costs, relative."""


@pytest.fixture(autouse=True)
def kernels():
    products.install()
    yield
    products.remove()


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(products, "PIECE", 64)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def rounded_once(found: Tensor, exact: Tensor, terms: Tensor) -> None:
    """Within one rounding of the exact value, and what float32 loses in the sum of `terms` (their absolute values, summed)."""
    error = (found.double() - exact).abs()
    assert (error <= EPS[found.dtype] * exact.abs() + 2**-20 * terms + 1e-7).all(), error.max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("m", "k", "n"), [(5, 7, 3), (40, 6, 5), (6, 40, 5), (5, 6, 40), (33, 33, 33), (3, 0, 4), (0, 3, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_exact_but_for_one_rounding(dtype, m, k, n, transposed, small_pieces):
    a, b = drawn(m, k, dtype=dtype), drawn(n, k, dtype=dtype).t() if transposed else drawn(k, n, dtype=dtype)
    bias = drawn(n, dtype=dtype)
    exact, terms = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    rounded_once(torch.mm(a, b), exact, terms)
    rounded_once(torch.addmm(bias, a, b), exact + bias.double(), terms + bias.double().abs())
    rounded_once(torch.addmm(bias, a, b, beta=2, alpha=0.5), 0.5 * exact + 2 * bias.double(), terms + 2 * bias.double().abs())
    out = a.new_empty(m, n)
    assert torch.mm(a, b, out=out) is out and torch.equal(out, torch.mm(a, b))
    inplace = bias.expand(m, n).clone()
    assert torch.equal(inplace.addmm_(a, b), torch.addmm(bias, a, b))
    assert torch.equal(torch.addmm(bias * torch.nan, a, b, beta=0), torch.mm(a, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batches_of_products(dtype, small_pieces):
    a, b, bias = drawn(7, 5, 6, dtype=dtype), drawn(7, 6, 4, dtype=dtype), drawn(7, 5, 4, dtype=dtype)
    exact, terms = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    rounded_once(torch.bmm(a, b), exact, terms)
    rounded_once(torch.baddbmm(bias, a, b, alpha=0.5), 0.5 * exact + bias.double(), terms + bias.double().abs())
    assert torch.equal(bias.clone().baddbmm_(a, b), torch.baddbmm(bias, a, b))
    assert torch.bmm(a[:0], b[:0]).shape == (0, 5, 4)


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_torch_finds_the_same(rows):
    """Its own kernels, which are slow here, not wrong: equal but for the order of sums."""
    a, w = drawn(rows, 64, dtype=torch.bfloat16), drawn(32, 64, dtype=torch.bfloat16)
    ours = nn.functional.linear(a, w)
    products.remove()
    theirs = nn.functional.linear(a, w)
    products.install()
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7)


def test_other_dtypes_go_by():
    products.remove()
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    plain = [torch.mm(a, b), torch.mm(a.double(), b.double()), torch.bmm(a[None], b[None]), torch.addmm(b[0], a, b, beta=3)]
    products.install()
    products.install()
    ours = [torch.mm(a, b), torch.mm(a.double(), b.double()), torch.bmm(a[None], b[None]), torch.addmm(b[0], a, b, beta=3)]
    assert all(torch.equal(x, y) for x, y in zip(plain, ours, strict=True))
    with pytest.raises(RuntimeError, match="same dtype|expected m1 and m2"):
        torch.mm(a.bfloat16(), b)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(a.bfloat16(), a.bfloat16())


@pytest.mark.parametrize("cast", [False, True])
def test_gradients_are_those_of_float64(cast):
    """Of weights in bfloat16, and of float32 ones under autocast."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(24, 40), nn.SiLU(), nn.Linear(40, 8)).double()
    x = torch.randn(16, 24, dtype=torch.float64)
    plain(x).square().sum().backward()
    low = nn.Sequential(nn.Linear(24, 40), nn.SiLU(), nn.Linear(40, 8))
    low.load_state_dict(plain.state_dict())
    dtype = torch.float32 if cast else torch.bfloat16
    low = low.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        result = low(x.to(dtype))
        assert result.dtype is torch.bfloat16
        result.float().square().sum().backward()
    for ours, exact in zip(low.parameters(), plain.parameters(), strict=True):
        assert torch.linalg.norm(ours.grad.double() - exact.grad) < 0.03 * torch.linalg.norm(exact.grad)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_attention(dtype, masked):
    """Through sdpa's flash kernel: no further from float64 than torch's own kernel is."""
    mask = torch.zeros(10, 10).masked_fill(torch.ones(10, 10).triu(2) > 0, -1e4) if masked else None

    def gradients(dtype: torch.dtype) -> Tensor:
        factors = [x.to(dtype, copy=True).requires_grad_() for x in drawn_in_dtype]
        attended = nn.functional.scaled_dot_product_attention(
            *factors, attn_mask=None if mask is None else mask.to(dtype), is_causal=not masked
        )
        attended.double().square().sum().backward()
        assert all(factor.grad.dtype is dtype for factor in factors)
        return torch.stack([factor.grad.double() for factor in factors])

    drawn_in_dtype = [drawn(2, 3, 10, 8, dtype=dtype).mul_(1 + i) for i in range(3)]
    ours, exact = gradients(dtype), gradients(torch.float64)
    products.remove()
    theirs = gradients(dtype)
    assert torch.linalg.norm(ours - exact) <= 1.05 * torch.linalg.norm(theirs - exact)


def device(products_: str) -> CpuDevice:
    return CpuDevice(CpuSettings(products=products_), "cpu")


def test_only_where_it_is_asked_for_and_needed(monkeypatch):
    products.remove()
    monkeypatch.setattr("swift_device_cpu.device.fast_dtypes", lambda: ("float32", "bfloat16"))
    assert device("auto").choose_kernels({torch.bfloat16}) == "" and products._library is None
    monkeypatch.setattr("swift_device_cpu.device.fast_dtypes", lambda: ("float32",))
    assert device("auto").choose_kernels({torch.float32}) == "" and products._library is None
    assert device("native").choose_kernels({torch.bfloat16}) == "" and products._library is None
    assert "bfloat16 are computed in float32" in device("auto").choose_kernels({torch.float32, torch.bfloat16})
    assert products._library is not None
    assert device("native").choose_kernels({torch.bfloat16}) == "" and products._library is None
    assert "float16 are computed in float32" in device("float32").choose_kernels({torch.float16})


def test_the_plan_says_which(monkeypatch):
    monkeypatch.setattr("swift_device_cpu.settings.fast_dtypes", lambda: ("float32",))
    assert CpuSettings().resolve_auto()["products"] == ("float32", "this processor has no instruction for 16-bit products")
    monkeypatch.setattr("swift_device_cpu.settings.fast_dtypes", lambda: ("float32", "bfloat16"))
    assert CpuSettings().resolve_auto()["products"][0] == "native"
    assert CpuSettings(products="native").resolve_auto() == {}


def test_a_torch_that_keeps_its_kernels_is_told(monkeypatch):
    products.remove()
    monkeypatch.setattr(products, "available", lambda: False)
    assert "torch 2.10" in device("float32").choose_kernels({torch.bfloat16}) and products._library is None
