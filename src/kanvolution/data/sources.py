"""Where encoded images lie: files, tar shards in the layout of WebDataset, rows of Hugging Face `datasets`."""

from __future__ import annotations

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from kanvolution.data.images import image_tensor, read_image

_SUFFIXES = tuple(IMG_EXTENSIONS)
_KINDS = ", ".join(IMG_EXTENSIONS)


class ImageSource(ABC):
    """Images of any size with a label each, read one at a time and in any order."""

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = labels

    @abstractmethod
    def read(self, index: int, channels: int) -> Tensor:
        """An image as uint8 [channels, H, W]. Raises ValueError, naming the image, if it cannot be read."""


class FileSource(ImageSource):
    """Image files.

    Args:
        paths: the files.
        labels: a label for each.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self.paths = paths

    def read(self, index: int, channels: int) -> Tensor:
        return read_image(self.paths[index], channels)

    def subset(self, indices: Sequence[int]) -> FileSource:
        """The files of these indices."""
        return FileSource([self.paths[i] for i in indices], [self.labels[i] for i in indices])


class ShardSource(ImageSource):
    """Members of uncompressed tar files: NAME.jpg (or another image) with its label as a number in NAME.cls.

    The headers of all shards are read once. Any image can then be read by itself, so shards are shuffled and resumed
    just as files are.

    Args:
        shards: the tar files.

    Raises:
        ValueError: no shard, one that is damaged, or an image without label (the shard is named).
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.members: list[tuple[str, int, int, str]] = []
        labels: list[int] = []
        for shard in shards:
            try:
                for member, label in _shard_members(shard):
                    self.members.append(member)
                    labels.append(label)
            except (tarfile.TarError, OSError, EOFError) as error:
                raise ValueError(f"cannot read shard {str(shard)!r}: {error}; fetch or write it again") from error
        super().__init__(labels)

    def read(self, index: int, channels: int) -> Tensor:
        shard, offset, size, name = self.members[index]
        with Path(shard).open("rb") as file:
            file.seek(offset)
            return read_image(io.BytesIO(file.read(size)), channels, f"{shard}:{name}")


def _shard_members(shard: Path) -> Iterator[tuple[tuple[str, int, int, str], int]]:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            folder, _, file = member.name.rpartition("/")
            stem, dot, suffix = file.partition(".")  # WebDataset's key ends at the first dot
            key, suffix = f"{folder}/{stem}", f"{dot}{suffix}".lower()
            if suffix in _SUFFIXES:
                images[key] = member
            elif suffix == ".cls":
                content = tar.extractfile(member)
                text = content.read().decode(errors="replace").strip() if content is not None else ""
                if not text.isdecimal():
                    raise ValueError(f"shard {str(shard)!r}: {member.name} holds {text!r}; it must hold a class number")
                labels[key] = int(text)
    without = [member.name for key, member in images.items() if key not in labels]
    if without or not images:
        what = f"{without[0]} has no label beside it (NAME.cls)" if without else f"it holds no image ({_KINDS})"
        raise ValueError(f"shard {str(shard)!r}: {what}")
    for key, member in images.items():
        yield (str(shard), member.offset_data, member.size, member.name), labels[key]


class RowSource(ImageSource):
    """Rows of a `datasets.Dataset` with columns `image` and `label`.

    Args:
        rows: the data set.
        name: what errors call it.
    """

    def __init__(self, rows: Any, name: str) -> None:
        missing = [column for column in ("image", "label") if column not in rows.column_names]
        if missing:
            raise ValueError(f"{name} has no column {missing[0]!r} (it has {', '.join(rows.column_names)})")
        super().__init__(list(rows["label"]))
        self.rows, self.name = rows, name

    def read(self, index: int, channels: int) -> Tensor:
        try:
            return image_tensor(self.rows[index]["image"], channels)
        except OSError as error:  # what Pillow says of a broken image
            raise ValueError(f"cannot read image {index} of {self.name}: {error}") from error


def class_folders(root: Path) -> tuple[list[str], FileSource]:
    """The names of the class folders in `root`, sorted, and the images in them.

    Raises:
        ValueError: fewer than two class folders, one without images, or one that must not be read.
    """
    try:
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"cannot read folder {str(root)!r}: {error}; change its permissions or its name") from error
    if len(classes) < 2:
        raise ValueError(f"{str(root)!r} has {len(classes)} class folders; it must have at least 2, one for each class")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = image_files(root / name)
        if not files:
            raise ValueError(f"class folder {str(root / name)!r} holds no image ({_KINDS}); fill or remove it")
        paths += files
        labels += [label] * len(files)
    return classes, FileSource(paths, labels)


def image_files(folder: Path) -> list[str]:
    """The image files in a folder and those below it, sorted. Raises ValueError for one that must not be read."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"cannot read folder {str(folder)!r}: {error}; change its permissions") from error

    found: list[str] = []
    for parent, _, names in os.walk(folder, onerror=refuse, followlinks=True):
        found += [str(Path(parent) / name) for name in names if name.lower().endswith(_SUFFIXES)]
    return sorted(found)
