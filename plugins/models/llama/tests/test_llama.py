from __future__ import annotations

from transformers import LlamaConfig

from swift.testing.catalog import CatalogContract
from swift_model_llama.catalog import MODELS


# Shapes as in the published config.json files.
def llama(hidden, layers, heads, kv, inner, vocab, head_dim=128, tied=False):
    return LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=head_dim,
        intermediate_size=inner, vocab_size=vocab, tie_word_embeddings=tied,
    )  # fmt: skip


SHAPES = {
    "2-7b": llama(4096, 32, 32, 32, 11008, 32000), "2-13b": llama(5120, 40, 40, 40, 13824, 32000),
    "2-70b": llama(8192, 80, 64, 8, 28672, 32000), "code-7b": llama(4096, 32, 32, 32, 11008, 32016),
    "code-13b": llama(5120, 40, 40, 40, 13824, 32016), "code-34b": llama(8192, 48, 64, 8, 22016, 32000),
    "3-8b": llama(4096, 32, 32, 8, 14336, 128256), "3-70b": llama(8192, 80, 64, 8, 28672, 128256),
    "3-405b": llama(16384, 126, 128, 8, 53248, 128256), "3-1b": llama(2048, 16, 32, 8, 8192, 128256, 64, True),
    "3-3b": llama(3072, 28, 24, 8, 8192, 128256, 128, True),
}  # fmt: skip
PATTERNS = {
    "2-7b": r"llama-2-7b(-chat)?|codellama-7b-python", "2-13b": r"llama-2-13b(-chat)?|codellama-13b-python",
    "2-70b": r"llama-2-70b(-chat)?", "code-7b": r"codellama-7b(-instruct)?", "code-13b": r"codellama-13b(-instruct)?",
    "code-34b": r"codellama-34b.*",
} | {key: rf"llama-3(\.\d)?-{key[2:]}(-instruct)?" for key in SHAPES if key.startswith("3-")}  # fmt: skip


class TestCatalog(CatalogContract):
    models, shapes, patterns = MODELS, SHAPES, PATTERNS
