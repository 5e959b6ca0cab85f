"""A function that quantizes, as far as a plugin can say today."""

from torch import nn


def half(model: nn.Module) -> nn.Module:
    return model.half()
