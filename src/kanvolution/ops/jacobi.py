"""Jacobi polynomials P_0^(a,b) ... P_degree^(a,b)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def jacobi(x: Tensor, degree: int, a: float, b: float) -> Planes:
    """P_k^(a,b)(x), k = 0 ... degree, by the three-term recurrence (DLMF 18.9.1 and 18.9.2), for a, b > -1."""
    previous, current = torch.ones_like(x), 0.5 * ((a - b) + (a + b + 2) * x)
    yield previous
    if degree > 0:
        yield current
    for k in range(1, degree):
        c = 2 * k + a + b
        lead = 2 * (k + 1) * (k + a + b + 1) * c
        slope = (c + 1) * (c + 2) * c / lead
        offset = (c + 1) * (a * a - b * b) / lead
        back = 2 * (k + a) * (k + b) * (c + 2) / lead
        following = torch.addcmul(previous * -back, x, current, value=slope)
        previous, current = current, torch.add(following, current, alpha=offset) if offset else following
        yield current


@jacobi.derivative
def jacobi_derivative(x: Tensor, degree: int, a: float, b: float) -> Slopes:
    """d/dx P_k^(a,b) = (k + a + b + 1)/2 P_{k-1}^(a+1,b+1) (DLMF 18.9.15)."""
    yield None
    if degree > 0:
        for k, value in enumerate(jacobi.values(x, degree - 1, a + 1, b + 1), start=1):
            yield 0.5 * (k + a + b + 1) * value
