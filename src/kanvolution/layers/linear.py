"""The Kolmogorov-Arnold linear layer: a drop-in for nn.Linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kanvolution.bases import Basis
from kanvolution.checks import integer_at_least
from kanvolution.layers.arguments import check_floating_point
from kanvolution.layers.layer import KANLayer
from kanvolution.ops.convolution import Convolution


class KANLinear(KANLayer):
    """y[o] = bias[o] + sum_c phi_{o,c}(x[c]) with phi_{o,c}(x) = sum_k W[o, c*K + k] B_k(x).

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether a learned bias is added.
        device, dtype: of the parameters.
        basis: name of a registered basis, or a `Basis` made for these channels.
        **basis_options: options of the named basis (`degree`, `grid_size`, ...).

    Shape:
        input [*, in_features]; output [*, out_features].

    Raises:
        TypeError, ValueError: as `KANConv2d`.

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756, eq. 2.5 and 2.10.

    Example:
        >>> import torch, kanvolution as kv
        >>> kv.KANLinear(784, 10, basis="chebyshev", degree=4)(torch.randn(32, 784)).shape
        torch.Size([32, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        basis: str | Basis = "gram",
        **basis_options: Any,
    ) -> None:
        super().__init__()
        self.in_features = integer_at_least("in_features", in_features, 1)
        self.out_features = integer_at_least("out_features", out_features, 1)
        sizes = (in_features, out_features)
        self._make_parameters(sizes, 1, (), bias, basis, basis_options, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_floating_point(x)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"input (shape {tuple(x.shape)}) must end in in_features (={self.in_features}) channels")
        rows = x.reshape(-1, self.in_features)
        y = self.basis.contract(rows, self.weight, self.bias, Convolution())
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
