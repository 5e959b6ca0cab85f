from pydantic import Field

from swift.api.settings import Settings


class MergedSettings(Settings):
    max_kl_mean: float | None = Field(None, gt=0)
    """Bound on the mean KL divergence per position, in nats; default: 1e-5 for float32, 1e-3 for float16, 2e-2 for bfloat16."""
    max_kl_max: float | None = Field(None, gt=0)
    """Bound on the KL divergence of the worst position; default: 1e-4 for float32, 1e-2 for float16, 2e-1 for bfloat16."""
