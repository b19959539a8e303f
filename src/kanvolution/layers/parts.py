"""Norms, activations and dropouts by name, in the dimension of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kanvolution.layers.noise import MultiplicativeNoise, NoiseInjection
from kanvolution.registry import unknown_name

_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_DROPOUT = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}

NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": lambda ndim, channels, **options: _BATCH[ndim](channels, **options),
    "instance": lambda ndim, channels, **options: _INSTANCE[ndim](channels, **{"affine": True, **options}),
    "layer": lambda ndim, channels, **options: nn.GroupNorm(1, channels, **options),
    "group": lambda ndim, channels, num_groups=8, **options: nn.GroupNorm(num_groups, channels, **options),
}
"""Norms by name. "layer" is over channels and space of a sample; "group" takes `num_groups` (8)."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "tanh": nn.Tanh,
}
"""Activations by name."""

DROPOUTS: dict[str, Callable[[int, float], nn.Module]] = {
    "dropout": lambda ndim, p: _DROPOUT[ndim](p),
    "noise": lambda ndim, p: NoiseInjection(p, channel_dim=-ndim - 1),
    "multiplicative_noise": lambda ndim, p: MultiplicativeNoise(p),
}
"""Dropouts and their like by name, from dimension and probability. "dropout" drops whole channels."""


def make_norm(name: str, ndim: int, channels: int, **options: Any) -> nn.Module:
    """The norm registered as `name`. Raises ValueError for an unknown name."""
    if name not in NORMS:
        raise ValueError(unknown_name("norm", name, NORMS))
    return NORMS[name](ndim, channels, **options)


def make_activation(name: str) -> nn.Module:
    """The activation registered as `name`. Raises ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()


def make_dropout(ndim: int, p: float, kind: str = "dropout") -> nn.Module:
    """The dropout registered as `kind`, for `ndim` dimensions. Raises ValueError for an unknown name."""
    if kind not in DROPOUTS:
        raise ValueError(unknown_name("dropout_kind", kind, DROPOUTS))
    return DROPOUTS[kind](ndim, p)
