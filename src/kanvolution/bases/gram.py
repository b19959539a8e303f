"""Basis of Gram polynomials with learned recurrence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least


@register_basis("gram")
class Gram(Basis):
    """silu(G_0) ... silu(G_degree) of tanh(x), beside silu(x); the recurrence coefficients `beta` are learned.

    beta starts at the values for which G_k are the discrete orthogonal (Gram) polynomials on `points` equidistant
    points. Source: arXiv 2407.01092 (KAGN convolutions); the coefficients are those of `ops.gram_coefficients`.

    Args:
        degree: highest degree, >= 0; degree + 1 functions.
        points: number of points of the initial polynomials, > degree.
        input_map: map into the domain [-1, 1].
        base: base function b(x), or None.
    """

    def __init__(self, degree: int = 3, points: int = 64, input_map: str = "tanh", base: str | None = "silu") -> None:
        integer_at_least("degree", degree, 0)
        if integer_at_least("points", points, 1) <= degree:
            raise ValueError(
                f"points (={points}) must be greater than degree (={degree}); e.g. points={2 * degree + 2}"
            )
        super().__init__(degree + 1, input_map=input_map, base=base)
        self.degree = degree
        self.points = points
        self.beta = nn.Parameter(torch.empty(degree + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.beta.is_meta:
            return
        with torch.no_grad():
            self.beta.copy_(ops.gram_coefficients(self.degree, self.points))

    def extension(self, count: int) -> Extension:
        degree = self.degree + count
        # The points tell nothing but the first coefficients, and those of the lower degrees are there.
        return Extension({**self.options(), "degree": degree, "points": max(self.points, degree + 1)})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.gram(x, self.beta, **options)
