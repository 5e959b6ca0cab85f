"""LoRA and its variants."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from torch import nn

from swift.api import ConfigError
from swift_tuner_peft.adapter import Adapter, _trained, _write
from swift_tuner_peft.lean import make_lean
from swift_tuner_peft.loading import WEIGHTS
from swift_tuner_peft.names import target_modules

_MUTATING = ("pissa", "olora")
"""Starts that move part of the base weights into the adapter."""

_START = "_swift_start"


class Lora(Adapter):
    """LoRA, rsLoRA, DoRA, PiSSA, OLoRA and LoRA+."""

    @property
    def peft_type(self) -> PeftType:
        return PeftType.LORA

    @property
    def _converted(self) -> bool:  # type: ignore[override]
        return self.settings.init.startswith(_MUTATING)

    def config_values(self, model: nn.Module) -> dict[str, Any]:
        s = self.settings
        return {
            "r": s.rank,
            "lora_alpha": s.alpha,
            "lora_dropout": s.dropout,
            "target_modules": target_modules(model, s.target_modules, f"{self.name}.target_modules"),
            "exclude_modules": s.exclude_modules or None,
            "layers_to_transform": s.layers_to_transform or None,
            "bias": s.bias,
            "use_rslora": s.use_rslora,
            "use_dora": s.use_dora,
            "init_lora_weights": {"default": True, "random": False}.get(s.init, s.init),
        }

    def apply(self, model: nn.Module, *, seed: int) -> nn.Module:
        if self._converted and isinstance(model, PeftModel):
            raise ConfigError(
                f"init {self.settings.init} takes weights out of the base, so that a run has to do it itself",
                fix="give the plain model, and the configuration as lora_config=",
            )
        tuned = super().apply(model, seed=seed)
        if self.settings.computation != "peft" and tuned is not model:  # what its owner prepared is left as it is
            make_lean(tuned)
        # What `disabled` must bring back, as it was before the first step; on the model, so that any tuner object finds it.
        if self._converted:
            tuned.__dict__[_START] = {name: p.detach().clone() for name, p in _trained(tuned).items()}
        elif self.settings.bias != "none":
            own = {name: p for name, p in _trained(tuned).items() if ".lora_" not in name and ".modules_to_save." not in name}
            tuned.__dict__[_START] = {name: p.detach().clone() for name, p in own.items()}
        return tuned

    def parameter_groups(self, model: nn.Module, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """With LoRA+, B has a group of its own at `lora_plus_lr_ratio` times the learning rate (arXiv:2402.12354)."""
        groups = super().parameter_groups(model, learning_rate=learning_rate, weight_decay=weight_decay)
        ratio = self.settings.lora_plus_lr_ratio
        if not ratio:
            return groups
        faster = {id(p) for name, p in _trained(model).items() if ".lora_B." in name or ".lora_embedding_B." in name}
        split = []
        for group in groups:
            for own, factor in ((False, 1.0), (True, ratio)):
                chosen = [p for p in group["params"] if (id(p) in faster) is own]
                if chosen:
                    split.append({**group, "params": chosen, "lr": group["lr"] * factor})
        return split

    # PiSSA and OLoRA take B0 A0 out of the base weights W. On the plain base the same function is W + B A - B0 A0, which is
    # a plain LoRA of twice the rank: what is saved loads on an unchanged base (as PEFT's own conversion has it).

    def _save_adapter(self, model: nn.Module, folder: Path) -> None:
        if not self._converted:
            super()._save_adapter(model, folder)
            return
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        for name, start in model.__dict__[_START].items():
            if ".lora_A." not in name and ".lora_B." not in name:
                continue
            key = name.replace(".default", "")
            now = tensors[key]
            start = start.to(now)
            tensors[key] = torch.cat([now, -start], 1) if ".lora_B." in name else torch.cat([now, start], 0)
        config = copy.deepcopy(model.peft_config["default"])
        # scaling is alpha / r, or alpha / sqrt(r) with rsLoRA: keep it as it was at the old rank
        grow = 2**0.5 if config.use_rslora else 2
        config.alpha_pattern = {key: alpha * grow for key, alpha in config.alpha_pattern.items()}
        config.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
        config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * grow
        config.init_lora_weights = True
        config.inference_mode = True
        _write({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
        config.save_pretrained(str(folder))

    def disabled(self, model: nn.Module) -> AbstractContextManager[None]:
        if _START not in model.__dict__:
            return super().disabled(model)
        return _at_start(model) if self._converted else self._without_biases(model)

    @contextmanager
    def _without_biases(self, model: nn.Module) -> Iterator[None]:
        """Trained biases are the base's own: PEFT would leave them as they are, and warns of it."""
        with _at_start(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")
            with super().disabled(model):
                yield


@contextmanager
def _at_start(model: nn.Module) -> Iterator[None]:
    """The base's answers are those of the adapter before its first step."""
    start = model.__dict__[_START]
    parameters = {name: p for name, p in model.named_parameters() if name in start}
    now = {name: p.data for name, p in parameters.items()}
    dropouts = [m for name, m in model.named_modules() if ".lora_dropout." in name and m.training]
    try:
        for dropout in dropouts:
            dropout.eval()
        for name, p in parameters.items():
            p.data = start[name].to(p)  # not in place: a graph that is still to be run backwards keeps its values
        yield
    finally:
        for name, p in parameters.items():
            p.data = now[name]
        for dropout in dropouts:
            dropout.train()
