"""The model's own weights."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from swift.api import CheckpointError, ConfigError, ModelError, Tuner

RESUME = "training_state.safetensors"
"""Trained tensors by parameter name that the saved model holds under another name or shape."""

_MAX_SHARD_SIZE = "5GB"


class Full(Tuner):
    """Trains what `freeze_ratio`, `freeze` and `trainable` leave; saves a whole model folder."""

    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        names = [name for name, _ in model.named_parameters()]
        frozen = self._frozen_blocks(model) | _matches(self.settings.freeze, names, "full.freeze")
        trained = _matches(self.settings.trainable, names, "full.trainable")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_((name not in frozen or name in trained) and parameter.is_floating_point())
        if not any(p.requires_grad for p in model.parameters()):
            raise ConfigError("full.freeze and full.freeze_ratio leave nothing to train", fix="freeze less")
        return model

    def _frozen_blocks(self, model: nn.Module) -> set[str]:
        if not self.settings.freeze_ratio:
            return set()
        path, blocks = _blocks(model)
        count = round(len(blocks) * self.settings.freeze_ratio)
        prefixes = tuple(f"{path}.{number}." for number in range(count))
        embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
        return {name for name, p in model.named_parameters() if name.startswith(prefixes) or id(p) in embeddings}

    def save(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(str(folder), max_shard_size=_MAX_SHARD_SIZE)
        saved = _index(folder)
        # Some architectures are saved under other names than they are held under (fused experts, say).
        other = {
            n: p.detach().cpu().contiguous()
            for n, p in _trained(model).items()
            if n not in saved or saved[n][1] != tuple(p.shape)
        }
        if other:
            part = folder / (RESUME + ".part")
            save_file(other, part, metadata={"format": "pt"})
            os.replace(part, folder / RESUME)

    def restore(self, model: nn.Module, folder: Path) -> None:
        try:
            saved = _index(folder)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} holds no readable weights: {error}", fix="resume from another checkpoint"
            ) from error
        trained = _trained(model)
        wrong = [f"{n} {tuple(p.shape)}" for n, p in trained.items() if n not in saved or saved[n][1] != tuple(p.shape)]
        if wrong or not saved:
            raise CheckpointError(
                f"{folder} does not hold what this run trains: {', '.join(wrong[:3])}"
                + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
                fix="resume with the model and tuner settings of the checkpoint",
            )
        by_file: dict[Path, list[str]] = {}
        for name in trained:
            by_file.setdefault(saved[name][0], []).append(name)
        with torch.no_grad():
            for file, names in by_file.items():
                with safe_open(file, "pt") as tensors:
                    for name in names:
                        tensor = tensors.get_tensor(name)
                        if tensor.dtype != trained[name].dtype:
                            raise CheckpointError(
                                f"{name} was saved in {tensor.dtype}, the run holds {trained[name].dtype}",
                                fix="resume with the dtype of the checkpoint",
                            )
                        trained[name].copy_(tensor)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _index(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Tensor name -> file and shape; the resume file goes before the model's own."""
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in sorted(folder.glob("*.safetensors"), key=lambda f: f.name == RESUME):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                found[name] = (file, tuple(tensors.get_slice(name).get_shape()))
    return found


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest list of modules: the transformer's blocks."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of blocks, so freeze_ratio has no meaning", fix="use full.freeze")
    return max(lists, key=lambda item: len(item[1]))


def _matches(expressions: list[str], names: list[str], path: str) -> set[str]:
    matched: set[str] = set()
    for expression in expressions:
        try:
            found = {name for name in names if re.search(expression, name)}
        except re.error as error:
            raise ConfigError(f"{path}: {expression!r} is no regular expression: {error}", fix=f"correct {path}") from error
        if not found:
            parts = {part for name in names for part in name.split(".")}
            near = difflib.get_close_matches(expression, [*names, *parts], n=3, cutoff=0.5)
            raise ModelError(
                f"{path}: {expression!r} matches no parameter" + (f"; near it: {', '.join(near)}" if near else ""),
                fix=f"names look like {names[0]} and {names[-1]}",
            )
        matched |= found
    return matched
