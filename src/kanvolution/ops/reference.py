"""Textbook formulas: the oracle that everything else is tested against. Slow on purpose; float64 is meant.

Each family returns the list of its functions at x, any shape. `kan_conv` is the definition of the layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor


def legendre(x: Tensor, degree: int) -> list[Tensor]:
    """P_n(x) = 2^-n sum_k C(n, k)^2 (x - 1)^(n-k) (x + 1)^k (DLMF 18.5.8 with a = b = 0)."""
    return jacobi(x, degree, 0.0, 0.0)


def chebyshev(x: Tensor, degree: int) -> list[Tensor]:
    """T_n(x) = cos(n arccos x) on [-1, 1] (DLMF 18.5.1)."""
    return [torch.cos(n * torch.arccos(x)) for n in range(degree + 1)]


def jacobi(x: Tensor, degree: int, a: float, b: float) -> list[Tensor]:
    """P_n(x) = sum_k C(n+a, n-k) C(n+b, k) ((x-1)/2)^k ((x+1)/2)^(n-k) (DLMF 18.5.8)."""

    def choose(top: float, bottom: int) -> float:
        return math.prod((top - i) / (bottom - i) for i in range(bottom))

    def polynomial(n: int) -> Tensor:
        terms = [
            choose(n + a, n - k) * choose(n + b, k) * ((x - 1) / 2) ** k * ((x + 1) / 2) ** (n - k)
            for k in range(n + 1)
        ]
        return torch.stack(terms).sum(0)

    return [polynomial(n) for n in range(degree + 1)]


def bernstein(x: Tensor, degree: int) -> list[Tensor]:
    """b_k(x) = C(n, k) x^k (1 - x)^(n - k)."""
    return [math.comb(degree, k) * x**k * (1 - x) ** (degree - k) for k in range(degree + 1)]


def gram(x: Tensor, beta: Tensor) -> list[Tensor]:
    """silu(G_k(x)), G_0 = 1, G_1 = x, G_{k+1} = x G_k - beta_k G_{k-1}."""

    def polynomial(k: int) -> Tensor:
        if k < 2:
            return x**k
        return x * polynomial(k - 1) - beta[k - 1] * polynomial(k - 2)

    values = [polynomial(k) for k in range(len(beta))]
    return [value / (1 + torch.exp(-value)) for value in values]


def spline(x: Tensor, grid_size: int, order: int, low: float, high: float) -> list[Tensor]:
    """B-splines by the Cox-de Boor recursion on the uniform knots low + i h, -order <= i <= grid_size + order."""
    step = (high - low) / grid_size
    knots = [low + i * step for i in range(-order, grid_size + order + 1)]

    def function(k: int, p: int) -> Tensor:
        if p == 0:
            return ((x >= knots[k]) & (x < knots[k + 1])).to(x.dtype)
        rising = (x - knots[k]) / (knots[k + p] - knots[k]) * function(k, p - 1)
        falling = (knots[k + p + 1] - x) / (knots[k + p + 1] - knots[k + 1]) * function(k + 1, p - 1)
        return rising + falling

    return [function(k, order) for k in range(grid_size + order)]


def rbf(x: Tensor, centers: Tensor, width: float) -> list[Tensor]:
    """exp(-((x - c)/width)^2) for each center."""
    return [torch.exp(-(((x - c) / width) ** 2)) for c in centers]


def relu_bumps(x: Tensor, low: Tensor, high: Tensor, width: float) -> list[Tensor]:
    """[max(x - low, 0) max(high - x, 0) 4 / width^2]^2."""
    bumps = [torch.clamp(x - a, min=0) * torch.clamp(b - x, min=0) for a, b in zip(low, high, strict=True)]
    return [(bump * 4 / width**2) ** 2 for bump in bumps]


def wavelet(x: Tensor, scale: Tensor, translation: Tensor, kind: str) -> list[Tensor]:
    """psi((x - t)/s) for each pair of scale and translation."""
    return [_WAVELETS[kind]((x - t) / s) for s, t in zip(scale, translation, strict=True)]


def fourier(x: Tensor, degree: int) -> list[Tensor]:
    """sin(x), cos(x), ..., sin(degree x), cos(degree x)."""
    return [wave(k * x) for k in range(1, degree + 1) for wave in (torch.sin, torch.cos)]


def _meyer(u: Tensor) -> Tensor:
    v = u.abs()
    t = 2 * v - 1
    ramp = torch.cos(math.pi / 2 * t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3))
    window = torch.where(v <= 0.5, torch.ones_like(v), torch.where(v < 1, ramp, torch.zeros_like(v)))
    return torch.sin(math.pi * v) * window


_WAVELETS: dict[str, Callable[[Tensor], Tensor]] = {
    "mexican_hat": lambda u: 2 / (math.sqrt(3) * math.pi**0.25) * (1 - u**2) * torch.exp(-(u**2) / 2),
    "morlet": lambda u: torch.cos(5 * u) * torch.exp(-(u**2) / 2),
    "dog": lambda u: -u * torch.exp(-(u**2) / 2),
    "meyer": _meyer,
    "shannon": lambda u: torch.where(u == 0, torch.ones_like(u), torch.sin(u) / torch.where(u == 0, 1.0, u)),
}


def kan_conv(
    expanded: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """y[n, o, p] = sum_{c, k, t} W[o, c, k, t] B_k(x[n, c, p * stride + t * dilation - padding]), term by term.

    Args:
        expanded: B_k(x[n, c]) as [N, C, K, *S]; B_k contributes nothing outside S.
        weight: [O, C / groups, K, *kernel].
        stride, padding, dilation: one integer for each dimension.
        groups: output channel o sees the input channels of its group alone.

    Returns:
        [N, O, *S'].
    """
    batch, channels, _, *space = expanded.shape
    outputs, inputs, _, *kernel = weight.shape
    sizes = [
        (s + 2 * p - d * (k - 1) - 1) // st + 1
        for s, p, d, k, st in zip(space, padding, dilation, kernel, stride, strict=True)
    ]
    y = expanded.new_zeros(batch, outputs, *sizes)
    for o, c in itertools.product(range(outputs), range(inputs)):
        source = o // (outputs // groups) * (channels // groups) + c
        for place in itertools.product(*map(range, sizes)):
            for tap in itertools.product(*map(range, kernel)):
                at = [i * s + t * d - p for i, s, t, d, p in zip(place, stride, tap, dilation, padding, strict=True)]
                if all(0 <= i < s for i, s in zip(at, space, strict=True)):
                    values = expanded[(slice(None), source, slice(None), *at)]
                    y[(slice(None), o, *place)] += values @ weight[(o, c, slice(None), *tap)]
    return y
