"""Arrays in one NumPy file, in the layouts of Keras and MedMNIST."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kanvolution.data.info import DataSets
from kanvolution.data.registry import register_data
from kanvolution.data.tensors import tensor_data_sets
from kanvolution.registry import unknown_name

# (images, labels) of a part, in each layout
_LAYOUTS = {
    "x_train": ("x_{part}", "y_{part}"),
    "train_images": ("{part}_images", "{part}_labels"),
}
_PARTS = ("test", "val", "split")


@register_data("npz")
def npz(path: str, val: str = "test", val_fraction: float = 0.2, split_seed: int = 0) -> DataSets:
    """Images and labels in an .npz file: `x_train, y_train, x_test, y_test`, or `train_images, train_labels, ...`.

    Images are uint8, [N, H, W] or [N, H, W, C]; labels are integers from 0, [N] or [N, 1]. An array of strings named
    `classes` or `class_names` names the classes. The file is read without unpickling.

    Args:
        path: the file.
        val: what to validate on: test, val, or split, a part of the training images.
        val_fraction: share of each class that split holds out.
        split_seed: seed of that choice.

    Raises:
        ValueError: no such file, an array missing, pickled, or of another type or shape.
    """
    if val not in _PARTS:
        raise ValueError(unknown_name("data.val", val, _PARTS))
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"data.path (={str(path)!r}) is not a file; name an .npz file")
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"cannot use {str(path)!r}: it is no .npz archive, or a truncated one; write it with numpy.savez"
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = _names(arrays.files, val)
            parts = [(images, arrays[images], labels, arrays[labels]) for images, labels in names]
            named = next((arrays[key] for key in ("class_names", "classes") if key in arrays.files), None)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot use {str(path)!r}: {error}") from error
    pairs = [
        (_images(name, array), _labels(label_name, labels, len(array))) for name, array, label_name, labels in parts
    ]
    if len({images.shape[1:] for images, _ in pairs}) > 1:
        shapes = " and ".join(f"{name} (shape {array.shape})" for name, array, _, _ in parts)
        raise ValueError(f"cannot use {str(path)!r}: {shapes} must hold images of one size")
    classes = int(max(labels.max() for _, labels in pairs)) + 1
    absent = sorted(set(range(classes)) - set(pairs[0][1].unique().tolist()))
    if absent:
        raise ValueError(f"{names[0][1]} has no sample of class {absent[0]}; number the classes from 0 without gaps")
    if named is not None and (named.ndim != 1 or len(named) < classes):
        raise ValueError(f"the array of class names (shape {named.shape}) must name {classes} classes")
    class_names = tuple(map(str, range(classes) if named is None else named.tolist()))
    return tensor_data_sets("npz", *pairs, class_names=class_names, val_fraction=val_fraction, split_seed=split_seed)


def _names(present: list[str], val: str) -> list[tuple[str, str]]:
    """The names of images and labels of the training part, and of the part to validate on where it is not split."""
    layout = next((pattern for key, pattern in _LAYOUTS.items() if key in present), None)
    if layout is None:
        raise ValueError(f"it holds {', '.join(present) or 'nothing'}; expected {' or '.join(_LAYOUTS)} and its kin")
    parts = ["train"] if val == "split" else ["train", val]
    names = [(layout[0].format(part=part), layout[1].format(part=part)) for part in parts]
    missing = [name for pair in names for name in pair if name not in present]
    if missing:
        raise ValueError(
            f"it lacks {', '.join(missing)} (it holds {', '.join(present)}); data.val chooses test, val or split"
        )
    return names


def _images(name: str, array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
        raise ValueError(
            f"{name} ({array.dtype}, shape {array.shape}) must be uint8 [N, H, W] or [N, H, W, C]; of values in [0, 1] "
            "make (255 * x).round().astype(numpy.uint8)"
        )
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        raise ValueError(
            f"{name} (shape {array.shape}) must have its channels last; move them with x.transpose(0, 2, 3, 1)"
        )
    images = torch.from_numpy(array)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _labels(name: str, array: np.ndarray, count: int) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((count,), (count, 1)):
        raise ValueError(f"{name} ({array.dtype}, shape {array.shape}) must be integers [{count}] or [{count}, 1]")
    labels = torch.from_numpy(array.astype(np.int64)).flatten()
    if labels.min() < 0:
        raise ValueError(f"{name} holds label {int(labels.min())}; number the classes from 0")
    return labels
