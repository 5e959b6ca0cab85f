"""Child of training.py: `swift sft` of this checkout. Argument: a JSON task."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path


def watch(log: Path) -> None:
    """Says when the first step is in the log."""
    while not (log.is_file() and log.stat().st_size):
        time.sleep(0.01)
    print('@@ {"event": "first_step"}', flush=True)


def main(task: dict) -> None:
    from swift.cli.main import main as swift

    print('@@ {"event": "imported"}', flush=True)
    folder = Path(task["folder"])
    run = folder / "swift"
    threading.Thread(target=watch, args=(run / "log.jsonl",), daemon=True).start()
    batching = {
        "same": ["--batching", "padded", "--batch_size", str(task["batch"])],
        "joined": ["--batching", "unpacked", "--batch_size", str(task["batch"])],
        "best": ["--batching", "packed", "--packing_length", "1024", "--batch_size", "1"],
    }
    code = swift(
        [
            "sft", "--model", str(folder / "model"), "--dataset", str(folder / "rows.jsonl"), "--tuner", task["tuner"],
            *(["--lora.rank", "8", "--lora.alpha", "32", "--lora.dropout", "0"] if task["tuner"] == "lora" else []),
            "--dtype", task["dtype"], "--max_steps", str(task["steps"]), "--gradient_accumulation_steps", "1",
            "--learning_rate", "1e-4", "--lr_scheduler", "constant", "--warmup_ratio", "0", "--weight_decay", "0",
            "--max_grad_norm", "1", "--adamw.beta2", "0.999",
            "--log_steps", "1", "--save_steps", "100000", "--shuffle", "false", "--max_length", "1024",
            "--progress", "false", "--report", "false", "--mixed_precision", "no", "--cache_dir", str(folder / "tokens"),
            *batching[task["setting"]], "--output_dir", str(run),
        ]
    )  # fmt: skip
    if code:
        raise SystemExit(code)
    log = [json.loads(line) for line in (run / "log.jsonl").open(encoding="utf-8")]
    steps = [entry for entry in log if "loss" in entry]
    seconds = [now["seconds"] - before["seconds"] for before, now in zip([{"seconds": 0.0}, *steps], steps, strict=False)]
    tokens = [now["tokens"] - before["tokens"] for before, now in zip([{"tokens": 0}, *steps], steps, strict=False)]
    losses = [entry["loss"] for entry in steps]
    print("@@ " + json.dumps({"event": "done", "tokens": tokens, "seconds": seconds, "losses": losses}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
