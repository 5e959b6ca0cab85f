"""Libraries below Swift: what they print is not for Swift's users. Right of the torch line."""

from __future__ import annotations

import warnings

from transformers.utils import logging as transformers_logging


def quiet_libraries() -> None:
    """Deprecations inside libraries are for their authors, and their bars and hints would stand amid ours. Errors stay."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"transformers|peft|torch\.nn\.parallel")
