"""The basis of one function, x itself: a layer with it is the ordinary convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kanvolution.bases.basis import Basis, Convolve, register_basis


@register_basis("identity")
class Identity(Basis):
    """B_0(x) = x alone: the plain convolution, as the twin that every KAN network is compared with."""

    activation = "relu"

    def __init__(self) -> None:
        super().__init__(0, base="identity")

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        expanded = x.to(options.get("dtype") or x.dtype).unsqueeze(2)
        mix = options.get("mix")
        if mix is None:
            return expanded
        return expanded * mix.to(expanded.dtype).view(1, *mix.shape[:2], *(1,) * (x.ndim - 2))

    def contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, convolve: Convolve, groups: int) -> Tensor:
        return convolve(x, weight, bias, groups)
