"""Sines and cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def fourier(x: Tensor, degree: int) -> Planes:
    """sin(x), cos(x), sin(2x), cos(2x), ... sin(degree x), cos(degree x).

    Source: Xu et al., "FourierKAN-GCF", arXiv 2406.01034.
    """
    for k in range(1, degree + 1):
        yield torch.sin(k * x)
        yield torch.cos(k * x)


@fourier.derivative
def fourier_derivative(x: Tensor, degree: int) -> Slopes:
    """k cos(kx), -k sin(kx)."""
    for k in range(1, degree + 1):
        yield k * torch.cos(k * x)
        yield -k * torch.sin(k * x)
