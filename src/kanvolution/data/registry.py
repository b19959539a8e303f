"""Data sets by name: `register_data` and `create_data`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.augment import AUGMENTS, create_augment
from kanvolution.data.batch_transforms import BatchTransform
from kanvolution.data.info import DataInfo, DataSets
from kanvolution.registry import Registry, unknown_name

Loader = Callable[..., DataSets]


@dataclass(frozen=True)
class DataSource:
    """A registered data set: the function that loads it, and the augmentation it is trained with by default."""

    load: Loader
    augment: str


DATA: Registry[DataSource] = Registry("data set")


def register_data(name: str, *, augment: str = "none") -> Callable[[Loader], Loader]:
    """Decorator: makes a data set available to `create_data` and to every config as `data=name`.

    The function takes options of its own as keywords and returns `DataSets` whose images are float tensors [C, H, W]
    in [0, 1], neither augmented nor normalised: that is done for it. It is called when a run starts, never at import.

    Args:
        name: the name.
        augment: name of the default augmentation of the training images.

    Example:
        >>> import torch
        >>> from kanvolution.data import DATA, DataInfo, DataSets, TensorImages, create_data, register_data
        >>> @register_data("stripes")
        ... def stripes(count: int = 8) -> DataSets:
        ...     labels = torch.arange(count) % 2
        ...     images = labels.view(-1, 1, 1, 1) * torch.ones(count, 1, 8, 8)
        ...     info = DataInfo("stripes", 1, (8, 8), ("dark", "light"), mean=(0.5,), std=(0.5,))
        ...     return DataSets(TensorImages(images, labels), TensorImages(images, labels), info)
        >>> create_data("stripes", count=4).train[1][0].max()
        tensor(1.)
        >>> DATA.unregister("stripes")
    """

    def enter(load: Loader) -> Loader:
        DATA.register(name)(DataSource(load, augment))
        return load

    return enter


def list_data() -> list[str]:
    """The names of all registered data sets, sorted."""
    return list(DATA)


def create_data(name: str, *, augment: str | None = None, **options: Any) -> DataSets:
    """Load the data set registered as `name`.

    Args:
        name: see `list_data()`.
        augment: augmentation of the training images, see `list_augments()`; None takes the data set's own.
        **options: options of the data set (`path`, `image_size`, ...).

    Returns:
        Training and validation sets of normalised images; validation images are never augmented.

    Raises:
        ValueError: an unknown name or option (the nearest is named), or data that cannot be used.
    """
    source = DATA[name]
    known = list(inspect.signature(source.load).parameters)
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of data set {name!r}", option, [*known, "augment"]))
    augment = source.augment if augment is None else augment
    AUGMENTS[augment]  # an unknown one is reported before the data are read
    raw = source.load(**options)
    change = create_augment(augment, raw.info)
    if change is not None and raw.info.targets == "masks":
        _check_moves_masks(change, augment, raw.info)
    return DataSets(PreparedImages(raw.train, raw.info, change), PreparedImages(raw.val, raw.info), raw.info)


def _check_moves_masks(change: BatchTransform, name: str, info: DataInfo) -> None:
    """Raise ValueError unless an augmentation takes images with masks. Leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        try:
            change(torch.zeros(1, info.in_chans, *info.image_size), torch.zeros(1, *info.image_size, dtype=torch.long))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"augmentation {name!r} cannot be used with masks ({error}); choose another data.augment"
            ) from error


class PreparedImages(Dataset):
    """Images of another data set, augmented (in [0, 1]) and then normalised.

    A `DataLoader` asks for the images of a batch together (`__getitems__`), and they are prepared together. A data set
    that has them in memory hands them over by `take(indices)`: images [N, C, H, W] and their targets; others are asked
    for one after the other.

    Args:
        images: the data set; a target is a label, or a mask [H, W] of class indices.
        info: the facts about it.
        augment: changes a batch of images and masks; None leaves them alone.
    """

    def __init__(self, images: Dataset, info: DataInfo, augment: BatchTransform | None = None) -> None:
        self.images = images
        self.info = info
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Any]]:
        images, targets = self._take(indices)
        masks = torch.stack(list(targets)) if isinstance(targets[0], Tensor) and targets[0].ndim else None
        if self.augment is not None:
            images, masks = self.augment(images, masks)
        return list(zip(self.info.normalise(images), targets if masks is None else masks, strict=True))

    def _take(self, indices: Sequence[int]) -> tuple[Tensor, Sequence[Any]]:
        if hasattr(self.images, "take"):
            return self.images.take(indices)  # pyright: ignore[reportAttributeAccessIssue]
        images, targets = zip(*(self.images[i] for i in indices), strict=True)
        return torch.stack(images), targets
