"""Swift from Python: `swift.train(...)` is `swift sft`, with keyword values instead of flags."""

from __future__ import annotations

import base64
import html
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.api.contracts.tuners import AdapterLibrary
from swift.config.loader import Resolved, load
from swift.config.sections import ModelSection
from swift.data.register import HFDataset, write_rows
from swift.errors import ConfigError, DataError, ModelError, PluginError
from swift.plan.models import locate
from swift.plan.plan import Plan
from swift.plan.planner import make_plan
from swift.plugins import index
from swift.plugins.loading import load_object
from swift.plugins.registry import discover
from swift.python.tuners import library, tuner_values
from swift.run_dir import RunDir
from swift.start import start

logger = logging.getLogger("swift")

DATASETS = ("dataset", "train_dataset", "val_dataset")
"""Keywords whose values may be rows instead of names of files and datasets."""


class Run(RunDir):
    """A finished run, opened from Python."""

    @property
    def losses(self) -> list[float]:
        """Mean training loss per token (nats) of each logged step."""
        return [row["loss"] for row in self.log() if "loss" in row]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """In notebooks: what came out, where it lies, and the plot of the loss."""
        span, plot = self.loss_span(), self.path / "loss.png"
        rows = [("run", str(self.path)), ("result", str(self.final))]
        if span:
            rows.insert(0, ("loss", f"{span[0]:.4f} → {span[1]:.4f}"))
        held_out = [row["eval_loss"] for row in self.log() if "eval_loss" in row]
        if held_out:
            rows.insert(1, ("held-out loss", f"{held_out[-1]:.4f}"))
        if self.report_file.is_file():
            rows.append(("report", str(self.report_file)))
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
        image = ""
        if plot.is_file():
            data = base64.b64encode(plot.read_bytes()).decode("ascii")
            image = f'<img alt="loss" style="max-width: 40em" src="data:image/png;base64,{data}">'
        return f"<table>{cells}</table>{image}"


def train(
    model: Any = None,
    dataset: Any = None,
    *,
    objective: str = "",
    resume: str | Path | None = None,
    tokenizer: Any = None,
    **values: Any,
) -> Run:
    """Train, as `swift train` does.

    Args:
        objective: sft, pt, ... (`swift list objectives`); default: that of the `task`, else sft.
        resume: Run directory to go on with.
        tokenizer: Of a model object that does not say from which folder it is.
        **values: Any key of the config: unique field names (`model="...", dataset="x.jsonl", learning_rate=1e-4`), sections
            (`train={"epochs": 3}`), settings of components (`lora={"rank": 16}`), or ms-swift's spellings (`lora_rank=16`).
            `model` may also be a model object of transformers, which is trained in place; datasets may also be rows: a list of
            dicts, an `HFDataset`, a `datasets.Dataset`.

    Raises:
        SwiftError: As the command line prints it.
    """
    values |= {key: value for key, value in (("model", model), ("dataset", dataset)) if value is not None}
    if resume is not None:
        values["resume"] = str(resume)
    elif objective:
        values["objective"] = objective
    return run_job(prepare(values, tokenizer=tokenizer))[0]


def plan_run(*, objective: str = "", tokenizer: Any = None, **values: Any) -> Plan:
    """What `train` would do with the same values; a model by name is not loaded. Problems are in `.problems`, not raised."""
    named = {"objective": objective} if objective else {}
    return plan_job(prepare({**named, **values}, tokenizer=tokenizer))


# ------------------------------------------------------------------------------------------------- from objects to a config


@dataclass
class Job:
    """What is to be done: config keywords as a file could say them, and the model object where there is one."""

    values: dict[str, Any]
    verb: str = "train"
    live: Any = None


def prepare(values: Mapping[str, Any], *, tokenizer: Any = None, verb: str = "train") -> Job:
    """Objects among the keywords as something that a plan can name.

    Raises:
        SwiftError: A model or rows that cannot be used.
    """
    values = {key: value for key, value in values.items() if value is not None}
    for key in DATASETS:
        if key in values:
            values[key] = refs(values[key], key)
    model = values.get("model")
    if model is None or isinstance(model, (str, Path, Mapping)):
        if tokenizer is not None:
            raise ConfigError(
                "tokenizer= goes with a model object; a model by name brings its own", fix="leave it out, or give the object"
            )
        return Job(plain(values), verb)
    return live_job(model, tokenizer, values, verb)


def adapters_here() -> AdapterLibrary | None:
    try:
        return library()
    except PluginError:
        return None


def take_live(model: Any, tokenizer: Any, adapters: AdapterLibrary | None) -> Any:
    """A model object with its tokenizer and a folder that holds it: a `swift.training.live.LiveModel`.

    Raises:
        SwiftError: It is no language model, or has no tokenizer.
    """

    def folder_of(name: str) -> Path:
        found = locate(discover(), ModelSection(id=name), weights=False).folder
        if found is None:
            raise ModelError(f"{name} is not here")
        return found

    return load_object("swift.training.live:take")(model, tokenizer, Path(index.home()) / "models", adapters, folder_of)


def live_job(model: Any, tokenizer: Any, values: dict[str, Any], verb: str) -> Job:
    """A model object: from a folder that holds it, in its dtype, in one process, trained as its owner prepared it."""
    registry, adapters = discover(), adapters_here()
    live = take_live(model, tokenizer, adapters)
    rest = plain({key: value for key, value in values.items() if key != "model"})
    said = load(verb, values=rest, registry=registry, required=())
    given = {path for path, origin in said.provenance.items() if origin != "default"}
    wanted: Any = said.sections["model"]
    half = next((key for key in ("bf16", "fp16") if rest.get(key)), "")
    if half and live.dtype == "float32":  # as transformers has it: weights in float32, computing in 16 bit
        rest = {key: value for key, value in rest.items() if key != half} | {"mixed_precision": wanted.dtype}
        given.discard("model.dtype")
    if "model.dtype" in given and wanted.dtype not in ("auto", live.dtype):
        raise ConfigError(
            f"the model object is in {live.dtype}, and {wanted.dtype} is asked for",
            fix=f'model.to(torch.{wanted.dtype}) before, or mixed_precision="bfloat16" to compute in it',
        )
    if adapters is not None and adapters.is_prepared(model):
        if "tuner.name" in given:
            raise ConfigError(
                "the model carries adapters already, and a tuner is asked for",
                fix="leave lora_config and tuner out, or give the plain model",
            )
        rest |= tuner_values(model)
    elif "tuner.name" not in given:
        rest["tuner"] = "full"
        if frozen := live.frozen():
            rest["full"] = {"freeze": [f"^{re.escape(name)}$" for name in frozen], **rest.get("full", {})}
        logger.info("a plain model object is trained as it is, all that requires a gradient; tuner='lora' adds an adapter")
    if "parallel.nproc_per_node" not in given:
        rest["nproc_per_node"] = 1
    if "model.dtype" not in given:
        rest["model.dtype"] = live.dtype
    return Job({"model": str(live.folder), **rest}, verb, live)


def refs(dataset: Any, what: str) -> list[str]:
    """Names of files and datasets as they are; rows as a file that holds them.

    Raises:
        DataError: Neither names nor rows.
    """
    if isinstance(dataset, (str, Path)):
        return [str(dataset)]
    if isinstance(dataset, HFDataset) and dataset.file is not None:
        return [str(dataset.file)]
    if callable(dataset) and not isinstance(dataset, (HFDataset, Iterable)):
        return refs(dataset(), what)
    if hasattr(dataset, "to_dict") and hasattr(dataset, "iterrows"):  # a table of pandas
        dataset = dataset.to_dict("records")
    if isinstance(dataset, Mapping):
        raise DataError(
            f"{what} is a {type(dataset).__name__} with {', '.join(map(str, list(dataset)[:4]))}",
            fix=f'give its rows, e.g. {what}=data["train"]',
        )
    if isinstance(dataset, (list, tuple)) and dataset and not isinstance(dataset[0], Mapping):
        return [name for part in dataset for name in refs(part, what)]
    if not isinstance(dataset, Iterable) and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"{what} is a {type(dataset).__name__}",
            fix="give a file, a dataset's name, rows as a list of dicts, or an HFDataset",
        )
    rows = dataset if isinstance(dataset, Iterable) else (dataset[number] for number in range(len(dataset)))
    return [str(write_rows(rows, Path(index.home()) / "registered", what=what, stem="rows")[0])]


def resolve_job(job: Job, *, required: tuple[str, ...] | None = None) -> Resolved:
    """Checked, every fault at once."""
    return load(job.verb, values=job.values, registry=discover(), required=required)


def plan_job(job: Job) -> Plan:
    return make_plan(resolve_job(job), discover())


def run_job(job: Job) -> tuple[Run, Any]:
    """(the run, its summary; None where workers ran it)."""
    try:
        run_dir, summary = start(job.verb, values=job.values, say=logger.info, live=job.live)
    finally:
        if job.live is not None:
            job.live.release()
    return Run(run_dir.path), summary


def plain(value: Any) -> Any:
    """Paths become text, tuples lists: what YAML could have said."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [plain(v) for v in value]
    return value
