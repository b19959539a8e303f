"""Augmentations of training images by name. Each is made for a data set and maps an image [C, H, W] in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

from kanvolution.data.info import DataInfo
from kanvolution.registry import Registry

Augment = Callable[[Tensor], Tensor]
AUGMENTS: Registry[Callable[[DataInfo], Augment | None]] = Registry("augmentation")


def register_augment(name: str) -> Callable[[Callable[[DataInfo], Augment | None]], Callable]:
    """Decorator: makes an augmentation available to every config as `data.augment=name`.

    The function takes a `DataInfo` and returns a map of images [C, H, W] in [0, 1], or None to leave them alone.
    """
    return AUGMENTS.register(name)


def list_augments() -> list[str]:
    """The names of all registered augmentations, sorted."""
    return list(AUGMENTS)


def _crop(info: DataInfo) -> v2.Transform:
    """Move by up to an eighth of the side (at least a pixel) in each direction; black comes in."""
    return v2.RandomCrop(list(info.image_size), padding=[max(1, size // 8) for size in reversed(info.image_size)])


@register_augment("none")
def none(info: DataInfo) -> None:
    """Leave the images alone."""


@register_augment("shift")
def shift(info: DataInfo) -> Augment:
    """Move by up to an eighth of the side, for images whose left and right mean something (digits)."""
    return _crop(info)


@register_augment("affine")
def affine(info: DataInfo) -> Augment:
    """Turn by up to 10 degrees, move by up to a tenth, scale by 0.9 to 1.1."""
    return v2.RandomAffine([-10, 10], (0.1, 0.1), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)


@register_augment("flip")
def flip(info: DataInfo) -> Augment:
    """Mirror left and right half of the time, and move as "shift" does (photographs)."""
    return v2.Compose([v2.RandomHorizontalFlip(), _crop(info)])
