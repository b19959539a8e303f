"""Images that are held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.images import unit_range
from kanvolution.data.info import DataInfo, DataSets, channel_statistics
from kanvolution.data.splits import random_split, stratified_split


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


Pair = tuple[Tensor, Tensor]


def tensor_data_sets(
    name: str,
    train: Pair,
    val: Pair | None = None,
    class_names: Sequence[str] | None = None,
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    ignore_index: int | None = None,
) -> DataSets:
    """`DataSets` of images and targets in memory, with mean and std measured on the training images.

    Args:
        name: of the data set.
        train: images [N, C, H, W], uint8 or floating point in [0, 1], and integer targets: labels [N], or masks
            [N, H, W] of class indices.
        val: what to validate on, likewise; None holds out a part of `train`: of each class, where there are labels.
        class_names: by label; None takes the numbers.
        val_fraction: share that is held out.
        split_seed: seed of that choice.
        ignore_index: what masks hold where a pixel belongs to no class, see `DataInfo`.

    Raises:
        ValueError: images or targets of another shape, type or range, parts that do not fit each other, or an option
            out of range.

    Example:
        >>> import torch
        >>> from kanvolution.data import tensor_data_sets
        >>> sets = tensor_data_sets("noise", (torch.rand(50, 3, 8, 8), torch.arange(50) % 5), class_names="abcde")
        >>> len(sets.train), len(sets.val), sets.info.class_names
        (40, 10, ('a', 'b', 'c', 'd', 'e'))
    """
    parts = [train] if val is None else [train, val]
    for part, images, targets in (("train", *train), ("val", *(val or train))):
        _check(part, images, targets, ignore_index)
        if images.shape[1:] != train[0].shape[1:] or targets.ndim != train[1].ndim:
            raise ValueError(
                f"val (images {list(images.shape)}, targets {list(targets.shape)}) must hold images and targets like "
                f"train ({list(train[0].shape)}, {list(train[1].shape)})"
            )
    high = max(_highest(targets, ignore_index) for _, targets in parts)
    class_names = tuple(map(str, range(high + 1)) if class_names is None else class_names)
    if high >= len(class_names):
        raise ValueError(
            f"label {high} has no name; class_names has {len(class_names)}, for 0 to {len(class_names) - 1}"
        )
    if val is None:
        train, val = _split(train, val_fraction, split_seed)
    sets = TensorImages(*train), TensorImages(*val)
    _, channels, height, width = train[0].shape
    # A few thousand images give the statistics to three digits, and the start of a run stays short.
    chosen = torch.linspace(0, len(sets[0]) - 1, min(len(sets[0]), 5000)).long().tolist()
    mean, std = channel_statistics(sets[0].take(chosen)[0])
    kind = "labels" if train[1].ndim == 1 else "masks"
    info = DataInfo(name, channels, (height, width), class_names, mean, std, targets=kind, ignore_index=ignore_index)
    return DataSets(*sets, info)


def _highest(targets: Tensor, ignore_index: int | None) -> int:
    """The highest class; -1 if there is none."""
    classes = targets if ignore_index is None else targets[targets != ignore_index]
    return int(classes.max()) if len(classes) else -1


def _check(part: str, images: Tensor, targets: Tensor, ignore_index: int | None) -> None:
    count = len(images)
    if images.ndim != 4 or not images.numel() or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(
            f"{part} images ({images.dtype}, {list(images.shape)}) must be [N, C, H, W], uint8 or floating point in "
            "[0, 1]"
        )
    if images.is_floating_point() and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{part} images (from {float(images.min()):g} to {float(images.max()):g}) must be in [0, 1]; scale them, "
            "normalisation follows by itself"
        )
    integers = not targets.is_floating_point() and targets.dtype != torch.bool
    if not integers or targets.shape not in ((count,), (count, *images.shape[2:])):
        raise ValueError(
            f"{part} targets ({targets.dtype}, {list(targets.shape)}) must be integers: labels [{count}] or masks "
            f"[{count}, {images.shape[2]}, {images.shape[3]}]"
        )
    lowest = targets.min() if ignore_index is None else targets.where(targets != ignore_index, 0).min()
    if lowest < 0:
        raise ValueError(f"{part} targets hold {int(lowest)}; number the classes from 0")


def _split(pair: Pair, fraction: float, seed: int) -> tuple[Pair, Pair]:
    images, targets = pair
    if targets.ndim == 1:
        parts = stratified_split(targets.tolist(), fraction, seed)
    else:
        parts = random_split(len(images), fraction, seed)
    train, held_out = (torch.tensor(part) for part in parts)
    return (images[train], targets[train]), (images[held_out], targets[held_out])
