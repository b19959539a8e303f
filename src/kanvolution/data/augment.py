"""Augmentations of training images by name. Each is made for a data set and changes a batch of its images."""

from __future__ import annotations

from collections.abc import Callable

from torchvision.transforms import v2

from kanvolution.data.batch_transforms import Affine, BatchTransform, Chain, Flip, Shift, batch_transform
from kanvolution.data.info import DataInfo
from kanvolution.registry import Registry

MakeAugment = Callable[[DataInfo], BatchTransform | v2.Transform | Callable | None]
AUGMENTS: Registry[MakeAugment] = Registry("augmentation")


def register_augment(name: str) -> Callable[[MakeAugment], MakeAugment]:
    """Decorator: makes an augmentation available to every config as `data.augment=name`.

    The function takes a `DataInfo` and returns one of

    - a transform of `torchvision.transforms.v2`, which is applied to each image (with its mask, if there is one);
    - a function of a batch of images [N, C, H, W] in [0, 1], which returns one of the same shape;
    - a `BatchTransform`, which changes a batch of images together with their masks;
    - None, which leaves the images alone.

    Random numbers have to come from torch's global generator, as torchvision's do: then a run is repeated exactly.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from kanvolution.data import AUGMENTS, register_augment
        >>> @register_augment("blur")
        ... def blur(info):
        ...     return v2.GaussianBlur(3)
        >>> AUGMENTS.unregister("blur")
    """
    return AUGMENTS.register(name)


def list_augments() -> list[str]:
    """The names of all registered augmentations, sorted."""
    return list(AUGMENTS)


def create_augment(name: str, info: DataInfo) -> BatchTransform | None:
    """The augmentation registered as `name`, for images as `info` describes. Raises ValueError for an unknown name."""
    return batch_transform(AUGMENTS[name](info))


@register_augment("none")
def none(info: DataInfo) -> None:
    """Leave the images alone."""


@register_augment("shift")
def shift(info: DataInfo) -> BatchTransform:
    """Move by up to an eighth of the side, for images whose left and right mean something (digits)."""
    return Shift(1 / 8)


@register_augment("affine")
def affine(info: DataInfo) -> BatchTransform:
    """Turn by up to 10 degrees, move by up to a tenth, scale by 0.9 to 1.1."""
    return Affine(10, 0.1, (0.9, 1.1))


@register_augment("flip")
def flip(info: DataInfo) -> BatchTransform:
    """Mirror left and right half of the time, and move as "shift" does (photographs)."""
    return Chain(Flip(), Shift(1 / 8))
