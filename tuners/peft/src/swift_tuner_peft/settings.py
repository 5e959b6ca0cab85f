"""Settings of the PEFT tuners."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from swift.api.settings import Settings


class AdapterSettings(Settings):
    """What all methods share."""

    modules_to_save: list[str] = Field(default_factory=list)
    """Modules that are trained and saved whole beside the adapter, e.g. embed_tokens."""
    adapter_dtype: Literal["float32", "model"] = "float32"
    """dtype of the adapter's weights; float32 trains stably over a base in 16 bits."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Any other field of PEFT's config for the method, e.g. {"rank_pattern": {"q_proj": 16}}."""


class LoraSettings(AdapterSettings):
    rank: int = Field(8, ge=1)
    """Rank of the update."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank (rsLoRA: alpha / sqrt(rank))."""
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    """Dropout before the update, while training."""
    target_modules: list[str] = Field(default_factory=lambda: ["all-linear"])
    """Names of the layers that are adapted; all-linear takes every linear layer but the output one. One entry with regex
    characters is matched against whole module paths."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Names of layers that are left alone."""
    layers_to_transform: list[int] = Field(default_factory=list)
    """Numbers of the blocks that are adapted; empty: all."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank)."""
    use_dora: bool = False
    """Train the magnitude of each output apart from its direction."""
    init: str = Field("default", pattern=r"^(default|random|gaussian|pissa|pissa_niter_[0-9]+|olora|orthogonal|mica)$")
    """Start of A and B: default (no change at first), gaussian, pissa, pissa_niter_N (fast), olora, orthogonal, mica or
    random."""
    lora_plus_lr_ratio: float = Field(0.0, ge=0.0)
    """LoRA+: the learning rate of B is this many times that of A; 0 switches it off."""
    computation: Literal["auto", "lean", "peft"] = "auto"
    """lean adds the update into the base's result and keeps no copies of activations; peft is the forward of PEFT's layers,
    which lean leaves the work to wherever it does not apply."""

    def resolve_auto(self) -> dict[str, tuple[Any, str]]:
        if self.computation != "auto":
            return {}
        if self.use_dora or self.init == "mica" or self.bias != "none":
            return {"computation": ("peft", "this variant of LoRA is computed by PEFT only")}
        return {"computation": ("lean", "it keeps fewer activations than PEFT's layers, in about the same time")}


class RsLoraSettings(LoraSettings):
    use_rslora: bool = True
    """Scale by alpha / sqrt(rank)."""


class DoraSettings(LoraSettings):
    use_dora: bool = True
    """Train the magnitude of each output apart from its direction."""


class PissaSettings(LoraSettings):
    init: str = Field("pissa", pattern=r"^(pissa|pissa_niter_[0-9]+)$")
    """pissa (exact) or pissa_niter_N (fast, N iterations; 16 is plenty)."""


class LoraPlusSettings(LoraSettings):
    lora_plus_lr_ratio: float = Field(16.0, ge=0.0)
    """LoRA+: the learning rate of B is this many times that of A."""


class MethodSettings(AdapterSettings):
    target_modules: list[str] = Field(default_factory=list)
    """Names of the layers that are adapted; default: the method's own choice, mostly all linear layers."""


class PromptSettings(AdapterSettings):
    num_virtual_tokens: int = Field(16, ge=1)
    """Virtual tokens that are trained."""
