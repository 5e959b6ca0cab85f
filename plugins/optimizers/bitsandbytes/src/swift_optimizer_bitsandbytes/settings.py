"""Settings of the optimizers."""

from __future__ import annotations

from pydantic import Field

from swift.api.settings import Settings


class Blockwise(Settings):
    min_8bit_size: int = Field(4096, ge=1)
    """Parameters with fewer elements keep their state in 32 bits."""


class AdamWSettings(Blockwise):
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """Decay of the first moment."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0.0)
    """Added to the denominator."""


class LionSettings(Blockwise):
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """Share of the momentum in an update."""
    beta2: float = Field(0.99, ge=0.0, lt=1.0)
    """Decay of the momentum."""
