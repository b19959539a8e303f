"""Scalar functions with closed-form derivatives: used as base functions b(x) and as input maps of a basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Pointwise(NamedTuple):
    """A scalar function and its derivative; the derivative gets x and y = value(x) to save work."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x). Written out where it is compiled, so that a loop that needs the sigmoid too computes it once."""
    return x * torch.sigmoid(x) if torch.compiler.is_compiling() else F.silu(x)


def _silu_derivative(x: Tensor, y: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s + y * (1 - s)


def _gelu_derivative(x: Tensor, y: Tensor) -> Tensor:
    cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return cdf + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


POINTWISE: dict[str, Pointwise] = {
    "identity": Pointwise(lambda x: x, lambda x, y: torch.ones_like(x)),
    "silu": Pointwise(silu, _silu_derivative),
    "gelu": Pointwise(F.gelu, _gelu_derivative),
    "relu": Pointwise(F.relu, lambda x, y: (x > 0).to(x.dtype)),
    "tanh": Pointwise(torch.tanh, lambda x, y: 1 - y * y),
    "sigmoid": Pointwise(torch.sigmoid, lambda x, y: y * (1 - y)),
}
