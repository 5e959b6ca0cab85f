"""One process, and data parallel over several."""

from swift.api import Need, ParallelSpec, hookimpl


@hookimpl
def swift_parallels():
    return [
        ParallelSpec(
            name="single",
            impl="swift_parallel_torch.single:Single",
            summary="One process on one device.",
            multi_process=False,
            needs=(
                Need(
                    "parallel.world_size <= 1",
                    why="single runs in one process",
                    fix="--parallel ddp",
                    code="SW201",
                ),
            ),
        ),
        ParallelSpec(
            name="ddp",
            impl="swift_parallel_torch.ddp:DDP",
            summary="Each process holds the whole model and a share of the batch (torch DistributedDataParallel).",
            multi_process=True,
            launcher="torchrun",
            needs=(
                Need(
                    "device.collectives",
                    why="ddp adds up gradients over processes, and this device has no collective backend",
                    fix="--parallel single",
                    code="SW202",
                ),
            ),
        ),
    ]
