"""The data of a run: from what the plan names to token rows, and from rows to the micro-batches of each step."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swift.api import MediaProcessor, Objective, Strategy
from swift.config.sections import ACCELERATOR_PACK, HOST_PACK
from swift.data.batches import Layout, StepLoader, Units, choose_layout, choose_units
from swift.data.encode import ChatEncoder
from swift.data.records import RecordSet, TooManyRejects, load_records, without_held_out, write_rejects
from swift.data.rejects import Rejects
from swift.data.sources import resolve
from swift.data.streaming import StreamLoader, TokenStream, open_stream
from swift.data.tokens import TokenDataset, tokenize
from swift.plan.plan import Plan
from swift.plugins.planned import PlannedRegistry
from swift.run_dir import RunDir
from swift.training.checkpoint import TrainState
from swift.training.progress import Notes


def load_data(
    plan: Plan, run_dir: RunDir, tokenizer: Any, objective: Objective, notes: Notes, *, write: bool,
    media: MediaProcessor | None = None,
) -> tuple[TokenDataset | None, TokenDataset | None]:  # fmt: skip
    """(training rows, or None where they are streamed; held-out rows, or None), tokenized. Rejected rows go to the run's
    rejects.jsonl."""
    data = plan.config["data"]
    registry = PlannedRegistry(plan)
    encoder = chat_encoder(plan, tokenizer, media)
    names = given_names(data)

    def read(refs: list[str], **mixture: Any) -> RecordSet:
        return load_records(
            refs, registry=registry, columns=data["columns"], seed=data["data_seed"], names=names, lazy=True,
            max_bad_fraction=data["max_bad_fraction"], cache_dir=data["cache_dir"], media_folder=data["media_folder"],
            media_urls=data["media_urls"], **mixture,
        )  # fmt: skip

    tokens: dict[str, TokenDataset] = {}
    try:
        mixture = {key: data[key] for key in ("mix", "weights", "mix_stop", "deduplicate")}
        parts = {} if data["streaming"] else {"training": read(data["dataset"], **mixture)}
        if data["val_dataset"]:
            parts["held-out"] = read(data["val_dataset"])
        elif data["val_split"] and not data["streaming"]:
            parts["training"], parts["held-out"] = parts["training"].split(data["val_split"], seed=data["data_seed"])
        if len(parts) == 2:
            parts["training"] = without_held_out(parts["training"], parts["held-out"], data["contamination"])
        for part, records in parts.items():
            tokens[part] = tokenize(
                records, objective.encode, encoder,
                key_parts={"objective": objective.name, "settings": dict(plan.components["objective"].settings)},
                cache_dir=data["cache_dir"], max_length=data["max_length"], overlong=data["overlong"], workers=data["workers"],
                progress=plan.config["logging"]["progress"] and write and sys.stderr.isatty(),
                max_bad_fraction=data["max_bad_fraction"],
            )  # fmt: skip
            for line in tokens[part].guesses if part == "training" else ():
                notes(line)
            notes(f"{part} data: {tokens[part].describe()}")
    except TooManyRejects as error:
        if write:
            write_rejects(run_dir.rejects_file, error.rejects)
        raise
    rejects = Rejects(*(rejects for part in tokens.values() for rejects in (part.source_rejects, part.rejects)))
    if rejects:
        # A stream adds to its own file as rows come.
        file = run_dir.rejects_file if "training" in tokens else run_dir.rejects_file.with_name("rejects-held-out.jsonl")
        if write:
            write_rejects(file, rejects)
        notes(left_out(len(rejects), file))
    for line in encoder.notes:
        notes(line)
    return tokens.get("training"), tokens.get("held-out")


def left_out(rows: int, file: Path) -> str:
    return f"{'1 row was' if rows == 1 else f'{rows} rows were'} left out; each with its reason in {file}"


def stream_data(
    plan: Plan, run_dir: RunDir, tokenizer: Any, objective: Objective, notes: Notes, *, write: bool,
    media: MediaProcessor | None = None,
) -> TokenStream:  # fmt: skip
    """The training rows, read while training; the first of them now."""
    data, registry = plan.config["data"], PlannedRegistry(plan)
    encoder = chat_encoder(plan, tokenizer, media)
    try:
        stream, lines = open_stream(
            [resolve(ref, registry=registry) for ref in data["dataset"]], objective.encode, encoder, columns=data["columns"],
            names=given_names(data), media_folder=data["media_folder"], media_urls=data["media_urls"],
            max_length=data["max_length"], overlong=data["overlong"],
            max_bad_fraction=data["max_bad_fraction"], seed=data["data_seed"], mix=data["mix"], weights=data["weights"],
            mix_stop=data["mix_stop"], shuffle_buffer=data["shuffle_buffer"] if data["shuffle"] else 1,
        )  # fmt: skip
    except TooManyRejects as error:
        if write:
            write_rejects(run_dir.rejects_file, error.rejects)
        raise
    if data["val_dataset"] and data["contamination"] != "off":
        lines.append("held-out rows are not looked for in the training data: a stream is never seen as a whole")
    for line in (*lines, *encoder.notes):
        notes(line)
    return stream


def chat_encoder(plan: Plan, tokenizer: Any, media: MediaProcessor | None = None) -> ChatEncoder:
    template = plan.config["template"]
    encoder = ChatEncoder(
        tokenizer, template=template["name"], system=template["system"], options=template["options"],
        registry=PlannedRegistry(plan), history=template.get("history", "all"), media=media,
    )  # fmt: skip
    if encoder.chat_template is not None:
        tokenizer.chat_template = encoder.chat_template  # saved with the result: serving uses what training used
    return encoder


def given_names(data: Mapping[str, Any]) -> dict[str, str]:
    """What stands for {{name}} and {{author}}."""
    return {key: value for key, value in (("name", data["model_name"]), ("author", data["model_author"])) if value is not None}


class Batches:
    """The training rows, of a known number or streamed, as the micro-batches of this run's steps.

    Args:
        apart, takes_bounds: `LoadedModel.keeps_documents_apart`, `LoadedModel.takes_bounds`.
        one_length: Packs are filled up, so that all have the same shape.

    Attributes:
        packing_length: Tokens of a pack.
        total_steps: Optimizer steps of the run.
        rows: Rows (or packs) of one rank and step.
        key: What the order of tokens follows from, so that a resume on anything else is noticed.
        evaluation_layout: How held-out rows are laid out.
    """

    def __init__(
        self, plan: Plan, run_dir: RunDir, data: TokenDataset | None, stream: TokenStream | None, strategy: Strategy,
        torch_device: torch.device, *, apart: bool, pad_token_id: int, notes: Notes, takes_bounds: bool = False,
        one_length: bool = False,
    ) -> None:  # fmt: skip
        train, section = plan.config["train"], plan.config["data"]
        self._data, self._stream, self._section = data, stream, section
        self._wanted: int = train["batch_size"]
        self._joining_pays = torch_device.type != "cpu" or takes_bounds
        self._one_length = one_length
        self._apart = apart
        self._rejects_file = run_dir.rejects_file if strategy.is_main else None
        self._division: dict[str, Any] = {
            "world_size": strategy.world_size, "rank": strategy.rank, "shuffle": section["shuffle"],
            "pad_token_id": pad_token_id,
        }  # fmt: skip
        self.rows: int = train["batch_size"] * train["gradient_accumulation_steps"]
        self.evaluation_layout: Layout
        self.evaluation_layout, _ = choose_layout("unpacked", keeps_documents_apart=apart, joining_pays=self._joining_pays)
        self.packing_length = packing_length(section, torch_device, int(data.lengths.max()) if data is not None else 0)
        if data is not None:
            self._units = choose_units(
                data, section["batching"], packing_length=self.packing_length, keeps_documents_apart=apart,
                joining_pays=self._joining_pays, rows_per_step=self.rows * strategy.world_size, epochs=train["epochs"],
                max_steps=train["max_steps"],
            )  # fmt: skip
            notes(self._units.why)
            steps_per_epoch = math.ceil(len(self._units) / (self.rows * strategy.world_size))
            self.total_steps: int = train["max_steps"] or max(1, -int(-train["epochs"] * steps_per_epoch // 1))
            self.key = data_key(data, self._units, section)
        elif stream is not None:
            self.total_steps, self.key = train["max_steps"], stream.key
        else:
            raise ValueError("neither rows nor a stream of them")

    def micro_batch(self, state: TrainState) -> int:
        """Rows of a micro-batch: those that an earlier part of the run found to fit, else as asked for."""
        return state.micro_batch if state.micro_batch and self.rows % state.micro_batch == 0 else self._wanted

    def loader(self, state: TrainState, micro_batch: int) -> StepLoader | StreamLoader:
        """From the state's step on, in micro-batches of so many rows (or packs); a step has as many as ever."""
        length = micro_batch * self.packing_length if self._one_length else 0
        cut = {**self._division, "micro_batch": micro_batch, "accumulation": self.rows // micro_batch, "length": length}
        if self._data is not None:
            return StepLoader(self._data, self._units, seed=self._section["data_seed"], **cut)
        assert self._stream is not None
        layout, _ = choose_layout(
            self._section["batching"], keeps_documents_apart=self._apart, joining_pays=self._joining_pays
        )  # fmt: skip
        return StreamLoader(
            self._stream, layout, packing_length=self.packing_length, position=state.stream, first_step=state.step,
            rejects_file=self._rejects_file, **cut,
        )  # fmt: skip


def packing_length(section: Mapping[str, Any], torch_device: torch.device, longest: int = 0) -> int:
    """Tokens of a pack; at least `longest` unless the user says otherwise."""
    ceiling = HOST_PACK if torch_device.type == "cpu" else ACCELERATOR_PACK
    return int(section["packing_length"] or max(longest, min(section["max_length"] or ceiling, ceiling)))


def data_key(data: TokenDataset, units: Units, section: Mapping[str, Any]) -> str:
    """Digest of what the order of tokens follows from, so that a resume on anything else is noticed."""
    digest = hashlib.sha256(f"{units.layout} {section['data_seed']} {section['shuffle']} {len(units)} {len(data)}".encode())
    digest.update(np.ascontiguousarray(data.lengths).tobytes())
    for index in (0, len(data) // 2, len(data) - 1):
        digest.update(np.ascontiguousarray(data[index][0]).tobytes())
    return digest.hexdigest()[:32]


def pad_token_id(tokenizer: Any) -> int:
    """Padding is masked, so any id does; 0 as a last resort."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
