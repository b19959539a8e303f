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


def _register(name: str, make: Callable[..., datasets.VisionDataset], augment: str, facts: str) -> None:
    def load(path: str = ".data", download: bool = False) -> DataSets:
        parts = []
        for train in (True, False):
            try:
                parts.append(make(Path(path).expanduser(), train=train, download=download))
            except RuntimeError as error:
                raise ValueError(
                    f"{name} cannot be loaded from data.path (={path!r}): {error}. "
                    "Pass data.download=true to download it there, or name the folder that holds it"
                ) from error
        return tensor_data_sets(name, _arrays(parts[0]), _arrays(parts[1]), tuple(parts[0].classes))

    load.__doc__ = f"""{facts}

    Args:
        path: torchvision's root folder.
        download: download the data set to `path` if it is not there.
    """
    register_data(name, augment=augment)(load)


def _arrays(part: datasets.VisionDataset) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(part.data)  # pyright: ignore[reportAttributeAccessIssue]
    labels = torch.as_tensor(part.targets)  # pyright: ignore[reportAttributeAccessIssue]
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous(), labels


_register("mnist", datasets.MNIST, "affine", "Handwritten digits, 60,000 and 10,000 grey images of 28x28.")
_register("fashion_mnist", datasets.FashionMNIST, "flip", "Clothes, 60,000 and 10,000 grey images of 28x28.")
_register("cifar10", datasets.CIFAR10, "flip", "Photographs of 10 classes, 50,000 and 10,000 RGB images of 32x32.")
_register("cifar100", datasets.CIFAR100, "flip", "Photographs of 100 classes, 50,000 and 10,000 RGB images of 32x32.")
