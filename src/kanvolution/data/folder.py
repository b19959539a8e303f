"""Image files in one folder a class, as torchvision's ImageFolder lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanvolution.data.info import DataSets
from kanvolution.data.registry import register_data
from kanvolution.data.sized import image_size_pair, sized_data_sets
from kanvolution.data.sources import FileSource, class_folders
from kanvolution.data.splits import stratified_split

HELD_OUT = ("val", "valid", "validation", "test")
"""Names of the folder beside train/ that is validated on; the first of them that is there."""


@register_data("image_folder", augment="flip")
def image_folder(
    path: str,
    image_size: int | Sequence[int] = 64,
    channels: int = 3,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    crop_scale: Sequence[float] | None = None,
    check: bool = True,
    in_memory: bool | None = None,
) -> DataSets:
    """Image files at `path`/CLASS/FILE, or at `path`/train/CLASS/FILE and `path`/val/CLASS/FILE.

    In place of val/ there may be valid/, validation/, or test/; the first of these that is there is used.

    Args:
        path: the folder.
        image_size: height and width in pixels; images are scaled to cover it, and their centre is taken.
        channels: 1 (grey) or 3 (RGB).
        val_fraction: share of each class held out where there are no train/ and val/ folders.
        split_seed: seed of that choice.
        crop_scale: smallest and largest share of the area that random crops of training images take; null for none.
        check: read every file before training, so that a broken one is reported at once; false starts sooner.
        in_memory: keep the decoded images; null does so up to 1 GiB, where they are checked and not cropped.

    Raises:
        ValueError: no such folder, fewer than two classes, an empty class folder, other classes in val/ than in train/,
            or an image that cannot be read (the file is named).
    """
    size = image_size_pair(image_size)
    classes, train, val = folder_parts(existing_folder(path), val_fraction, split_seed)
    return sized_data_sets(
        "image_folder",
        train,
        val,
        classes,
        channels=channels,
        size=size,
        crop_scale=crop_scale,
        in_memory=in_memory,
        check=check,
    )


def existing_folder(path: str, remedy: str = "name one that holds a folder for each class") -> Path:
    """`path` as a Path. Raises ValueError with the remedy if it is no folder."""
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "is not a folder"
        raise ValueError(f"data.path (={path!r}) {what}; {remedy}")
    return root


def held_out_folder(root: Path) -> Path | None:
    """The folder beside `root`/train that is validated on; None where there is no `root`/train.

    Raises:
        ValueError: there is a train folder and no other.
    """
    if not (root / "train").is_dir():
        return None
    present = [root / name for name in HELD_OUT if (root / name).is_dir()]
    if not present:
        raise ValueError(
            f"{str(root)!r} has a train folder, but none of {', '.join(HELD_OUT)} beside it; add one, or name the "
            f"train folder itself and a part of it is held out: data.path={str(root / 'train')!r}"
        )
    return present[0]


def folder_parts(root: Path, val_fraction: float, split_seed: int) -> tuple[list[str], FileSource, FileSource]:
    """The classes, the training images and the validation images of a folder."""
    held_out = held_out_folder(root)
    if held_out is None:
        classes, source = class_folders(root)
        train, val = stratified_split(source.labels, val_fraction, split_seed)
        return classes, source.subset(train), source.subset(val)
    classes, source = class_folders(root / "train")
    val_classes, val_source = class_folders(held_out)
    check_same_classes(classes, val_classes, (root / "train", held_out))
    return classes, source, val_source


def check_same_classes(train: Sequence[str], val: Sequence[str], places: tuple[Path, Path]) -> None:
    """Raise ValueError unless both parts have the same classes."""
    if list(train) != list(val):
        odd = sorted(set(train) ^ set(val))
        raise ValueError(f"{str(places[0])!r} and {str(places[1])!r} must have the same classes; only one has {odd}")
