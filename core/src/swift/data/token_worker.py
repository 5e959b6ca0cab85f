"""A process that encodes rows for `swift.data.tokens.encode_in_processes`, asked over standard input and output."""

from __future__ import annotations

import os
import pickle
import sys

from swift.data.tokens import encode_chunk, read_frame, write_frame


def main() -> None:
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    task = read_frame(requests)
    if task is None:
        return
    encode, encoder = pickle.loads(task)
    while (request := read_frame(requests)) is not None:
        try:
            answer = pickle.dumps(encode_chunk(pickle.loads(request), encode, encoder))
        except Exception as error:  # the main process raises it
            answer = pickle.dumps(error)
        write_frame(answers, answer)


if __name__ == "__main__":
    main()
