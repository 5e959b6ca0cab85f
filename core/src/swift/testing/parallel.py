"""The contract of strategies: real processes over gloo, compared with plain PyTorch in one."""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.testing import ranks
from swift.testing.descriptor import DescriptorContract
from swift.testing.ranks import ROWS, STEPS, Loss, rows

# A script, not a module: importing swift.testing costs each rank as much again as torch.
SCRIPT = [sys.executable, "-c", f"import runpy; runpy.run_path({ranks.__file__!r}, run_name='__main__')"]
TIMEOUT_S = 180.0


def started(arguments: list[str], environments: list[dict[str, str]], logs: list[Path]) -> list[int]:
    """Exit codes of ranks that are processes of their own from the start."""
    processes = []
    for environment, log in zip(environments, logs, strict=True):
        with log.open("wb") as said:
            processes.append(subprocess.Popen([*SCRIPT, *arguments], env=environment, stdout=said, stderr=said))
    return [process.wait(timeout=TIMEOUT_S) for process in processes]


@functools.cache
def server() -> subprocess.Popen[str]:
    """The process that ranks are forked from; it ends with this one, whose end closes its stdin."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # no thread may run where one forks
    process = subprocess.Popen([*SCRIPT, "--serve"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def forked(arguments: list[str], environments: list[dict[str, str]], logs: list[Path]) -> list[int]:
    """The same, forked from one process that has imported torch."""
    stdin, stdout = server().stdin, server().stdout
    assert stdin is not None and stdout is not None
    request = {"arguments": arguments, "environments": environments, "logs": list(map(str, logs)), "timeout_s": TIMEOUT_S}
    stdin.write(json.dumps(request) + "\n")
    stdin.flush()
    answer = stdout.readline()
    assert answer, "the process that ranks are forked from has ended"
    codes: list[int] = json.loads(answer)
    return codes


def run_ranks(spec: Any, world_size: int, folder: Path) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environments = [
        os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }
        for rank in range(world_size)
    ]  # fmt: skip
    logs = [folder / f"rank-{rank}.log" for rank in range(world_size)]
    arguments = [spec.impl, spec.settings, spec.name, str(folder)]
    codes = (forked if sys.platform == "linux" else started)(arguments, environments, logs)
    failed = [log.read_text(encoding="utf-8", errors="replace")[-1500:] for log, code in zip(logs, codes, strict=True) if code]
    assert not failed, f"a rank failed: {failed[0]}"
    said = [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(world_size)]
    return {**json.loads((folder / "result.json").read_text(encoding="utf-8")), "ranks": said}


def reference() -> dict[str, Any]:
    """The same three steps in plain PyTorch."""
    module = Loss()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses, norms = [], []
    for step in range(STEPS):
        loss, _ = module(rows(step))
        (loss / ROWS).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)))
        losses.append(float(loss.detach()) / ROWS)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {
        "losses": losses,
        "norms": norms,
        "weights": {n: p.detach().flatten().tolist() for n, p in module.named_parameters()},
    }


class ParallelContract(DescriptorContract):
    """Losses, norms and weights do not depend on the number of ranks; the optimizer's state survives."""

    world_size = 1

    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, spec: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        return run_ranks(spec, cls.world_size, tmp_path_factory.mktemp("ranks"))

    @pytest.mark.parametrize("what", ["losses", "norms"])
    def test_trajectory_equals_plain_pytorch(self, result: dict[str, Any], what: str) -> None:
        for step, (got, want) in enumerate(zip(result[what], reference()[what], strict=True)):
            assert got == pytest.approx(want, rel=1e-5), f"{what} of step {step}: {got}, plain PyTorch has {want}"

    def test_weights_equal_plain_pytorch(self, result: dict[str, Any]) -> None:
        got, want = list(result["weights"].values()), list(reference()["weights"].values())
        wrong = [n for n, (a, b) in enumerate(zip(got, want, strict=True)) if a != pytest.approx(b, rel=1e-4, abs=1e-6)]
        assert not wrong, f"{len(wrong)} of {len(want)} weights differ from plain PyTorch's after {STEPS} steps"

    def test_names_are_those_of_the_module(self, result: dict[str, Any]) -> None:
        got, want = list(result["weights"]), list(reference()["weights"])
        assert got == want, f"unwrapped gives parameters {got[:2]}, the module that was wrapped has {want[:2]}"

    def test_optimizer_state_comes_back(self, result: dict[str, Any]) -> None:
        lost = sorted({name for rank in result["ranks"] for name in rank["optimizer_lost"]})
        assert not lost, f"load_optimizer does not give back what save_optimizer wrote: {lost}"

    def test_objects_travel(self, result: dict[str, Any]) -> None:
        for number, rank in enumerate(result["ranks"]):
            everyone = list(range(self.world_size))
            assert rank["gathered"] == everyone, f"gather gives {rank['gathered']} on rank {number}, not {everyone}"
            assert rank["broadcast"] == "from rank 0", f"broadcast gives {rank['broadcast']!r} on rank {number}"


class MultiProcess(ParallelContract):
    """Claim `multi_process`."""

    world_size = 2

    def test_a_launcher_is_named(self, spec: Any, registry: Any) -> None:
        assert registry.find("launcher", spec.launcher)


class Sharded(MultiProcess):
    """Claim `shards`."""

    largest_share = 0.75
    """Of the whole, on one rank of two: small tensors need not be split evenly."""

    def test_each_rank_holds_a_share(self, spec: Any, result: dict[str, Any]) -> None:
        """The memory estimate divides these by the number of ranks."""
        whole = sum(p.numel() for p in Loss().parameters())
        sizes = {"weights": whole, "gradients": whole, "optimizer": 2 * whole}
        for number, rank in enumerate(result["ranks"]):
            for what in (name for name in spec.shards if name in sizes):
                held = rank["held"][what]
                assert held <= self.largest_share * sizes[what], (
                    f"claims to shard {what}, but rank {number} of {self.world_size} holds {held} of {sizes[what]} numbers"
                )
