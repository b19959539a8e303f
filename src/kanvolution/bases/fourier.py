"""Basis of sines and cosines."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, register_basis
from kanvolution.checks import integer_at_least


@register_basis("fourier")
class Fourier(Basis):
    """sin(kx) and cos(kx) for k = 1 ... degree, beside silu(x). Source: FourierKAN-GCF, arXiv 2406.01034.

    Args:
        degree: highest frequency, >= 1; 2 * degree functions.
        input_map: map applied before the functions.
        base: base function b(x), or None.
    """

    def __init__(self, degree: int = 3, input_map: str = "identity", base: str | None = "silu") -> None:
        integer_at_least("degree", degree, 1)
        super().__init__(2 * degree, input_map=input_map, base=base)
        self.degree = degree

    def extension(self, count: int) -> Extension:
        return Extension({**self.options(), "degree": self.degree + count})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.fourier(x, self.degree, **options)
