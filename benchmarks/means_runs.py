"""What means.py trains: model folders and rows, and real `swift` commands whose steps are timed by the CPU time they take."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import itertools
import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import children
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from swift.cli.main import main as swift

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "plugins/tiny/src/swift_tiny/data/chat.jsonl"
PREPARE = HERE / "peers" / "train_prepare.py"
MODELS = {
    "13M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8,
            "num_key_value_heads": 2},
    "60M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
            "num_key_value_heads": 4},
}  # fmt: skip
"""Qwen3 like the 7M of peers/train_prepare.py, which makes that one."""
TOY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
COMMON = (
    "--gradient_accumulation_steps", "1", "--log_steps", "1", "--save_steps", "1000000", "--report", "false",
    "--progress", "false", "--device", "cpu", "--tracker", "bench-clock",
)  # fmt: skip
DOOR = """from swift.api import TrackerSpec, hookimpl


@hookimpl
def swift_trackers():
    return [TrackerSpec(name="bench-clock", impl="means_clock_impl:Clock", summary="notes the CPU time of each step")]
"""
IMPL = """from means_runs import cpu_seconds

from swift.api import Tracker

TIMES = []


class Clock(Tracker):
    def log(self, step, metrics):
        TIMES.append(cpu_seconds())
"""


def cpu_seconds() -> float:
    """Of this process and of its children that have ended (compilers)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def install_clock(site: Path) -> None:
    """The tracker as an installed distribution in a folder of its own, which this process then sees."""
    info = site / "means_clock-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "means_clock_door.py").write_text(DOOR, encoding="utf-8")
    (site / "means_clock_impl.py").write_text(IMPL, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: means-clock\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[swift.plugins]\nmeans-clock = means_clock_door\n", encoding="utf-8")
    (info / "RECORD").write_text("", encoding="utf-8")
    sys.path.append(str(site))


@dataclass(frozen=True)
class Taken:
    """CPU seconds of a run.

    Attributes:
        seconds: Of the steps that count.
        tokens: Real ones of these steps.
        before: From the command to the end of the first step.
        step: Of one of these steps, in the median.
    """

    seconds: float
    tokens: int
    before: float
    step: float

    @property
    def per_thousand(self) -> float:
        """Seconds per 1,000 real tokens."""
        return 1000 * self.seconds / self.tokens


class Runs:
    """Folders and commands.

    Args:
        root: An empty folder.
        toy: Of every model the same toy.
        count: Rows that are trained on.
    """

    def __init__(self, root: Path, *, toy: bool, count: int) -> None:
        self.root, self.toy, self.count = root, toy, count
        install_clock(root / "site")

    def model(self, name: str) -> Path:
        """Folder of a model with random weights, made when it is first asked for; beside that of 7M stand the rows."""
        folder = self.root / name / "model"
        if folder.is_dir():
            return folder
        if name == "7M":
            folder.parent.mkdir()
            words: list[str | Path] = [sys.executable, PREPARE, folder.parent, "7M", "float32", ROWS, str(self.count)]
            children.run(words)
            return folder
        shutil.copytree(self.model("7M"), folder)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(self.config(name), dtype=torch.float32).save_pretrained(folder)
        return folder

    def config(self, name: str) -> PretrainedConfig:
        """Of another model than 7M, with the vocabulary of that one."""
        values = AutoConfig.from_pretrained(self.model("7M")).to_dict()
        del values["layer_types"]  # one for each layer
        return AutoConfig.for_model(**{**values, **(TOY if self.toy else MODELS[name])})

    @property
    def rows(self) -> Path:
        self.model("7M")
        return self.root / "7M" / "rows.jsonl"

    def tokens(self) -> int:
        """Of all rows together."""
        self.model("7M")
        lines = (self.root / "7M" / "tokens.jsonl").read_text(encoding="utf-8").splitlines()
        return sum(len(json.loads(line)["input_ids"]) for line in lines)

    def train(self, model: str, words: Sequence[str], *, steps: int, warm_up: int) -> Taken:
        """`swift sft` in this process: so many steps, after `warm_up` that do not count.

        Raises:
            RuntimeError: The command fails.
        """
        run = self.root / "run"
        command = ["sft", "--model", str(self.model(model)), "--dataset", str(self.rows), *COMMON, *words,
                   "--max_steps", str(warm_up + steps), "-o", str(run)]  # fmt: skip
        said = io.StringIO()
        if (module := sys.modules.get("means_clock_impl")) is not None:
            module.TIMES.clear()
        began = cpu_seconds()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = swift(command)
        if code:
            raise RuntimeError(f"swift {' '.join(command)} ended with {code}:\n{said.getvalue()[-2000:]}")
        times: list[float] = importlib.import_module("means_clock_impl").TIMES
        log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        tokens = [entry["tokens"] for entry in log if "loss" in entry]
        shutil.rmtree(run)
        gc.collect()
        kept = times[warm_up - 1 :]
        step = statistics.median(b - a for a, b in itertools.pairwise(kept))
        return Taken(kept[-1] - kept[0], tokens[-1] - tokens[warm_up - 1], times[0] - began, step)


def piece(kind: str, name: str, *args: Any, **settings: Any) -> Any:
    """A component of Swift with settings, by the same way that a run takes."""
    loading = importlib.import_module("swift.plugins.loading")
    registry = importlib.import_module("swift.plugins.registry").discover()
    return loading.instantiate(loading.component_of(registry.find(kind, name), settings), *args)
