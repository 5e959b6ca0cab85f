from pydantic import Field

from swift.api.settings import Settings


class TransformersEngineSettings(Settings):
    max_batch_tokens: int = Field(16384, ge=1)
    """Tokens of one batch, padding and answers included; a request above it runs alone."""
    continuous_batching: bool = False
    """Let transformers admit requests as others finish. For GPUs: on a CPU it is many times slower than padded batches."""
