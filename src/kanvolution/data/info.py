"""What a data set is to the rest of the package: two sets of images and the facts needed to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.checks import integer_at_least
from kanvolution.registry import unknown_name

TARGETS = ("labels", "masks")


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data set of images; saved with every run, so that new images are prepared in the same way.

    Args:
        name: name of the data set.
        in_chans: channels of an image, 1 (grey) or 3 (RGB) where image files are read.
        image_size: (height, width) in pixels.
        class_names: names of the classes, by label.
        mean: of each channel over the training images, for values in [0, 1].
        std: of each channel over the training images.
        crop_share: share of the scaled image that its centre takes, in (0, 1]; see `kanvolution.data.cover`.
        targets: "labels", one class for each image, or "masks", one class for each pixel.
        ignore_index: what masks hold where a pixel belongs to no class, often 255; None: nowhere.

    Raises:
        ValueError: a size below one, fewer than two classes, a mean or std of another length or a std of 0, a
            `crop_share` or `targets` that is not one of those above, or an `ignore_index` of labels or of a class.
    """

    name: str
    in_chans: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_share: float = 1.0
    targets: str = "labels"
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        for key in ("image_size", "class_names", "mean", "std"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        integer_at_least("in_chans", self.in_chans, 1)
        if len(self.image_size) != 2:
            raise ValueError(f"image_size (={self.image_size}) must be (height, width)")
        for size in self.image_size:
            integer_at_least("image_size", size, 1)
        if len(self.class_names) < 2:
            raise ValueError(f"class_names (={self.class_names}) must name at least 2 classes")
        for key in ("mean", "std"):
            if len(getattr(self, key)) != self.in_chans:
                raise ValueError(f"{key} (={getattr(self, key)}) must have in_chans (={self.in_chans}) numbers")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std (={self.std}) must be positive; use 1.0 for a channel that never changes")

        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share (={self.crop_share}) must be in (0, 1]; 1 takes the whole image")
        if self.targets not in TARGETS:
            raise ValueError(unknown_name("targets", self.targets, TARGETS))
        if self.ignore_index is not None:
            if self.targets != "masks":
                raise ValueError(f"ignore_index (={self.ignore_index}) is for masks, and the targets are labels")
            if 0 <= self.ignore_index < len(self.class_names):
                raise ValueError(
                    f"ignore_index (={self.ignore_index}) must not be a class, and those are 0 to "
                    f"{self.num_classes - 1}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def normalise(self, images: Tensor) -> Tensor:
        """Images [..., C, H, W] in [0, 1] with each channel brought to mean 0 and std 1 of the training set."""
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        return (images - mean) / std

    def denormalise(self, images: Tensor) -> Tensor:
        """What `normalise` was given: images [..., C, H, W] in [0, 1]."""
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        return (images * std + mean).clamp(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types; `from_dict` makes an equal object."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataInfo:
        """The object of a `to_dict` dictionary. Raises ValueError for a missing or unknown entry."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(unknown_name("entry of a DataInfo", key, known))
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if missing:
            raise ValueError(f"the description of the data lacks {', '.join(missing)}")
        return cls(**values)


@dataclass(frozen=True)
class DataSets:
    """Training and validation images with their facts.

    An item is a float image [C, H, W] and its target: a label as int, or a mask [H, W] of class indices.
    """

    train: Dataset
    val: Dataset
    info: DataInfo


def channel_statistics(images: Sequence[Tensor] | Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel over images [C, H, W] in [0, 1]; a constant channel gets std 1."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for image in images:
        pixels = image.flatten(1).double()
        count += pixels.shape[1]
        total = total + pixels.sum(1)
        squares = squares + pixels.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-6, std, 1.0)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)
