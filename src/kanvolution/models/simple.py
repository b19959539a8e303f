"""The simple networks: a stack of 3x3 convolutions, global average pooling, a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import first_conv, scaled
from kanvolution.models.heads import MakeHead
from kanvolution.models.network import Classifier, FeatureInfo
from kanvolution.models.registry import register_model


class SimpleNet(Classifier):
    """Convolutions of kernel 3 and padding 1, average pooling over the image, and a head. Each layer is a stage.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        channels: output channels of each layer.
        strides: stride of each layer.
        width_scale: factor of all channels.
        groups: groups of every layer but the first.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of the head, see `HEADS`, or (features, num_classes) -> module.
        head_width: features of the head's hidden layers; None for its own.

    Shape:
        input [N, in_chans, H, W]; output [N, num_classes].

    Source: the baselines of torch-conv-kan, arXiv 2407.01092, section on MNIST, CIFAR-10 and CIFAR-100. Its networks of
    12 and 16 layers are those of its report on CIFAR-100; where in the one of 12 the strides are is not published.
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        width_scale: float = 1.0,
        groups: int = 1,
        drop_rate: float = 0.0,
        head: str | MakeHead = "linear",
        head_width: int | None = None,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, head=head, head_width=head_width)
        if len(channels) != len(strides) or not channels:
            raise ValueError(f"channels (={list(channels)}) and strides (={list(strides)}) must have one entry a layer")
        widths = [in_chans, *(scaled(width, width_scale) for width in channels)]
        first, *others = strides
        self.stem = nn.Identity()
        self.stages = nn.ModuleList(
            [
                first_conv(self.conv)(in_chans, widths[1], 3, stride=first, padding=1),
                *(
                    self.conv(widths[i], widths[i + 1], 3, stride=stride, padding=1, groups=groups)
                    for i, stride in enumerate(others, start=1)
                ),
            ]
        )
        self.feature_info = tuple(
            FeatureInfo(f"stages.{i}", width, math.prod(strides[: i + 1])) for i, width in enumerate(widths[1:])
        )
        self.finish(num_classes)


# name -> (channels, which layers halve the image, counted from 1)
_PLANS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "simple4": ((32, 64, 128, 256), (2, 3)),
    "simple8": ((16, 32, 64, 128, 256, 256, 512, 512), (2, 3, 6)),
    "simple12": ((16, 32, 64, 128, 256, 256, 256, 512, 512, 512, 512, 512), (2, 3, 6)),
    "simple16": ((16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512), (2, 4, 8)),
}

for _name, (_channels, _halving) in _PLANS.items():
    _strides = tuple(2 if layer in _halving else 1 for layer in range(1, len(_channels) + 1))
    register_model(_name)(partial(SimpleNet, channels=_channels, strides=_strides))
