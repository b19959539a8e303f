"""What networks of segmentation have in common: an encoder, a decoder with skips, logits for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.checks import probability
from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.models.network import FeatureInfo, Network


class Segmenter(Network):
    """A `Network` of an encoder, and a decoder that goes back to the size of the image over the encoder's maps.

    Image [N, in_chans, H, W] -> logits [N, num_classes, H, W], of any size: a stage of stride 2 makes ceil(H / 2) of H,
    and the decoder resizes each map to that of the encoder it joins.

    With `deep_supervision` the output in training is a list of logits of that shape: first the prediction, then those
    from the maps of the decoder, from fine to coarse. The task weighs their losses. In evaluation, and without
    `deep_supervision`, the output is the prediction alone.

    A subclass sets `encoder`, whose first stage keeps the size of the image, and `decoder`, one `DecoderStage` for each
    stage of the encoder but the last, and calls `finish` with the channels of their maps.

    Args:
        conv: conv factory, name of a basis, or dictionary of a `ConvSpec`; `self.conv` is the factory.
        drop_rate: dropout of whole channels before the head.
        deep_supervision: give the side outputs in training.
    """

    pipeline_tag = "image-segmentation"

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    head_kernel_size = 1
    head_fuses = False

    def __init__(
        self, conv: str | Mapping[str, Any] | ConvFactory, *, drop_rate: float = 0.0, deep_supervision: bool = False
    ) -> None:
        super().__init__()
        self.conv = resolve_conv(conv, ndim=2)
        self.drop = nn.Dropout2d(probability("drop_rate", drop_rate))
        self.deep_supervision = deep_supervision

    def finish(self, encoder_channels: Sequence[int], decoder_channels: Sequence[int], num_classes: int) -> None:
        """Set what follows from the channels of the stages, in the order in which they run, and make the head."""
        levels = len(encoder_channels)
        names = [f"encoder.{i}" for i in range(levels)] + [f"decoder.{i}" for i in range(levels - 1)]
        level = [*range(levels), *reversed(range(levels - 1))]
        channels = [*encoder_channels, *decoder_channels]
        self.feature_info = tuple(
            FeatureInfo(name, width, 2**i) for name, width, i in zip(names, channels, level, strict=True)
        )
        self.set_feature_channels(channels)
        self.reset_classifier(num_classes)

    def set_feature_channels(self, channels: Sequence[int]) -> None:
        super().set_feature_channels(channels)
        self.head_channels = tuple(reversed(channels[len(self.encoder) - 1 :]))
        self.num_features = self.head_channels[0]

    @property
    def smallest_image(self) -> int:
        return 1

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The maps of the encoder, from fine to coarse, and then those of the decoder, from coarse to fine."""
        self.check_input(x)
        maps = []
        for stage in self.encoder:
            x = self.run(stage, x)
            maps.append(x)
        skips = maps[-2::-1]
        for stage, skip in zip(self.decoder, skips, strict=True):
            x = self.run(stage, x, skip)
            maps.append(x)
        return maps

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The maps that the head takes, from fine to coarse: those of the decoder and the encoder's last."""
        return self.forward_stages(x)[: len(self.encoder) - 2 : -1]

    def forward_head(self, x: list[Tensor], pre_logits: bool = False) -> Tensor | list[Tensor]:
        """Those maps -> logits; with `pre_logits` the finest map, [N, num_features, H, W]."""
        maps = [self.drop(feature_map) for feature_map in x]
        return maps[0] if pre_logits or self.num_classes == 0 else self.head(maps)

    def make_head(self, num_classes: int) -> nn.Module:
        return SegmentationHead(
            self.head_channels, num_classes, self.head_kernel_size, self.head_fuses, self.deep_supervision
        )


class DecoderStage(nn.Module):
    """(coarse map, skip) -> body(concatenation of the coarse map, resized to the skip, and the skip).

    Args:
        body: takes the channels of both.
        upsample: a module that doubles the size of the coarse map, or None to interpolate. Rows and columns beyond the
            skip's are cut off.
        align_corners: see `resize`.
    """

    def __init__(self, body: nn.Module, upsample: nn.Module | None = None, align_corners: bool = False) -> None:
        super().__init__()
        self.upsample = upsample
        self.align_corners = align_corners
        self.body = body

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[2:]
        x = resize(x, skip, self.align_corners) if self.upsample is None else self.upsample(x)[..., :height, :width]
        return self.body(torch.cat([x, skip], dim=1))


class SegmentationHead(nn.Module):
    """Maps from fine to coarse -> logits at the size of the first.

    A plain convolution for each map makes logits, interpolated to the size of the first. The prediction is the first of
    these or, with `fuses`, a 1x1 convolution of all of them.

    Args:
        channels: of the maps.
        num_classes: channels of the logits.
        kernel_size: of the convolutions, odd.
        fuses: whether the prediction is made of all maps.
        deep_supervision: in training return a list, the prediction and then the side outputs.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        kernel_size: int = 1,
        fuses: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        count = len(channels) if fuses or deep_supervision else 1
        self.sides = nn.ModuleList(
            nn.Conv2d(width, num_classes, kernel_size, padding=kernel_size // 2) for width in channels[:count]
        )
        self.fuse = nn.Conv2d(count * num_classes, num_classes, 1) if fuses else None

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        deep = self.deep_supervision and self.training
        count = len(self.sides) if deep or self.fuse is not None else 1
        outputs = [resize(side(x), maps[0]) for side, x in zip(self.sides[:count], maps, strict=False)]
        if self.fuse is not None:
            outputs.insert(0, self.fuse(torch.cat(outputs, dim=1)))
        return outputs if deep else outputs[0]


def resize(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """x interpolated bilinearly to the height and width of `like`.

    With `align_corners` the centres of the corner pixels keep their values, else pixels are taken as areas.
    """
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=align_corners)


def predicted_mask(output: Any) -> Tensor:
    """Logits [N, C, *S] (a list with the prediction first) as class indices [N, *S]; one channel is for two classes."""
    output = output[0] if isinstance(output, list | tuple) else output
    return (output[:, 0] > 0).long() if output.shape[1] == 1 else torch.argmax(output, 1)
