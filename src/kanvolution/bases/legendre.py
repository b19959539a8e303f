"""Basis of Legendre polynomials."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least


@register_basis("legendre")
class Legendre(Basis):
    """P_0 ... P_degree of tanh(x), beside the identity. Source: arXiv 2407.01092 (KALN convolutions).

    Args:
        degree: highest degree, >= 0; degree + 1 functions.
        input_map: map into the domain [-1, 1].
        base: base function b(x), or None.
    """

    def __init__(self, degree: int = 3, input_map: str = "tanh", base: str | None = "identity") -> None:
        integer_at_least("degree", degree, 0)
        super().__init__(degree + 1, input_map=input_map, base=base)
        self.degree = degree

    def extension(self, count: int) -> Extension:
        return Extension({**self.options(), "degree": self.degree + count})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.legendre(x, self.degree, **options)
