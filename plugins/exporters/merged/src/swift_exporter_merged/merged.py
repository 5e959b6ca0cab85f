"""Adapter and base as one folder that transformers, vLLM and the others load as any model."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from torch import nn

from swift.api import CheckpointError, ExportContext, Exporter, ExportReport, LoadedModel, ModelError, Tuner, Unsupported
from swift_exporter_merged.proof import compare, logits_of, token_rows
from swift_exporter_merged.settings import MergedSettings

BOUNDS: dict[torch.dtype, tuple[float, float]] = {
    torch.float32: (1e-5, 1e-4), torch.float16: (1e-3, 1e-2), torch.bfloat16: (2e-2, 2e-1),
}  # fmt: skip
"""KL in nats (mean, worst position) that rounding alone may make; the README tells how they were measured."""


class MergedExporter(Exporter):
    format: ClassVar[str] = "merged"
    settings: MergedSettings

    def export(self, context: ExportContext) -> ExportReport:
        """Merge, write, load again, compare.

        Raises:
            CheckpointError: The folder cannot be written.
            ModelError: The merged model is not a plain transformers model.
        """
        loaded = context.load_tuned()
        model, tuner = loaded.model, context.tuner
        dtype = next(model.parameters()).dtype
        rows = token_rows(loaded.tokenizer, context.prompts)
        before = logits_of(model, rows)
        tuning = self._tuning(model, tuner, rows, before)
        if tuner is not None:
            loaded.model = tuner.merge(model)
        del model
        if context.dtype and getattr(torch, context.dtype) != dtype:
            dtype = getattr(torch, context.dtype)
            loaded.model.to(dtype)
        write(loaded, context.output, context.max_shard_size)
        del loaded
        gc.collect()
        files = tuple(sorted(p.name for p in context.output.iterdir()))
        if not rows:
            return ExportReport(files)
        after = logits_of(context.load_folder(context.output).model, rows)
        return ExportReport(files, {**compare(before, after), **tuning}, self._bounds(dtype))

    def _tuning(
        self, model: nn.Module, tuner: Tuner | None, rows: list[list[int]], before: list[torch.Tensor]
    ) -> dict[str, float]:
        """How far tuning moved the base, as a measure for how little merging may: without a bound, where it can be told."""
        if tuner is None or not rows:
            return {}
        try:
            with tuner.disabled(model):
                base = logits_of(model, rows)
        except Unsupported:
            return {}
        return {"tuned_to_base_kl_mean": compare(before, base)["kl_mean"]}

    def _bounds(self, dtype: torch.dtype) -> Mapping[str, float]:
        mean, worst = BOUNDS.get(dtype, BOUNDS[torch.bfloat16])
        return {"kl_mean": self.settings.max_kl_mean or mean, "kl_max": self.settings.max_kl_max or worst}


def write(loaded: LoadedModel, folder: Path, max_shard_size: str) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    if not hasattr(model, "save_pretrained") or hasattr(model, "peft_config"):
        raise ModelError(
            f"the merged model is a {type(model).__name__}, not a plain transformers model",
            fix="report it to the tuner's author",
        )
    config = getattr(model, "generation_config", None)
    if config is not None and not config.do_sample and any((config.temperature, config.top_p, config.top_k)):
        config.do_sample = True  # published configs name a temperature and forget this; transformers refuses to save them
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        (loaded.processor or tokenizer).save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {folder.parent}: {error}", fix="free disk space or permissions there, or choose another -o"
        ) from error
