"""Multimodal models: their processor, and which of their parts stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from swift.api import MediaProcessor, ModelLoader
from swift.errors import ConfigError
from swift.plan.plan import Plan


def load_media(plan: Plan, models: ModelLoader, tokenizer: Any) -> MediaProcessor | None:
    """The processor of the plan's model; None for text models. Raises `ModelError`."""
    template = plan.config["template"]
    return models.load_processor(
        Path(plan.model_folder), tokenizer, trust_remote_code=plan.config["model"]["trust_remote_code"],
        min_pixels=template.get("min_pixels"), max_pixels=template.get("max_pixels"),  # plans of older runs know none
    )  # fmt: skip


def frozen_parts(parts: Mapping[str, tuple[str, ...]], section: Mapping[str, Any]) -> str:
    """Regular expression of whole dotted paths; "" where nothing is frozen.

    Args:
        parts: `LoadedModel.parts`.
        section: The config's `tuner`, with `freeze_vit` and the like.
    """
    frozen = [path for part, paths in parts.items() if section.get(f"freeze_{part}", part != "llm") for path in paths]
    opened = [path for paths in parts.values() for path in paths if path not in frozen]
    if parts and not opened:
        raise ConfigError(
            "every part of the model is frozen", fix="--freeze_vit false, --freeze_aligner false or --freeze_llm false"
        )
    return "|".join(_below(path, [inner for inner in opened if inner.startswith(f"{path}.")]) for path in frozen)


def _below(path: str, without: list[str]) -> str:
    """Expression of a module and all that is in it, but for some modules in it."""
    inner = "|".join(re.escape(name[len(path) :]) for name in without)
    return re.escape(path) + (rf"(?!(?:{inner})(?:\.|$))" if inner else "") + r"(?:\..*)?"


def with_rates(
    groups: list[dict[str, Any]], model: nn.Module, parts: Mapping[str, tuple[str, ...]], section: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Parameter groups, with what belongs to a part that has a learning rate of its own in groups after them. Where a tuner's
    groups differ by a factor (LoRA+), those of the part do, too.

    Args:
        parts: `LoadedModel.parts`.
        section: The config's `train`, with `vit_lr` and the like.

    Raises:
        ConfigError: The model has no such part.
    """
    factors: dict[int, float] = {}
    for part in ("vit", "aligner"):
        rate = section.get(f"{part}_lr")  # plans of older runs know none
        if rate is None:
            continue
        if part not in parts:
            raise ConfigError(f"train.{part}_lr: the model has no such part", fix=f"leave out --{part}_lr")
        others = [path for name, paths in parts.items() if name != part for path in paths]
        where = "|".join(_below(path, [p for p in others if p.startswith(f"{path}.")]) for path in parts[part])
        factors |= {id(parameter): rate / section["learning_rate"] for _, parameter in _trained(model, where)}
    split: list[dict[str, Any]] = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        split += [{**group, "params": some, "lr": group["lr"] * factor} for factor, some in by_factor.items()]
    return sorted(split, key=lambda group: id(group["params"][0]) in factors)


def close_parts(model: nn.Module, frozen: str) -> None:
    """Take what a tuner opened in frozen parts out of the training."""
    for _, parameter in _trained(model, frozen):
        parameter.requires_grad_(False)


def media_parameters(model: nn.Module, parts: Mapping[str, tuple[str, ...]]) -> list[nn.Parameter]:
    """Trained parameters of the parts that see media only."""
    paths = [path for part, paths in parts.items() if part != "llm" for path in paths]
    return [parameter for _, parameter in _trained(model, "|".join(_below(path, []) for path in paths))]


def _trained(model: nn.Module, where: str) -> list[tuple[str, nn.Parameter]]:
    expression = re.compile(rf"(?:.*\.)?(?:{where})")  # adapters put their own names in front
    return [(n, p) for n, p in model.named_parameters() if where and p.requires_grad and expression.fullmatch(n)]
