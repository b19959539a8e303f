"""ReLU-KAN's squared bumps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.ops.expansion import Planes, TensorGradient, channelwise, expansion, sum_like


@expansion
def relu_bumps(x: Tensor, low: Tensor, high: Tensor, width: float) -> Planes:
    """(relu(x - low_k) relu(high_k - x) 4 / width^2)^2: a bump on [low_k, high_k].

    low and high have shape [K] or [C, K] and may be learned; `width` fixes the scale: where it is high - low, the bump
    is 1 in its middle.
    Source: Qiu et al., "ReLU-KAN", arXiv 2406.02075.
    """
    scale = 4 / width**2
    return ((F.relu(x - a) * F.relu(b - x) * scale) ** 2 for a, b in _edges(low, high, x))


@relu_bumps.vjp
def relu_bumps_vjp(
    x: Tensor, grads: list[Tensor], low: Tensor, high: Tensor, width: float
) -> tuple[Tensor, TensorGradient, TensorGradient]:
    """With l = relu(x - low), r = relu(high - x), s = 4/width^2: dB/dlow = -2 s^2 l r^2, dB/dhigh = 2 s^2 l^2 r.

    dB/dx is the negative of their sum, since a bump moves with its edges.
    """
    square = 2 * (4 / width**2) ** 2
    grads_low, grads_high = [], []
    for grad, (a, b) in zip(grads, _edges(low, high, x), strict=True):
        left, right = F.relu(x - a), F.relu(b - x)
        common = grad * square * left * right
        grads_low.append(-common * right)
        grads_high.append(common * left)
    total = torch.zeros_like(x)
    for plane in (*grads_low, *grads_high):
        total = total - plane
    return total, lambda: sum_like(grads_low, low), lambda: sum_like(grads_high, high)


def _edges(low: Tensor, high: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(channelwise(low, x), channelwise(high, x), strict=True))
