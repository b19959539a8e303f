"""Bottleneck: the functions act on few channels, between two 1x1 convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.structures.structure import (
    ConvArguments,
    MakeBasis,
    Structure,
    build_conv,
    plain_conv,
    register_structure,
)
from kanvolution.ops.pointwise import POINTWISE


@register_structure("bottleneck")
@dataclass(frozen=True)
class Bottleneck(Structure):
    """1x1 squeeze -> KAN convolution -> 1x1 unsqueeze, beside the full-width convolution of the base function.

    The width of a group is max(in, out) / reduction of its channels, but not below min_width (or its channels, where
    they are fewer). Source: arXiv 2407.01092, section on bottleneck convolutions.

    Args:
        reduction: by how much the channels are reduced, > 0.
        min_width: smallest width of a group, >= 1.
        inner: structure of the convolution between the 1x1 ones.
    """

    reduction: float = 4.0
    min_width: int = 16
    inner: Structure | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reduction > 0:
            raise ValueError(f"reduction (={self.reduction}) must be > 0; 4 leaves a quarter of the channels")
        integer_at_least("min_width", self.min_width, 1)

    def width(self, in_channels: int, out_channels: int) -> int:
        """Channels between the 1x1 convolutions, for one group of that many channels."""
        width = int(max(in_channels / self.reduction, out_channels / self.reduction))
        return width if width >= self.min_width else min(self.min_width, in_channels, out_channels)

    def build(self, ndim: int, make_basis: MakeBasis, arguments: ConvArguments) -> nn.Module:
        a = arguments
        divisible("in_channels", a.in_channels, "groups", integer_at_least("groups", a.groups, 1))
        divisible("out_channels", a.out_channels, "groups", a.groups)
        width = self.width(a.in_channels // a.groups, a.out_channels // a.groups) * a.groups
        probe = make_basis(a.in_channels, a.out_channels, a.groups)
        base = probe.base if probe.num_functions else None
        # Two paths of half the variance each, where there are two.
        share = 1.0 if base is None else 2.0
        on_meta = any(t.is_meta for t in (*probe.parameters(), *probe.buffers()))
        base_moment = 1.0 if base is None or on_meta else float(probe.second_moments()[0])

        def without_base(in_channels: int, out_channels: int, groups: int) -> Basis:
            basis = make_basis(in_channels, out_channels, groups)
            if basis.num_functions:
                basis.drop_base()
            return basis

        return BottleneckConv(
            squeeze=plain_conv(ndim, a.pointwise(a.in_channels, width)),
            conv=build_conv(ndim, without_base, a.but(in_channels=width, out_channels=width, bias=False), self.inner),
            unsqueeze=plain_conv(ndim, a.pointwise(width, a.out_channels, bias=a.bias), share),
            base=base,
            base_conv=None if base is None else plain_conv(ndim, a.but(bias=False), share * base_moment),
        )


class BottleneckConv(nn.Module):
    """unsqueeze(conv(squeeze(x))) + base_conv(b(x)); both halves share the variance at the start.

    Args:
        squeeze, conv, unsqueeze: the path of the functions.
        base: name of the base function b, or None.
        base_conv: the convolution of b(x), or None.
    """

    def __init__(
        self, squeeze: nn.Module, conv: nn.Module, unsqueeze: nn.Module, base: str | None, base_conv: nn.Module | None
    ) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.conv = conv
        self.unsqueeze = unsqueeze
        self.base = base
        self.base_conv = base_conv

    @torch.no_grad()
    def become_plain(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute what an ordinary convolution does: base_conv is it, and unsqueeze starts at zero.

        Args and errors as `KANConv2d.become_plain`.
        """
        if self.base_conv is None or self.base != "identity":
            raise ValueError(f"the base function is {self.base!r}, and must be the identity: base='identity'")
        self.base_conv.load_state_dict({"weight": weight})
        zeros = {"weight": torch.zeros_like(self.unsqueeze.get_parameter("weight"))}
        self.unsqueeze.load_state_dict(zeros if bias is None else {**zeros, "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        y = self.unsqueeze(self.conv(self.squeeze(x)))
        if self.base_conv is None or self.base is None:
            return y
        return y + self.base_conv(POINTWISE[self.base].value(x))

    def extra_repr(self) -> str:
        return f"base={self.base!r}"
