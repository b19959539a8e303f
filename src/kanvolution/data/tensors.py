"""Images that are held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.info import DataInfo, DataSets, channel_statistics


class TensorImages(Dataset):
    """Images [N, C, H, W] and labels [N] in memory.

    Args:
        images: uint8 in 0..255, or floating point in [0, 1].
        labels: integers.

    Raises:
        ValueError: the numbers of images and labels differ, or there are none.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if len(images) != len(labels) or not len(images):
            raise ValueError(f"{len(images)} images and {len(labels)} labels; there must be as many, and at least one")
        self.images = images
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _in_unit_range(self.images[index]), self.labels[index]

    def take(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Images [N, C, H, W] in [0, 1] and labels of several samples at once."""
        return _in_unit_range(self.images[torch.as_tensor(indices)]), [self.labels[i] for i in indices]


def _in_unit_range(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def tensor_data_sets(
    name: str, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], class_names: tuple[str, ...]
) -> DataSets:
    """`DataSets` of (images [N, C, H, W], labels [N]) pairs, with mean and std of the training images."""
    sets = TensorImages(*train), TensorImages(*val)
    _, channels, height, width = train[0].shape
    # A few thousand images give the statistics to three digits, and the start of a run stays short.
    chosen = torch.linspace(0, len(sets[0]) - 1, min(len(sets[0]), 5000)).long().tolist()
    mean, std = channel_statistics([sets[0][i][0] for i in chosen])
    return DataSets(*sets, DataInfo(name, channels, (height, width), class_names, mean, std))
