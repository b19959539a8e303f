"""Chebyshev polynomials of the first kind T_0 ... T_degree."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def chebyshev(x: Tensor, degree: int) -> Planes:
    """T_k(x), k = 0 ... degree, by T_{k+1} = 2 x T_k - T_{k-1} (DLMF table 18.9.1); cos(k arccos x) on [-1, 1]."""
    previous, current = x, torch.ones_like(x)
    yield current
    for _ in range(degree):
        previous, current = current, torch.addcmul(-previous, x, current, value=2)
        yield current


@chebyshev.derivative
def chebyshev_derivative(x: Tensor, degree: int) -> Slopes:
    """T'_k = k U_{k-1} with the polynomials of the second kind U (DLMF 18.9.21)."""
    previous, current = torch.zeros_like(x), torch.ones_like(x)
    yield None
    for k in range(1, degree + 1):
        yield k * current
        previous, current = current, torch.addcmul(-previous, x, current, value=2)
