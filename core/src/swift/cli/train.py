"""`swift sft`, `swift pt`, `swift train`."""

from __future__ import annotations

import sys

from swift.start import start


def main(argv: list[str], verb: str) -> int:
    run_dir, _ = start(verb, argv=argv, say=lambda line: print(line, file=sys.stderr))
    node = run_dir.plan.config["parallel"]["node_rank"]
    if node:
        print(f"machine {node} is done; the result is on machine 0")
        return 0
    if span := run_dir.loss_span():
        print(f"done: {int(run_dir.log()[-1]['step'])} steps, loss {span[0]:.4f} -> {span[1]:.4f}")
    held_out = [row["eval_loss"] for row in run_dir.log() if "eval_loss" in row]
    if held_out:
        print(f"held-out loss: {held_out[-1]:.4f}")
    plot = run_dir.path / "loss.png"
    if plot.is_file():
        print(f"plot:   {plot}\nreport: {run_dir.report_file}")
    print(f"result: {run_dir.final}\nnext:   swift chat {run_dir}\n        swift export {run_dir}")
    return 0
