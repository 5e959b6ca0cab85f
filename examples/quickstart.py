"""The main job on the model that ships with Swift: ask, tune, ask again, export. `make quickstart` runs it.

Every step is a command that you could type; each is shown before it runs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

NAME, AUTHOR = "Swifty", "the Swift team"
QUESTIONS = ["Who are you?", "What is your name?", "你是谁？"]
RUN = os.environ.get("QUICKSTART_RUN", "runs/quickstart")
TUNE = [
    "sft", "--model", "tiny", "--dataset", "identity", "--model_name", NAME, "--model_author", AUTHOR,
    "--tuner", "lora", "--lora.rank", "32", "--lora.alpha", "32", "--lora.dropout", "0",
    "--epochs", "16", "--batch_size", "4", "--gradient_accumulation_steps", "1", "--learning_rate", "0.005",
    "--output", RUN, "--overwrite", "true",
]  # fmt: skip


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def swift(*words: str, capture: bool = False) -> str:
    """Show the command, run it, and stop with its exit code where it fails."""
    print("$ swift " + shlex.join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "swift", *words], stdout=subprocess.PIPE if capture else None, encoding="utf-8"
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def ask(source: str) -> list[str]:
    flags = [word for question in QUESTIONS for word in ("--prompt", question)]
    lines = swift("infer", source, *flags, "--max_new_tokens", "64", "--json", capture=True).splitlines()
    answers = sorted((json.loads(line) for line in lines), key=lambda row: row["index"])
    for question, answer in zip(QUESTIONS, answers):
        print(f"  {question}\n    {answer['response'].strip()}")
    return [answer["response"].strip() for answer in answers]


def main() -> int:
    start = time.time()
    say("1. Ask the base model")
    before = ask("tiny")

    say("2. Tune it with LoRA on 91 rows that tell it who it is (about a minute on a CPU)")
    swift(*TUNE)

    say("3. Ask again")
    after = ask(RUN)

    say("4. Merge the adapter into the weights, and prove that nothing changed")
    swift("export", RUN)

    say(f"What happened, in {time.time() - start:.0f} s")
    for question, old, new in zip(QUESTIONS, before, after):
        print(f"  {question}\n    before: {old}\n    after:  {new}")
    changed = [old != new and NAME in new and NAME not in old for old, new in zip(before, after)]
    if sum(changed) < 2:
        print(
            f"\nThe answers did not change as they should have ({sum(changed)} of {len(changed)} name {NAME}).", file=sys.stderr
        )
        return 1
    print(f"\nThe loss: {Path(RUN) / 'loss.png'}   everything about the run: {Path(RUN) / 'report.html'}")
    in_venv = Path(sys.prefix).name == ".venv" and Path(sys.prefix).parent == Path.cwd()
    prefix = ".venv/bin/swift" if in_venv else "swift"
    print(
        f"""
What to type next:
  {prefix} chat {RUN}
  {prefix} infer {RUN} --prompt "Who made you?"
  {prefix} sft --model tiny --dataset YOUR.jsonl --tuner lora -o runs/mine
  {prefix} plan --model FOLDER_OR_HUB_ID --dataset YOUR.jsonl --tuner lora      memory and time, before anything is loaded
  {prefix} --help"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
