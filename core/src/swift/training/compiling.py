"""torch.compile, decoder block by decoder block: one graph serves them all, so that compiling takes seconds, not minutes.

Where blocks recompute their activations, what is compiled is what they recompute. Shapes that stand still keep it at one graph:
packs are filled up to one length (`Batches`).
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from swift.api import Batch, Device
from swift.data.batches import filler, moved, with_bounds
from swift.errors import ConfigError
from swift.training import oom
from swift.training.activations import HOOK, whole_block
from swift.training.checkpoint import rng_state, set_rng_state

RECOMPILES = 16
"""Graphs of one function at most, for batches of many shapes; then the others run as they are."""


class CompiledBlocks:
    """The decoder blocks of a model, compiled in training mode; parameters and their names stay as they are.

    Args:
        model: Tuned and with its checkpointing switched on.

    Raises:
        ConfigError: This machine cannot compile for the device.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, backend: str = "inductor") -> None:
        if backend == "inductor":
            require_compiler(device)
        self.model, self.device = model, device
        self.blocks = decoder_blocks(model)
        decoder = getattr(inside(model), "base_model", model)
        steady = decoder.register_forward_pre_hook(_steady, with_kwargs=True)
        self._undo: list[Callable[[], None]] = [steady.remove]
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILES)
        compiled = torch.compile(_call, backend=backend)
        for block in self.blocks:
            hook = getattr(block, HOOK, None)
            if getattr(block, "gradient_checkpointing", False) and hook is not None:
                setattr(block, HOOK, partial(_inside, whole_block(hook), compiled))
                self._undo.append(partial(setattr, block, HOOK, hook))
            else:
                block.compile(backend=backend)
                block._compiled_call_impl = partial(_in_training, block, block._compiled_call_impl)
                self._undo.append(partial(setattr, block, "_compiled_call_impl", None))

    def off(self) -> None:
        """Plain blocks again."""
        for undo in self._undo:
            undo()
        self._undo = []

    def trial(self, length: int, *, bounds: bool, autocast: torch.dtype | None, device: Device) -> str:
        """Compile now, by one pass over a made-up pack, and say what came of it. A compiler's fault ends no run: from there on
        blocks run plain.

        Args:
            length: Tokens.
            bounds: As `LoadedModel.takes_bounds`.
        """
        generators, started, before = rng_state(device), time.perf_counter(), graphs()
        try:
            with quietly(), torch.autocast(self.device.type, autocast) if autocast else nullcontext():
                self._pass(filler(length), bounds=bounds)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # before torch 2.12 they hold hooks of checkpointing, which go on
            if oom.is_out_of_memory(error):
                return "compile: no memory for a full pack in the trial"
            self.off()
            cause = getattr(error, "inner_exception", None) or error
            return f"compile: off, since compiling failed: {type(cause).__name__}: {oom.first_line(cause)[:200]}"
        finally:
            self.model.zero_grad(set_to_none=True)
            set_rng_state(device, generators)
        seconds, made = time.perf_counter() - started, graphs() - before
        return f"compile: {len(self.blocks)} decoder blocks by {made} graph{'s' * (made != 1)}, made in {seconds:.1f} s"

    def _pass(self, batch: Batch, *, bounds: bool) -> None:
        decoder = inside(self.model).base_model
        batch = moved(batch, lambda tensor: tensor.to(self.device))
        given = (with_bounds(batch) if bounds else batch).inputs
        training = self.model.training
        self.model.train()
        try:
            hidden = decoder(**given, use_cache=False).last_hidden_state
            if hidden.requires_grad:
                hidden.float().sum().backward()
        finally:
            self.model.train(training)


def _in_training(block: nn.Module, compiled: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Without gradients other graphs would be needed, for few passes."""
    return (compiled if torch.is_grad_enabled() and block.training else block._call_impl)(*args, **named)


def _call(function: Callable[..., Any], bound: tuple[Any, ...], named: Mapping[str, Any], *args: Any) -> Any:
    return function(*bound, *args, **named)


def _inside(hook: Callable[..., Any], compiled: Callable[..., Any], function: Any, *args: Any) -> Any:
    """What transformers' block calls: the same recomputing, of the compiled block."""
    return hook(partial(compiled, function.func, function.args, function.keywords), *args)


def _steady(_decoder: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How many documents there are, and how long one is, differs from batch to batch and shall compile nothing anew."""
    if given.get("cu_seq_lens_q") is not None:
        for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            torch._dynamo.maybe_mark_dynamic(given[name], 0)
        ids = given.get("input_ids")
        if ids is not None:  # kernels only size their grid by it: a quarter of the row stands for all that is shorter
            longest, length = given["max_length_q"], ids.shape[1]
            given["max_length_q"] = given["max_length_k"] = length if longest > length // 4 else length // 4
    return args, given


def inside(model: nn.Module) -> Any:
    """The model of transformers, below adapters."""
    return getattr(model, "get_base_model", lambda: model)()


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules.

    Raises:
        ConfigError: There is none.
    """
    lists = [m for m in inside(model).modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ConfigError(f"{type(inside(model)).__name__} has no list of blocks to compile", fix="--compile off")
    lengths = [len(found) for found in lists]
    return list(lists[lengths.index(max(lengths))])


def require_compiler(device: torch.device) -> None:
    """Raises `ConfigError` where what inductor needs is not installed."""
    if device.type == "cpu":
        builder = torch._inductor.cpp_builder
        try:
            builder.get_cpp_compiler()
        except Exception as error:
            raise ConfigError(
                "compiling for a CPU needs a C++ compiler, and none is found",
                fix="apt install g++ (or gcc-c++, clang; CXX= names another one), or --compile off",
            ) from error
    elif device.type == "cuda" and not torch.utils._triton.has_triton():
        raise ConfigError(
            "compiling for a GPU needs triton, which is not installed", fix="pip install triton, or --compile off"
        )


def graphs() -> int:
    """Graphs that this process has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@contextmanager
def quietly() -> Iterator[None]:
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
