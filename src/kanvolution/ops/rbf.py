"""Gaussian radial basis functions (FastKAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, TensorGradient, channelwise, expansion, sum_like


@expansion
def rbf(x: Tensor, centers: Tensor, width: float) -> Planes:
    """exp(-((x - c_k) / width)^2) for centers c of shape [K] or [C, K].

    Source: Li, "Kolmogorov-Arnold Networks are Radial Basis Function Networks", arXiv 2405.06721.
    """
    return (torch.exp(-(((x - center) / width) ** 2)) for center in channelwise(centers, x))


@rbf.vjp
def rbf_vjp(x: Tensor, grads: list[Tensor], centers: Tensor, width: float) -> tuple[Tensor, TensorGradient]:
    """dB/dx = -2 (x - c) / width^2 B = -dB/dc."""
    slopes = []
    for grad, center in zip(grads, channelwise(centers, x), strict=True):
        u = (x - center) / width
        slopes.append(grad * (-2 / width) * u * torch.exp(-u * u))
    return sum(slopes, torch.zeros_like(x)), lambda: sum_like((-slope for slope in slopes), centers)
