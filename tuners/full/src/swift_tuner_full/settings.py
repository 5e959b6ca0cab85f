"""Settings of full tuning."""

from __future__ import annotations

from pydantic import Field

from swift.api.settings import Settings


class FullSettings(Settings):
    freeze_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the blocks, counted from the bottom, that is frozen; above 0 the input embeddings are frozen too."""
    freeze: list[str] = Field(default_factory=list)
    """Regular expressions; parameters with a match in their name are frozen."""
    trainable: list[str] = Field(default_factory=list)
    """Regular expressions; parameters with a match train, whatever freeze says."""
