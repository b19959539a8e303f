"""U-Nets of any convolution."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.spec import ConvFactory, ConvSpec, resolve_conv
from kanvolution.models.network import check_choice
from kanvolution.models.registry import register_model
from kanvolution.models.segmenter import DecoderStage, Segmenter

UPSAMPLES = ("bilinear", "transpose")


class UNet(Segmenter):
    """An encoder of `depth` stages, each with twice the channels and half the size of the one before, and a decoder.

    With c = width * 2^i channels on level i, a stage of the encoder is `layers` blocks, in -> c, the first of stride 2
    (but on level 0). A stage of the decoder takes 2c channels from the level below, resized, and c of the skip, and
    makes c of them by `layers` blocks. Blocks are:

    - "plain": one 3x3 convolution; as torch-conv-kan's UKAGNet.
    - "basic": x -> conv1x1(conv3x3(x)) + x, with a 1x1 convolution of x where channels or size change; as its UKANet.
    - "bottleneck": x -> conv1x1(conv3x3(conv1x1(x))) + x with c / 4 channels inside.

    With the two residual blocks there is a 3x3 convolution before the first stage and one before the blocks of each
    stage of the decoder, and the last stage of the encoder has twice as many blocks, as in UKANet.

    Args:
        conv: conv factory.
        num_classes: channels of the logits; 0 leaves the head out.
        in_chans: channels of the input.
        width: channels of the first stage.
        depth: number of stages of the encoder, at least 2.
        layers: blocks in a stage.
        block: "plain", "basic" or "bottleneck".
        groups: groups of the 3x3 convolutions, but for those of the image.
        upsample: "bilinear", or "transpose" for a transposed Kolmogorov-Arnold convolution of kernel and stride 2 that
            halves the channels; conv must be a `ConvSpec` then (or a name, or a dictionary).
        deep_supervision: give side outputs in training; see `Segmenter`.
        drop_rate: dropout of whole channels before the head.

    Shape:
        input [N, in_chans, H, W]; output [N, num_classes, H, W].

    Raises:
        ValueError: an unknown name, a value out of range, a factory that makes no transposed convolutions.

    Source: Ronneberger et al., "U-Net", arXiv 1505.04597; torch-conv-kan's UKANet and UKAGNet.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("unet", conv="gram", num_classes=2, in_chans=1, width=4, depth=3)
        >>> model(torch.randn(1, 1, 37, 50)).shape
        torch.Size([1, 2, 37, 50])
    """

    def __init__(
        self,
        conv: ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        width: int = 16,
        depth: int = 4,
        layers: int = 2,
        block: str = "plain",
        groups: int = 1,
        upsample: str = "bilinear",
        deep_supervision: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(drop_rate, deep_supervision)
        conv = resolve_conv(conv, ndim=2)
        integer_at_least("width", width, 1)
        integer_at_least("depth", depth, 2)
        integer_at_least("layers", layers, 1)
        divisible("width", width, "groups", integer_at_least("groups", groups, 1))
        check_choice("block", block, list(BLOCKS))
        check_choice("upsample", upsample, UPSAMPLES)
        if upsample == "transpose" and not isinstance(conv, ConvSpec):
            raise ValueError(f"upsample='transpose' needs a ConvSpec, got {conv!r}; or use upsample='bilinear'")
        make_block = BLOCKS[block]
        residual = block != "plain"

        def entry(inputs: int, outputs: int, groups: int) -> nn.Module:
            return conv(inputs, outputs, 3, padding=1, groups=groups)

        def blocks(channels: int, count: int) -> list[nn.Module]:
            return [make_block(conv, channels, channels, 1, groups) for _ in range(count)]

        channels = [width * 2**i for i in range(depth)]
        after_entry = layers if residual else layers - 1  # a plain block is a 3x3 convolution like the entry
        self.encoder = nn.ModuleList([nn.Sequential(entry(in_chans, width, 1), *blocks(width, after_entry))])
        for i, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            count = layers - 1 + layers * (residual and i == depth - 1)
            first = make_block(conv, inputs, outputs, 2, groups)
            self.encoder.append(nn.Sequential(first, *blocks(outputs, count)))
        self.decoder = nn.ModuleList()
        for below, skip in pairwise(reversed(channels)):
            up = None
            if isinstance(conv, ConvSpec) and upsample == "transpose":
                up = conv.transposed(below, skip, 2, stride=2, groups=groups)
                below = skip
            body = nn.Sequential(entry(below + skip, skip, groups), *blocks(skip, after_entry))
            self.decoder.append(DecoderStage(body, up))
        self.finish(channels, channels[-2::-1], num_classes)


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def _plain(conv: ConvFactory, inputs: int, outputs: int, stride: int, groups: int) -> nn.Module:
    return conv(inputs, outputs, 3, stride=stride, padding=1, groups=groups)


def _basic(conv: ConvFactory, inputs: int, outputs: int, stride: int, groups: int) -> nn.Module:
    body = nn.Sequential(_plain(conv, inputs, outputs, stride, groups), conv(outputs, outputs, 1))
    return Residual(body, _shortcut(conv, inputs, outputs, stride))


def _bottleneck(conv: ConvFactory, inputs: int, outputs: int, stride: int, groups: int) -> nn.Module:
    inner = groups * max(1, outputs // (4 * groups))
    body = nn.Sequential(conv(inputs, inner, 1), _plain(conv, inner, inner, stride, groups), conv(inner, outputs, 1))
    return Residual(body, _shortcut(conv, inputs, outputs, stride))


def _shortcut(conv: ConvFactory, inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride=stride)


BLOCKS: dict[str, Callable[[ConvFactory, int, int, int, int], nn.Module]] = {
    "plain": _plain,
    "basic": _basic,
    "bottleneck": _bottleneck,
}
"""Blocks by name: (conv, in_channels, out_channels, stride, groups) -> module."""

register_model("unet")(UNet)
