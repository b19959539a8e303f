"""Basis of Gaussian radial functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least, interval


@register_basis("rbf")
class RBF(Basis):
    """grid_size Gaussians exp(-((x - c_k)/h)^2), beside silu(x). Source: FastKAN, arXiv 2405.06721.

    Args:
        grid_size: number of centers, >= 2.
        grid_range: (low, high), first and last center; h is the spacing.
        learnable: whether the centers are trained.
        input_map: map applied before the functions.
        base: base function b(x), or None.
    """

    grid: Tensor

    def __init__(
        self,
        grid_size: int = 8,
        grid_range: Sequence[float] = (-2.0, 2.0),
        learnable: bool = False,
        input_map: str = "identity",
        base: str | None = "silu",
    ) -> None:
        integer_at_least("grid_size", grid_size, 2)
        super().__init__(grid_size, input_map=input_map, base=base)
        self.grid_size = grid_size
        self.grid_range = interval("grid_range", grid_range)
        self.learnable = learnable
        self.width = (self.grid_range[1] - self.grid_range[0]) / (grid_size - 1)
        grid = torch.empty(grid_size)
        if learnable:
            self.grid = nn.Parameter(grid)
        else:
            self.register_buffer("grid", grid)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.grid.copy_(torch.linspace(*self.grid_range, self.grid_size))

    def extension(self, count: int) -> Extension:
        # The same centers, and `count` more at either end.
        low, high = self.grid_range
        margin = count * (high - low) / (self.grid_size - 1)
        options = {"grid_size": self.grid_size + 2 * count, "grid_range": [low - margin, high + margin]}
        return Extension({**self.options(), **options}, before=count)

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.rbf(x, self.grid, self.width, **options)
