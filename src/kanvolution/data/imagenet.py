"""ImageNet-1k in three layouts, and Tiny ImageNet as its zip file unpacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanvolution.data.folder import check_same_classes, existing_folder, folder_parts
from kanvolution.data.info import DataSets
from kanvolution.data.registry import register_data
from kanvolution.data.sized import image_size_pair, sized_data_sets
from kanvolution.data.sources import FileSource, ImageSource, RowSource, ShardSource, class_folders
from kanvolution.extras import require
from kanvolution.registry import unknown_name

_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images
_Parts = tuple[list[str], ImageSource, ImageSource]


@register_data("imagenet1k", augment="mirror")
def imagenet1k(
    path: str,
    layout: str = "folder",
    image_size: int | Sequence[int] = 224,
    crop_scale: Sequence[float] | None = (0.08, 1.0),
    crop_share: float = 0.875,
    download: bool = False,
    check: bool = False,
) -> DataSets:
    """ImageNet-1k, or any other large set in one of its layouts.

    Training images are random crops, scaled to the image size. A validation image is scaled to 256 pixels, and its
    centre of 224 is taken. Source: K. He et al., arXiv 1512.03385, section 3.4.

    Args:
        path: the folder; for layout hub the name of a data set or a folder that `datasets.load_dataset` reads.
        layout: folder (train/CLASS/FILE and val/CLASS/FILE), shards (WebDataset's tar files) or hub (`datasets`).
        image_size: height and width in pixels.
        crop_scale: smallest and largest share of the area that random crops of training images take; null for none.
        crop_share: share of the scaled validation image that is taken.
        download: for layout hub, download what is not there yet.
        check: read every image before training, so that a broken one is reported at once.

    Raises:
        ValueError: no data there, or data that cannot be used (the file is named).
    """
    if layout not in _LAYOUTS:
        raise ValueError(unknown_name("data.layout", layout, _LAYOUTS))
    size = image_size_pair(image_size)
    classes, train, val = _LAYOUTS[layout](path, download)
    return sized_data_sets(
        "imagenet1k",
        train,
        val,
        classes,
        channels=3,
        size=size,
        crop_share=crop_share,
        crop_scale=crop_scale,
        check=check,
        statistics=_STATISTICS,
    )


def _folder(path: str, download: bool) -> _Parts:
    root = existing_folder(path, "name one that holds train/CLASS/FILE and val/CLASS/FILE")
    if not (root / "train").is_dir():
        raise ValueError(f"data.path (={path!r}) has no train folder; data=image_folder splits one")
    return folder_parts(root, 0.0, 0)


def _shards(path: str, download: bool) -> _Parts:
    root = existing_folder(path, "name one that holds shards such as train-0000.tar and val-0000.tar")
    shards = sorted(root.rglob("*.tar"))
    parts: dict[str, ShardSource] = {}
    for part in ("train", "val"):
        chosen = [shard for shard in shards if part in shard.relative_to(root).as_posix()]
        if not chosen:
            raise ValueError(f"{path!r} has no .tar file with {part!r} in its name or folder (it has {len(shards)})")
        parts[part] = ShardSource(chosen)
    count = max(parts["train"].labels) + 1
    if max(parts["val"].labels) >= count:
        raise ValueError(f"{path!r}: validation has class {max(parts['val'].labels)}, training only 0 to {count - 1}")
    return [str(i) for i in range(count)], parts["train"], parts["val"]


def _hub(path: str, download: bool) -> _Parts:
    datasets = require("datasets", "data")
    local = Path(path).expanduser()
    name = str(local) if local.exists() else path
    settings = datasets.DownloadConfig(local_files_only=not (download or local.exists()))
    try:
        loaded = datasets.load_dataset(name, download_config=settings)
    # The library and the Hub's client report in many ways: no such set, gated, offline, a full disk.
    except Exception as error:
        remedy = "" if download else "; pass data.download=true to download it"
        raise ValueError(f"datasets cannot load data.path (={path!r}): {error}{remedy}") from error
    parts: list[Any] = []
    for names in (("train",), ("validation", "val", "valid", "test")):
        found = next((part for part in names if part in loaded), None)
        if found is None:
            raise ValueError(f"{path!r} has no part {' or '.join(names)} (it has {', '.join(loaded)})")
        parts.append(RowSource(loaded[found], f"{path}, {found}"))
    label = parts[0].rows.features["label"]
    classes = getattr(label, "names", None) or [str(i) for i in range(max(parts[0].labels) + 1)]
    return classes, *parts


_LAYOUTS: dict[str, Callable[[str, bool], _Parts]] = {"folder": _folder, "shards": _shards, "hub": _hub}


@register_data("tiny_imagenet", augment="flip")
def tiny_imagenet(
    path: str,
    image_size: int | Sequence[int] = 64,
    crop_scale: Sequence[float] | None = None,
    check: bool = True,
    in_memory: bool | None = True,
) -> DataSets:
    """Tiny ImageNet, 200 classes with 500 and 50 RGB images of 64x64, as tiny-imagenet-200.zip unpacks.

    It has train/CLASS/images/FILE, val/images/FILE, and val/val_annotations.txt, whose lines hold the name of a file
    and its class; val/CLASS/FILE is read too. Classes get names from words.txt where it is there.

    Args:
        path: the unpacked folder.
        image_size: height and width in pixels.
        crop_scale: smallest and largest share of the area that random crops of training images take; null for none.
        check: read every file before training, so that a broken one is reported at once.
        in_memory: keep the decoded images, 1.4 GB for the whole set; null does so up to 1 GiB.

    Raises:
        ValueError: no such folder, a class without images, an image without class, or one that cannot be read.
    """
    size = image_size_pair(image_size)
    root = existing_folder(path, "name the folder that tiny-imagenet-200.zip unpacks to")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise ValueError(f"data.path (={path!r}) has no folder {part}; name what tiny-imagenet-200.zip unpacks to")
    classes, train = class_folders(root / "train")
    annotations = root / "val" / "val_annotations.txt"
    if annotations.is_file():
        val = _annotated(annotations, classes)
    else:
        val_classes, val = class_folders(root / "val")
        check_same_classes(classes, val_classes, (root / "train", root / "val"))
    return sized_data_sets(
        "tiny_imagenet",
        train,
        val,
        _words(root, classes),
        channels=3,
        size=size,
        crop_scale=crop_scale,
        in_memory=in_memory,
        check=check,
    )


def _annotated(annotations: Path, classes: list[str]) -> FileSource:
    """The validation images that a file of annotations names."""
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wanted = rest.partition("\t")[0]
        if wanted not in classes:
            raise ValueError(f"{str(annotations)!r}, line {number}: class {wanted!r} has no folder in train")
        file = annotations.parent / "images" / name
        if not file.is_file():
            raise ValueError(f"{str(annotations)!r}, line {number}: there is no image {str(file)!r}")
        paths.append(str(file))
        labels.append(classes.index(wanted))
    if not paths:
        raise ValueError(f"{str(annotations)!r} names no image; unpack the zip file again")
    return FileSource(paths, labels)


def _words(root: Path, classes: list[str]) -> list[str]:
    """The first word for each class in words.txt where all are there and differ, the names of the folders if not."""
    file = root / "words.txt"
    if not file.is_file():
        return classes
    lines = (line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if "\t" in line)
    words = {key: text.partition(",")[0].strip() for key, text in lines}
    named = [words.get(name, name) for name in classes]
    twice = {name for name, count in Counter(named).items() if count > 1}
    return [f"{name} ({key})" if name in twice else name for key, name in zip(classes, named, strict=True)]
