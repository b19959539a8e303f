"""U-Nets of any convolution."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn

from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.spec import ConvFactory, ConvSpec
from kanvolution.models.attentions import MakeAttention, make_attention
from kanvolution.models.factories import first_conv
from kanvolution.models.network import check_choice
from kanvolution.models.registry import register_model
from kanvolution.models.resnet import BLOCKS, Residual
from kanvolution.models.segmenter import DecoderStage, Segmenter

UPSAMPLES = ("bilinear", "transpose")


class UNet(Segmenter):
    """An encoder of `depth` stages, each with twice the channels and half the size of the one before, and a decoder.

    With c = width * 2^i channels on level i, a stage of the encoder is `layers` blocks, in -> c, the first of stride 2
    (but on level 0). A stage of the decoder takes 2c channels from the level below, resized, and c of the skip, and
    makes c of them by `layers` blocks. A "plain" block is a 3x3 convolution. The others are the residual blocks of
    `ResNet`; with them there is a 3x3 convolution before the first stage and before the blocks of each stage of the
    decoder, and the last stage of the encoder has twice as many blocks.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: channels of the logits; 0 leaves the head out.
        in_chans: channels of the input.
        width: channels of the first stage.
        depth: number of stages of the encoder, at least 2.
        layers: blocks in a stage.
        block: "plain", or "basic", "light" or "bottleneck" (see `resnet.BLOCKS`).
        groups: groups of the 3x3 convolutions, but for those of the image.
        attention: at the beginning of each stage of the decoder: "self" (`SelfAttention`), "focal" (`FocalModulation`),
            (channels, conv factory) -> module, or None.
        align_corners: how "bilinear" resizes; see `segmenter.resize`.
        upsample: "bilinear", or "transpose" for a transposed Kolmogorov-Arnold convolution of kernel and stride 2 that
            halves the channels; conv must be a `ConvSpec` then (or a name, or a dictionary).
        deep_supervision: give side outputs in training; see `Segmenter`.
        drop_rate: dropout of whole channels before the head.

    Shape:
        input [N, in_chans, H, W]; output [N, num_classes, H, W].

    Raises:
        ValueError: an unknown name, a value out of range, a factory that makes no transposed convolutions.

    Source: Ronneberger et al., "U-Net", arXiv 1505.04597; torch-conv-kan's UKANet ("light") and
    UKAGNet ("plain").

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("unet", conv="gram", num_classes=2, in_chans=1, width=4, depth=3)
        >>> model(torch.randn(1, 1, 37, 50)).shape
        torch.Size([1, 2, 37, 50])
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        width: int = 16,
        depth: int = 4,
        layers: int = 2,
        block: str = "plain",
        groups: int = 1,
        attention: str | MakeAttention | None = None,
        upsample: str = "bilinear",
        align_corners: bool = False,
        deep_supervision: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, deep_supervision=deep_supervision)
        integer_at_least("width", width, 1)
        integer_at_least("depth", depth, 2)
        integer_at_least("layers", layers, 1)
        divisible("width", width, "groups", integer_at_least("groups", groups, 1))
        check_choice("block", block, ("plain", *BLOCKS))
        check_choice("upsample", upsample, UPSAMPLES)
        if upsample == "transpose" and not isinstance(self.conv, ConvSpec):
            raise ValueError(f"upsample='transpose' needs a ConvSpec, got {conv!r}; or use upsample='bilinear'")
        plan = BLOCKS.get(block)
        if plan is not None:
            divisible("width", width, f"the expansion of block {block!r}", plan.expansion)

        def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            return self.conv(inputs, outputs, 3, stride=stride, padding=1, groups=groups)

        def make_block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            if plan is None:
                return conv3x3(inputs, outputs, stride)
            return Residual(self.conv, plan, inputs, outputs // plan.expansion, stride, groups)

        def blocks(channels: int, count: int) -> list[nn.Module]:
            return [make_block(channels, channels) for _ in range(count)]

        attend = make_attention(attention)
        channels = [width * 2**i for i in range(depth)]
        after_entry = layers - (plan is None)  # the 3x3 convolution before is a plain block itself
        stem = first_conv(self.conv)(in_chans, width, 3, padding=1)
        self.encoder = nn.ModuleList([nn.Sequential(stem, *blocks(width, after_entry))])
        for i, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            again = layers if plan is not None and i == depth - 1 else 0
            self.encoder.append(
                nn.Sequential(make_block(inputs, outputs, stride=2), *blocks(outputs, layers - 1 + again))
            )
        self.decoder = nn.ModuleList()
        for below, skip in pairwise(reversed(channels)):
            up = None
            if isinstance(self.conv, ConvSpec) and upsample == "transpose":
                up = self.conv.transposed(below, skip, 2, stride=2, groups=groups)
                below = skip
            mixer = [] if attend is None else [attend(below + skip, self.conv)]
            body = nn.Sequential(*mixer, conv3x3(below + skip, skip), *blocks(skip, after_entry))
            self.decoder.append(DecoderStage(body, up, align_corners))
        self.finish(channels, channels[-2::-1], num_classes)


register_model("unet")(UNet)
