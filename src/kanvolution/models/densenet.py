"""Densely connected networks (DenseKANet): every layer sees the outputs of all layers before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import integer_at_least
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import StageConvs, convs_of_stages, first_conv, scaled
from kanvolution.models.heads import MakeHead
from kanvolution.models.network import Classifier, FeatureInfo
from kanvolution.models.registry import register_model
from kanvolution.models.stem import make_stem


class DenseBlock(nn.Module):
    """Layers of a 1x1 and a 3x3 convolution, each of the concatenation of the input and all outputs so far.

    Args:
        conv: conv factory. The 1x1 convolutions have none of its dropout.
        in_channels: channels of the input.
        layers: number of layers.
        growth: channels that each layer adds.
        squeezed: channels between its two convolutions.
        groups: groups of the 3x3 convolutions.

    Shape:
        input [N, in_channels, H, W]; output [N, in_channels + layers * growth, H, W].

    Source: Huang et al., arXiv 1608.06993, section 3 (DenseNet-B).
    """

    def __init__(
        self, conv: ConvFactory, in_channels: int, layers: int, growth: int, squeezed: int, groups: int = 1
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                first_conv(conv)(in_channels + i * growth, squeezed, 1),
                conv(squeezed, growth, 3, padding=1, groups=groups),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Transition(nn.Sequential):
    """Half the channels at half the size: norm, SELU, a plain 1x1 convolution, average pooling, as in torch-conv-kan.

    Args:
        in_channels: channels of the input.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.SELU(),
            nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(Classifier):
    """A stem, dense blocks with transitions between them, average pooling, and a head. Each block is a stage.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        layers: number of layers of each block.
        growth: channels that each layer adds.
        squeeze: channels between the convolutions of a layer, in units of `growth`.
        width_scale: factor of `growth` and of the stem's channels.
        groups: groups of the 3x3 convolutions in blocks.
        stage_convs: a conv factory for each block where it differs, None for `conv`.
        stem_width: channels of the first convolution.
        stem_kernel: its kernel, odd.
        stem_stride: its stride.
        stem_pool: whether a max pooling of stride 2 follows it.
        last_transition: whether a transition follows the last block, too.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of the head, see `HEADS`, or (features, num_classes) -> module.
        head_width: features of the head's hidden layers; None for its own.

    Shape:
        input [N, in_chans, H, W], H and W at least 32 (densenet_tiny: 16); output [N, num_classes].

    Raises:
        ValueError: a value out of range, or an unknown name.

    Source: Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993 (DenseNet-BC), with
    torch-conv-kan's order of convolution, norm and activation and its widths of stems.
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        layers: Sequence[int],
        growth: int = 32,
        squeeze: int = 4,
        width_scale: float = 1.0,
        groups: int = 1,
        stage_convs: StageConvs | None = None,
        stem_width: int = 64,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        last_transition: bool = False,
        drop_rate: float = 0.0,
        head: str | MakeHead = "linear",
        head_width: int | None = None,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, head=head, head_width=head_width)
        if not layers or min(layers) < 1:
            raise ValueError(f"layers (={list(layers)}) must have one entry >= 1 a block")
        growth = scaled(integer_at_least("growth", growth, 1), width_scale)
        squeezed = growth * integer_at_least("squeeze", squeeze, 1)
        width = scaled(integer_at_least("stem_width", stem_width, 1), width_scale)
        self.stem, reduction = make_stem(self.conv, in_chans, width, stem_kernel, stem_stride, stem_pool)
        self.stages = nn.ModuleList()
        info = []
        convs = convs_of_stages(self.conv, stage_convs, len(layers))
        for i, (factory, count) in enumerate(zip(convs, layers, strict=True)):
            stage = nn.Sequential()
            if i:
                stage.append(Transition(width))
                width, reduction = width // 2, 2 * reduction
            stage.append(DenseBlock(factory, width, count, growth, squeezed, groups))
            width += count * growth
            if last_transition and i == len(layers) - 1:
                stage.append(Transition(width))
                width, reduction = width // 2, 2 * reduction
            self.stages.append(stage)
            info.append(FeatureInfo(f"stages.{i}", width, reduction))
        self.feature_info = tuple(info)
        self.finish(num_classes)


_PLANS: dict[str, dict[str, Any]] = {
    "densenet_tiny": {
        "layers": (5, 5, 5),
        "stem_kernel": 5,
        "stem_pool": False,
        "last_transition": True,
    },
    "densenet121": {"layers": (6, 12, 24, 16)},
    "densenet161": {"layers": (6, 12, 36, 24), "growth": 48},
    "densenet169": {"layers": (6, 12, 32, 32)},
    "densenet201": {"layers": (6, 12, 48, 32)},
}

for _name, _plan in _PLANS.items():
    register_model(_name)(partial(DenseNet, **_plan))
