"""Legendre polynomials P_0 ... P_degree."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def legendre(x: Tensor, degree: int) -> Planes:
    """P_k(x), k = 0 ... degree, by Bonnet's recurrence (k+1) P_{k+1} = (2k+1) x P_k - k P_{k-1} (DLMF table 18.9.1)."""
    previous, current = torch.zeros_like(x), torch.ones_like(x)
    yield current
    for k in range(degree):
        following = torch.addcmul(previous * (-k / (k + 1)), x, current, value=(2 * k + 1) / (k + 1))
        previous, current = current, following
        yield current


@legendre.derivative
def legendre_derivative(x: Tensor, degree: int) -> Slopes:
    """P'_{k+1} = P'_{k-1} + (2k+1) P_k (Abramowitz and Stegun, chapter 8)."""
    before, slope = torch.zeros_like(x), torch.zeros_like(x)
    for k, value in enumerate(legendre.values(x, degree)):
        yield slope
        before, slope = slope, torch.add(before, value, alpha=2 * k + 1)
