"""Low rank over functions: few learned functions for each channel, at the cost of a plain convolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kanvolution.bases import Basis, MixedBasis
from kanvolution.checks import integer_at_least
from kanvolution.layers.structures.structure import (
    ConvArguments,
    MakeBasis,
    Structure,
    build_conv,
    register_structure,
)


@register_structure("low_rank")
@dataclass(frozen=True)
class LowRank(Structure):
    """`rank` learned functions phi_{c,r} = sum_k U[c, r, k] B_k for each input channel, then a convolution of C * rank.

    phi_{o,c,t} = sum_r W[o, c, r, t] phi_{c,r}. rank=1 costs what nn.Conv costs; rank=K can represent the full layer.

    Args:
        rank: functions for each channel, >= 1 and at most the basis' number of functions.
        shared: whether all channels share one set of functions.
        inner: structure of the convolution over the learned functions.
    """

    rank: int = 1
    shared: bool = False
    inner: Structure | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        integer_at_least("rank", self.rank, 1)

    def build(self, ndim: int, make_basis: MakeBasis, arguments: ConvArguments) -> nn.Module:
        def mixed(in_channels: int, out_channels: int, groups: int) -> Basis:
            basis = make_basis(in_channels, out_channels, groups)
            return MixedBasis(basis, self.rank, in_channels, self.shared)

        return build_conv(ndim, mixed, arguments, self.inner)
