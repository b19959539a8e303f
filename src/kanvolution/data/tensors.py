"""Images that are held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.images import unit_range
from kanvolution.data.info import DataInfo, DataSets, channel_statistics
from kanvolution.data.splits import stratified_split


class TensorImages(Dataset):
    """Images [N, C, H, W] and their targets in memory.

    Args:
        images: uint8 in 0..255, or floating point in [0, 1].
        targets: integers, labels [N] or masks [N, H, W] of class indices.

    Raises:
        ValueError: the numbers of images and targets differ, or there are none.
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        if len(images) != len(targets) or not len(images):
            raise ValueError(f"{len(images)} images and {len(targets)} labels; there must be as many, and at least one")
        self.images = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        images, targets = self.take([index])
        return images[0], targets[0]

    def take(self, indices: Sequence[int]) -> tuple[Tensor, list[int] | Tensor]:
        """Images [N, C, H, W] in [0, 1] and targets of several samples at once, labels as a list of int."""
        chosen = torch.as_tensor(indices)
        images, targets = self.images[chosen], self.targets[chosen].long()
        return unit_range(images), targets.tolist() if targets.ndim == 1 else targets


def split_tensors(
    images: Tensor, labels: Tensor, fraction: float, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(images, labels) of the training part and of the held-out part; see `stratified_split`."""
    train, held_out = (torch.tensor(part) for part in stratified_split(labels.tolist(), fraction, seed))
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def tensor_data_sets(
    name: str, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], class_names: tuple[str, ...]
) -> DataSets:
    """`DataSets` of (images [N, C, H, W], targets) pairs, with mean and std of the training images."""
    sets = TensorImages(*train), TensorImages(*val)
    _, channels, height, width = train[0].shape
    # A few thousand images give the statistics to three digits, and the start of a run stays short.
    chosen = torch.linspace(0, len(sets[0]) - 1, min(len(sets[0]), 5000)).long().tolist()
    mean, std = channel_statistics(sets[0].take(chosen)[0])
    targets = "labels" if train[1].ndim == 1 else "masks"
    return DataSets(*sets, DataInfo(name, channels, (height, width), class_names, mean, std, targets=targets))
