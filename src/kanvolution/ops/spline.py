"""B-splines of any order on a uniform grid, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def spline(x: Tensor, grid_size: int, order: int, low: float, high: float) -> Planes:
    """The grid_size + order B-splines of one order (polynomial degree) whose support meets [low, high].

    B_k(x) = M((x - t_k) / h), t_k = low + (k - order) h, h = (high - low) / grid_size, with the cardinal B-spline M.
    Source: Schoenberg 1946; de Boor, A Practical Guide to Splines, ch. IX; as used in KAN, arXiv 2404.19756, sec. 2.2.
    Inside [low, high] the functions sum to one; outside they fall to zero within `order` steps.
    """
    return (_cardinal(u, order) for u in _positions(x, grid_size, order, low, high))


@spline.derivative
def spline_derivative(x: Tensor, grid_size: int, order: int, low: float, high: float) -> Slopes:
    """M'_p(u) = M_{p-1}(u) - M_{p-1}(u - 1)."""
    step = (high - low) / grid_size
    for u in _positions(x, grid_size, order, low, high):
        if order == 0:
            yield None
        else:
            yield (_cardinal(u, order - 1) - _cardinal(u - 1, order - 1)) / step


def _positions(x: Tensor, grid_size: int, order: int, low: float, high: float) -> Planes:
    scaled = (x - low) * (grid_size / (high - low))
    return (scaled + (order - k) for k in range(grid_size + order))


def _cardinal(u: Tensor, order: int) -> Tensor:
    """M_p(u) = 1/p! sum_j (-1)^j C(p+1, j) (u - j)_+^p, supported on [0, p + 1].

    Evaluated at min(u, p + 1 - u), by symmetry: half the terms, and none of the cancellation of the right half.
    """
    if order == 0:
        return ((u >= 0) & (u < 1)).to(u.dtype)
    half = 0.5 * (order + 1)
    rising = (half - (u - half).abs()).clamp_min(0)
    total = rising**order / math.factorial(order)
    for j in range(1, math.ceil(half)):  # the terms with j >= half are zero
        factor = (-1) ** j * math.comb(order + 1, j) / math.factorial(order)
        rising = (rising - 1).clamp_min(0)  # (u - j)_+
        total = torch.add(total, rising**order, alpha=factor)
    return total
