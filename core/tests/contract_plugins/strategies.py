"""A strategy that sums gradients by hand, one for a single process, and strategies with one fault each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from swift.api import Launcher, Strategy


class Alone(Strategy):
    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def clip_gradients(self, parameters: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm or float("inf"))

    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        if self.is_main:
            torch.save(optimizer.state_dict(), folder / "optimizer.pt")

    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))


class LosesState(Alone):
    """Only the first moments are kept."""

    def save_optimizer(self, optimizer, folder):
        state = optimizer.state_dict()
        for values in state["state"].values():
            values["exp_avg_sq"] = torch.zeros_like(values["exp_avg_sq"])
        torch.save(state, folder / "optimizer.pt")


class LosesAllState(Alone):
    def load_optimizer(self, optimizer, folder):
        pass


class DoesNotClip(Alone):
    def clip_gradients(self, parameters, max_norm):
        return nn.utils.get_total_norm([p.grad for p in parameters])


class RenamesWeights(Alone):
    def unwrapped(self, module):
        return nullcontext(nn.Sequential(module))


class Right(Alone):
    """Every rank has the whole module; gradients are summed after the last micro-batch."""

    _local = False

    def start(self, *, timeout_s: float) -> torch.device:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
        return super().start(timeout_s=timeout_s)

    def wrap(self, module: nn.Module) -> nn.Module:
        self.module = module
        return module

    @contextmanager
    def accumulating(self, module: nn.Module) -> Iterator[None]:
        self._local = True
        yield
        self._local = False

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()
        if not self._local:
            self.reduce([p.grad for p in self.module.parameters() if p.grad is not None])

    def reduce(self, gradients: Sequence[torch.Tensor]) -> None:
        for gradient in gradients:
            dist.all_reduce(gradient)

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box

    def barrier(self) -> None:
        dist.barrier()

    def stop(self) -> None:
        dist.destroy_process_group()


class ForgetsToReduce(Right):
    def reduce(self, gradients):
        pass


class Averages(Right):
    def reduce(self, gradients):
        super().reduce(gradients)
        for gradient in gradients:
            gradient /= self.world_size


class Deals(Right):
    """Rank 0 keeps gradients and the optimizer's state of the first, largest parameter, rank 1 of the others."""

    @property
    def mine(self) -> list[nn.Parameter]:
        first, *others = self.module.parameters()
        return others if self.rank else [first]

    def wrap(self, module: nn.Module) -> nn.Module:
        module.register_forward_pre_hook(lambda *_: self.hand_out())
        return super().wrap(module)

    def hand_out(self) -> None:
        for number, parameter in enumerate(self.module.parameters()):
            dist.broadcast(parameter.data, min(number, 1))

    def reduce(self, gradients):
        super().reduce(gradients)
        mine = set(map(id, self.mine))
        for parameter in self.module.parameters():
            if id(parameter) not in mine:
                parameter.grad = None

    def clip_gradients(self, parameters, max_norm):
        squares = torch.stack([p.grad.square().sum() for p in self.mine]).sum()
        dist.all_reduce(squares)
        norm = squares.sqrt()
        nn.utils.clip_grads_with_norm_(self.mine, max_norm or float("inf"), norm)
        return norm

    def unwrapped(self, module):
        self.hand_out()
        return super().unwrapped(module)

    def save_optimizer(self, optimizer, folder):
        torch.save(optimizer.state_dict(), folder / f"optimizer-{self.rank}.pt")

    def load_optimizer(self, optimizer, folder):
        optimizer.load_state_dict(torch.load(folder / f"optimizer-{self.rank}.pt", weights_only=True))


class KeepsToItself(Right):
    def broadcast(self, value):
        return value


class Starter(Launcher):
    def launch(self, plan_file, *, nproc_per_node, nnodes, node_rank, master_addr, master_port, env):
        raise NotImplementedError("the contract starts its ranks itself")
