"""Starts worker processes through torch's elastic multiprocessing.

The parts of `torchrun` that a fixed number of processes needs: its process context, log redirection and store. Its agent is
left out, since it answers a signal or a failure with an exit code of its own; here the worker's comes back.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from swift.api import ConfigError, Launcher

_POLL_S = 0.1
_FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_TAIL_LINES = 40


class Torchrun(Launcher):
    """One process per device of this machine. Rank 0's output goes to the terminal, that of the others to log files."""

    worker = "swift.worker"
    """Module that each process runs, with the plan's path as its only argument."""

    def launch(self, plan_file: Path, *, nproc_per_node: int, nnodes: int, node_rank: int, master_addr: str,
               master_port: int, env: Mapping[str, str]) -> int:  # fmt: skip
        if nnodes > 1 and not master_port:
            raise ConfigError("several machines need one agreed port", fix="--master_port 29500 on every machine")
        store, port = _store(master_addr, master_port) if node_rank == 0 else (None, master_port)
        log_dir = Path(self.settings.log_dir) if self.settings.log_dir else plan_file.parent / "logs"
        log_dir.mkdir(parents=True, exist_ok=True)
        shared = {
            **env,
            "MASTER_ADDR": master_addr,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(nnodes * nproc_per_node),
            "LOCAL_WORLD_SIZE": str(nproc_per_node),
            "GROUP_RANK": str(node_rank),
            "OMP_NUM_THREADS": self._threads(nproc_per_node, env),
            # The store lives in the launcher of machine 0: workers join it as clients, whichever rank they have.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_RUN_ID": "swift",
        }
        ranks = range(nproc_per_node)
        with _Signals() as signals:
            context = start_processes(
                name="swift",
                entrypoint=sys.executable,
                args={rank: ("-u", "-m", self.worker, str(plan_file)) for rank in ranks},
                envs={
                    rank: {**shared, "RANK": str(node_rank * nproc_per_node + rank), "LOCAL_RANK": str(rank)} for rank in ranks
                },
                logs_specs=DefaultLogsSpecs(
                    log_dir=str(log_dir), redirects={rank: Std.NONE if rank == 0 else Std.ALL for rank in ranks}
                ),
            )
            signals.take()  # start_processes has put its own handlers in place
            try:
                code = self._wait(context.subprocess_handlers, context.stderrs, signals, node_rank * nproc_per_node)
            finally:
                context.close(signal.SIGKILL)
                for worker in context.subprocess_handlers.values():  # torch closes those of killed workers only
                    for stream in filter(None, (worker._stdout, worker._stderr)):
                        stream.close()
        del store
        return code

    def _wait(
        self, workers: dict[int, SubprocessHandler], stderrs: Mapping[int, str], signals: _Signals, first_rank: int
    ) -> int:
        """Exit code: 0, or that of the worker that failed first (128 + n where signal n killed it)."""
        ended: dict[int, int] = {}
        failed: list[int] = []
        deadline = float("inf")
        forwarded = 0
        while len(ended) < len(workers):
            for rank, worker in workers.items():
                if rank not in ended and (code := worker.proc.poll()) is not None:
                    ended[rank] = code
                    if code:
                        failed.append(rank)
                        deadline = min(
                            deadline, time.monotonic() + (self.settings.grace if forwarded else self.settings.failure_grace)
                        )
            if len(signals.received) > forwarded:
                for received in signals.received[forwarded:]:
                    for rank, worker in workers.items():
                        if rank not in ended and worker.proc.poll() is None:
                            worker.proc.send_signal(received)
                forwarded = len(signals.received)
                deadline = time.monotonic() + self.settings.grace
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        if not failed:
            if len(ended) == len(workers):
                return 0
            print(f"swift: workers did not end within {self.settings.grace:g} s after the signal; killed", file=sys.stderr)
            return 128 + signals.received[-1]
        self._explain(failed[0], ended, stderrs, first_rank, interrupted=bool(forwarded))
        return _exit_code(ended[failed[0]])

    @staticmethod
    def _explain(
        rank: int, ended: Mapping[int, int], stderrs: Mapping[int, str], first_rank: int, *, interrupted: bool
    ) -> None:
        """Show the first failing rank's last words, unless rank 0 has said the same on the terminal."""
        code = ended[rank]
        if rank == 0 or interrupted or (code == ended.get(0) and code > 1):
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        print(f"swift: rank {first_rank + rank} failed first: it {how}. Its output ({stderrs[rank]}):", file=sys.stderr)
        lines = Path(stderrs[rank]).read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-_TAIL_LINES:]) or "(nothing)", file=sys.stderr)

    def _threads(self, nproc_per_node: int, env: Mapping[str, str]) -> str:
        if self.settings.omp_num_threads:
            return str(self.settings.omp_num_threads)
        given = env.get("OMP_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
        if given:
            return given
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return str(max(cores // nproc_per_node, 1))


class _Signals:
    """Collects signals instead of dying from them. Workers run in sessions of their own, so Ctrl-C reaches only us."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        try:
            self._before = {number: signal.getsignal(number) for number in (*_FORWARDED, *_also_taken_by_torch())}
            self.take()
        except ValueError:  # not the main thread: signals reach whoever owns them
            self._before = {}
        return self

    def take(self) -> None:
        if self._before:
            for number in _FORWARDED:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _also_taken_by_torch() -> tuple[int, ...]:
    return (signal.SIGQUIT,) if hasattr(signal, "SIGQUIT") else ()


def _store(master_addr: str, master_port: int) -> tuple[TCPStore, int]:
    """The rendezvous of all ranks; port 0 takes a free one and holds it."""
    try:
        store = TCPStore(master_addr, master_port, is_master=True, wait_for_workers=False)
    except (DistError, RuntimeError) as error:
        if os.strerror(errno.EADDRINUSE).lower() in str(error).lower() or "EADDRINUSE" in str(error):
            raise ConfigError(f"port {master_port} on {master_addr} is taken", fix="--master_port 0, or another one") from error
        raise ConfigError(
            f"cannot listen on {master_addr}:{master_port}: {error}", fix="check --master_addr and --master_port"
        ) from error
    return store, store.port


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
