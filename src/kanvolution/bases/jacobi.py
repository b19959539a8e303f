"""Basis of Jacobi polynomials."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least


@register_basis("jacobi")
class Jacobi(Basis):
    """P_0^(a,b) ... P_degree^(a,b) of tanh(x), beside the identity. Source: fKAN, arXiv 2406.07456.

    Args:
        degree: highest degree, >= 0; degree + 1 functions.
        a: exponent of (1 - x) in the weight function, > -1.
        b: exponent of (1 + x) in the weight function, > -1.
        input_map: map into the domain [-1, 1].
        base: base function b(x), or None.
    """

    def __init__(
        self,
        degree: int = 3,
        a: float = 1.0,
        b: float = 1.0,
        input_map: str = "tanh",
        base: str | None = "identity",
    ) -> None:
        integer_at_least("degree", degree, 0)
        for name, value in (("a", a), ("b", b)):
            if not value > -1:
                raise ValueError(f"{name} (={value}) must be > -1; Jacobi polynomials have no weight function below")
        super().__init__(degree + 1, input_map=input_map, base=base)
        self.degree = degree
        self.a = float(a)
        self.b = float(b)

    def extension(self, count: int) -> Extension:
        return Extension({**self.options(), "degree": self.degree + count})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.jacobi(x, self.degree, self.a, self.b, **options)
