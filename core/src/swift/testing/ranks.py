"""One rank of the strategy contract: a script, `ranks.py IMPL SETTINGS NAME OUTPUT`, started once per rank; or `--serve`.

Three steps of AdamW on a small regression; the rows of a step are dealt over ranks and accumulated twice. What comes out must
not depend on the number of ranks.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift.api import Device, Unsupported
from swift.plugins.loading import load_object

ROWS, STEPS, ACCUMULATION = 8, 3, 2


class PlainCpu(Device):
    """A device for tests of other kinds: the CPU through torch alone."""

    def __init__(self) -> None:
        super().__init__(None, "cpu")

    def setup(self, local_rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Any:
        raise Unsupported("not needed here")

    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "bfloat16")

    def attention(self) -> tuple[str, ...]:
        return ("sdpa", "eager")

    def collective_backend(self) -> str:
        return "gloo"


class Loss(nn.Module):
    """Sum of squared errors; like the loop's module it is given a batch and returns (sum, metrics)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y = batch
        return ((self.model(x) - y) ** 2).sum(), {}


def rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 6, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


def local(tensor: torch.Tensor) -> int:
    """Numbers of a tensor that this rank holds; of a distributed one (DTensor) its own part."""
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(own.numel())


def main(impl: str, settings_class: str, name: str, output: str) -> None:
    settings = load_object(settings_class)() if settings_class else None
    strategy = load_object(impl)(settings, name, PlainCpu())
    strategy.start(timeout_s=60.0)
    module = strategy.wrap(Loss())
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses, norms = [], []
    held = {}
    folder = Path(output)
    for step in range(STEPS):
        x, y = rows(step)
        share = ROWS // (strategy.world_size * ACCUMULATION)
        total = 0.0
        for number in range(ACCUMULATION):
            start = (number * strategy.world_size + strategy.rank) * share
            batch = (x[start : start + share], y[start : start + share])
            if number < ACCUMULATION - 1:
                with strategy.accumulating(module):
                    loss, _ = module(batch)
                    strategy.backward(loss / ROWS)
            else:
                loss, _ = module(batch)
                strategy.backward(loss / ROWS)
            total += float(loss.detach())
        norms.append(float(strategy.clip_gradients(parameters, 0.5)))
        losses.append(strategy.all_reduce([total])[0] / ROWS)
        held["gradients"] = sum(local(p.grad) for p in parameters if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    held["weights"] = sum(map(local, parameters))
    held["optimizer"] = sum(local(v) for p in parameters for v in optimizer.state.get(p, {}).values() if v.ndim)
    if strategy.is_main:
        (folder / "optimizer").mkdir()
    strategy.barrier()
    before = [copy.deepcopy(optimizer.state.get(p, {})) for p in parameters]
    strategy.save_optimizer(optimizer, folder / "optimizer")
    strategy.barrier()
    fresh = torch.optim.AdamW(parameters, lr=1e-2)
    strategy.load_optimizer(fresh, folder / "optimizer")
    lost = [
        f"{key} of parameter {number}"
        for number, p in enumerate(parameters)
        for key, value in before[number].items()
        if key not in fresh.state.get(p, {}) or not torch.equal(fresh.state[p][key], value)
    ]
    everyone = strategy.gather(strategy.rank)
    said = strategy.broadcast("from rank 0" if strategy.is_main else "wrong")
    told = {"optimizer_lost": lost, "gathered": everyone, "broadcast": said, "held": held}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told), encoding="utf-8")
    with strategy.unwrapped(module) as whole:
        if whole is not None:
            weights = {name: p.detach().flatten().tolist() for name, p in whole.named_parameters()}
            result = {"losses": losses, "norms": norms, "weights": weights}
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    strategy.barrier()
    strategy.stop()


def serve() -> list[str]:
    """Start ranks on demand, as copies of a process that has only imported torch: that import is most of what a rank costs.

    Reads a request a line from stdin, `{"arguments": ..., "environments": [one per rank], "logs": [...]}`, and answers each
    with the exit codes of its ranks. In a rank, returns the arguments of `main`.
    """
    torch.optim.AdamW([torch.zeros(1)])  # brings in the rest of torch
    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for environment, log in zip(request["environments"], request["logs"], strict=True):
            child = os.fork()
            if not child:
                os.environ.clear()
                os.environ.update(environment)
                said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
                    os.dup2(source, stream)
                arguments: list[str] = request["arguments"]
                return arguments
            children.append(child)
        print(json.dumps(wait(children, request["timeout_s"])), flush=True)
    sys.exit()


def wait(children: list[int], timeout_s: float) -> list[int]:
    """Exit codes; what still runs after `timeout_s` is killed."""
    end, codes = time.monotonic() + timeout_s, dict.fromkeys(children, 0)
    running = set(children)
    while running:
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.remove(child)
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return list(codes.values())


if __name__ == "__main__":
    main(*(serve() if sys.argv[1:] == ["--serve"] else sys.argv[1:5]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as `swift.worker`: the interpreter's teardown may wait forever for threads of the communication library
