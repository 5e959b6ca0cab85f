"""Settings of the tracker."""

from __future__ import annotations

from pydantic import Field

from swift.api.settings import Settings


class TensorBoardSettings(Settings):
    flush_secs: int = Field(30, ge=1)
    """Seconds after which events are on disk at the latest."""
