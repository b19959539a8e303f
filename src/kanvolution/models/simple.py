"""The baselines: a stack of 3x3 convolutions, global average pooling, a linear head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import nn

from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.models.network import Classifier, FeatureInfo
from kanvolution.models.registry import register_model


class SimpleNet(Classifier):
    """Convolutions of kernel 3 and padding 1, average pooling over the image, and a linear head.

    Args:
        conv: conv factory.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        channels: output channels of each layer.
        strides: stride of each layer.
        groups: groups of every layer but the first.
        drop_rate: dropout before the head.

    Shape:
        input [N, in_chans, H, W]; output [N, num_classes].

    Source: the baselines of torch-conv-kan, arXiv 2407.01092, section on MNIST, CIFAR-10 and CIFAR-100.
    """

    def __init__(
        self,
        conv: ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        groups: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(drop_rate)
        conv = resolve_conv(conv, ndim=2)
        if len(channels) != len(strides) or not channels:
            raise ValueError(f"channels (={list(channels)}) and strides (={list(strides)}) must have one entry a layer")
        widths = (in_chans, *channels)
        self.stem = nn.Identity()
        self.stages = nn.ModuleList(
            conv(widths[i], widths[i + 1], 3, stride=stride, padding=1, groups=groups if i else 1)
            for i, stride in enumerate(strides)
        )
        self.feature_info = tuple(
            FeatureInfo(f"stages.{i}", width, math.prod(strides[: i + 1])) for i, width in enumerate(channels)
        )
        self.num_features = channels[-1]
        self.reset_classifier(num_classes)


_PLANS = {
    "simple4": ((32, 64, 128, 256), (1, 2, 2, 1)),
    "simple8": ((16, 32, 64, 128, 256, 256, 512, 512), (1, 2, 2, 1, 1, 2, 1, 1)),
}

for _name, (_channels, _strides) in _PLANS.items():
    register_model(_name)(partial(SimpleNet, channels=_channels, strides=_strides))
