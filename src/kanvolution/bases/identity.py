"""The basis of one function, x itself: a layer with it is the ordinary convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution import ops
from kanvolution.bases.basis import Basis, register_basis
from kanvolution.ops.convolution import Convolution


@register_basis("identity")
class Identity(Basis):
    """B_0(x) = x alone: the plain convolution, as the twin that every KAN network is compared with."""

    activation = "relu"

    def __init__(self) -> None:
        super().__init__(0, base="identity")

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.no_functions(x, **options)

    def contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
        return convolution(x, weight, bias)  # x as it is, not a copy
