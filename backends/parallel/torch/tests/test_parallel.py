"""One process and two give the same numbers; state moves between them; a dead rank does not hang the others."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from swift.api import CheckpointError, ConfigError
from swift_parallel_torch.ddp import DDP
from swift_parallel_torch.single import Single

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import ranks  # noqa: E402


def environments(world_size):
    """Variables of a launcher, for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def two(task, folder, expect=(0, 0)):
    processes = [
        subprocess.Popen([sys.executable, str(HERE / "ranks.py"), task, str(folder)], env=env) for env in environments(2)
    ]
    codes = tuple(process.wait(90) for process in processes)
    assert codes == expect
    return [json.loads((folder / f"{task}-2-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1) if not codes[rank]]


def flat(values):
    return torch.cat([torch.tensor(v).flatten() for v in values])


def assert_same(got, wanted):
    assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
    assert got["norm"] == pytest.approx(wanted["norm"], rel=1e-6)
    for key in ("gradients", "clipped", "parameters"):
        assert torch.allclose(flat(got[key]), flat(wanted[key]), rtol=1e-5, atol=1e-7), key


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {n: tmp_path_factory.mktemp(f"ranks{n}") for n in (1, 2)}
    return folders, {1: [ranks.alone("steps", folders[1])], 2: two("steps", folders[2])}


def test_two_ranks_equal_one(runs):
    """Two accumulated micro-batches per rank; the first of rank 0's last has no label."""
    _, answers = runs
    for rank in (0, 1):
        for got, wanted in zip(answers[2][rank]["steps"], answers[1][0]["steps"], strict=True):
            assert_same(got, wanted)
    assert answers[1][0]["steps"][0]["norm"] > 0.1
    assert flat(answers[1][0]["steps"][0]["clipped"]).norm().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("written_by", [1, 2])
def test_optimizer_state_moves_between_one_and_two_ranks(runs, written_by):
    folders, answers = runs
    wanted = answers[1][0]["steps"][1]
    folder = folders[written_by]
    got = ranks.alone("resume", folder)["steps"][0] if written_by == 2 else two("resume", folder)[0]["steps"][0]
    assert_same(got, wanted)


def test_resume_on_the_same_number_of_ranks_is_bit_equal(runs):
    folders, answers = runs
    assert ranks.alone("resume", folders[1])["steps"][0] == answers[1][0]["steps"][1]


def test_words_travel_between_ranks(runs):
    for rank, answer in enumerate(runs[1][2]):
        assert answer["broadcast"] == {"from": 0}
        assert answer["gather"] == [0, 10]
        assert answer["sum"] == [2.0, 1.0]
        assert answer["local"] == [rank, rank, 2]
        assert answer["order"][1] - answer["order"][0] >= 0.25


def test_nothing_to_train_is_not_wrapped(runs):
    assert all(answer["unwrapped"] for answer in runs[1][2])


def test_a_dead_rank_ends_the_other_in_time(tmp_path):
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "ranks.py"), "die", str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True
        )
        for env in environments(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert processes[1].returncode == 9 and processes[0].returncode not in (0, None)
    assert "Error" in errors[0]
    assert time.monotonic() - start < 50


FREED = """
import gc, os, sys
from pathlib import Path
sys.path.insert(0, os.environ["HERE"])
import ranks, torch
torch.optim.AdamW([torch.zeros(1)])  # torch's compiler, where it is imported later, keeps the group alive by chance
from swift_parallel_torch.ddp import DDP

def threads():
    return sorted(Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task"))

strategy = DDP(None, "ddp", ranks.CPU(None, "cpu"))
strategy.start(timeout_s=30)
module = strategy.wrap(torch.nn.Linear(4, 4))
strategy.backward(module(torch.ones(2, 4)).sum())
strategy.stop()
before = threads()
assert any("gloo" in name for name in before), before
del module
gc.collect()
assert threads() == before, threads()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_module_freed_after_its_group_does_not_wait_for_its_threads():
    """It would hold the interpreter's lock meanwhile, which a thread that drops the last tensor asks for: both wait forever."""
    [env] = environments(1)
    subprocess.run([sys.executable, "-c", FREED], env=env | {"HERE": str(HERE)}, check=True, timeout=90)


def test_ddp_without_a_launcher_says_so(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK"):
        DDP(None, "ddp", ranks.CPU(None, "cpu")).start(timeout_s=1)


def test_a_group_that_does_not_come_together_is_told(monkeypatch):
    for name, value in {
        "RANK": "1",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="rank 1 of 2 could not join"):
        DDP(None, "ddp", ranks.CPU(None, "cpu")).start(timeout_s=2)


def single():
    strategy = Single(None, "single", ranks.CPU(None, "cpu"))
    module = ranks.Loss()
    strategy.wrap(module)
    return strategy, module, ranks.optimizer_for(module)


def test_norm_zero_measures_and_does_not_clip():
    strategy, module, optimizer = single()
    assert ranks.step(strategy, module, optimizer, max_norm=0.0)["norm"] > 0.1
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.full((4,), 3.0)
    assert strategy.clip_gradients([p], 0.0).item() == 6.0 and p.grad.tolist() == [3.0] * 4
    p.grad.fill_(0)
    assert strategy.clip_gradients([p], 0.0).item() == 0.0 and not p.grad.isnan().any()


def saved(folder):
    strategy, module, optimizer = single()
    ranks.step(strategy, module, optimizer)
    strategy.save_optimizer(optimizer, folder)
    return strategy


def test_state_of_other_parameters_is_refused_by_name(tmp_path):
    saved(tmp_path)
    strategy, module, _ = single()
    module.frozen.requires_grad_(True)
    optimizer = ranks.optimizer_for(module)
    with pytest.raises(CheckpointError, match=r"Only here: frozen\.bias, frozen\.weight"):
        strategy.load_optimizer(optimizer, tmp_path)


def test_state_of_other_shapes_is_refused_by_name(tmp_path):
    saved(tmp_path)
    strategy, module, _ = single()
    module.head = torch.nn.Linear(16, 7)
    strategy.wrap(module)
    optimizer = ranks.optimizer_for(module)
    with pytest.raises(CheckpointError, match=r"head\.bias\.exp_avg \(5,\) for a parameter \(7,\)"):
        strategy.load_optimizer(optimizer, tmp_path)
    assert not optimizer.state


def test_state_of_another_optimizer_and_damage_are_told(tmp_path):
    strategy = saved(tmp_path)
    sgd = torch.optim.SGD([p for p in ranks.Loss().parameters()])
    with pytest.raises(CheckpointError, match="holds the state of AdamW"):
        strategy.load_optimizer(sgd, tmp_path)
    file = tmp_path / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="cannot be read"):
        strategy.load_optimizer(sgd, tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        strategy.load_optimizer(sgd, tmp_path)


@pytest.mark.parametrize("build", [torch.optim.AdamW, torch.optim.Adafactor, lambda p: torch.optim.SGD(p, momentum=0.9)])
def test_every_optimizer_comes_back_bit_by_bit(tmp_path, build):
    def fresh():
        strategy, module, _ = single()
        return strategy, module, build([p for p in module.parameters() if p.requires_grad])

    strategy, module, optimizer = fresh()
    ranks.step(strategy, module, optimizer)
    strategy.save_optimizer(optimizer, tmp_path)
    again_strategy, again_module, again = fresh()
    again_module.load_state_dict(module.state_dict())
    again_strategy.load_optimizer(again, tmp_path)
    assert ranks.step(strategy, module, optimizer) == ranks.step(again_strategy, again_module, again)
