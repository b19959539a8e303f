"""Which conv factory makes which part of a network, and how wide the part is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from kanvolution.layers.spec import ConvFactory, ConvSpec, resolve_conv

StageConvs = Sequence[str | Mapping[str, Any] | ConvFactory | None]
"""A conv factory for each stage of a network; None for the network's own."""


def scaled(channels: int, width_scale: float) -> int:
    """`channels` times `width_scale`, rounded, at least 1. Raises ValueError unless the scale is positive."""
    if not width_scale > 0:
        raise ValueError(f"width_scale (={width_scale}) must be > 0; 1 keeps the widths")
    return max(1, round(channels * width_scale))


def first_conv(conv: ConvFactory) -> ConvFactory:
    """The factory of layers without dropout: of the one that sees the image, where it would drop whole colours.

    A factory of one's own names it as its attribute `first`, or makes such layers as all others.
    """
    if isinstance(conv, ConvSpec):
        return replace(conv, dropout=0.0)
    return getattr(conv, "first", None) or conv


def without_activation(conv: ConvFactory) -> tuple[ConvFactory, Callable[[], nn.Module]]:
    """The factory without its activation, and what makes that activation, for residual sums that it comes after.

    A factory of one's own stays as it is, and the sum gets no activation.
    """
    if isinstance(conv, ConvSpec):
        return replace(conv, act=None), conv.make_activation
    return conv, nn.Identity


def projection(conv: ConvFactory) -> ConvFactory:
    """The factory of projections inside a layer that has its own norm: without norm, activation and dropout."""
    if isinstance(conv, ConvSpec):
        return replace(conv, norm=None, norm_options={}, norm_site="output", act=None, dropout=0.0)
    return conv


def convs_of_stages(conv: ConvFactory, stage_convs: StageConvs | None, count: int) -> list[ConvFactory]:
    """The conv factory of each of `count` stages. Raises ValueError unless `stage_convs` has one entry a stage."""
    if stage_convs is None:
        return [conv] * count
    if len(stage_convs) != count:
        raise ValueError(f"stage_convs (length {len(stage_convs)}) must have one entry for each of {count} stages")
    return [conv if own is None else resolve_conv(own, ndim=2) for own in stage_convs]
