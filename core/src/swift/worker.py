"""`python -m swift.worker RUN/plan.json`: one rank of a run, started by a launcher. Discovers nothing, verifies everything."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from swift.errors import Interrupted, SwiftError
from swift.plugins.loading import load_object
from swift.run_dir import RunDir


def main(plan_file: str) -> int:
    run_dir = RunDir(Path(plan_file).parent)
    try:
        run = load_object("swift.training.run:run")
        run(run_dir.plan, run_dir)
    except Interrupted as error:
        return error.exit_code
    except SwiftError as error:
        # Kept for the launching process, which prints it once; several ranks may fail alike.
        run_dir.error_file.write_text(str(error), encoding="utf-8")
        return error.exit_code
    except Exception:
        run_dir.error_file.write_text(traceback.format_exc(), encoding="utf-8")
        traceback.print_exc()
        return 70
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is saved. Leaving through the interpreter's teardown would destroy threads of the communication library that
    # still wait for other machines, which aborts the process ("terminate called without an active exception").
    os._exit(code)
