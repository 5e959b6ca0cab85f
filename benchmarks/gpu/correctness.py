"""Is what the GPU computes right? Everything is held against float64 on the CPU, at small sizes.

Errors are ||out - ref|| / ||ref||. In float32 they must stay under 1e-4 (2e-3 where a kernel uses TF32). In bfloat16 no fixed
figure is fair: the weights are rounded to bfloat16 first, and the plainest path (eager attention, each document alone, logits
in one piece) sets the yardstick; another path may have 2 times its error, and 1e-3 on top.
"""

from __future__ import annotations

import copy
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import models
import numpy as np
import torch
from records import Case
from torch import Tensor, nn
from torch.nn import functional as F

from swift.api.ops import linear_cross_entropy, next_token_loss, token_log_probs

FLOAT32_BOUND, TF32_BOUND = 1e-4, 2e-3
FACTOR, SLACK = 2.0, 1e-3
DOCUMENTS = (37, 5, 130, 64, 1, 19)
"""Lengths, in tokens: a long one, a lone token, none a multiple of a kernel's block but one."""
BUDGET = 2**26
TILED = 2**16
"""Bytes: so few that every loss goes through tiles."""


def first(context: Any, pieces: Sequence[str]) -> list[Case]:
    return [
        Case("correctness/losses", losses, seconds=6),
        Case("correctness/attention", attention_paths, pieces, seconds=20),
        Case("correctness/checkpointing", checkpointing, pieces, seconds=4),
        Case("correctness/optimizer", optimizer, pieces, seconds=3),
        Case("correctness/ddp", ddp, pieces, seconds=8),
    ]


def more(context: Any, pieces: Sequence[str]) -> list[Case]:
    """What compiles kernels first."""
    return [
        Case("correctness/compile", compiled, pieces, seconds=40),
        Case("correctness/flex_attention", flex, pieces, seconds=45, cuda=True),
    ]


# --------------------------------------------------------------------------------------------------------------- measuring


def error(found: Tensor, reference: Tensor) -> float:
    """Relative; of anything that is not finite, infinite."""
    found, reference = found.detach().double().cpu(), reference.detach().double().cpu()
    if not torch.isfinite(found).all():
        return float("inf")
    return float((found - reference).norm() / reference.norm().clamp_min(1e-300))


class Checks:
    """Claims with their errors and bounds."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def add(self, name: str, value: float, bound: float) -> None:
        self.found.append({"name": name, "error": value, "bound": bound, "ok": bool(value <= bound)})

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        """A path that cannot be run is a failed check, and hides no other one."""
        try:
            work()
        except Exception as fault:
            if "CUDA error" in str(fault):
                raise
            self.found.append({"name": name, "error": f"{type(fault).__name__}: {fault}"[:500], "bound": None, "ok": False})

    def result(self, **more: Any) -> dict[str, Any]:
        return {"checks": self.found, "ok": all(check["ok"] for check in self.found), **more}


@contextmanager
def exact_matmul() -> Iterator[None]:
    """float32 products in float32, not TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ------------------------------------------------------------------------------------------------------------------ losses


def losses(context: Any) -> Mapping[str, Any]:
    """Tiled against whole, with all that bends logits, value and both gradients."""
    checks, device = Checks(), context.torch_device
    tokens, hidden_size, vocabulary = (96, 64, 1000) if context.toy else (1024, 512, 8192)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=generator)
    weight = torch.randn(vocabulary, hidden_size, generator=generator) / hidden_size**0.5 * 3
    bias = torch.randn(vocabulary, generator=generator)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    labels[::7] = -100
    factors = torch.rand(tokens, generator=generator)
    bends: dict[str, dict[str, Any]] = {
        "plain": {}, "bias": {"bias": bias}, "softcap": {"softcap": 5.0}, "scale": {"logit_scale": 0.3},
        "weighted": {"loss_weight": factors},
    }  # fmt: skip

    def run(bend: Mapping[str, Any], dtype: torch.dtype, where: Any, budget: int) -> tuple[Tensor, Tensor, Tensor]:
        h, w = (t.clone().to(where, dtype).requires_grad_() for t in (hidden, weight))
        more = {k: v.to(where, dtype) if isinstance(v, Tensor) else v for k, v in bend.items()}
        total = linear_cross_entropy(h, w, labels.to(where), memory_budget=budget, **more)
        total.backward()
        return total.detach(), h.grad, w.grad

    for name, bend in bends.items():
        for dtype in (torch.float32, torch.bfloat16):
            reference = _plain_loss(bend, hidden.to(dtype), weight.to(dtype), labels, dtype)
            whole = run(bend, dtype, device, 2**40)
            tiled = run(bend, dtype, device, TILED)
            for what, index in (("loss", 0), ("hidden gradient", 1), ("weight gradient", 2)):
                plain = error(whole[index], reference[index])
                bound = FLOAT32_BOUND if dtype == torch.float32 else FACTOR * plain + SLACK
                kind = str(dtype).removeprefix("torch.")
                checks.add(f"{name} {kind} whole: {what}", plain, FLOAT32_BOUND if dtype == torch.float32 else 0.05)
                checks.add(f"{name} {kind} tiled: {what}", error(tiled[index], reference[index]), bound)
    log_probs = token_log_probs(
        hidden.to(device), weight.to(device), labels.clamp_min(0).to(device), memory_budget=TILED
    )  # fmt: skip
    exact = F.log_softmax(hidden.double() @ weight.double().T, -1).gather(1, labels.clamp_min(0)[:, None]).squeeze(1)
    checks.add("token_log_probs float32 tiled", error(log_probs, exact), FLOAT32_BOUND)
    return checks.result(tokens=tokens, hidden=hidden_size, vocabulary=vocabulary)


def _plain_loss(
    bend: Mapping[str, Any], hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The same in float64, written out, on values that were rounded to `dtype`."""
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logits = h @ w.T
    if "bias" in bend:
        logits = logits + bend["bias"].to(dtype).double()
    logits = logits * bend.get("logit_scale", 1.0)
    if "softcap" in bend:
        logits = bend["softcap"] * torch.tanh(logits / bend["softcap"])
    each = F.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
    total = (each * bend["loss_weight"].to(dtype).double() if "loss_weight" in bend else each).sum()
    total.backward()
    return total.detach(), h.grad, w.grad


# --------------------------------------------------------------------------------------------------------------- attention


def small_config() -> Any:
    config = copy.deepcopy(models.config_of("0.6B", toy=True))
    config.hidden_size, config.head_dim, config.vocab_size, config.initializer_range = 256, 64, 600, 0.1
    return config


def small_rows() -> models.Rows:
    return models.Rows(np.array(DOCUMENTS, np.int32), 600)


def small_batch(layout: str, rows: Sequence[int] = tuple(range(len(DOCUMENTS)))) -> Any:
    batches = importlib.import_module("swift.data.batches")
    data = small_rows()
    return batches.collate([batches.row_of(data, row) for row in rows], layout, pad_token_id=0)


def loss_and_gradient(model: nn.Module, batches: Sequence[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """(sum of the loss, all gradients in one vector) of Swift's own loss."""
    loop = importlib.import_module("swift.training.loop")
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        batch = loop.to_device(batch, device)
        if models.takes_bounds(model.config._attn_implementation):
            batch = importlib.import_module("swift.data.batches").with_bounds(batch)
        loss = next_token_loss(model, batch.inputs, batch.labels, memory_budget=BUDGET)
        loss.backward()
        total += loss.detach().double().cpu()
    return total, torch.cat([p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None])


def reference(dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(weights rounded to `dtype`, loss and gradient in float64 on the CPU with each document alone)."""
    model = models.random_model(small_config(), attention="eager", dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    alone = [small_batch("padded", [row]) for row in range(len(DOCUMENTS))]
    total, gradient = torch.zeros((), dtype=torch.float64), torch.zeros(())
    for batch in alone:
        logits = model.double()(input_ids=batch.inputs["input_ids"], use_cache=False).logits
        # transformers keeps rotary tables and norms in float32; that is the same in every path.
        total = total + F.cross_entropy(logits[0], batch.labels[0], ignore_index=-100, reduction="sum")
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return weights, total.detach(), gradient


def model_at(context: Any, weights: Mapping[str, Tensor], implementation: str, dtype: torch.dtype) -> nn.Module:
    model = models.random_model(small_config(), attention=implementation, dtype=dtype, device=context.torch_device)
    model.load_state_dict(weights)
    return model


def compare_paths(context: Any, paths: Sequence[tuple[str, str]], dtypes: Sequence[torch.dtype]) -> dict[str, Any]:
    """Each (attention, layout) against float64 with the documents apart."""
    checks, device = Checks(), context.torch_device
    for dtype in dtypes:
        kind = str(dtype).removeprefix("torch.")
        weights, *exact = reference(dtype)

        def check(
            name: str, implementation: str, batches: Sequence[Any], bounds: Sequence[float],
            *, dtype: torch.dtype = dtype, weights: Mapping[str, Tensor] = weights, exact: Sequence[Tensor] = tuple(exact),
        ) -> None:  # fmt: skip
            found = loss_and_gradient(model_at(context, weights, implementation, dtype), batches, device)
            for what, got, want, bound in zip(("loss", "gradient"), found, exact, bounds, strict=True):
                checks.add(f"{name}: {what}", error(got, want), bound)

        with exact_matmul():
            alone = [small_batch("padded", [row]) for row in range(len(DOCUMENTS))]
            check(f"eager alone {kind}", "eager", alone, (FLOAT32_BOUND,) * 2 if dtype == torch.float32 else (0.02, 0.1))
            yard = [found["error"] for found in checks.found[-2:]]
            for implementation, layout in paths:
                if implementation.startswith(("flash", models.TORCH_VARLEN)) and dtype == torch.float32 and context.cuda:
                    continue  # these kernels know 16-bit numbers only
                batch = small_batch(layout)
                top = TF32_BOUND if implementation == "flex_attention" else FLOAT32_BOUND
                bounds = [top if dtype == torch.float32 else FACTOR * base + SLACK for base in yard]
                name = f"{implementation} {layout} {kind}"
                checks.attempt(name, partial(check, name, implementation, [batch], bounds))
    return checks.result(documents=list(DOCUMENTS))


def attention_paths(context: Any) -> Mapping[str, Any]:
    """Padded, packed and padding-free batches give the loss and the gradients of documents that never met."""
    packed = [(name, "packed") for name in context.attentions() if name != "flex_attention"]
    padded = [(name, "padded") for name, _ in packed]
    return compare_paths(context, [*padded, *packed], (torch.float32, torch.bfloat16))


def flex(context: Any) -> Mapping[str, Any]:
    """On its own, since its kernels are compiled first."""
    return compare_paths(context, [("flex_attention", "packed")], (torch.float32, torch.bfloat16))


# ---------------------------------------------------------------------------------------------------------- other machinery


def half(context: Any) -> torch.dtype:
    return torch.bfloat16 if context.cuda else torch.float32


def checkpointing(context: Any) -> Mapping[str, Any]:
    """Every mode is the run without it; blocks enough that copies of two are under way, twice, as memory is used again then."""
    checks, config = Checks(), small_config()
    config.num_hidden_layers = 2 if context.toy else 8
    implementation = models.TORCH_VARLEN if models.knows_varlen(context.torch_device) else "sdpa"
    for dtype in {torch.float32, half(context)}:
        kind = str(dtype).removeprefix("torch.")
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def run(mode: str, *, dtype: torch.dtype = dtype, found: dict[str, tuple[Tensor, Tensor]] = found) -> None:
            attention = "sdpa" if dtype == torch.float32 else implementation
            model = models.random_model(config, attention=attention, dtype=dtype, device=context.torch_device).train()
            importlib.import_module("swift.training.activations").checkpoint_activations(model, mode)
            for _ in range(2):
                found[mode] = loss_and_gradient(model, [small_batch("packed")], context.torch_device)

        run("off")
        for mode in ("full", "selective", "offload"):
            checks.attempt(f"{mode} {kind}", partial(run, mode))
            if mode not in found:
                continue
            checks.add(f"{mode} {kind}: loss", error(found[mode][0], found["off"][0]), 1e-6)
            # The same kernels run again; only sums over atomics may differ in their last bit.
            bound = 1e-5 if dtype == torch.float32 else 2e-3
            checks.add(f"{mode} {kind}: gradient", error(found[mode][1], found["off"][1]), bound)
    return checks.result()


def optimizer(context: Any) -> Mapping[str, Any]:
    """Swift's AdamW, fused and not, against the update rule written out in float64."""
    checks = Checks()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(300, 70, generator=generator)
    gradients = [torch.randn(300, 70, generator=generator) for _ in range(5)]
    lr, decay, beta1, beta2, eps = 1e-2, 0.1, 0.9, 0.95, 1e-8
    exact, m, v = start.double(), torch.zeros(300, 70).double(), torch.zeros(300, 70).double()
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        exact = exact * (1 - lr * decay)
        exact = exact - lr * (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + eps)
    for fused in (False, True):
        parameter = nn.Parameter(start.clone().to(context.torch_device))
        made = context.piece("optimizer", "adamw", fused=fused).build(
            [{"params": [parameter], "lr": lr, "weight_decay": decay}]
        )
        for gradient in gradients:
            parameter.grad = gradient.to(context.torch_device)
            made.step()
        checks.add(f"fused {fused}: total change", error(parameter - start.to(parameter.device), exact - start.double()), 1e-4)
    return checks.result()


def ddp(context: Any) -> Mapping[str, Any]:
    """One process of data parallelism, with the device's own collectives, is the single process."""
    checks = Checks()
    loop = importlib.import_module("swift.training.loop")
    device = context.piece("device", context.device_name)
    weights, _, _ = reference(torch.float32)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = {}
    launched = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(launched)
    for name in ("single", "ddp"):
        strategy = context.piece("parallel", name, device)
        where = strategy.start(timeout_s=60.0)
        try:
            model = model_at(context, weights, "sdpa", torch.float32)
            objective = context.piece("objective", "sft")
            module = strategy.wrap(loop.LossModule(model, objective, memory_budget=BUDGET))
            count = strategy.all_reduce([100.0])[0]
            for number in range(2):  # two micro-batches: the first stays local
                with strategy.accumulating(module) if not number else _nothing():
                    total, _ = module(loop.to_device(small_batch("packed"), where))
                    strategy.backward(total / count)
            norm = strategy.clip_gradients(list(model.parameters()), 1.0)
            gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
            found[name] = gradient, norm.detach().cpu()
        finally:
            strategy.stop()
    for name in launched:  # by which transformers.Trainer would take itself for one of several processes
        del os.environ[name]
    checks.add("gradient", error(found["ddp"][0], found["single"][0]), 1e-5)
    checks.add("norm", error(found["ddp"][1], found["single"][1]), 1e-5)
    return checks.result(backend=device.collective_backend())


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def compiled(context: Any) -> Mapping[str, Any]:
    """Layers through torch.compile give the same loss and gradients, within what rounding explains."""
    checks, dtype = Checks(), half(context)
    weights, loss, gradient = reference(dtype)
    for implementation in ("sdpa", models.TORCH_VARLEN) if models.knows_varlen(context.torch_device) else ("sdpa",):
        found = []
        for on in (False, True):
            model = model_at(context, weights, implementation, dtype).train()
            if on:
                compile_blocks(model, context)
            found.append(loss_and_gradient(model, [small_batch("packed")], context.torch_device))
        for what, eager, got, want in zip(("loss", "gradient"), *found, (loss, gradient), strict=True):
            bound = FACTOR * error(eager, want) + (SLACK if dtype == torch.bfloat16 else FLOAT32_BOUND)
            checks.add(f"{implementation}: {what}", error(got, want), bound)
    return checks.result(backend=backend(context))


def backend(context: Any) -> str:
    """On a CPU inductor would take longer than all else here: the graphs are traced and run as they are."""
    return "inductor" if context.cuda else "eager"


def compile_blocks(model: nn.Module, context: Any) -> None:
    torch._dynamo.reset()
    compiling = importlib.import_module("swift.training.compiling")
    compiling.CompiledBlocks(model, context.torch_device, backend=backend(context))
