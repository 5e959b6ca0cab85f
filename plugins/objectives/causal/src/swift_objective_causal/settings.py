"""Settings of the causal objectives."""

from __future__ import annotations

from typing import Literal

from swift.api.settings import Settings


class SFTSettings(Settings):
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """What counts in the loss: every assistant turn, the last one only, or all tokens (prompts too)."""


class PretrainSettings(Settings):
    separator: str = "\n\n"
    """Put between the contents of a conversation, where a row has messages instead of text."""
