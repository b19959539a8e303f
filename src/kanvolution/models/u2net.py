"""U^2-Nets of any convolution: U-Nets whose stages are U-Nets themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import first_conv, scaled
from kanvolution.models.registry import register_model
from kanvolution.models.segmenter import DecoderStage, Segmenter, resize


class U2Net(Segmenter):
    """An encoder and a decoder of `ResidualU` blocks, with 2x2 max pooling between the stages of the encoder.

    Level i of L has a block of `channels[i]` outputs and depth `depths[i]` in the encoder and one of
    `channels[max(i - 1, 0)]` outputs in the decoder; the `dilated` lowest levels have blocks that dilate instead of
    pooling. A 3x3 convolution makes side logits of each map of the decoder and of the lowest of the encoder; a 1x1
    convolution of all of them makes the prediction.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: channels of the logits; 0 leaves the head out.
        in_chans: channels of the input.
        channels: output channels of each stage of the encoder; at least two stages.
        mid_channels: channels inside the blocks of each level.
        last_mid_channels: channels inside the last block of the decoder.
        depths: depth of the blocks of each level.
        dilated: number of levels whose blocks dilate, from the lowest.
        width_scale: factor of all channels.
        groups: groups of every convolution but the first.
        align_corners: how the blocks resize their maps inside; see `segmenter.resize`.
        deep_supervision: give side outputs in training; see `Segmenter`.
        drop_rate: dropout of whole channels before the head.

    Shape:
        input [N, in_chans, H, W]; output [N, num_classes, H, W].

    Raises:
        ValueError: a value out of range, or plans of different lengths.

    Source: Qin et al., "U2-Net", arXiv 2005.09007; the channels of torch-conv-kan's U2KANet.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("u2net_small", conv="gram", num_classes=1, in_chans=3)
        >>> model(torch.randn(2, 3, 40, 33)).shape
        torch.Size([2, 1, 40, 33])
    """

    head_kernel_size = 3
    head_fuses = True

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        channels: Sequence[int],
        mid_channels: Sequence[int],
        last_mid_channels: int = 4,
        depths: Sequence[int] = (7, 6, 5, 4, 4, 4),
        dilated: int = 2,
        width_scale: float = 1.0,
        groups: int = 1,
        align_corners: bool = False,
        deep_supervision: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, deep_supervision=deep_supervision)
        levels = len(channels)
        if levels < 2 or not levels == len(mid_channels) == len(depths):
            raise ValueError(
                f"channels (={list(channels)}), mid_channels (={list(mid_channels)}) and depths (={list(depths)}) must "
                "have one entry for each of at least 2 levels"
            )
        integer_at_least("dilated", dilated, 0)
        outer = [scaled(integer_at_least("channels", c, 1), width_scale) for c in channels]
        inner = [scaled(integer_at_least("mid_channels", c, 1), width_scale) for c in mid_channels]
        last_inner = scaled(integer_at_least("last_mid_channels", last_mid_channels, 1), width_scale)
        for width in (*outer, *inner, last_inner):
            divisible("channels of a level", width, "groups", integer_at_least("groups", groups, 1))

        def entry(inputs: int, outputs: int) -> nn.Module:
            return self.conv(inputs, outputs, 3, padding=1, groups=groups)

        def block(level: int, first: nn.Module, middle: int, outputs: int) -> nn.Module:
            dilates = level >= levels - dilated
            return ResidualU(self.conv, first, middle, outputs, depths[level], dilates, groups, align_corners)

        stem = first_conv(self.conv)(in_chans, outer[0], 3, padding=1)
        self.encoder = nn.ModuleList([block(0, stem, inner[0], outer[0])])
        for i in range(1, levels):
            pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
            self.encoder.append(nn.Sequential(pool, block(i, entry(outer[i - 1], outer[i]), inner[i], outer[i])))
        self.decoder = nn.ModuleList()
        below = outer[-1]
        for i in reversed(range(levels - 1)):
            middle, outputs = (inner[i], outer[i - 1]) if i else (last_inner, outer[0])
            self.decoder.append(DecoderStage(block(i, entry(below + outer[i], outputs), middle, outputs)))
            below = outputs
        decoder_channels = [outer[max(i - 1, 0)] for i in reversed(range(levels - 1))]
        self.finish(outer, decoder_channels, num_classes)


class ResidualU(nn.Module):
    """y + U(y) with y = entry(x) and a small U-Net U of 3x3 convolutions.

    U has `depth` convolutions down, the last of dilation 2, with 2x2 max pooling before all but the first and the last,
    and depth - 1 up, each of the map below, resized, and the skip. A dilated one keeps the size: its convolutions have
    the dilations 1, 2, 4, ..., 2^(depth - 1) down and back up in place of pooling.

    Args:
        conv: conv factory of U.
        entry: a convolution to out_channels.
        mid_channels: channels inside.
        out_channels: channels of the output.
        depth: convolutions down, at least 2.
        dilated: dilate instead of pooling.
        groups: groups of the convolutions of U.
        align_corners: how maps are resized; see `segmenter.resize`.

    Source: Qin et al., "U2-Net", arXiv 2005.09007, section 3.1 (RSU-L and RSU-4F).
    """

    def __init__(
        self,
        conv: ConvFactory,
        entry: nn.Module,
        mid_channels: int,
        out_channels: int,
        depth: int,
        dilated: bool = False,
        groups: int = 1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        integer_at_least("depth", depth, 2)
        down = [2**i for i in range(depth)] if dilated else [1] * (depth - 1) + [2]
        up = down[-2::-1]

        def conv3x3(inputs: int, outputs: int, dilation: int) -> nn.Module:
            return conv(inputs, outputs, 3, padding=dilation, dilation=dilation, groups=groups)

        self.entry = entry
        self.align_corners = align_corners
        self.down = nn.ModuleList(
            conv3x3(mid_channels if i else out_channels, mid_channels, dilation) for i, dilation in enumerate(down)
        )
        self.up = nn.ModuleList(
            conv3x3(2 * mid_channels, mid_channels if i < depth - 2 else out_channels, dilation)
            for i, dilation in enumerate(up)
        )
        self.pool = None if dilated else nn.MaxPool2d(2, stride=2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        x = entered = self.entry(x)
        maps: list[Tensor] = []
        for i, layer in enumerate(self.down):
            if self.pool is not None and 0 < i < len(self.down) - 1:
                x = self.pool(x)
            x = layer(x)
            maps.append(x)
        for layer, skip in zip(self.up, maps[-2::-1], strict=True):
            x = layer(torch.cat([resize(x, skip, self.align_corners), skip], dim=1))
        return entered + x


_PLANS = {
    "u2net": ((16, 32, 64, 128, 128, 128), (8, 8, 16, 32, 64, 64)),
    "u2net_small": ((16,) * 6, (4,) * 6),
}

for _name, (_channels, _mid_channels) in _PLANS.items():
    register_model(_name)(partial(U2Net, channels=_channels, mid_channels=_mid_channels))
