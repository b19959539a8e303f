"""Augmentations of training images by name. Each is made for a data set and changes a batch of its images."""

from __future__ import annotations

from collections.abc import Callable

from torchvision.transforms import v2

from kanvolution.data.batch_transforms import (
    Affine,
    BatchTransform,
    Chain,
    Each,
    Erase,
    Flip,
    Jitter,
    Shift,
    Symmetries,
    batch_transform,
)
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


@register_augment("affine_jitter")
def affine_jitter(info: DataInfo) -> BatchTransform:
    """Turn by up to 20 degrees, move by up to a tenth, scale by 0.9 to 1.1; brightness and contrast by 0.8 to 1.2.

    torch-conv-kan trains on MNIST with it.
    """
    return Chain(Affine(20, 0.1, (0.9, 1.1)), Jitter(0.2, 0.2))


@register_augment("mirror")
def mirror(info: DataInfo) -> BatchTransform:
    """Mirror left and right half of the time."""
    return Flip()


@register_augment("flip")
def flip(info: DataInfo) -> BatchTransform:
    """Mirror left and right half of the time, and move as "shift" does (photographs)."""
    return Chain(Flip(), Shift(1 / 8))


@register_augment("autoaugment")
def autoaugment(info: DataInfo) -> BatchTransform:
    """AutoAugment's policy for ImageNet. Source: arXiv 1805.09501.

    torch-conv-kan trains on Tiny ImageNet with it.
    """
    return _policies(info, _Policy.IMAGENET)


@register_augment("autoaugment_cifar")
def autoaugment_cifar(info: DataInfo) -> BatchTransform:
    """Mirror, then AutoAugment's policy for CIFAR-10, ImageNet or SVHN, or TrivialAugment, chosen for each image.

    torch-conv-kan trains on CIFAR-10 and CIFAR-100 with it.
    """
    return Chain(Flip(), _policies(info, _Policy.CIFAR10, _Policy.IMAGENET, _Policy.SVHN, trivial=True))


@register_augment("autoaugment_imagenet")
def autoaugment_imagenet(info: DataInfo) -> BatchTransform:
    """Mirror, then AutoAugment's policy for CIFAR-10 or ImageNet, chosen for each image.

    torch-conv-kan trains on ImageNet-1k with it, on random crops.
    """
    return Chain(Flip(), _policies(info, _Policy.CIFAR10, _Policy.IMAGENET))


@register_augment("trivialaugment")
def trivialaugment(info: DataInfo) -> BatchTransform:
    """Mirror, move, TrivialAugment (arXiv 2103.10158), and erase a rectangle of a quarter of the images."""
    return Chain(Flip(), Shift(1 / 8), _policies(info, trivial=True), Erase(0.25, info.mean))


@register_augment("randaugment")
def randaugment(info: DataInfo) -> BatchTransform:
    """Mirror, move, RandAugment (arXiv 1909.13719), and erase a rectangle of a quarter of the images."""
    return Chain(Flip(), Shift(1 / 8), _on_photographs(info, v2.RandAugment()), Erase(0.25, info.mean))


@register_augment("symmetries")
def symmetries(info: DataInfo) -> BatchTransform:
    """Mirror both ways, and swap rows and columns of square images (microscopy: no up and down). Moves masks too."""
    return Symmetries()


@register_augment("warp")
def warp(info: DataInfo) -> BatchTransform:
    """As "symmetries"; then turn by up to 45 degrees, move, scale, and jitter the light. Moves masks too."""
    return Chain(Symmetries(), Affine(45, 0.1, (0.8, 1.25)), Jitter(0.2, 0.2))


_Policy = v2.AutoAugmentPolicy


def _policies(info: DataInfo, *policies: v2.AutoAugmentPolicy, trivial: bool = False) -> BatchTransform:
    """One of AutoAugment's policies, or TrivialAugment, for each image."""
    choices: list[v2.Transform] = [v2.AutoAugment(policy) for policy in policies]
    choices += [v2.TrivialAugmentWide()] * trivial
    return _on_photographs(info, v2.RandomChoice(choices) if len(choices) > 1 else choices[0])


def _on_photographs(info: DataInfo, transform: v2.Transform) -> BatchTransform:
    if info.in_chans not in (1, 3):
        raise ValueError(
            f"in_chans (={info.in_chans}) must be 1 or 3 for the colour changes of AutoAugment and its kin; "
            "choose another data.augment"
        )
    return Each(transform)
