"""Several PEFT adapters on one base model. Imported only where adapters are asked for, so that PEFT stays optional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from torch import nn

from swift.api import ModelError


def add_adapters(model: nn.Module, adapters: Mapping[str, Path]) -> PeftModel:
    """Load each folder under its name; which one answers is unchanged (none, where `model` was plain).

    Raises:
        ModelError: A folder holds no adapter, or one that was trained on another model.
    """
    for name, folder in adapters.items():
        if not (Path(folder) / "adapter_config.json").is_file():
            raise ModelError(
                f"adapter {name}: {folder} has no adapter_config.json", fix="give a run directory or a PEFT adapter folder"
            )
        try:
            if isinstance(model, PeftModel):
                # Without torch_device PEFT reads the weights onto the first accelerator, whatever the model is on.
                result = model.load_adapter(str(folder), adapter_name=name, torch_device=str(next(model.parameters()).device))
                strangers = [*result.unexpected_keys, *result.missing_keys]
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
                strangers = []
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            first = str(error).strip().splitlines()
            raise ModelError(
                f"adapter {name} ({folder}) does not fit this model: {first[-1].strip() if first else error}",
                fix="an adapter answers only on the base model it was trained on (its adapter_config.json names it)",
            ) from error
        if strangers:
            raise ModelError(
                f"adapter {name} ({folder}) does not fit this model: {strangers[0]} has no place in it",
                fix="an adapter answers only on the base model it was trained on (its adapter_config.json names it)",
            )
    return model.eval()
