"""What is added to the weight of a layer: parametrizations in the sense of `torch.nn.utils.parametrize`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kanvolution.layers.initialization import init_weight
from kanvolution.layers.layer import KANLayer


class FunctionsDelta(nn.Module):
    """W + D, where D is zero but for some of the functions; it starts at zero.

    Args:
        layer: the layer, with K functions.
        functions: F of the numbers 0 ... K - 1.

    Shape:
        W [O, C / groups * K, *kernel]; the parameter `delta` [O, C / groups * F, *kernel].
    """

    index: Tensor

    def __init__(self, layer: KANLayer, functions: Sequence[int]) -> None:
        super().__init__()
        weight, self.size = layer.weight, layer.basis.size
        shape = (weight.shape[0], weight.shape[1] // self.size * len(functions), *weight.shape[2:])
        self.delta = nn.Parameter(weight.new_zeros(shape))
        index = torch.tensor(functions, dtype=torch.long, device=weight.device)
        self.register_buffer("index", index, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        delta = self.delta.unflatten(1, (-1, len(self.index)))
        return weight.unflatten(1, (-1, self.size)).index_add(2, self.index, delta).flatten(1, 2)


class LowRankDelta(nn.Module):
    """W + scale * up @ down, with W as the matrix of its rows W[o]; `up` starts at zero.

    `down` starts as the weight of a layer with `rank` outputs, so the features it makes have variance one for
    standard-normal input, every function with the same share.

    Args:
        layer: the layer.
        rank: at most the rank that the matrix [O, C / groups * K * taps] can have.
        scale: factor of the product.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, eq. 3.
    """

    def __init__(self, layer: KANLayer, rank: int, scale: float) -> None:
        super().__init__()
        weight, self.scale = layer.weight, scale
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))
        down = torch.empty((rank, *weight.shape[1:]), dtype=weight.dtype, device=weight.device)
        init_weight(down, layer.basis)
        self.down = nn.Parameter(down)

    def forward(self, weight: Tensor) -> Tensor:
        # In the type of the weight, also where autocast is on: what is merged later is this sum.
        with torch.autocast(weight.device.type, enabled=False):
            product = self.up @ self.down.flatten(1)
        return torch.add(weight, product.view_as(weight), alpha=self.scale)


def largest_rank(layer: KANLayer) -> int:
    """The rank that the matrix of a layer's weight can have."""
    return min(len(layer.weight), math.prod(layer.weight.shape[1:]))
