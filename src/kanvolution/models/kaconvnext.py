"""KAConvNeXt: residual stages of depthwise Kolmogorov-Arnold convolutions and learned activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import integer_at_least, probability
from kanvolution.layers.parts import make_norm
from kanvolution.layers.spec import ConvFactory, ConvSpec
from kanvolution.layers.structures import ConvArguments, LowRank
from kanvolution.layers.structures.structure import plain_conv
from kanvolution.models.network import Classifier, FeatureInfo
from kanvolution.models.registry import register_model


class KAConvNeXt(Classifier):
    """A patchify stem, stages of `KAConvNeXtBlock` with a 2x2 convolution of stride 2 between them, a linear head.

    The functions are where they cost little: all of the basis in the depthwise convolutions, and a few learned
    combinations of them (`LowRank`) as activations of the hidden channels, which cost what a fixed activation costs.
    Stem, downsampling and the first pointwise convolution of a block are plain.

    Args:
        conv: conv factory of the depthwise convolutions. Its norm (batch norm for a factory of one's own) is that of
            the whole network.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        channels: channels of each stage.
        depths: blocks of each stage.
        patch_size: kernel and stride of the stem. 4 for images from about 128 pixels; 1 or 2 for those of 32.
        kernel_size: of the depthwise convolutions, odd.
        expansion: hidden channels of a block, as a multiple of its channels.
        rank: learned functions of each hidden channel; 0 for a fixed GELU. It is 0 anyway for a `conv` that names no
            functions to combine: a factory of one's own, `identity`, or `wavelet_edge`.
        reduction: squeeze-excitation of the hidden channels has channels / reduction inside; 0 leaves it out.
        layer_scale: initial scale of the residual branches.
        drop_path_rate: probability that the last block is skipped for a sample in training; it grows linearly from 0.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of the head, see `HEADS`.
        head_width: features of the head's hidden layers; None for its own.

    Shape:
        input [N, in_chans, H, W] with H and W >= patch_size * 2^(stages - 1); output [N, num_classes]. Rows and
        columns that do not fill a patch, at the lower and right border, are not seen.

    Raises:
        ValueError: a value out of range, plans of different lengths, or an image too small.

    Source: the layout of Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545; squeeze-excitation, arXiv 1709.01507;
    layer scale, arXiv 2103.17239; stochastic depth, arXiv 1603.09382.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("kaconvnext_s", conv="gram", num_classes=10, patch_size=1)
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        channels: Sequence[int],
        depths: Sequence[int],
        patch_size: int = 4,
        kernel_size: int = 5,
        expansion: float = 4.0,
        rank: int = 1,
        reduction: int = 2,
        layer_scale: float = 0.1,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        head: str = "linear",
        head_width: int | None = None,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, head=head, head_width=head_width)
        conv = self.conv
        if len(channels) != len(depths) or not channels:
            raise ValueError(f"channels (={list(channels)}) and depths (={list(depths)}) must have one entry a stage")
        for name, values in (("channels", channels), ("depths", depths)):
            for value in values:
                integer_at_least(name, value, 1)
        integer_at_least("patch_size", patch_size, 1)
        if integer_at_least("kernel_size", kernel_size, 1) % 2 == 0:
            raise ValueError(f"kernel_size (={kernel_size}) must be odd, so that the convolution keeps the size")
        probability("drop_path_rate", drop_path_rate)

        self.stem = nn.Sequential(_plain(in_chans, channels[0], patch_size), _norm(conv, channels[0]))
        self.stages = nn.ModuleList()
        count, place = sum(depths), 0
        for i, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            stage = nn.Sequential()
            if i:
                stage.append(nn.Sequential(_norm(conv, channels[i - 1]), _plain(channels[i - 1], width, 2)))
            for _ in range(depth):
                drop_path = drop_path_rate * place / max(count - 1, 1)
                stage.append(
                    KAConvNeXtBlock(conv, width, kernel_size, expansion, rank, reduction, layer_scale, drop_path)
                )
                place += 1
            self.stages.append(stage)
        self.norm = _norm(conv, channels[-1])
        self.feature_info = tuple(
            FeatureInfo(f"stages.{i}", width, patch_size * 2**i) for i, width in enumerate(channels)
        )
        self.finish(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(super().forward_features(x))


class KAConvNeXtBlock(nn.Module):
    """x + scale * project(expand(depthwise(norm(x)))), the branch left out at random in training.

    depthwise is `conv` with groups = channels, and its norm and activation; expand a plain pointwise convolution,
    squeeze-excitation and a norm; project a pointwise convolution of `rank` learned functions of each hidden channel.
    See `KAConvNeXt` for the arguments.
    """

    def __init__(
        self,
        conv: ConvFactory,
        channels: int,
        kernel_size: int,
        expansion: float,
        rank: int,
        reduction: int,
        layer_scale: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        from torchvision.ops import SqueezeExcitation, StochasticDepth  # not needed to import the package

        hidden = int(channels * expansion)
        if hidden < 1:
            raise ValueError(f"expansion (={expansion}) must leave at least one of {channels} channels, e.g. 4")
        self.norm = _norm(conv, channels)
        self.depthwise = conv(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        excite = nn.Identity()
        if integer_at_least("reduction", reduction, 0):
            excite = SqueezeExcitation(hidden, max(1, channels // reduction))
        # The norm comes last: the functions see hidden channels of variance one, gated or not.
        self.expand = nn.Sequential(_plain(channels, hidden, 1), excite, _norm(conv, hidden))
        self.project = _project(conv, hidden, channels, integer_at_least("rank", rank, 0))
        self.scale = nn.Parameter(torch.full((channels, 1, 1), float(layer_scale)))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.expand(self.depthwise(self.norm(x))))
        return x + self.drop_path(self.scale * y)


def _project(conv: ConvFactory, hidden: int, channels: int, rank: int) -> nn.Module:
    """hidden -> channels, of `rank` learned functions of each hidden channel where `conv` has functions to combine."""
    if rank and isinstance(conv, ConvSpec):
        basis = conv.make_basis(hidden, channels, 1)
        if basis.num_functions and basis.combines:
            # The norm is in front of it (where one at the functions would be as well), the scale behind it.
            bare = replace(conv, norm=None, norm_options={}, norm_site="output", act=None, structure=LowRank(rank))
            return bare(hidden, channels, 1)
    return nn.Sequential(nn.GELU(), _plain(hidden, channels, 1))


def _plain(in_channels: int, out_channels: int, size: int) -> nn.Module:
    """An ordinary convolution of patches of that size."""
    return plain_conv(2, ConvArguments(in_channels, out_channels, size, stride=size))


def _norm(conv: ConvFactory, channels: int) -> nn.Module:
    """The norm that `conv` puts behind its convolutions."""
    if not isinstance(conv, ConvSpec):
        return nn.BatchNorm2d(channels)
    return nn.Identity() if conv.norm is None else make_norm(conv.norm, 2, channels, **conv.norm_options)


_PLANS = {
    "kaconvnext_s": ((24, 48, 112, 304), (2, 2, 6, 3)),
    "kaconvnext_b": ((40, 80, 160, 400), (2, 2, 6, 3)),
    "kaconvnext_l": ((48, 96, 200, 552), (3, 3, 9, 3)),
}

for _name, (_channels, _depths) in _PLANS.items():
    register_model(_name)(partial(KAConvNeXt, channels=_channels, depths=_depths))
