"""Basis of B-splines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least, interval


@register_basis("spline")
class Spline(Basis):
    """grid_size + spline_order B-splines on a uniform grid, beside silu(x). Source: KAN, arXiv 2404.19756, eq. 2.10.

    Args:
        grid_size: number of intervals of the grid, >= 1.
        spline_order: polynomial degree of the pieces, >= 0 (3: cubic).
        grid_range: (low, high), the range the grid covers; inputs outside see the base function alone.
        input_map: map applied before the splines ("tanh" keeps every input inside (-1, 1)).
        base: base function b(x), or None.
    """

    activation = "prelu"

    def __init__(
        self,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: Sequence[float] = (-2.0, 2.0),
        input_map: str = "identity",
        base: str | None = "silu",
    ) -> None:
        integer_at_least("grid_size", grid_size, 1)
        integer_at_least("spline_order", spline_order, 0)
        super().__init__(grid_size + spline_order, input_map=input_map, base=base)
        self.grid_size = grid_size
        self.spline_order = spline_order
        self.grid_range = interval("grid_range", grid_range)

    def extension(self, count: int) -> Extension:
        # The same knots, and `count` intervals more at either end.
        low, high = self.grid_range
        margin = count * (high - low) / self.grid_size
        options = {"grid_size": self.grid_size + 2 * count, "grid_range": [low - margin, high + margin]}
        return Extension({**self.options(), **options}, before=count)

    def division(self, parts: int) -> dict[str, Any]:
        # Outside of its range a spline falls to zero within spline_order intervals, which are smaller now.
        low, high = self.grid_range
        beyond = (integer_at_least("parts", parts, 2) - 1) * self.spline_order
        margin = beyond * (high - low) / (self.grid_size * parts)
        options = {"grid_size": self.grid_size * parts + 2 * beyond, "grid_range": [low - margin, high + margin]}
        return {**self.options(), **options}

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.spline(x, self.grid_size, self.spline_order, *self.grid_range, **options)
