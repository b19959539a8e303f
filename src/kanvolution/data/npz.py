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
    "x_train": "x_{part}, y_{part}",
    "train_images": "{part}_images, {part}_labels",
}
_PARTS = ("test", "val")


@register_data("npz")
def npz(path: str, val: str = "test") -> DataSets:
    """Images and labels in an .npz file: `x_train, y_train, x_test, y_test`, or `train_images, train_labels, ...`.

    Images are uint8, [N, H, W] or [N, H, W, C]; labels are integers from 0, [N] or [N, 1]. An array of strings named
    `classes` or `class_names` names the classes. The file is read without unpickling.

    Args:
        path: the file.
        val: the part to validate on, "test" or "val".

    Raises:
        ValueError: no such file, an array missing, pickled, or of another type or shape.
    """
    if val not in _PARTS:
        raise ValueError(unknown_name("part", val, _PARTS))
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
            images, labels, val_images, val_labels = (arrays[name] for name in names)
            named = next((arrays[key] for key in ("class_names", "classes") if key in arrays.files), None)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot use {str(path)!r}: {error}") from error
    train = _images(names[0], images), _labels(names[1], labels, len(images))
    held_out = _images(names[2], val_images), _labels(names[3], val_labels, len(val_images))
    if train[0].shape[1:] != held_out[0].shape[1:]:
        raise ValueError(
            f"{names[0]} (shape {images.shape}) and {names[2]} (shape {val_images.shape}) must hold images of one size"
        )
    classes = int(max(train[1].max(), held_out[1].max())) + 1
    absent = sorted(set(range(classes)) - set(train[1].tolist()))
    if absent:
        raise ValueError(f"{names[1]} has no sample of class {absent[0]}; number the classes from 0 without gaps")
    if named is not None and (named.ndim != 1 or len(named) < classes):
        raise ValueError(f"the array of class names (shape {named.shape}) must name {classes} classes")
    class_names = tuple(map(str, range(classes) if named is None else named.tolist()))
    return tensor_data_sets("npz", train, held_out, class_names)


def _names(present: list[str], val: str) -> list[str]:
    layout = next((pattern for key, pattern in _LAYOUTS.items() if key in present), None)
    if layout is None:
        raise ValueError(f"it holds {', '.join(present) or 'nothing'}; expected {' or '.join(_LAYOUTS)} and its kin")
    names = [name for part in ("train", val) for name in layout.format(part=part).split(", ")]
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)} (it holds {', '.join(present)}); data.val chooses test or val")
    return names


def _images(name: str, array: np.ndarray) -> Tensor:
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
        raise ValueError(f"{name} ({array.dtype}, shape {array.shape}) must be uint8 [N, H, W] or [N, H, W, C]")
    images = torch.from_numpy(array)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _labels(name: str, array: np.ndarray, count: int) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((count,), (count, 1)):
        raise ValueError(f"{name} ({array.dtype}, shape {array.shape}) must be integers [{count}] or [{count}, 1]")
    labels = torch.from_numpy(array.astype(np.int64)).flatten()
    if labels.min() < 0:
        raise ValueError(f"{name} holds label {int(labels.min())}; number the classes from 0")
    return labels
