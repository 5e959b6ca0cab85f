"""Settings of the launcher."""

from __future__ import annotations

from pydantic import Field

from swift.api.settings import Settings


class TorchrunSettings(Settings):
    grace: float = Field(120.0, gt=0.0)
    """Seconds that workers get to save and end after Ctrl-C or SIGTERM."""
    failure_grace: float = Field(5.0, ge=0.0)
    """Seconds that the other workers get to end by themselves after one has failed."""
    log_dir: str = ""
    """Output of all ranks but the first of this machine; default: logs/ beside the plan."""
    omp_num_threads: int = Field(0, ge=0)
    """CPU threads per process; 0 shares the cores out, unless OMP_NUM_THREADS is set."""
