"""Residual networks (ResKANet): stages of blocks that add what their convolutions make to their input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from kanvolution.checks import integer_at_least
from kanvolution.layers.spec import ConvFactory
from kanvolution.models.factories import StageConvs, convs_of_stages, scaled, without_activation
from kanvolution.models.heads import MakeHead
from kanvolution.models.network import Classifier, FeatureInfo, check_choice
from kanvolution.models.registry import register_model
from kanvolution.models.stem import make_stem


@dataclass(frozen=True)
class Block:
    """The convolutions of a block: their kernels, and by how much the last has more channels than the others."""

    kernels: tuple[int, ...]
    expansion: int = 1


BLOCKS = {
    "basic": Block((3, 3)),
    "light": Block((3, 1)),
    "bottleneck": Block((1, 3, 1), 4),
}
"""Blocks by name. "light" is torch-conv-kan's basic block. The first 3x3 convolution has the stride and the groups."""


class Residual(nn.Module):
    """act(shortcut(x) + convs(x)): the last convolution has no activation, the sum has it.

    The shortcut is the identity, or a 1x1 convolution with the stride where shapes differ.

    Args:
        conv: conv factory. The activation of a `ConvSpec` is applied to the sum; a factory of one's own stays as it is.
        block: which convolutions.
        in_channels: channels of the input.
        channels: channels of the convolutions but for the last, which has `block.expansion` times as many.
        stride: of the block.
        groups: of the 3x3 convolutions.
        inner_scale: factor of the channels of all convolutions but the last.

    Shape:
        input [N, in_channels, H, W]; output [N, channels * expansion, H / stride, W / stride], rounded up.

    Source: He et al., arXiv 1512.03385, figures 2 and 5; the stride is at the 3x3 convolution.
    """

    def __init__(
        self,
        conv: ConvFactory,
        block: Block,
        in_channels: int,
        channels: int,
        stride: int = 1,
        groups: int = 1,
        inner_scale: float = 1.0,
    ) -> None:
        super().__init__()
        last_conv, activation = without_activation(conv)
        outputs = channels * block.expansion
        widths = [in_channels, *[scaled(channels, inner_scale)] * (len(block.kernels) - 1), outputs]
        striding = block.kernels.index(3)
        self.convs = nn.Sequential()
        for i, kernel in enumerate(block.kernels):
            make = last_conv if i == len(block.kernels) - 1 else conv
            self.convs.append(
                make(
                    widths[i],
                    widths[i + 1],
                    kernel,
                    stride=stride if i == striding else 1,
                    padding=kernel // 2,
                    groups=groups if kernel == 3 else 1,
                )
            )
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != outputs:
            self.shortcut = last_conv(in_channels, outputs, 1, stride=stride)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.convs(x))

    def start_as_shortcut(self) -> None:
        """Set the gain of the norm at the end of the convolutions, if there is one, to zero."""
        gain = getattr(getattr(self.convs[-1], "norm", None), "weight", None)
        if gain is not None:
            nn.init.zeros_(gain)


class ResNet(Classifier):
    """A stem, stages of residual blocks, average pooling, and a head.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        layers: number of blocks of each stage.
        block: "basic", "bottleneck", or "light" (see `BLOCKS`).
        widths: channels of each stage; a bottleneck's output has four times as many.
        width_scale: factor of all channels.
        groups: groups of the 3x3 convolutions in blocks.
        inner_scale: factor of the channels of the convolutions in a block but the last, as in wide and in grouped
            residual networks.
        stage_convs: a conv factory for each stage where it differs (experts in the last one, say), None for `conv`.
        stem_width: channels of the first convolution, None for `widths[0]`.
        stem_kernel: its kernel, odd.
        stem_stride: its stride.
        stem_pool: whether a max pooling of stride 2 follows it.
        zero_init_last: whether blocks start as their shortcuts, the last norm's gain being zero.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of the head, see `HEADS`, or (features, num_classes) -> module.
        head_width: features of the head's hidden layers; None for its own.

    Shape:
        input [N, in_chans, H, W], H and W at least 32 (8 without strides in the stem); output [N, num_classes].

    Raises:
        ValueError: a value out of range, or an unknown name.

    Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385.
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        layers: Sequence[int],
        block: str = "basic",
        widths: Sequence[int] = (64, 128, 256, 512),
        width_scale: float = 1.0,
        groups: int = 1,
        inner_scale: float = 1.0,
        stage_convs: StageConvs | None = None,
        stem_width: int | None = None,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        zero_init_last: bool = True,
        drop_rate: float = 0.0,
        head: str | MakeHead = "linear",
        head_width: int | None = None,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, head=head, head_width=head_width)
        check_choice("block", block, tuple(BLOCKS))
        if len(layers) != len(widths) or not layers or min(layers) < 1:
            raise ValueError(f"layers (={list(layers)}) and widths (={list(widths)}) must have one entry >= 1 a stage")
        plan = BLOCKS[block]
        width = scaled(widths[0] if stem_width is None else integer_at_least("stem_width", stem_width, 1), width_scale)
        self.stem, reduction = make_stem(self.conv, in_chans, width, stem_kernel, stem_stride, stem_pool)
        self.stages = nn.ModuleList()
        info = []
        convs = convs_of_stages(self.conv, stage_convs, len(layers))
        for i, (factory, count, channels) in enumerate(zip(convs, layers, widths, strict=True)):
            stage = nn.Sequential()
            channels = scaled(channels, width_scale)
            for j in range(count):
                stride = 2 if i and not j else 1
                stage.append(Residual(factory, plan, width, channels, stride, groups, inner_scale))
                width = channels * plan.expansion
            self.stages.append(stage)
            info.append(FeatureInfo(f"stages.{i}", width, reduction * 2**i))
        self.feature_info = tuple(info)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, Residual):
                    module.start_as_shortcut()
        self.finish(num_classes)


_PLANS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}

for _name, (_block, _layers) in _PLANS.items():
    register_model(_name)(partial(ResNet, layers=_layers, block=_block))
