"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision stores them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from kanvolution.data.info import DataSets
from kanvolution.data.registry import register_data
from kanvolution.data.tensors import tensor_data_sets
from kanvolution.registry import unknown_name

_VAL = ("test", "split")


def _register(name: str, make: Callable[..., datasets.VisionDataset], augment: str, facts: str) -> None:
    def load(
        path: str = ".data", download: bool = False, val: str = "test", val_fraction: float = 0.1, split_seed: int = 0
    ) -> DataSets:
        if val not in _VAL:
            raise ValueError(unknown_name("data.val", val, _VAL))
        parts = [_part(name, make, path, train, download) for train in (True, False)[: 1 if val == "split" else 2]]
        pairs = [_arrays(part) for part in parts]
        names = parts[0].classes  # pyright: ignore[reportAttributeAccessIssue]
        return tensor_data_sets(name, *pairs, class_names=names, val_fraction=val_fraction, split_seed=split_seed)

    load.__doc__ = f"""{facts}

    Args:
        path: torchvision's root folder.
        download: download the data set to `path` if it is not there.
        val: what to validate on: test, or split, a part of the training images; the test images are then left alone.
        val_fraction: share of each class that split holds out.
        split_seed: seed of that choice.
    """
    register_data(name, augment=augment)(load)


def _part(
    name: str, make: Callable[..., datasets.VisionDataset], path: str, train: bool, download: bool
) -> datasets.VisionDataset:
    root = Path(path).expanduser()
    if root.exists() and not root.is_dir():
        raise ValueError(f"data.path (={path!r}) is a file; name the folder that holds {name}")
    try:
        return make(root, train=train, download=download)
    # torchvision says RuntimeError of what is missing, and many things of files that are damaged.
    except Exception as error:
        remedy = (
            f"see that {path!r} can be written and has room, and remove files that are damaged"
            if download
            else "pass data.download=true to download it there, or name the folder that holds it"
        )
        reason = f"{error}" or type(error).__name__
        raise ValueError(f"{name} cannot be loaded from data.path (={path!r}): {reason}; {remedy}") from error


def _arrays(part: datasets.VisionDataset) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(part.data)  # pyright: ignore[reportAttributeAccessIssue]
    labels = torch.as_tensor(part.targets)  # pyright: ignore[reportAttributeAccessIssue]
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous(), labels


_register("mnist", datasets.MNIST, "affine", "Handwritten digits, 60,000 and 10,000 grey images of 28x28.")
_register("fashion_mnist", datasets.FashionMNIST, "flip", "Clothes, 60,000 and 10,000 grey images of 28x28.")
_register("cifar10", datasets.CIFAR10, "flip", "Photographs of 10 classes, 50,000 and 10,000 RGB images of 32x32.")
_register("cifar100", datasets.CIFAR100, "flip", "Photographs of 100 classes, 50,000 and 10,000 RGB images of 32x32.")
