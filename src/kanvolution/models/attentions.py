"""Layers that relate distant pixels, by name, as networks take them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanvolution.layers.attention import SelfAttention
from kanvolution.layers.focal_modulation import FocalModulation
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import projection
from kanvolution.registry import unknown_name

MakeAttention = Callable[[int, ConvFactory], nn.Module]
"""(channels, conv factory) -> module that keeps the shape."""


class GatedResidual(nn.Module):
    """x + gain module(x) with a learned gain that starts at 0, so that the module is added during training.

    Args:
        module: keeps the shape of its input.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.module(x)


ATTENTIONS: dict[str, MakeAttention] = {
    "self": lambda channels, conv: SelfAttention(channels, projection(conv)),
    "focal": lambda channels, conv: GatedResidual(FocalModulation(channels, projection(conv))),
}
"""What makes them, by name."""


def make_attention(attention: str | MakeAttention | None) -> MakeAttention | None:
    """The entry of `ATTENTIONS` of that name; anything else as it is. Raises ValueError for an unknown name."""
    if not isinstance(attention, str):
        return attention
    if attention not in ATTENTIONS:
        raise ValueError(unknown_name("attention", attention, ATTENTIONS))
    return ATTENTIONS[attention]
