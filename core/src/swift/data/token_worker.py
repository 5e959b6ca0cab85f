"""A process that writes token shards for `swift.data.workers`, asked over standard input and output."""

from __future__ import annotations

import os
import pickle
import sys

from swift.data.workers import read_frame, write_frame
from swift.plugins.loading import collector_at_rest


def main() -> None:
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    task = read_frame(requests)
    if task is None:
        return
    with collector_at_rest():
        encode, encoder = pickle.loads(task)
    write_frame(answers, pickle.dumps(True))
    while (request := read_frame(requests)) is not None:
        answer: object = True
        try:
            pickle.loads(request).run(encode, encoder, lambda rows: None)
        except Exception as error:  # the main process raises it
            answer = error
        write_frame(answers, _pickled(answer))


def _pickled(answer: object) -> bytes:
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # an exception with arguments of its own pickles, and fails over there
    except Exception:
        return pickle.dumps(RuntimeError(repr(answer)))
    return data


if __name__ == "__main__":
    main()
