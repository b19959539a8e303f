"""VGG networks: stages of 3x3 convolutions with max pooling between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from kanvolution.layers.spec import ConvFactory
from kanvolution.models.attentions import MakeAttention, make_attention
from kanvolution.models.factories import StageConvs, convs_of_stages, first_conv, scaled
from kanvolution.models.heads import MakeHead
from kanvolution.models.network import Classifier, FeatureInfo
from kanvolution.models.registry import register_model


class VGG(Classifier):
    """Stages of 3x3 convolutions, a max pooling of 2 before each but the first, average pooling, and a head.

    Args:
        conv: conv factory. The first layer has none of its dropout.
        num_classes: number of outputs; 0 leaves the head out.
        in_chans: channels of the input.
        channels: output channels of the layers, a list for each stage.
        width_scale: factor of all channels.
        groups: groups of every layer but the first.
        stage_convs: a conv factory for each stage where it differs, None for `conv`.
        attention: "self" (`SelfAttention`) or "focal" (`FocalModulation`) at the end of some stages, (channels, conv
            factory) -> module, or None.
        attention_stages: which stages, negative ones counted from the end.
        pool_size: side, or height and width, of the map that the features are averaged to.
        drop_rate: dropout before the head and after its hidden layers.
        head: name of the head, see `HEADS`.
        head_width: features of the head's hidden layers; None for its own.

    Shape:
        input [N, in_chans, H, W], H and W at least 2^(stages - 1); output [N, num_classes].

    Raises:
        ValueError: a value out of range, an unknown name, a stage that is not there.

    Source: Simonyan and Zisserman, arXiv 1409.1556; the channels are torch-conv-kan's.
    """

    def __init__(
        self,
        conv: str | Mapping[str, Any] | ConvFactory,
        num_classes: int,
        in_chans: int,
        *,
        channels: Sequence[Sequence[int]],
        width_scale: float = 1.0,
        groups: int = 1,
        stage_convs: StageConvs | None = None,
        attention: str | MakeAttention | None = None,
        attention_stages: Sequence[int] = (-2, -1),
        pool_size: int | Sequence[int] = 1,
        drop_rate: float = 0.0,
        head: str | MakeHead = "linear",
        head_width: int | None = None,
    ) -> None:
        super().__init__(conv, drop_rate=drop_rate, head=head, head_width=head_width, pool_size=pool_size)
        if not channels or not all(channels):
            raise ValueError(f"channels (={channels!r}) must be lists of channels, one for each stage, none empty")
        attend = make_attention(attention)
        attended = _indices("attention_stages", attention_stages, len(channels)) if attend is not None else set()
        convs = convs_of_stages(self.conv, stage_convs, len(channels))
        self.stem = nn.Identity()
        self.stages = nn.ModuleList()
        info, width = [], in_chans
        for i, (factory, stage) in enumerate(zip(convs, channels, strict=True)):
            modules: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
            for j, outputs in enumerate(scaled(c, width_scale) for c in stage):
                is_first = i == j == 0
                make = first_conv(factory) if is_first else factory
                modules.append(make(width, outputs, 3, padding=1, groups=1 if is_first else groups))
                width = outputs
            if attend is not None and i in attended:
                modules.append(attend(width, factory))
            self.stages.append(nn.Sequential(*modules))
            info.append(FeatureInfo(f"stages.{i}", width, 2**i))
        self.feature_info = tuple(info)
        self.finish(num_classes)


def _indices(name: str, given: Sequence[int], count: int) -> set[int]:
    if not given or not all(-count <= i < count for i in given):
        raise ValueError(f"{name} (={list(given)}) must be between {-count} and {count - 1}, at least one")
    return {i % count for i in given}


# depth -> convolutions in each of the first five stages
_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (16, 32, 64, 128, 128)
# version -> channels of a sixth stage
_LAST_STAGE: dict[str, tuple[int, ...]] = {"": (), "v2": (128, 128), "v3": (128, 256), "v4": (256, 256)}


def plan(depth: int, version: str = "") -> tuple[tuple[int, ...], ...]:
    """The channels of the layers of each stage; version "" (five stages), "v2", "v3" or "v4" (six)."""
    stages = tuple((width,) * count for width, count in zip(_WIDTHS, _DEPTHS[depth], strict=True))
    return (*stages, _LAST_STAGE[version]) if version else stages


for _depth in _DEPTHS:
    for _version in _LAST_STAGE:
        register_model(f"vgg{_depth}{_version}")(partial(VGG, channels=plan(_depth, _version)))
