from __future__ import annotations

from transformers import MistralConfig, MixtralConfig

from swift.testing.catalog import CatalogContract
from swift_model_mistral.catalog import MODELS


# Shapes as in the published config.json files.
def mistral(hidden, layers, heads, inner, vocab, cls=MistralConfig, **more):
    return cls(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=128,
        intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=False, **more,
    )  # fmt: skip


SHAPES = {
    "v1": mistral(4096, 32, 32, 14336, 32000), "v3": mistral(4096, 32, 32, 14336, 32768),
    "nemo": mistral(5120, 40, 32, 14336, 131072), "ministral": mistral(4096, 36, 32, 12288, 131072),
    "22b": mistral(6144, 56, 48, 16384, 32768), "24b": mistral(5120, 40, 32, 32768, 131072),
    "large": mistral(12288, 88, 96, 28672, 32768),
    "8x7b": mistral(4096, 32, 32, 14336, 32000, MixtralConfig, num_local_experts=8),
    "8x22b": mistral(6144, 56, 48, 16384, 32000, MixtralConfig, num_local_experts=8),
    "8x22b-instruct": mistral(6144, 56, 48, 16384, 32768, MixtralConfig, num_local_experts=8),
}  # fmt: skip
PATTERNS = {
    "v1": r"mistral-7b(-instruct)?-v0\.[12]",
    "v3": r"(mistral-7b(-instruct)?-v0\.3|mathstral-7b-v0\.1)",
    "nemo": "mistral-nemo-.*",
    "ministral": "ministral-8b-.*", "22b": r"codestral-22b-v0\.1|mistral-small-instruct-2409",
    "24b": "mistral-small-24b-.*|devstral-small-.*", "large": "mistral-large-.*", "8x7b": "mixtral-8x7b-.*",
    "8x22b": r"mixtral-8x22b-v0\.1", "8x22b-instruct": r"mixtral-8x22b-instruct-v0\.1",
}  # fmt: skip


class TestCatalog(CatalogContract):
    models, shapes, patterns = MODELS, SHAPES, PATTERNS
