"""Scalar functions with closed-form derivatives: used as base functions b(x) and as input maps of a basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.tracing import is_exporting


class Pointwise(NamedTuple):
    """A scalar function and its derivative; the derivative gets x and y = value(x) to save work."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]


def exp(x: Tensor, factor: float) -> Tensor:
    """The exponential of factor x. Outside of compilers by exp2, which takes less time on a CPU."""
    return torch.exp(factor * x) if torch.compiler.is_compiling() else torch.exp2(factor * _LOG2_E * x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)). In a loop for a CPU by exp2, to ten units in the last place for |x| <= 12: the compiler writes
    what it needs of exp and sigmoid twice to memory, and reads it again.
    """
    return 1 / (1 + torch.exp2(-_LOG2_E * x)) if _in_loop(x) else torch.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x). Written out in a loop, so that one that needs the sigmoid too computes it once."""
    return x * sigmoid(x) if torch.compiler.is_compiling() else F.silu(x)


def _silu_derivative(x: Tensor, y: Tensor) -> Tensor:
    s = sigmoid(x)
    return s + y * (1 - s)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. In a loop for a CPU by exp2, to two units in the last place: that takes less time than
    the vector library's.
    """
    if not _in_loop(x):
        return torch.tanh(x)
    size, square = x.abs(), x * x
    decay = torch.exp2(-2 * _LOG2_E * size)
    series = torch.full_like(x, _TANH_SERIES[-1])
    for coefficient in reversed(_TANH_SERIES[:-1]):
        series = series * square + coefficient
    # Near 0 the quotient has few digits.
    return torch.where(size < 0.4, x * series, torch.copysign((1 - decay) / (1 + decay), x))


def _in_loop(x: Tensor) -> bool:
    """Whether a loop over float32 is compiled for a CPU, one that nobody differentiates: autograd would find infinity
    times zero in these formulas.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() and not is_exporting()


_LOG2_E = 1 / math.log(2)

_TANH_SERIES = (1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925)
"""Coefficients of x, x^3, x^5, ... of tanh(x)."""


def _gelu_derivative(x: Tensor, y: Tensor) -> Tensor:
    cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return cdf + x * exp(x * x, -0.5) / math.sqrt(2 * math.pi)


POINTWISE: dict[str, Pointwise] = {
    "identity": Pointwise(lambda x: x, lambda x, y: torch.ones_like(x)),
    "silu": Pointwise(silu, _silu_derivative),
    "gelu": Pointwise(F.gelu, _gelu_derivative),
    "relu": Pointwise(F.relu, lambda x, y: (x > 0).to(x.dtype)),
    "tanh": Pointwise(tanh, lambda x, y: 1 - y * y),
    "sigmoid": Pointwise(sigmoid, lambda x, y: y * (1 - y)),
}
