"""Several processes that write token shards: this one, and helpers that read the records and write the shards themselves."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.api.contracts.data import Record
from swift.data.shards import Encode, shard_info, write_shard

HELPERS_PAY_AFTER_S = 12.0
"""Helpers are started where this process alone would need longer than this: they take some 4 s of a core to get ready."""
ENDED_EARLY = "a tokenizing process ended early; its rows were tokenized in the main process"
THREADS = "TOKENIZERS_PARALLELISM"
"""The tokenizers library asks for it at every call. Its threads take the cores that the helpers run on."""
COMMAND = (sys.executable, "-m", "swift.data.token_worker")


@dataclass(frozen=True)
class Job:
    """One shard to write. `records` pickle as places where they are on the disk, and as themselves where they are not."""

    path: Path
    records: Sequence[Record]
    first: int

    def run(self, encode: Encode, encoder: Any, report: Callable[[int], None]) -> None:
        """Write it, unless another run has done so meanwhile."""
        try:
            found = shard_info(self.path)
        except (OSError, ValueError):
            found = {}
        if (found.get("first"), found.get("records")) == (self.first, len(self.records)):
            report(len(self.records))
        else:
            write_shard(self.path, self.records, encode, encoder, self.first, report)


class Team:
    """This process and up to `size` - 1 helpers.

    Helpers are plain subprocesses and not `multiprocessing`: the user's main module is not run again, threads and locks are
    not inherited, and one that is killed is seen at once as the end of its pipe; its shard is then written here.
    """

    def __init__(self, encode: Encode, encoder: Any, size: int, *, command: Sequence[str] = COMMAND) -> None:
        self._encode, self._encoder, self._size, self._command = encode, encoder, size, command
        self._state = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._busy = 0
        self._closed = False
        self._threads_before = os.environ.get(THREADS)
        self._faults: list[BaseException] = []
        self._helpers: list[_Helper] = []
        self._threads: list[threading.Thread] = []
        self._met: Counter[str] = Counter()
        self._report: Callable[[int], None] = lambda rows: None
        self.ready = 0
        """Helpers that have loaded everything."""
        self.by_helpers = 0
        """Shards that helpers wrote."""

    def start(self) -> None:
        """Start the helpers now; they get ready while this process goes on."""
        if self._helpers or self._size < 2:
            return
        try:
            task = pickle.dumps((self._encode, self._encoder))
        except (pickle.PicklingError, AttributeError, TypeError):
            self._size = 1  # a function that only exists here
            return
        for _ in range(self._size - 1):
            helper = _Helper(task, self._command)
            self._helpers.append(helper)
            self._threads.append(threading.Thread(target=self._lead, args=(helper,), daemon=True))
            self._threads[-1].start()

    def run(self, jobs: Sequence[Job], report: Callable[[int], None]) -> Counter[str]:
        """Write all shards; `report` is called with numbers of rows that are done, from several threads but one at a time.

        Returns what was met on the way, by the line that tells the user about it.

        Raises:
            OSError: A shard cannot be written.
            Exception: What the encoding code raised, here or in a helper.
        """
        total = sum(len(job.records) for job in jobs)
        done = 0
        began = time.monotonic()

        def locked(rows: int) -> None:
            nonlocal done
            with self._state:
                done += rows
                report(rows)
            if not self._helpers and (time.monotonic() - began) / done * (total - done) > HELPERS_PAY_AFTER_S:
                self.start()

        self._report = locked
        with self._state:
            self._jobs.extend(jobs)
            self._state.notify_all()
        while (job := self._next()) is not None:
            job.run(self._encode, self._encoder, locked)
        return self._met

    def _next(self) -> Job | None:
        """The next job for this process; None when all are done. Helpers that are still getting ready are not waited for."""
        with self._state:
            while True:
                if self._faults:
                    raise self._faults[0]
                if self._jobs:
                    return self._jobs.popleft()
                if not self._busy:
                    return None
                self._state.wait()

    def _lead(self, helper: _Helper) -> None:
        ready = helper.ready()
        self.ready += ready
        if ready:
            os.environ[THREADS] = "false"
        if not ready and not self._closed:
            self._met[ENDED_EARLY] += 1
        while ready:
            with self._state:
                while not self._jobs and not self._closed:
                    self._state.wait()
                if self._closed or self._faults:
                    return
                job = self._jobs.popleft()
                self._busy += 1
            answer = helper.ask(job)
            if answer is True:
                self._report(len(job.records))
            with self._state:
                self._busy -= 1
                if answer is True:
                    self.by_helpers += 1
                elif isinstance(answer, BaseException):
                    self._faults.append(answer)
                else:
                    self._jobs.appendleft(job)
                    self._met[ENDED_EARLY] += 1
                    ready = False
                self._state.notify_all()

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        for helper in self._helpers:
            helper.stop()
        for thread in self._threads:
            thread.join()
        if self.ready and self._threads_before is None:
            os.environ.pop(THREADS, None)
        elif self.ready:
            os.environ[THREADS] = str(self._threads_before)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()


class _Helper:
    """One subprocess, asked over pipes with length-prefixed pickles."""

    def __init__(self, task: bytes, command: Sequence[str]) -> None:
        env = {**os.environ, THREADS: "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._task = task

    def ready(self) -> bool:
        """Waits until it has loaded everything; False where it ended instead."""
        return self._exchange(self._task) is True

    def ask(self, job: Job) -> object:
        """True: written. An exception: that of the encoding code. None: the process is gone."""
        return self._exchange(pickle.dumps(job))

    def _exchange(self, request: bytes) -> object:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        try:
            write_frame(stdin, request)
            answer = read_frame(stdout)
        except (OSError, ValueError):
            return None
        return None if answer is None else pickle.loads(answer)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # unsent bytes for a process that is gone


def write_frame(stream: Any, data: bytes) -> None:
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: Any) -> bytes | None:
    """None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    return data if len(data) == size else None
