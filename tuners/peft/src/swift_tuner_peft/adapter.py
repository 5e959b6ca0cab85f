"""Any PEFT method as a tuner: build, save, restore, load, merge, switch off."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from swift.api import AdapterLibrary, CheckpointError, ConfigError, ModelError, Tuner, Unsupported
from swift_tuner_peft.library import PeftLibrary
from swift_tuner_peft.loading import FAULTS, WEIGHTS, load_adapter
from swift_tuner_peft.names import ALL_LINEAR, check_names, exclude, few, linear_names, target_modules

RESUME = "training_state.safetensors"
"""Trained tensors by parameter name, only where PEFT's file does not hold every one of them as it is."""


class Adapter(Tuner):
    """What all PEFT methods have in common."""

    def config_values(self, model: nn.Module) -> dict[str, Any]:
        """Fields of PEFT's config."""
        raise NotImplementedError

    @property
    def peft_type(self) -> PeftType:
        return PeftType(self.name.upper())

    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        """Raises `ConfigError` for options that PEFT does not know, `ModelError` where the method does not fit the model."""
        if isinstance(model, PeftModel):  # by its owner, with `swift.Swift.prepare_model`; the settings are read from it
            return model
        config = self._config(model)
        own = [torch.cuda.current_device()] if torch.cuda.is_available() else []  # not those of other processes
        try:
            with torch.random.fork_rng(devices=own):
                torch.manual_seed(seed)
                return get_peft_model(model, config, autocast_adapter_dtype=self.settings.adapter_dtype == "float32")
        except FAULTS as error:
            raise ModelError(
                f"{self.name} does not fit {type(model).__name__}: {error}",
                fix=f"change --{self.name}.target_modules or --{self.name}.options; linear layers here: {linear_names(model)}",
            ) from error

    @classmethod
    def library(cls) -> AdapterLibrary:
        return PeftLibrary()

    def _config(self, model: nn.Module) -> PeftConfig:
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[self.peft_type]
        values = {"task_type": TaskType.CAUSAL_LM, **self.config_values(model)}
        known = {f.name for f in dataclasses.fields(kind) if f.init}
        if self.settings.modules_to_save:
            if "modules_to_save" not in known:
                raise ConfigError(f"{self.name} has no modules_to_save", fix=f"remove {self.name}.modules_to_save")
            check_names(model, self.settings.modules_to_save, f"{self.name}.modules_to_save")
            values["modules_to_save"] = self.settings.modules_to_save
        unknown = sorted(set(self.settings.options) - known)
        if unknown:
            near = {name: difflib.get_close_matches(name, known, n=2) for name in unknown}
            raise ConfigError(
                "; ".join(
                    f"{self.name}.options: {name} is unknown" + (f", did you mean {' or '.join(found)}?" if found else "")
                    for name, found in near.items()
                )
                + f"\n  known: {', '.join(sorted(known))}",
                fix=f"correct {self.name}.options",
            )
        values.update(self.settings.options)
        if self.frozen and "exclude_modules" in known:
            values["exclude_modules"] = exclude(values.get("exclude_modules"), self.frozen)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return kind(**values)
        except (ValueError, TypeError, ImportError) as error:
            raise ConfigError(f"{self.name}: {error}", fix=f"correct the settings under {self.name}:") from error

    # ------------------------------------------------------------------------------------------------ save and restore

    def save(self, model: nn.Module, folder: Path) -> None:
        """PEFT's own format, and beside it what only a resume needs."""
        folder.mkdir(parents=True, exist_ok=True)
        self._save_adapter(model, folder)
        with safe_open(folder / WEIGHTS, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        trained = _trained(model)
        if self._converted or any(shapes.get(_saved_name(name, shapes)) != tuple(p.shape) for name, p in trained.items()):
            _write({name: p.detach().cpu().contiguous() for name, p in trained.items()}, folder / RESUME)

    _converted = False
    """The saved adapter is another parametrization than the trained one."""

    def _save_adapter(self, model: nn.Module, folder: Path) -> None:
        # The base is untouched, so a copy of adapted embeddings would only make the file large (and PEFT ask the hub).
        model.save_pretrained(str(folder), save_embedding_layers=False)

    def restore(self, model: nn.Module, folder: Path) -> None:
        resume, weights = folder / RESUME, folder / WEIGHTS
        try:
            saved = load_file(resume if resume.exists() else weights)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} holds no readable adapter: {error}", fix="resume from another checkpoint"
            ) from error
        names = {name: name if resume.exists() else _saved_name(name, saved) for name in _trained(model)}
        wrong = [
            f"{name} {tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}"
            for name, p in _trained(model).items()
            if names[name] not in saved or saved[names[name]].shape != p.shape or saved[names[name]].dtype != p.dtype
        ]
        if wrong:
            raise CheckpointError(
                f"{folder} does not hold what this run trains: {few(wrong)}",
                fix="resume with the tuner settings of the checkpoint",
            )
        with torch.no_grad():
            for name, parameter in _trained(model).items():
                parameter.copy_(saved[names[name]])

    # ------------------------------------------------------------------------------------------------------- inference

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        return load_adapter(model, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """Raises `ModelError` where the merged weights would hold NaN or infinity."""
        if not hasattr(model, "merge_and_unload") or not hasattr(model.base_model, "merge_and_unload"):
            raise Unsupported(f"{self.name} cannot be merged", fix="serve the base with the adapter")
        try:
            return model.merge_and_unload(safe_merge=True)
        except NotImplementedError as error:
            raise Unsupported(f"{self.name} cannot be merged: {error}", fix="serve the base with the adapter") from error
        except ValueError as error:
            raise ModelError(f"merging {self.name} failed: {error}", fix="check the adapter; it may have diverged") from error

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        return model.disable_adapter()


class Method(Adapter):
    """A method that is configured by PEFT's own field names, under `options`."""

    def config_values(self, model: nn.Module) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if hasattr(self.settings, "num_virtual_tokens"):
            values["num_virtual_tokens"] = self.settings.num_virtual_tokens
            if self.name == "p_tuning":
                values["encoder_hidden_size"] = model.config.get_text_config().hidden_size
            return values
        own = self.settings.target_modules
        if own:
            values["target_modules"] = target_modules(model, own, f"{self.name}.target_modules")
        elif self.name == "adaption_prompt":
            blocks = model.config.get_text_config().num_hidden_layers
            values |= {"adapter_len": 10, "adapter_layers": max(blocks - 2, 1)}
        elif self.name == "ln_tuning":
            values["target_modules"] = sorted(
                {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if "Norm" in type(m).__name__}
            )
        elif self.name == "ia3":
            values |= _ia3_modules(model)
        elif self.name == "trainable_tokens":
            if "token_indices" not in self.settings.options:
                raise ConfigError(
                    "trainable_tokens needs the ids of the tokens",
                    fix="--trainable_tokens.options '{\"token_indices\": [5, 6]}'",
                )
            embedding = model.get_input_embeddings()
            values["target_modules"] = [name.rsplit(".", 1)[-1] for name, m in model.named_modules() if m is embedding]
        else:
            values["target_modules"] = ALL_LINEAR
        return values


def _ia3_modules(model: nn.Module) -> dict[str, list[str]]:
    """Keys, values and the feed-forward output, by their usual names (arXiv:2205.05638)."""
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    feedforward = [n for n in ("down_proj", "w2", "fc2", "dense_4h_to_h", "c_proj") if n in names][:1]
    targets = [n for n in ("k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value") if n in names] + feedforward
    return {"target_modules": targets, "feedforward_modules": feedforward} if targets else {}


# ---------------------------------------------------------------------------------------------------------------- tensors


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _saved_name(name: str, saved: Any) -> str:
    """Parameter name -> its key in PEFT's file (without the adapter's name, and for some without `.weight`)."""
    plain = name.replace(".modules_to_save.default", "").replace(".default", "")
    return plain if plain in saved else plain.removesuffix(".weight")


def _write(tensors: dict[str, torch.Tensor], file: Path) -> None:
    part = file.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, file)
