"""Activation checkpointing: what the forward pass of a block keeps for the backward one, and what is computed again.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Each mode gives the losses and gradients of a run without it,
dropout included: the random numbers of a block are drawn again from the same state.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from swift.errors import ModelError
from swift.plan.estimate import KEPT_FROM

PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "_grouped_mm": 0, "_scaled_mm": 0}
"""Matrix products -> which argument is the left factor."""
ATTENTION = ("attention", "attn")
"""In the names of fused attention kernels: aten's, flash-attn's, torch's varlen, xformers' and flex."""


def checkpoint_activations(model: nn.Module, mode: str) -> None:
    """Switch it on for every decoder block of `model`, in training mode only.

    Args:
        model: Of transformers, with or without adapters; of other models the longest `ModuleList` holds the blocks.
        mode: off; full: keep each block's input; selective: and what `keep` says; offload: inputs go to the host's memory.

    Raises:
        ModelError: There are no blocks.
    """
    if mode == "off":
        return
    functions: dict[str, Callable[..., Any]] = {
        "full": partial(checkpoint, use_reentrant=False),
        "selective": partial(
            checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, keep)
        ),
        "offload": Offload(),
    }  # fmt: skip
    function = functions[mode]
    # transformers 5.2x renamed the method; the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, "gradient_checkpointing_enable", None)
    if enable is not None and getattr(model, "supports_gradient_checkpointing", True):
        enable({"use_reentrant": False})
    hooked = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) and hasattr(m, HOOK)]
    for module in hooked:
        setattr(module, HOOK, function)
    if not hooked:
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
        if not lists:
            raise ModelError(
                f"{type(model).__name__} has no list of blocks, so activations cannot be recomputed block by block",
                fix="--gradient_checkpointing off",
            )
        for block in max(lists, key=len):
            block.forward = partial(_recomputed, block, block.forward, function)


HOOK = "_gradient_checkpointing_func"
"""transformers' blocks call it as `torch.utils.checkpoint.checkpoint`, with the hidden states as first argument."""


def whole_block(function: Callable[..., Any]) -> Callable[..., Any]:
    """What recomputes a compiled block: its results share memory that is written again, so that none of them can be kept."""
    selective = isinstance(function, partial) and "context_fn" in function.keywords
    return partial(checkpoint, use_reentrant=False) if selective else function


def _recomputed(block: nn.Module, forward: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(partial(forward, **kwargs), *args) if block.training else forward(*args, **kwargs)


def keep(_context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Policy of selective checkpointing: keep what is dear to compute for its size, in FLOPs per byte.

    That is, matrix products whose inner dimension is at least `KEPT_FROM` (so not the second half of an adapter of low rank),
    and fused attention. Attention scores, which are larger than what they are made of, are recomputed, as is whatever draws
    random numbers: a draw that is left out would shift those after it.
    """
    name = _name(op)
    if name in PRODUCTS:
        left, right = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
        inner = left.shape[-1]
        dear = inner >= KEPT_FROM
        if dear and name in ("bmm", "baddbmm"):
            rows, columns = left.shape[-2], right.shape[-1]
            dear = rows * columns <= (rows + columns) * inner
        return CheckpointPolicy.PREFER_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE
    if any(word in name for word in ATTENTION) and not _argument(op, args, kwargs, "dropout_p"):
        return CheckpointPolicy.PREFER_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _name(op: Any) -> str:
    """`aten.mm.default` -> mm; of a higher-order operator its own."""
    packet = getattr(op, "overloadpacket", op)
    return str(getattr(packet, "__name__", "") or getattr(packet, "_name", ""))


def _argument(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """What an operator was given for an argument; 0 where it has no such one."""
    if name in kwargs:
        return kwargs[name]
    schema = getattr(op, "_schema", None)
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.name == name:
            return args[position] if position < len(args) else argument.default_value
    return 0


class Offload:
    """As full checkpointing, but a block's input waits in pinned memory of the host.

    It is copied there by a stream of its own while the block computes; in the backward pass the input of the block before is on
    its way back while one block is recomputed. At most two inputs are on the device then.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, Any] = {}
        self._last: weakref.ref[Slot] | None = None

    def __call__(self, function: Callable[..., Any], hidden: torch.Tensor, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(hidden, *args)
        slot = Slot(hidden, self._stream(hidden.device), self._last)
        self._last = weakref.ref(slot)
        given = [hidden]

        def run(_device: torch.Tensor) -> Any:
            return function(given.pop() if given else slot.take(), *args)

        # The empty tensor tells checkpoint on which device random numbers are drawn.
        return checkpoint(run, hidden.new_empty(0), use_reentrant=False)

    def _stream(self, device: torch.device) -> Any:
        if device.type == "cpu":
            return None
        if device not in self._streams:
            self._streams[device] = torch.get_device_module(device).Stream(device)
        return self._streams[device]


class Slot:
    """One block's input in the host's memory.

    Memory of the device is given back in the order of the computing stream, which waits for the copy first. (`record_stream`
    would give it back when the host has seen the copy done; a host that runs ahead would find ever new memory taken.)

    Args:
        stream: That copies; None: the tensor is on the host already, and is kept as it is.
        before: Slot of the block before, whose input is needed next.
    """

    def __init__(self, tensor: torch.Tensor, stream: Any, before: weakref.ref[Slot] | None) -> None:
        self.before, self.stream, self.device = before, stream, tensor.device
        self.requires_grad = tensor.requires_grad
        self.back: torch.Tensor | None = None
        self.host: torch.Tensor | None = tensor.detach()
        self.kept: torch.Tensor | None = None
        if stream is None:
            return
        self.backend = torch.get_device_module(tensor.device)
        earlier = before() if before is not None else None
        if earlier is not None:
            earlier.leave()
        stream.wait_stream(self._computing())
        with self.backend.stream(stream):
            self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.host.copy_(tensor.detach(), non_blocking=True)
            self.copied = stream.record_event()
        self.kept = tensor.detach()  # until the next block computes; the last one's input need not come back

    def _computing(self) -> Any:
        return self.backend.current_stream(self.device)

    def leave(self) -> None:
        """Let go of the device's memory, once the host has a copy."""
        if self.kept is not None:
            self._computing().wait_event(self.copied)
            self.kept = None

    def fetch(self) -> None:
        """Start the way back, unless that has happened or is not needed."""
        if self.host is None or self.kept is not None:
            return
        if self.stream is None:
            self.back, self.host = self.host, None
            return
        self.back = torch.empty(self.host.shape, dtype=self.host.dtype, device=self.device)
        self.stream.wait_stream(self._computing())  # which may still be using this memory for something else
        with self.backend.stream(self.stream):
            self.back.copy_(self.host, non_blocking=True)
            self.copied = self.stream.record_event()
        self.host = None  # torch's pinned allocator waits for the copy before it gives the memory away

    def take(self) -> torch.Tensor:
        """The input, once: as a leaf that wants a gradient where the first one did."""
        self.fetch()
        tensor = self.kept if self.kept is not None else self.back
        if tensor is None:
            raise RuntimeError("a block's input was offloaded for one backward pass, and this is another one")
        if self.stream is not None:
            self._computing().wait_event(self.copied)
        self.host = self.kept = self.back = None
        before = self.before() if self.before is not None else None
        if before is not None:
            before.fetch()
        return tensor.requires_grad_(self.requires_grad)

    def __del__(self) -> None:
        if self.stream is not None and self.back is not None:  # fetched for a pass that was broken off
            self._computing().wait_event(self.copied)
