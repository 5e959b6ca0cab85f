"""One epoch of examples/sft-lora.yaml, from Python. `python examples/train_in_python.py [RUN_DIRECTORY]`"""

from __future__ import annotations

import sys

import swift


def main(output: str = "runs/python") -> None:
    settings = {
        "model": "tiny",
        "dtype": "float32",
        "dataset": ["identity"],
        "model_name": "Swifty",
        "model_author": "the Swift team",
        "tuner": "lora",
        "lora": {"rank": 16, "alpha": 32},
        "epochs": 1,
        "batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.005,
        "output": output,
    }
    plan = swift.plan_run(**settings)
    print("strategy:", plan.components["parallel"].name, "| steps:", plan.estimate["time"]["steps"])
    run = swift.train(**settings)
    print(f"loss {run.losses[0]:.2f} -> {run.losses[-1]:.2f}; talk to it: swift chat {run.path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
