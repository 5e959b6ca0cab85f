"""The optimizer step: it asks an accelerator nothing, and a gradient that is not finite changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from swift.api import Batch
from swift.data.batches import TokenRow, collate
from swift.errors import SwiftError
from swift.plugins.loading import load_object
from swift.testing.tiny import tiny_folder
from swift.training.checkpoint import TrainState
from swift.training.loop import Loop, LoopConfig, LossModule, StopRequest

WAITS = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select", "aten::equal",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave.Tensor",
    "aten::allclose", "aten::nonzero_static_host", "aten::tolist",
}  # fmt: skip
"""Operations whose result, or the shape of it, the host must know: on an accelerator it waits for all queued work."""


class Waits(TorchDispatchMode):
    """Notes operations that wait; on a CPU nothing does, so their names tell."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name if func._schema.name in WAITS else func.name()
        boolean = name.startswith("aten::index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for given in args if isinstance(given, (list, tuple)) for i in given
        )  # fmt: skip
        if name in WAITS or boolean:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Steps:
    """Two micro-batches of each step, out of rows of random tokens.

    Args:
        broken: Steps (from 1) whose loss is not a number.
    """

    def __init__(self, layout: str = "padding_free", broken: tuple[int, ...] = (), pairs: bool = False) -> None:
        self.layout, self.broken, self.pairs = layout, broken, pairs

    def step(self, step: int) -> list[Batch]:
        random = np.random.default_rng(step)
        batches = []
        for _ in range(2):
            rows = []
            for length in random.integers(8, 20, size=2):
                ids, weights = random.integers(3, 200, length), np.ones(length, np.float32)
                weights[: length // 4] = 0
                rows.append(TokenRow(ids, weights, [length // 2, length - length // 2] if self.pairs else None))
            batch = collate(rows, self.layout)  # type: ignore[arg-type]
            # transformers asks the device which mask it needs, unless it is given one; `torch_varlen` needs none.
            assert batch.documents is not None
            same = batch.documents[:, :, None] == batch.documents[:, None]
            batch.inputs["attention_mask"] = same.tril()[:, None]
            if step + 1 in self.broken:
                batch = replace(batch, loss_weight=torch.full(batch.labels.shape, torch.nan))
            batches.append(batch)
        return batches

    def epoch(self, step: int) -> float:
        return 0.0

    def position(self, step: int) -> dict[str, Any]:
        return {}


@cache
def tiny() -> torch.nn.Module:
    with TemporaryDirectory() as folder:
        return AutoModelForCausalLM.from_pretrained(tiny_folder(Path(folder)), dtype=torch.float32, attn_implementation="sdpa")


def make(
    late: bool | None, source: Steps, *, objective: str = "causal.objectives:SFT", optimizer: str = "AdamW",
    memory: int = 1 << 28, log_steps: int = 1000, save_steps: int = 0, total_steps: int = 5,
) -> tuple[Loop, dict[str, list[Any]]]:  # fmt: skip
    torch.manual_seed(0)
    model = copy.deepcopy(tiny())
    implementation = load_object(f"swift_objective_{objective}")
    kind = objective.split(".")[0]
    settings = load_object(f"swift_objective_{kind}.settings:{'DPOSettings' if kind == 'preference' else 'SFTSettings'}")()
    device = load_object("swift_device_cpu.device:CpuDevice")(None, "cpu")
    strategy = load_object("swift_parallel_torch.single:Single")(None, "single", device)
    loss = implementation(settings, "sft")
    module = strategy.wrap(LossModule(model, loss, memory_budget=memory))
    fused = {"fused": True} if optimizer != "Adafactor" else {}
    built = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3, **fused)
    done: dict[str, list[Any]] = {"log": [], "save": [], "marks": []}
    loop = Loop(
        LoopConfig(total_steps, 0, "constant", 0.0, 1.0, log_steps, save_steps, 0), TrainState(), strategy, device,
        torch.device("cpu"), module, built, source, loss.count, StopRequest(), lambda m: done["log"].append(dict(m)),
        lambda state: done["save"].append(state.step), lambda state: None, late=late, mark=done["marks"].append,
    )  # fmt: skip
    return loop, done


def everything(loop: Loop) -> dict[str, torch.Tensor]:
    state = {
        f"{n}.{key}": v for n, values in enumerate(loop.optimizer.state_dict()["state"].values()) for key, v in values.items()
    }
    return copy.deepcopy({**loop.module.state_dict(), **state})


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("layout", ["padding_free", "padded"])
@pytest.mark.parametrize(
    ("objective", "memory"),
    [("causal.objectives:SFT", 1 << 28), ("causal.objectives:SFT", 1), ("causal.objectives:Pretrain", 1 << 20),
     ("preference.dpo:DPO", 1 << 28)],
)  # fmt: skip
def test_nothing_is_asked_of_the_device_between_log_lines(layout: str, objective: str, memory: int) -> None:
    """Loss (whole, chunked, tiled), backward pass, clipping and optimizer of steps that are not logged."""
    loop, done = make(True, Steps(layout, pairs="DPO" in objective), objective=objective, memory=memory)
    waits = Waits()
    asked: dict[tuple[int, str], list[str]] = {}

    def mark(part: str) -> None:
        asked.setdefault((loop.state.step + 1, part), []).extend(waits.seen)
        waits.seen.clear()

    loop.mark = mark
    with waits:
        assert loop.run()
    assert [line["step"] for line in done["log"]] == [1, 5]
    found = {key: seen for key, seen in asked.items() if key[0] in (3, 4) and seen}
    # The norm of the step before, whose copy has long been on the host when this step's backward pass is queued.
    assert found == {(step, "optimizer"): ["aten::_local_scalar_dense"] for step in (3, 4)}


def test_the_check_sees_what_waits() -> None:
    x = torch.arange(4.0)
    for ask in (x.sum().item, x.nonzero, lambda: x[x > 1], lambda: bool(x.any()), lambda: float(x[0]), lambda: x.unique()):
        with Waits() as waits:
            ask()
        assert waits.seen, ask


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_late_reading_gives_the_same_steps(optimizer: str) -> None:
    results = []
    for late in (False, True):
        loop, done = make(late, Steps(), optimizer=optimizer, log_steps=2)
        assert loop.run()
        results.append((everything(loop), [(m["step"], m["loss"], m["grad_norm"]) for m in done["log"]]))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert [line[0] for line in results[0][1]] == [1, 2, 4, 5]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("broken", [(1,), (3,), (3, 4), (5,)])
@pytest.mark.parametrize("save_steps", [0, 1])
def test_a_gradient_that_is_not_finite_changes_nothing(late: bool, broken: tuple[int, ...], save_steps: int) -> None:
    """Not even where the host learns of it one step later; the error names the right step, and nothing after it is saved."""
    before, _ = make(late, Steps(), total_steps=5)
    before.config = replace(before.config, total_steps=broken[0] - 1)
    before.run()
    loop, done = make(late, Steps(broken=broken), save_steps=save_steps)
    with pytest.raises(SwiftError, match=f"^step {broken[0]}: the gradient is nan; nothing was changed by this step"):
        loop.run()
    assert all(line["step"] < broken[0] for line in done["log"])
    assert done["save"] == (list(range(1, broken[0])) if save_steps else [])
    now, then = everything(loop), everything(before)
    if broken == (1,):  # state that the first step makes is all zeros
        assert not any(v.any() for name, v in now.items() if name not in then)
        now = {name: v for name, v in now.items() if name in then}
    assert same(now, then)


def test_a_stop_is_answered_only_when_the_last_step_is_known_to_be_good() -> None:
    loop, _ = make(True, Steps(broken=(2,)))
    loop.mark = lambda part: setattr(loop.stop, "signal_name", "SIGTERM") if loop.state.step == 2 else None
    with pytest.raises(SwiftError, match="^step 2"):
        loop.run()


def test_optimizers_that_cannot_be_told_are_asked_first() -> None:
    """torch's Adafactor takes no `found_inf`: it must not step before the norm is known."""
    loop, _ = make(None, Steps(broken=(2,)), optimizer="Adafactor")
    with pytest.raises(SwiftError, match="^step 2"):
        loop.run()
    assert all(bool(torch.isfinite(v).all()) for v in everything(loop).values())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
