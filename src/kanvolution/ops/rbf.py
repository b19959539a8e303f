"""Gaussian radial basis functions (FastKAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, TensorGradient, channelwise, expansion, sum_like
from kanvolution.ops.pointwise import exp


@expansion
def rbf(x: Tensor, centers: Tensor, width: float) -> Planes:
    """exp(-((x - c_k) / width)^2) for centers c of shape [K] or [C, K].

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks", arXiv 2405.06721.
    """
    return (exp((x - center).square(), -1 / width**2) for center in channelwise(centers, x))


@rbf.vjp
def rbf_vjp(x: Tensor, grads: list[Tensor], centers: Tensor, width: float) -> tuple[Tensor, TensorGradient]:
    """dB/dx = -2 (x - c) / width^2 B = -dB/dc."""
    factor = 2 / width**2
    total = torch.zeros_like(x)
    slopes = []
    for grad, center in zip(grads, channelwise(centers, x), strict=True):
        distance = x - center
        slopes.append(grad * distance * exp(distance.square(), -1 / width**2))
        total = torch.sub(total, slopes[-1], alpha=factor)
    return total, lambda: factor * sum_like(slopes, centers)
