"""What one process of the tests does: `python ranks.py TASK FOLDER`, under RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from swift.api import Device, Memory
from swift_parallel_torch.ddp import DDP
from swift_parallel_torch.single import Single


class CPU(Device):
    def setup(self, local_rank):
        return torch.device("cpu")

    def memory(self):
        return Memory(0, 0, 0)

    def dtypes(self):
        return ("float32",)

    def attention(self):
        return ("sdpa",)

    def collective_backend(self):
        return "gloo"


class Loss(nn.Module):
    """Sum of a cross entropy over labels that are not -100; one part is frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(6, 16).requires_grad_(False)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, batch):
        x, labels = batch
        return F.cross_entropy(self.head(torch.tanh(self.body(self.frozen(x)))), labels, ignore_index=-100, reduction="sum")


def micro_batches():
    """Four of three rows; the third has no label at all."""
    torch.manual_seed(1)
    batches = [(torch.randn(3, 6), torch.randint(0, 5, (3,))) for _ in range(4)]
    batches[0][1][1] = -100
    batches[2][1][:] = -100
    return batches


def optimizer_for(module):
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.05)


def step(strategy, wrapped, optimizer, max_norm=0.1):
    """One optimizer step over all micro-batches, split over the ranks; what it saw."""
    mine = micro_batches()[strategy.rank :: strategy.world_size]
    count = strategy.all_reduce([sum((labels != -100).sum().item() for _, labels in mine)])[0]
    total = 0.0
    for i, batch in enumerate(mine):
        last = i == len(mine) - 1
        with strategy.accumulating(wrapped) if not last else torch.enable_grad():
            loss = wrapped(batch) / count
            strategy.backward(loss)
        total += loss.item()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    gradients = [p.grad.clone() for p in trained]
    norm = strategy.clip_gradients(trained, max_norm)
    clipped = [p.grad.clone() for p in trained]
    optimizer.step()
    optimizer.zero_grad()
    return {
        "loss": strategy.all_reduce([total])[0],
        "norm": norm.item(),
        "gradients": [g.tolist() for g in gradients],
        "clipped": [g.tolist() for g in clipped],
        "parameters": [p.detach().tolist() for p in trained],
    }


def words(strategy):
    """What travels between ranks besides gradients."""
    value = strategy.broadcast({"from": strategy.rank})
    with strategy.main_first():
        order = time.monotonic()
        time.sleep(0.3 if strategy.is_main else 0)
    return {
        "broadcast": value,
        "gather": strategy.gather(strategy.rank * 10),
        "sum": strategy.all_reduce([1.0, strategy.rank]),
        "order": strategy.gather(order),
        "local": [strategy.rank, strategy.local_rank, strategy.world_size],
    }


def main(task, folder, strategy):
    strategy.start(timeout_s=20 if task != "die" else 5)
    module = Loss()
    wrapped = strategy.wrap(module)
    optimizer = optimizer_for(module)
    answer = {}
    if task == "steps":  # two steps, a save of the optimizer between them
        first = step(strategy, wrapped, optimizer)
        state = folder / "state"
        if strategy.is_main:
            state.mkdir()
        strategy.barrier()
        strategy.save_optimizer(optimizer, state)
        with strategy.unwrapped(wrapped) as plain:
            assert (plain is module) == strategy.is_main
            if plain is not None:
                torch.save(plain.state_dict(), folder / "module.pt")
        answer = {"steps": [first, step(strategy, wrapped, optimizer)], **words(strategy)}
        answer["unwrapped"] = strategy.wrap(module.requires_grad_(False)) is module
    elif task == "resume":  # the second step alone, from what was saved
        module.load_state_dict(torch.load(folder / "module.pt"))
        strategy.load_optimizer(optimizer, folder / "state")
        answer = {"steps": [step(strategy, wrapped, optimizer)]}
    elif task == "die":
        if strategy.rank == 1:
            os._exit(9)
        strategy.all_reduce([1.0])
    strategy.stop()
    (folder / f"{task}-{strategy.world_size}-{strategy.rank}.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), DDP(None, "ddp", CPU(None, "cpu")))


def alone(task, folder):
    strategy = Single(None, "single", CPU(None, "cpu"))
    main(task, folder, strategy)
    return json.loads((folder / f"{task}-1-0.json").read_text(encoding="utf-8"))
