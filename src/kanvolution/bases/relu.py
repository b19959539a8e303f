"""Basis of ReLU-KAN's squared bumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least, interval


@register_basis("relu")
class ReLUBumps(Basis):
    """grid_size + overlap bumps (relu(x - low) relu(high - x))^2, beside silu(x). Source: arXiv 2406.02075.

    The edges low and high are learned for each channel of a group; groups share them.

    Args:
        in_channels, groups: of the layer; it passes them itself.
        grid_size: number of intervals of the grid (g of the paper), >= 1.
        overlap: by how many intervals each bump reaches beyond its own (k of the paper), >= 0.
        grid_range: (low, high), the range the grid covers.
        learnable: whether the edges are trained.
        input_map: map applied before the bumps.
        base: base function b(x), or None.
    """

    per_channel: ClassVar[Mapping[str, tuple[str, ...]]] = {"low": ("group_inputs",), "high": ("group_inputs",)}

    def __init__(
        self,
        in_channels: int,
        groups: int = 1,
        grid_size: int = 5,
        overlap: int = 3,
        grid_range: Sequence[float] = (0.0, 1.0),
        learnable: bool = True,
        input_map: str = "identity",
        base: str | None = "silu",
    ) -> None:
        integer_at_least("grid_size", grid_size, 1)
        integer_at_least("overlap", overlap, 0)
        super().__init__(grid_size + overlap, input_map=input_map, base=base)
        self.in_channels = in_channels
        self.groups = groups
        self.grid_size = grid_size
        self.overlap = overlap
        self.grid_range = interval("grid_range", grid_range)
        self.learnable = learnable
        step = (self.grid_range[1] - self.grid_range[0]) / grid_size
        self.width = (overlap + 1) * step
        shape = (in_channels // groups, grid_size + overlap)
        self.low = nn.Parameter(torch.empty(shape), requires_grad=learnable)
        self.high = nn.Parameter(torch.empty(shape), requires_grad=learnable)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        start, end = self.grid_range
        low = start + (end - start) / self.grid_size * torch.arange(-self.overlap, self.grid_size)
        with torch.no_grad():
            self.low.copy_(low.expand_as(self.low))
            self.high.copy_((low + self.width).expand_as(self.high))

    def extension(self, count: int) -> Extension:
        # The same bumps, and `count` more at either end.
        low, high = self.grid_range
        margin = count * (high - low) / self.grid_size
        options = {"grid_size": self.grid_size + 2 * count, "grid_range": [low - margin, high + margin]}
        return Extension({**self.options(), **options}, before=count)

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        low, high = (edge.repeat(self.groups, 1) if self.groups > 1 else edge for edge in (self.low, self.high))
        return ops.relu_bumps(x, low, high, self.width, **options)
