"""Claims about the launcher, with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swift.api import ConfigError
from swift_launcher_torchrun.launcher import Torchrun
from swift_launcher_torchrun.settings import TorchrunSettings

HERE = Path(__file__).parent


class Fake(Torchrun):
    worker = "fake_worker"


def launch(tmp_path, task, *, nproc=2, port=0, launcher=None, **env):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(task), encoding="utf-8")
    return (launcher or Fake(TorchrunSettings(failure_grace=0.5, grace=20), "torchrun")).launch(
        plan, nproc_per_node=nproc, nnodes=1, node_rank=0, master_addr="127.0.0.1", master_port=port,
        env={"PYTHONPATH": str(HERE), "MARK": "x", **env},
    )  # fmt: skip


def test_ranks_find_each_other_and_get_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    assert launch(tmp_path, {"do": "sum"}) == 0
    answers = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert [a["total"] for a in answers] == [3.0, 3.0]
    assert answers[0]["omp"] == str(max(cores // 2, 1)) and answers[0]["mark"] == "x"
    assert signal.getsignal(signal.SIGTERM) is before


def test_given_thread_count_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Fake(TorchrunSettings(), "torchrun")._threads(2, {"OMP_NUM_THREADS": "3"}) == "3"
    assert Fake(TorchrunSettings(), "torchrun")._threads(2, {}) == "5"
    assert Fake(TorchrunSettings(omp_num_threads=7), "torchrun")._threads(2, {"OMP_NUM_THREADS": "3"}) == "7"


def test_code_and_words_of_the_failing_rank_come_back_soon(tmp_path, capfd):
    start = time.monotonic()
    assert launch(tmp_path, {"do": "fail", "rank": 1}) == 7
    assert time.monotonic() - start < 30
    err = capfd.readouterr().err
    assert err.count("the reason of rank 1") == 1 and "rank 1 failed first" in err


def test_a_killed_rank_is_told_by_its_signal(tmp_path, capfd):
    assert launch(tmp_path, {"do": "die", "rank": 1}) == 128 + signal.SIGKILL
    assert "SIGKILL" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_lets_workers_save_and_their_code_comes_back(tmp_path, number):
    def send():
        while not all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    assert launch(tmp_path, {"do": "wait"}) == 130
    assert (tmp_path / "saved-0").exists() and (tmp_path / "saved-1").exists()


def test_a_taken_port_is_told(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="is taken"):
            launch(tmp_path, {"do": "sum"}, port=other.getsockname()[1])


def test_several_machines_need_a_port(tmp_path):
    with pytest.raises(ConfigError, match="port"):
        Fake(TorchrunSettings(), "torchrun").launch(
            tmp_path / "plan.json", nproc_per_node=1, nnodes=2, node_rank=0, master_addr="127.0.0.1", master_port=0, env={}
        )


@pytest.mark.slow
def test_two_machines_make_one_group(tmp_path):
    """Two launchers on this host stand for two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"do": "sum"}), encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, {here!r}); from pathlib import Path; from test_torchrun import Fake, TorchrunSettings;"
        "sys.exit(Fake(TorchrunSettings(log_dir={logs!r}), 'torchrun').launch(Path({plan!r}), nproc_per_node=1, nnodes=2,"
        "node_rank={rank}, master_addr='127.0.0.1', master_port={port}, env={{'PYTHONPATH': {here!r}, 'MARK': 'x'}}))"
    )
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(here=str(HERE), logs=str(tmp_path / f"l{n}"), plan=str(plan), rank=n, port=port)]
        )
        for n in (0, 1)
    ]
    assert [node.wait(90) for node in nodes] == [0, 0]
    assert [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))["total"] for rank in (0, 1)] == [3.0, 3.0]
