"""Stands in for swift.worker: does what the file that it is given says."""

import json
import os
import pathlib
import signal
import sys
import time

task = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
out = pathlib.Path(sys.argv[1]).parent
rank = int(os.environ["RANK"])

if task["do"] == "sum":
    import torch  # the other tasks start quicker without it
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    (out / f"{rank}.json").write_text(json.dumps({"total": total.item(), "omp": os.environ["OMP_NUM_THREADS"],
                                                  "mark": os.environ["MARK"]}), encoding="utf-8")  # fmt: skip
    dist.destroy_process_group()
elif task["do"] == "fail":
    if rank == task["rank"]:
        print("the reason of rank", rank, file=sys.stderr)
        sys.exit(7)
    time.sleep(60)
elif task["do"] == "die":
    if rank == task["rank"]:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
elif task["do"] == "wait":

    def save(*_):
        time.sleep(0.3)
        (out / f"saved-{rank}").touch()
        sys.exit(130)

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
    (out / f"ready-{rank}").touch()
    time.sleep(60)
