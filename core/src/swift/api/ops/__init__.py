"""Tensor helpers for implementation files: the loss over a large vocabulary, and how to reach it in a causal language model."""

from swift.api.ops.losses import IGNORED, linear_cross_entropy, select_labels, token_log_probs, transform_logits
from swift.api.ops.models import DecoderHead, decoder_and_head, evaluating, label_log_probs, next_token_loss

__all__ = [
    "IGNORED", "DecoderHead", "decoder_and_head", "evaluating", "label_log_probs", "linear_cross_entropy", "next_token_loss",
    "select_labels", "token_log_probs", "transform_logits",
]  # fmt: skip
