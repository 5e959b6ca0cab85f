"""Optimizer state on disk, keyed by parameter names: readable on any number of ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from swift.api import CheckpointError

FILE = "optimizer.pt"
_FORMAT = 1


def parameter_names(module: nn.Module) -> dict[int, str]:
    """id of each parameter -> its first name."""
    return {id(parameter): name for name, parameter in module.named_parameters()}


def save(optimizer: torch.optim.Optimizer, names: Mapping[int, str], folder: Path) -> None:
    order = _names_in_order(optimizer, names)
    state = optimizer.state_dict()
    data = {
        "format": _FORMAT,
        "optimizer": type(optimizer).__name__,
        "state": {order[index]: values for index, values in state["state"].items()},
        "groups": [{**group, "params": [order[index] for index in group["params"]]} for group in state["param_groups"]],
    }
    part = folder / (FILE + ".part")
    torch.save(data, part)
    os.replace(part, folder / FILE)


def load(optimizer: torch.optim.Optimizer, names: Mapping[int, str], folder: Path) -> None:
    """Raises `CheckpointError` where file and optimizer do not belong together; the optimizer is untouched then."""
    file = folder / FILE
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
        saved_format, saved_state, saved_groups = data["format"], data["state"], data["groups"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} is missing; the checkpoint was saved without the state that a resume needs",
            fix="resume from another checkpoint, or start anew from its weights",
        ) from None
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read: {error}", fix="resume from an earlier checkpoint") from error
    if saved_format != _FORMAT:
        raise CheckpointError(f"{file} has format {saved_format}; this version reads {_FORMAT}")
    if data["optimizer"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{file} holds the state of {data['optimizer']}, the run uses {type(optimizer).__name__}",
            fix="resume with the optimizer of the checkpoint",
        )
    order = _names_in_order(optimizer, names)
    index_of = {name: index for index, name in enumerate(order)}
    groups = [[name for name in group["params"]] for group in saved_groups]
    own, position = [], 0
    for group in optimizer.param_groups:
        own.append(order[position : position + len(group["params"])])
        position += len(group["params"])
    if groups != own:
        was, now = {name for group in groups for name in group}, set(order)
        raise CheckpointError(
            f"{file} was written for other parameters. Only there: {_few(was - now)}. Only here: {_few(now - was)}."
            + (" The names agree, but not their groups or order." if was == now else ""),
            fix="resume with the tuner settings of the checkpoint",
        )
    parameters = dict(zip(order, (p for group in optimizer.param_groups for p in group["params"]), strict=True))
    wrong = [
        f"{name}.{key} {tuple(value.shape)} for a parameter {tuple(parameters[name].shape)}"
        for name, values in saved_state.items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor) and value.ndim == parameters[name].ndim and not _fits(key, value, parameters[name])
    ]
    if wrong:
        raise CheckpointError(
            f"{file} was written for other shapes: {_few(wrong)}", fix="resume with the checkpoint's own base model"
        )
    optimizer.load_state_dict(
        {
            "state": {index_of[name]: values for name, values in saved_state.items()},
            "param_groups": [{**group, "params": [index_of[n] for n in group["params"]]} for group in saved_groups],
        }
    )
    for name, values in saved_state.items():  # load_state_dict casts to the parameter's dtype; the saved one is right
        held = optimizer.state[parameters[name]]
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device)


def _fits(key: str, value: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Same shape, or a factored second moment (Adafactor: one axis shrunk to 1)."""
    return all(v == p or (v == 1 and key.endswith("_var")) for v, p in zip(value.shape, parameter.shape, strict=True))


def _names_in_order(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[str]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in parameters):
        raise CheckpointError("the optimizer holds parameters that are not part of the wrapped module")
    return [names[id(p)] for p in parameters]


def _few(items: Iterable[str], limit: int = 4) -> str:
    words = sorted(items)
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more if words else "none"
