"""Memory of a run: arithmetic over shapes and settings. Left of the torch line.

Weights, gradients, adapters and optimizer state are counted exactly. Activations, logits and overhead are estimates.

Symbols in formulas: T tokens of a micro-batch on one rank, S tokens that attend to each other, n layers; the others are those
of `swift.plan.shapes`. All sizes are bytes on one rank.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from swift.plan.shapes import COMPONENTS, Shapes, Weight, target_weights

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1, "uint8": 1}
OVERHEAD = 640 * 2**20
"""Runtime libraries, kernels, workspaces and the allocator's slack of one process: an order of magnitude."""
LOGIT_BYTES = 8
"""A logit lives twice in float32, see `swift.api.ops`."""
CHUNK_ON_CPU = 256
"""Labels whose logits are made at once on a CPU, see `swift.api.ops`."""
CHUNK_TRAINED = 512
"""Labels that a chunk has at least on an accelerator where the head trains, see `swift.api.ops`."""
KEPT_FROM = 128
"""Selective checkpointing keeps matrix products of at least this inner dimension: a smaller one takes fewer FLOPs per byte of
its result than accelerators have for a byte of memory traffic, so computing it again costs next to nothing."""
MODES = ("off", "selective", "full", "offload")
"""Modes of activation checkpointing, those that keep most first."""


@dataclass(frozen=True)
class AdapterSize:
    """Low-rank adapters: A [rank, in] and B [out, rank] beside each targeted weight."""

    rank: int
    targets: tuple[Weight, ...]
    vectors: bool = False
    """A magnitude per output beside each (DoRA)."""
    dropout: bool = False
    """Inputs pass through dropout, so each adapter keeps a copy and a mask."""
    dtype: str = "float32"
    """Of the adapter's weights; "model" is the base's."""
    whole: int = 0
    """Parameters of modules that are trained whole beside the adapters."""
    lean: bool = False
    """Inputs are kept once for all layers that share them, in the base's dtype, with a mask of a byte for each (dropout)."""

    @property
    def parameters(self) -> int:
        return self.whole + sum(self.rank * sum(w.shape) + (w.shape[0] if self.vectors else 0) for w in self.targets)


@dataclass(frozen=True)
class Setup:
    """What memory depends on.

    Args:
        dtype: Of the model's weights.
        compute_dtype: Of matrix products; another than `dtype` means autocast.
        adapters: Adapters are trained over a frozen base; False: (part of) the weights themselves.
        adapter: Size of the adapters; None where it is unknown (then 1 % of the model is assumed).
        trained: Parameters that train, where adapters are not; 0: all.
        state_bytes_per_parameter: Of the optimizer, at float32.
        fixed_state: As much for other dtypes.
        tokens: Of one micro-batch.
        batch_size: Rows or packs of one micro-batch.
        span: Tokens that attend to each other, at most.
        checkpointing: Mode of activation checkpointing, of `MODES`.
        gradients_at_once: False: each parameter is updated in the backward pass, and its gradient dropped.
        quadratic_attention: The implementation keeps its scores (eager).
        shards: What is split over `world_size` ranks.
        quant_bits: Of the frozen base's linear weights; 0: not quantized.
        host: Computed on the CPU.
        reference: Parameters of a frozen model beside the trained one.
        compared: A reference model goes over each token too, forward.
    """

    shapes: Shapes
    dtype: str
    compute_dtype: str = ""
    adapters: bool = False
    adapter: AdapterSize | None = None
    trained: int = 0
    state_bytes_per_parameter: float = 8.0
    fixed_state: bool = False
    tokens: int = 1024
    batch_size: int = 1
    span: int = 1024
    checkpointing: str = "off"
    gradients_at_once: bool = True
    quadratic_attention: bool = False
    logits_memory: int = 256 * 2**20
    world_size: int = 1
    shards: tuple[str, ...] = ()
    quant_bits: int = 0
    host: bool = False
    reference: int = 0
    compared: bool = False

    @property
    def itemsize(self) -> int:
        return ITEMSIZE.get(self.dtype, 2)

    @property
    def compute_itemsize(self) -> int:
        return ITEMSIZE.get(self.compute_dtype or self.dtype, 2)

    @property
    def trained_itemsize(self) -> int:
        """Of what trains; adapters on 16-bit weights are kept in float32 unless told otherwise."""
        if not self.adapters or (self.adapter is not None and self.adapter.dtype == "model"):
            return self.itemsize
        return max(self.itemsize, 4)

    @property
    def adapter_parameters(self) -> int:
        if not self.adapters:
            return 0
        return self.adapter.parameters if self.adapter else self.shapes.parameters // 100

    @property
    def trained_parameters(self) -> int:
        return self.adapter_parameters if self.adapters else self.trained or self.shapes.parameters


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank, by component."""

    components: Mapping[str, int]
    parameters: int
    trained_parameters: int

    @property
    def total(self) -> int:
        return sum(self.components.values())

    @property
    def counted(self) -> int:
        """What is there whatever the batch is: weights, adapters, reference model, gradients, optimizer state."""
        return sum(self.components.get(name, 0) for name in ("weights", "adapters", "reference", "gradients", "optimizer"))


def memory(setup: Setup) -> MemoryEstimate:
    """Peak of one training step on one rank."""

    def part(name: str) -> int:
        return setup.world_size if name in setup.shards else 1

    shapes, trained = setup.shapes, setup.trained_parameters
    state = trained * setup.state_bytes_per_parameter * (1.0 if setup.fixed_state else setup.trained_itemsize / 4)
    base = sum(w.size for w in shapes.weights if w.linear and w.component != "lm_head") if setup.quant_bits else 0
    weights = (shapes.parameters - base) * setup.itemsize + base * setup.quant_bits // 8
    components = {
        "weights": weights // part("weights"),
        "adapters": setup.adapter_parameters * setup.trained_itemsize // part("weights"),
        "reference": setup.reference * setup.itemsize,
        "gradients": _gradients(setup) // part("gradients"),
        "optimizer": round(state) // part("optimizer"),
        "autocast copies": _autocast_copies(setup) // part("weights"),
        "activations": activations(setup) // part("activations"),
        "logits": logits(setup),
        "overhead": OVERHEAD,
    }
    if "weights" in setup.shards:
        # The block that is at work is gathered whole.
        components["gathered weights"] = weights // max(shapes.dims["layers"], 1)
    return MemoryEstimate({k: v for k, v in components.items() if v}, shapes.parameters + setup.adapter_parameters, trained)


def _gradients(setup: Setup) -> int:
    if setup.gradients_at_once:
        return setup.trained_parameters * setup.trained_itemsize
    if not setup.adapters:
        return max(w.size for w in setup.shapes.weights) * setup.trained_itemsize
    if setup.adapter is None or not setup.adapter.targets:
        return 0
    return setup.adapter.rank * max(max(w.shape) for w in setup.adapter.targets) * setup.trained_itemsize


def _autocast_copies(setup: Setup) -> int:
    """torch.autocast keeps a low-precision copy of each trained matrix until the step's backward pass is over."""
    if setup.compute_itemsize == setup.itemsize or setup.adapters:
        return 0
    return sum(w.size for w in setup.shapes.weights if w.linear) * setup.compute_itemsize


def activations(setup: Setup) -> int:
    """What the forward pass keeps for the backward one.

    The accounting is that of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
    section 4 (count what each operation keeps), done anew for RMSNorm in float32, rotary positions, grouped heads and a
    gated MLP, without dropout. Its term 5 a s / h (attention scores) is there for eager attention only: flash-like kernels,
    sdpa among them, keep one float32 per head and token. With gradient checkpointing a layer keeps its input (and `products`,
    or in the host's memory), and one layer at a time is whole.
    """
    d, e, n = setup.shapes.dims, setup.compute_itemsize, setup.shapes.dims["layers"]
    layer = layer_activations(setup)
    edge = d["h"] * (4 + 2 * e)  # final norm, and the states that the loss takes
    entry = d["h"] * max(e, setup.itemsize)  # autocast leaves the residual stream in the weights' dtype
    if setup.checkpointing == "full":
        layers = n * entry + layer
    elif setup.checkpointing == "offload":
        layers = min(n, 2) * entry + layer  # the block's own, and the next one's, which is on its way
    elif setup.checkpointing == "selective":
        kept = products(setup)
        layers = n * (entry + kept) + max(layer - kept, 0.0)
    else:
        layers = n * layer
    return round(setup.tokens * (layers + edge))


def products(setup: Setup) -> float:
    """Bytes per token of one layer that selective checkpointing keeps: results of attention and of large matrix products."""
    d, e = setup.shapes.dims, setup.compute_itemsize
    large = [w for w in setup.shapes.weights if w.linear and w.component != "lm_head" and w.shape[-1] >= KEPT_FROM]
    total = sum(w.shape[0] for w in large) * e
    if setup.adapters and setup.adapter is not None:
        total += sum(setup.adapter.rank for w in setup.adapter.targets if w.shape[1] >= KEPT_FROM) * e
    per_token = total / max(d["layers"], 1)
    if d.get("e") and min(d["m"], d["h"]) >= KEPT_FROM:
        per_token += max(d.get("active", 1), 1) * (2 * d["m"] + d["h"]) * e
    return per_token if setup.quadratic_attention else per_token + d["q"] * e + 4 * d["a"]


def layer_activations(setup: Setup) -> float:
    """Bytes per token of one layer, in full."""
    d, e = setup.shapes.dims, setup.compute_itemsize
    full = not setup.adapters
    upcast = 4 if setup.itemsize < 4 or e < 4 else e  # norms compute in float32; from float32 nothing is copied
    norms_per_layer = max(_per_layer(setup.shapes, "layernorm", "norm"), 1)
    scaled = e if full else 0  # a trained norm keeps what its weight multiplies
    total: float = norms_per_layer * d["h"] * (upcast + scaled)
    if any(w.name.endswith("q_norm.weight") for w in setup.shapes.weights):
        total += (d["q"] + d["kv"]) * (upcast + scaled)
    total += 4 * d["q"] * e + 4 * d["a"]  # q, k and v for all heads, the result, a log-sum per head
    if setup.quadratic_attention:
        total += d["a"] * min(setup.span, setup.tokens) * (4 + 2 * e)
    width = layer_width(setup.shapes)
    total += 3 * width * e  # gate, its activation, up
    if full:
        total += e * (2 * d["h"] + d["q"] + width)  # inputs of the linear layers
    else:
        total += _adapter_inputs(setup)
    return total


def layer_width(shapes: Shapes) -> int:
    """Inner width of the MLP of one layer; of a mixture of experts that of all that a token passes through."""
    d = shapes.dims
    sparse = bool(d.get("e")) and any(w.component == "experts" for w in shapes.weights)
    return max(d.get("active", 1), 1) * d["m"] + d.get("s", 0) if sparse else d["i"]


def _per_layer(shapes: Shapes, *words: str) -> int:
    """Norms over the hidden state in one layer."""
    h, n = shapes.dims["h"], max(shapes.dims["layers"], 1)
    norms = sum(1 for w in shapes.weights if w.component == "norms" and w.shape == (h,) and w.name.endswith("weight"))
    return (norms - 1) // n if norms else 2


def _adapter_inputs(setup: Setup) -> float:
    """Inputs of adapters, in the adapters' own dtype (a copy for each where the weights have another), and A's outputs."""
    if setup.adapter is None:
        d = setup.shapes.dims
        return setup.trained_itemsize * (2 * d["h"] + d["q"] + d["i"])
    each = sum(w.shape[1] for w in setup.adapter.targets)
    # Layers that share an input may keep it once: q/k/v, and gate/up.
    once = sum({(w.module.rpartition(".")[0], w.shape[1]): w.shape[1] for w in setup.adapter.targets}.values())
    if setup.adapter.lean and setup.compute_itemsize == setup.itemsize:
        kept = (once + setup.adapter.rank * len(setup.adapter.targets)) * setup.itemsize + each * setup.adapter.dropout
        return kept / max(setup.shapes.dims["layers"], 1)
    inputs = once if setup.trained_itemsize == setup.compute_itemsize and not setup.adapter.dropout else each
    kept = (inputs + setup.adapter.rank * len(setup.adapter.targets)) * setup.trained_itemsize
    if setup.adapter.dropout:
        kept += inputs * (setup.trained_itemsize if setup.host else 1)  # masks: torch keeps them as numbers on a CPU
    return kept / max(setup.shapes.dims["layers"], 1)


def logits(setup: Setup) -> int:
    """What the loss makes at once: see `swift.api.ops`. A loss that compares models keeps float32 logits of all labels where
    they fit `logits_memory`, and makes tiles otherwise; others make gradients beside the logits, in chunks of labels."""
    if setup.compared:
        whole = setup.tokens * setup.shapes.dims["v"] * LOGIT_BYTES
        return whole if whole <= 2 * setup.logits_memory else setup.logits_memory
    narrow = setup.compute_itemsize if setup.compute_itemsize < 4 else 0
    tokens = min(setup.tokens, CHUNK_ON_CPU) if setup.host and (setup.adapters or setup.itemsize == 4) else setup.tokens
    return min(tokens * setup.shapes.dims["v"] * (4 + narrow), setup.logits_memory)


def adapter_size(shapes: Shapes, settings: Mapping[str, Any], frozen: Collection[str] = ()) -> AdapterSize | None:
    """Size of low-rank adapters, from the settings that such tuners share. None: unknown.

    Args:
        settings: `rank`; and, where there are any, `target_modules`, `exclude_modules`, `layers_to_transform`, `use_dora`,
            `dropout`, `adapter_dtype`, `computation` and `modules_to_save`.
        frozen: Components of `shapes` that are left alone.
    """
    rank = settings.get("rank")
    if not isinstance(rank, int) or isinstance(rank, bool):
        return None
    targets = target_weights(
        shapes,
        settings.get("target_modules"),
        settings.get("exclude_modules") or (),
        settings.get("layers_to_transform") or (),
        frozen=frozen,
    )
    saved = tuple(settings.get("modules_to_save") or ())
    return AdapterSize(
        rank,
        tuple(targets),
        vectors=bool(settings.get("use_dora")),
        dropout=bool(settings.get("dropout")),
        lean=settings.get("computation") == "lean",
        dtype=str(settings.get("adapter_dtype", "float32")),
        whole=sum(w.size for w in shapes.weights if any(w.module == m or w.module.endswith(f".{m}") for m in saved)),
    )


def trained_size(shapes: Shapes, settings: Mapping[str, Any], frozen: Collection[str] = ()) -> int:
    """Parameters that are left to train by `freeze_ratio`, `freeze` and `trainable`, where a tuner has such settings."""
    frozen_blocks = round(shapes.dims["layers"] * float(settings.get("freeze_ratio") or 0.0))
    freeze = [re.compile(text) for text in settings.get("freeze") or ()]
    keep = [re.compile(text) for text in settings.get("trainable") or () if isinstance(text, str)]
    trained = 0
    for weight in (w for w in shapes.weights if w.component not in frozen):
        block = re.search(r"\.(\d+)\.", weight.name)
        below = frozen_blocks and (weight.component == "embeddings" or (block is not None and int(block[1]) < frozen_blocks))
        closed = below or any(p.search(weight.name) for p in freeze)
        trained += weight.size if not closed or any(p.search(weight.name) for p in keep) else 0
    return trained


def frozen_components(section: Mapping[str, Any]) -> set[str]:
    """Components of multimodal models that the config's `tuner` leaves alone."""
    text = set(COMPONENTS) - {"vision", "aligner"}
    parts = {"freeze_vit": {"vision"}, "freeze_aligner": {"aligner"}, "freeze_llm": text}
    return set().union(*(names for flag, names in parts.items() if section.get(flag)))


ZERO_STAGES = {1: ("optimizer",), 2: ("optimizer", "gradients"), 3: ("optimizer", "gradients", "weights")}
"""Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", figure 1."""


def sharding_table(setup: Setup, ranks: tuple[int, ...]) -> list[dict[str, Any]]:
    """What each rank would need with ZeRO-1/2/3 (FSDP splits like 3), in bytes: rows of ranks, none, zero1, zero2, zero3."""
    rows = []
    for n in ranks:
        row: dict[str, Any] = {"ranks": n, "none": memory(replace(setup, shards=(), world_size=n)).total}
        for stage, shards in ZERO_STAGES.items():
            row[f"zero{stage}"] = memory(replace(setup, shards=shards, world_size=n)).total
        rows.append(row)
    return rows
