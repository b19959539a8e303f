"""Variance-preserving initial weights for any basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kanvolution.bases import Basis


@torch.no_grad()
def init_weight(weight: Tensor, basis: Basis, gain: float = 1.0) -> None:
    """Fill `weight` [O, I*K, *kernel] with normal values, scaled for each function by `gain` and `Basis.initial_std`.

    Weights on the meta device are left alone; call the layer's `reset_parameters` once they have memory.
    """
    if weight.is_meta:
        return
    fan_in = weight.shape[1] // basis.size * math.prod(weight.shape[2:])
    std = gain * basis.initial_std(fan_in).to(weight.device, weight.dtype)
    weight.normal_().unflatten(1, (-1, basis.size)).mul_(std.view(-1, *(1,) * (weight.ndim - 2)))
