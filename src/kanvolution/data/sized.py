"""Images of any size brought to one: in memory where they fit, from their source where they do not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from kanvolution.checks import integer_at_least
from kanvolution.data.images import cover, unit_range
from kanvolution.data.info import DataInfo, DataSets, channel_statistics
from kanvolution.data.sources import ImageSource
from kanvolution.data.tensors import TensorImages

MEMORY_LIMIT = 2**30
"""Bytes of images that are kept in memory where the option `in_memory` is left open."""


class SizedImages(Dataset):
    """Images of a source, read when asked for.

    Args:
        source: the images and labels.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) of every image.
        crop_share: share of the scaled image that is taken, see `cover`.
        crop_scale: where given, a random part of the image is taken that has between these shares of its area and
            between 3/4 and 4/3 of the wanted ratio of its sides; for training images.
    """

    def __init__(
        self,
        source: ImageSource,
        channels: int,
        size: tuple[int, int],
        crop_share: float = 1.0,
        crop_scale: tuple[float, float] | None = None,
    ) -> None:
        self.source, self.channels, self.size, self.crop_share = source, channels, size, crop_share
        ratio = size[1] / size[0]
        self.crop = crop_scale and v2.RandomResizedCrop(size, crop_scale, (0.75 * ratio, ratio / 0.75), antialias=True)

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit_range(self.read(index)), self.source.labels[index]

    def read(self, index: int) -> Tensor:
        """An image as uint8 [C, H, W]."""
        image = self.source.read(index, self.channels)
        return self.crop(image) if self.crop else cover(image, self.size, self.crop_share)

    def in_memory(self) -> TensorImages:
        """All images, read now."""
        images = torch.empty(len(self), self.channels, *self.size, dtype=torch.uint8)
        for index in range(len(self)):
            images[index] = self.read(index)
        return TensorImages(images, torch.as_tensor(self.source.labels))


def sized_data_sets(
    name: str,
    train: ImageSource,
    val: ImageSource,
    class_names: Sequence[str],
    *,
    channels: int,
    size: tuple[int, int],
    crop_share: float = 1.0,
    crop_scale: Sequence[float] | None = None,
    in_memory: bool | None = False,
    check: bool = False,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> DataSets:
    """`DataSets` of two sources.

    Args:
        name: of the data set.
        train: the training images.
        val: the validation images.
        class_names: by label.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) of every image.
        crop_share: share of the scaled image that is taken, see `cover`.
        crop_scale: smallest and largest share of the area that random crops of training images have; None takes them
            as validation images are taken.
        in_memory: read all images now and keep them; None does so up to `MEMORY_LIMIT` bytes. Random crops keep none.
        check: read every image now, so that a broken one is reported at once.
        statistics: mean and std of each channel; None measures them on a thousand training images.

    Raises:
        ValueError: an option out of range, or an image that cannot be read.
    """
    scale = None if crop_scale is None else _checked_scale(crop_scale)
    plain = [SizedImages(source, channels, size, crop_share) for source in (train, val)]
    if in_memory is None:
        in_memory = check and sum(map(len, plain)) * channels * size[0] * size[1] <= MEMORY_LIMIT
    sets: list[Dataset] = list(plain)
    if in_memory and scale is None:
        sets = [images.in_memory() for images in plain]
    elif check:
        for images in plain:
            for index in range(len(images)):
                images.read(index)
    if statistics is None:
        # Evenly spread over the classes, which lie one after the other; 1000 images give three digits.
        step = max(1, len(plain[0]) // 1000)
        statistics = channel_statistics([sets[0][i][0] for i in range(0, len(plain[0]), step)])
    if scale is not None:
        sets[0] = SizedImages(train, channels, size, crop_scale=scale)
    info = DataInfo(name, channels, size, tuple(class_names), *statistics, crop_share=crop_share)
    return DataSets(sets[0], sets[1], info)


def image_size_pair(value: int | Sequence[int], name: str = "data.image_size") -> tuple[int, int]:
    """`value`, a number or [height, width], as (height, width). Raises ValueError or TypeError for anything else."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2:
        raise ValueError(f"{name} (={value}) must be a number of pixels or [height, width]")
    return integer_at_least(name, sides[0], 1), integer_at_least(name, sides[1], 1)


def _checked_scale(scale: Sequence[float]) -> tuple[float, float]:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"data.crop_scale (={list(scale)}) must be two shares, 0 < smallest <= largest <= 1")
    return float(scale[0]), float(scale[1])
