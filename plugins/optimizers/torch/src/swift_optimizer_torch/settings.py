"""Settings of the optimizers."""

from __future__ import annotations

from pydantic import Field

from swift.api.settings import Settings


class AdamWSettings(Settings):
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """Decay of the first moment."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0.0)
    """Added to the denominator."""
    fused: bool | None = None
    """One kernel for moments and update; default: on CPUs and CUDA, where it is the fastest."""


class SGDSettings(Settings):
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the last update that is kept; costs one more float per parameter."""
    nesterov: bool = False
    """Look ahead along the momentum."""


class AdafactorSettings(Settings):
    beta2_decay: float = Field(-0.8, le=0.0)
    """Exponent of the second moment's decay over steps."""
    eps: float = Field(1e-3, gt=0.0)
    """Smallest scale of a parameter, for the relative step."""
    d: float = Field(1.0, gt=0.0)
    """Updates above this root mean square are clipped."""
