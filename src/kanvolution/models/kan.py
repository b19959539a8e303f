"""Kolmogorov-Arnold networks of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import BASES
from kanvolution.checks import integer_at_least, probability
from kanvolution.layers.linear import KANLinear
from kanvolution.layers.parts import make_activation
from kanvolution.models.hub_mixin import HubMixin
from kanvolution.registry import unknown_name

_NORMS: dict[str, Callable[..., nn.Module]] = {"layer": nn.LayerNorm}


class KAN(HubMixin, nn.Module):
    """A stack of `KANLinear`: x -> dropout -> layer -> norm -> activation -> dropout -> layer -> ... -> last layer.

    Every layer but the last, which has a bias, is followed by norm, activation and dropout, where asked for.

    Args:
        sizes: features of the input, of each hidden layer, and of the output; at least two.
        basis: name of a registered basis.
        norm: "layer" (over the features) or None.
        act: name of an activation between layers, None for none, or "auto" for the basis' own (`Basis.activation`).
            The functions are the network's nonlinearity, so none is needed.
        dropout: probability in [0, 1).
        input_dropout: probability in [0, 1) of a dropout before the first layer.
        device, dtype: of the parameters.
        **basis_options: options of the basis (`degree`, `grid_size`, ...).

    Shape:
        input [*, sizes[0]]; output [*, sizes[-1]].

    Raises:
        TypeError, ValueError: a size below 1, fewer than two sizes, an unknown name or option (the nearest is named).

    Source: Liu et al., "KAN: Kolmogorov-Arnold Networks", arXiv 2404.19756, section 2.2.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.KAN([784, 64, 10], basis="gram", degree=3)
        >>> model(torch.randn(32, 784)).shape
        torch.Size([32, 10])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        basis: str = "gram",
        *,
        norm: str | None = None,
        act: str | None = None,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: Any,
    ) -> None:
        super().__init__()
        self.sizes = tuple(integer_at_least("sizes", size, 1) for size in sizes)
        if len(self.sizes) < 2:
            raise ValueError(f"sizes (={list(sizes)}) must name at least input and output, e.g. [784, 64, 10]")
        if norm is not None and norm not in _NORMS:
            raise ValueError(unknown_name("norm", norm, _NORMS))
        probability("dropout", dropout)
        self.config = {
            "class": "KAN",
            "sizes": list(self.sizes),
            "basis": basis,
            "norm": norm,
            "act": act,
            "dropout": dropout,
            "input_dropout": input_dropout,
            **basis_options,
        }
        act = BASES[basis].activation if act == "auto" else act
        modules: list[nn.Module] = []
        if probability("input_dropout", input_dropout) > 0:
            modules.append(nn.Dropout(input_dropout))
        for i, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            last = i == len(self.sizes) - 2
            bias = last or norm is None
            modules.append(KANLinear(inputs, outputs, bias, device, dtype, basis=basis, **basis_options))
            if last:
                break
            if norm is not None:
                modules.append(_NORMS[norm](outputs, device=device, dtype=dtype))
            if act is not None:
                modules.append(make_activation(act).to(device, dtype))
            if dropout > 0:
                modules.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
