"""Images with a mask each: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanvolution.data.folder import existing_folder, held_out_folder
from kanvolution.data.images import cover, fit_image, read_image, read_mask
from kanvolution.data.info import DataInfo, DataSets, channel_statistics
from kanvolution.data.registry import register_data
from kanvolution.data.sized import MEMORY_LIMIT, image_size_pair
from kanvolution.data.sources import image_files
from kanvolution.data.splits import random_split
from kanvolution.data.tensors import tensor_data_sets

Pair = tuple[str, str]


class MaskedImages(Dataset):
    """Images and masks, read from their files when asked for.

    Args:
        pairs: paths of image and mask.
        channels: 1 (grey) or 3 (RGB).
        size: (height, width) of every image and mask.
        binary: every value but 0 is class 1; otherwise a value is a class.
        ignore_index: value of a mask that is kept as it is in any case.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        channels: int,
        size: tuple[int, int],
        binary: bool,
        ignore_index: int | None = None,
    ) -> None:
        self.pairs, self.channels, self.size = pairs, channels, size
        self.binary, self.ignore_index = binary, ignore_index

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.read(index)
        return fit_image(image, self.size), mask.long()

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """An image, uint8 [C, H, W], and its mask, uint8 [H, W]."""
        path, mask_path = self.pairs[index]
        mask = cover(read_mask(mask_path).unsqueeze(0), self.size, nearest=True).squeeze(0)
        if self.binary:
            classes = (mask > 0).to(torch.uint8)
            mask = classes if self.ignore_index is None else mask.where(mask == self.ignore_index, classes)
        return cover(read_image(path, self.channels), self.size), mask

    def in_memory(self) -> tuple[Tensor, Tensor]:
        """All images, uint8 [N, C, H, W], and masks, uint8 [N, H, W], read now."""
        images = torch.empty(len(self), self.channels, *self.size, dtype=torch.uint8)
        masks = torch.empty(len(self), *self.size, dtype=torch.uint8)
        for index in range(len(self)):
            images[index], masks[index] = self.read(index)
        return images, masks


@register_data("segmentation_folder", augment="symmetries")
def segmentation_folder(
    path: str,
    image_size: int | Sequence[int] | None = None,
    channels: int = 3,
    class_names: Sequence[str] | None = None,
    mask_suffix: str = "",
    ignore_index: int | None = None,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    in_memory: bool | None = None,
) -> DataSets:
    """Images at `path`/images/NAME.EXT and masks at `path`/masks/NAME.EXT, or both below `path`/train and `path`/val.

    A mask is a file with one 8-bit channel (grey, palette or binary) of its image's size. Masks with two values, 0 and
    another, are binary; others hold the number of a class in each pixel. `ignore_index` is not counted as a value.
    Every mask is read before training.

    Args:
        path: the folder.
        image_size: height and width; images are scaled to cover it, and their centre is taken. null: they all have one.
        channels: 1 (grey) or 3 (RGB).
        class_names: names of the classes by their value in the masks, from 0; null names them itself.
        mask_suffix: what follows NAME in the name of a mask, such as _mask.
        ignore_index: value of pixels that belong to no class, left out of loss and metrics; 255 in many sets.
        val_fraction: share of the images held out where there are no train/ and val/ folders.
        split_seed: seed of that choice.
        in_memory: keep decoded images and masks; null does so up to 1 GiB.

    Raises:
        ValueError: no such folder, an image without mask or a mask without image, a mask of another size or with values
            that are no classes, or a file that cannot be read. It is named.
    """
    root = existing_folder(path, "name one that holds the folders images and masks")
    held_out = held_out_folder(root)
    if held_out is None:
        pairs = _pairs(root, mask_suffix)
        train, val = ([pairs[i] for i in part] for part in random_split(len(pairs), val_fraction, split_seed))
    else:
        train, val = _pairs(root / "train", mask_suffix), _pairs(held_out, mask_suffix)
    size, values = _checked([*train, *val], None if image_size is None else image_size_pair(image_size))
    if ignore_index is not None:
        values.pop(ignore_index, None)
    names, binary = _classes(values, class_names)
    sets = [MaskedImages(part, channels, size, binary, ignore_index) for part in (train, val)]
    if in_memory is None:
        in_memory = (len(train) + len(val)) * (channels + 1) * size[0] * size[1] <= MEMORY_LIMIT
    if in_memory:
        pairs = [images.in_memory() for images in sets]
        return tensor_data_sets("segmentation_folder", pairs[0], pairs[1], names, ignore_index=ignore_index)
    step = max(1, len(train) // 1000)
    mean, std = channel_statistics([sets[0][i][0] for i in range(0, len(train), step)])
    info = DataInfo("segmentation_folder", channels, size, names, mean, std, targets="masks", ignore_index=ignore_index)
    return DataSets(sets[0], sets[1], info)


def _pairs(root: Path, suffix: str) -> list[Pair]:
    """Images with their masks, by name."""
    found: list[dict[str, str]] = []
    for part, end in (("images", ""), ("masks", suffix)):
        if not (root / part).is_dir():
            raise ValueError(f"{str(root)!r} has no folder {part!r}; put images into images/ and masks into masks/")
        files: dict[str, str] = {}
        for file in image_files(root / part):
            # The name below the folder, without ending: images/a/1.jpg belongs to masks/a/1.png.
            stem = Path(file).relative_to(root / part).with_suffix("").as_posix()
            if not stem.endswith(end):
                raise ValueError(f"mask {file!r} has a name that does not end in data.mask_suffix (={suffix!r})")
            stem = stem.removesuffix(end)
            if stem in files:
                raise ValueError(f"{files[stem]!r} and {file!r} have the same name; rename or remove one")
            files[stem] = file
        if not files:
            raise ValueError(f"{str(root / part)!r} holds no image; put one for each sample there")
        found.append(files)
    images, masks = found
    for have, lack, what in ((images, masks, "images without mask"), (masks, images, "masks without image")):
        lonely = [file for stem, file in have.items() if stem not in lack]
        if lonely:
            raise ValueError(
                f"{len(lonely)} {what}, the first is {lonely[0]!r}; an image and its mask have the same name"
                + (f" (the mask's with data.mask_suffix {suffix!r})" if suffix else "")
            )
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _checked(pairs: Sequence[Pair], size: tuple[int, int] | None) -> tuple[tuple[int, int], dict[int, str]]:
    """The size of the images, and the values of the masks, each with a file that holds it."""
    first: dict[tuple[int, int], str] = {}
    values: dict[int, str] = {}
    for path, mask_path in pairs:
        image, mask = read_image(path, 1), read_mask(mask_path)
        if image.shape[-2:] != mask.shape:
            raise ValueError(
                f"mask {mask_path!r} (height, width {tuple(mask.shape)}) must have the size of its image "
                f"{path!r} {tuple(image.shape[-2:])}; scale it with the nearest pixel, or write it again"
            )
        first.setdefault((mask.shape[0], mask.shape[1]), path)
        for value in np.unique(mask.numpy()).tolist():
            values.setdefault(value, mask_path)
    if size is None and len(first) > 1:
        (one, a), (other, b) = list(first.items())[:2]
        raise ValueError(f"{a!r} has size {one}, {b!r} {other}; pass data.image_size, to which all are brought")
    return size or next(iter(first)), values


def _classes(values: dict[int, str], names: Sequence[str] | None) -> tuple[tuple[str, ...], bool]:
    """The classes' names, and whether masks are binary."""
    if not values:
        raise ValueError("no mask has a pixel that belongs to a class; check data.ignore_index")
    present, high = sorted(values), max(values)
    binary = present[0] == 0 and len(present) <= 2 and (names is None or len(names) == 2)
    if names is None:
        if high == 0:
            raise ValueError("all masks are 0 everywhere; there is nothing to be found")
        if not binary and present != list(range(high + 1)):
            raise ValueError(
                f"the masks hold the values {_few(present)} ({high} in {values[high]!r}). Write 0 and one other value, "
                "or the numbers of classes from 0 without gaps, or name all classes with data.class_names"
            )
        return ("background", "foreground") if binary else tuple(map(str, range(high + 1))), binary
    if not binary and high >= len(names):
        raise ValueError(
            f"mask {values[high]!r} holds the value {high}; data.class_names has {len(names)} names, for 0 to "
            f"{len(names) - 1}"
        )
    return tuple(names), binary


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
