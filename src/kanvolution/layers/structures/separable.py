"""Depthwise-separable: a KAN convolution for each channel, then one over the channels of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.structures.structure import (
    ConvArguments,
    MakeBasis,
    Structure,
    build_conv,
    plain_conv,
    register_structure,
)
from kanvolution.registry import unknown_name

POINTWISE_KINDS = ("linear", "kan")


@register_structure("separable")
@dataclass(frozen=True)
class Separable(Structure):
    """A depthwise KAN convolution, in_channels -> in_channels * multiplier, and a pointwise one to out_channels.

    Source: Chollet, "Xception", arXiv 1610.02357, section 1, with functions in place of the depthwise weights.

    Args:
        pointwise: "linear" (a plain 1x1 convolution) or "kan".
        multiplier: outputs of the depthwise convolution for each channel, >= 1.
        inner: structure of the depthwise convolution.
    """

    pointwise: str = "linear"
    multiplier: int = 1
    inner: Structure | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pointwise not in POINTWISE_KINDS:
            raise ValueError(unknown_name("pointwise", self.pointwise, POINTWISE_KINDS))
        integer_at_least("multiplier", self.multiplier, 1)

    def build(self, ndim: int, make_basis: MakeBasis, arguments: ConvArguments) -> nn.Module:
        a = arguments
        divisible("in_channels", a.in_channels, "groups", integer_at_least("groups", a.groups, 1))
        divisible("out_channels", a.out_channels, "groups", a.groups)
        width = a.in_channels * self.multiplier
        depthwise = a.but(out_channels=width, groups=a.in_channels, bias=False)
        pointwise = a.pointwise(width, a.out_channels, bias=a.bias)
        return nn.Sequential(
            build_conv(ndim, make_basis, depthwise, self.inner),
            plain_conv(ndim, pointwise) if self.pointwise == "linear" else build_conv(ndim, make_basis, pointwise),
        )
