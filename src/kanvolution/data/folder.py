"""Image files in one folder a class, as torchvision's ImageFolder lays them out."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from kanvolution.checks import integer_at_least
from kanvolution.data.images import load_image
from kanvolution.data.info import DataInfo, DataSets, channel_statistics
from kanvolution.data.registry import register_data
from kanvolution.data.splits import stratified_split


class ImageFiles(Dataset):
    """Image files with labels, read when asked for."""

    def __init__(self, samples: list[tuple[Path, int]], channels: int, image_size: int) -> None:
        self.samples = samples
        self.channels = channels
        self.size = (image_size, image_size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return load_image(path, self.channels, self.size), label


_HELD_OUT = ("val", "valid", "validation", "test")


@register_data("image_folder", augment="flip")
def image_folder(
    path: str,
    image_size: int = 64,
    channels: int = 3,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    check: bool = True,
) -> DataSets:
    """Image files at `path`/CLASS/FILE, or at `path`/train/CLASS/FILE and `path`/val/CLASS/FILE.

    In place of val/ there may be valid/, validation/, or test/; the first of these that is there is used.

    Args:
        path: the folder.
        image_size: height and width in pixels; images are scaled to cover it, and their centre is taken.
        channels: 1 (grey) or 3 (RGB).
        val_fraction: share of each class held out where there are no train/ and val/ folders.
        split_seed: seed of that choice.
        check: read every file before training, so that a broken one is reported at once; false starts sooner.

    Raises:
        ValueError: no such folder, fewer than two classes, an empty class folder, other classes in val/ than in train/,
            or an image that cannot be read (the file is named).
    """
    root = Path(path).expanduser()
    integer_at_least("image_size", image_size, 1)
    if not root.is_dir():
        raise ValueError(f"data.path (={str(path)!r}) is not a folder; name one that holds a folder for each class")
    held_out = [name for name in _HELD_OUT if (root / name).is_dir()]
    if (root / "train").is_dir():
        if not held_out:
            raise ValueError(
                f"{str(root)!r} has a train folder, but none of {', '.join(_HELD_OUT)} beside it; add one, or name the "
                f"train folder itself and a part of it is held out: data.path={str(root / 'train')!r}"
            )
        parts = [root / "train", root / held_out[0]]
        classes, train = _samples(parts[0])
        val_classes, val = _samples(parts[1])
        if classes != val_classes:
            odd = sorted(set(classes) ^ set(val_classes))
            raise ValueError(f"{str(parts[0])!r} and {str(parts[1])!r} must have the same classes; only one has {odd}")
    else:
        classes, samples = _samples(root)
        chosen = stratified_split([label for _, label in samples], val_fraction, split_seed)
        train, val = ([samples[i] for i in part] for part in chosen)
    sets = ImageFiles(train, channels, image_size), ImageFiles(val, channels, image_size)
    if check:
        for images in sets:
            for index in range(len(images)):
                images[index]
    # Evenly spread over the classes, which lie one after the other; 1000 images give three digits.
    step = max(1, len(train) // 1000)
    mean, std = channel_statistics([sets[0][i][0] for i in range(0, len(train), step)])
    return DataSets(*sets, DataInfo("image_folder", channels, (image_size, image_size), tuple(classes), mean, std))


def _samples(root: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{str(root)!r} has {len(classes)} class folders; it must have at least 2, one for each class")
    samples: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        files = sorted(f for f in (root / name).rglob("*") if f.suffix.lower() in IMG_EXTENSIONS and f.is_file())
        if not files:
            raise ValueError(
                f"class folder {str(root / name)!r} holds no image ({', '.join(IMG_EXTENSIONS)}); fill or remove it"
            )
        samples += [(file, label) for file in files]
    return classes, samples
