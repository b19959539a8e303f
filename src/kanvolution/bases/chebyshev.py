"""Basis of Chebyshev polynomials of the first kind."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least


@register_basis("chebyshev")
class Chebyshev(Basis):
    """T_0 ... T_degree of tanh(x). Source: Sidharth et al., ChebyKAN, arXiv 2405.07200.

    Args:
        degree: highest degree, >= 0; degree + 1 functions.
        input_map: map into the domain [-1, 1].
        base: base function b(x), or None.
    """

    activation = None

    def __init__(self, degree: int = 3, input_map: str = "tanh", base: str | None = None) -> None:
        integer_at_least("degree", degree, 0)
        super().__init__(degree + 1, input_map=input_map, base=base)
        self.degree = degree

    def extension(self, count: int) -> Extension:
        return Extension({**self.options(), "degree": self.degree + count})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.chebyshev(x, self.degree, **options)
