"""Bernstein polynomials of one degree: a partition of unity on [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def bernstein(x: Tensor, degree: int) -> Planes:
    """b_k(x) = C(degree, k) x^k (1 - x)^(degree - k), k = 0 ... degree (Lorentz, Bernstein Polynomials, chapter 1)."""
    rising = _powers(x, degree)
    falling = _powers(1 - x, degree)
    for k in range(degree + 1):
        yield math.comb(degree, k) * rising[k] * falling[degree - k]


@bernstein.derivative
def bernstein_derivative(x: Tensor, degree: int) -> Slopes:
    """b'_{k,n} = n (b_{k-1,n-1} - b_{k,n-1})."""
    if degree == 0:
        yield None
        return
    lower = list(bernstein.values(x, degree - 1))
    padded = [torch.zeros_like(x), *lower, torch.zeros_like(x)]
    for k in range(degree + 1):
        yield degree * (padded[k] - padded[k + 1])


def _powers(x: Tensor, degree: int) -> list[Tensor]:
    powers = [torch.ones_like(x)]
    for _ in range(degree):
        powers.append(powers[-1] * x)
    return powers
