"""The baselines: a stack of 3x3 convolutions, global average pooling, a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from kanvolution.checks import probability
from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.models.registry import register_model


class SimpleNet(nn.Module):
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
        super().__init__()
        conv = resolve_conv(conv, ndim=2)
        if len(channels) != len(strides) or not channels:
            raise ValueError(f"channels (={list(channels)}) and strides (={list(strides)}) must have one entry a layer")
        widths = (in_chans, *channels)
        self.layers = nn.Sequential(
            *(
                conv(widths[i], widths[i + 1], 3, stride=stride, padding=1, groups=groups if i else 1)
                for i, stride in enumerate(strides)
            )
        )
        self.num_features = channels[-1]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(probability("drop_rate", drop_rate))
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0 leaves it out."""
        self.num_classes = num_classes
        like = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        self.head = nn.Identity() if head is None else head
        if hasattr(self, "config"):  # what create_model would make this model from
            self.config = {**self.config, "num_classes": num_classes}

    def forward_features(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> feature map [N, num_features, H', W']."""
        return self.layers(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map -> logits [N, num_classes], or the pooled features with `pre_logits`."""
        x = self.drop(self.pool(x).flatten(1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_PLANS = {
    "simple4": ((32, 64, 128, 256), (1, 2, 2, 1)),
    "simple8": ((16, 32, 64, 128, 256, 256, 512, 512), (1, 2, 2, 1, 1, 2, 1, 1)),
}

for _name, (_channels, _strides) in _PLANS.items():
    register_model(_name)(partial(SimpleNet, channels=_channels, strides=_strides))
