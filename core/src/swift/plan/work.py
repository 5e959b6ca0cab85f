"""Tokens, operations and time of a run: arithmetic over shapes and settings. Left of the torch line.

Symbols are those of `swift.plan.estimate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from swift.plan.estimate import KEPT_FROM, Setup, layer_width

ELEMENT_FLOPS = 2 * KEPT_FROM
"""Operations that take as long as writing one element does: those of one result of a matrix product whose inner dimension is
`KEPT_FROM`, which is where the two cost the same."""


@dataclass(frozen=True)
class Work:
    """Tokens, steps and time of a run."""

    tokens_per_epoch: int
    steps: int
    tokens: int
    """That are computed over all epochs."""
    flops: float
    seconds: float = 0.0
    """0: unknown."""


def matrix_parameters(setup: Setup) -> int:
    """N of the formulas: parameters that each token is multiplied with. The input embedding is a look-up, and left out."""
    n = setup.shapes.active_parameters
    return n if setup.shapes.tied else n - setup.shapes.components.get("embeddings", 0)


def model_flops(setup: Setup, attended: float) -> float:
    """Floating-point operations that one token of training takes by the model's own arithmetic, for model FLOPs utilisation.

    Chowdhery et al. 2022, "PaLM", appendix B: 6 N + 12 n q S, where S is the length of the document that the token stands in;
    nothing is counted twice for gradient checkpointing, and causal attention counts in full, as there. Weights that
    do not train have no weight gradient: 4 N for them, and 6 for those that do.

    Args:
        attended: S, as the mean over tokens.
    """
    d = setup.shapes.dims
    base, trained = matrix_parameters(setup), setup.adapter_parameters
    if not setup.adapters:
        trained = min(setup.trained_parameters, base)
        base -= trained
    return 4.0 * base + 6.0 * trained + 12.0 * d["layers"] * d["q"] * attended


def block_flops(setup: Setup) -> float:
    """Of one token forward through all blocks: 2 for each weight, and causal attention, 2 n q S."""
    d = setup.shapes.dims
    weights = matrix_parameters(setup) - d["v"] * d["h"]
    return 2.0 * weights + 2.0 * d["layers"] * d["q"] * min(setup.span, setup.tokens)


def passes(setup: Setup) -> int:
    """What a step computes without gradient checkpointing, in forward passes: the pass itself, the gradients of inputs (2 N
    per token), those of weights (2 N, which a frozen base spares), and the pass of a model that is compared with."""
    return (2 if setup.adapters else 3) + setup.compared


def step_flops(setup: Setup, tokens: int) -> float:
    """Floating-point operations for `tokens` tokens, forward and backward, as they are computed: for estimates of time.

    2 N per token forward and 4 N backward (Kaplan et al. 2020, section 2.1), 2 N over a frozen base; attention likewise.
    """
    d = setup.shapes.dims
    forward = block_flops(setup) + 2.0 * d["v"] * d["h"]
    return tokens * (passes(setup) * forward + recomputed(setup) * block_flops(setup))


def recomputed(setup: Setup) -> float:
    """The share of the blocks' forward pass that gradient checkpointing computes again.

    Selective checkpointing computes what lies between matrix products and attention, at `ELEMENT_FLOPS` for each element
    that an operation writes.
    """
    if setup.checkpointing != "selective":
        return 0.0 if setup.checkpointing == "off" else 1.0
    between = ELEMENT_FLOPS * setup.shapes.dims["layers"] * elements_between(setup)
    return between / (between + block_flops(setup))


def elements_between(setup: Setup) -> float:
    """Elements per token and block that are written between large matrix products and attention, in the forward pass."""
    d = setup.shapes.dims
    width = layer_width(setup.shapes)
    total = 8.0 * d["h"]  # two norms of three operations, two residual sums
    total += 7.5 * (d["q"] + d["kv"])  # norms of heads, rotary positions
    total += 2.0 * width  # activation, gate
    if setup.quadratic_attention:
        total += 4.0 * d["a"] * min(setup.span, setup.tokens)
    if setup.adapters and setup.adapter is not None:
        outputs = sum(w.shape[0] for w in setup.adapter.targets)
        inputs = sum(w.shape[1] for w in setup.adapter.targets) * setup.adapter.dropout  # each draws a mask of its own
        # PEFT makes B's product, a multiple and the sum; lean computation adds the product into what the base gave.
        each = outputs + 2.0 * inputs if setup.adapter.lean else 3.0 * (outputs + inputs)
        total += each / max(d["layers"], 1)
    return total


def slowdown(setup: Setup, mode: str) -> float:
    """Time of a step with another mode of gradient checkpointing, by the time with the setup's own."""
    return step_flops(replace(setup, checkpointing=mode), 1) / step_flops(setup, 1)


def packs_of(tokens: int, packed_length: int, *, per_step: int, epochs: float, min_steps: int) -> int:
    """Packs that the rows of an epoch make; 0 where that would leave fewer than `min_steps` optimizer steps."""
    packs = math.ceil(tokens / packed_length)
    return packs if math.ceil(packs / per_step) * epochs >= min_steps else 0


def work(
    setup: Setup, *, units: int, tokens_per_epoch: int, per_step: int, epochs: float, max_steps: int, devices: int,
    tflops: float | None,
) -> Work:  # fmt: skip
    """`units`: rows or packs of an epoch; `per_step` of them make an optimizer step."""
    per_epoch = max(math.ceil(units / per_step), 1)
    steps = max_steps or max(1, math.ceil(per_epoch * epochs))
    tokens = round(tokens_per_epoch * steps / per_epoch)
    flops = step_flops(setup, tokens)
    seconds = flops / (tflops * 1e12 * max(devices, 1)) if tflops else 0.0
    return Work(tokens_per_epoch, steps, tokens, flops, seconds)
