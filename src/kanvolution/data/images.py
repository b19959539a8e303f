"""Reading image files, and bringing them to the size and channels of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kanvolution.extras import require

_MODES = {1: "L", 3: "RGB"}


def read_image(path: str | Path | IO[bytes], channels: int, name: str | None = None) -> Tensor:
    """The image file as a uint8 tensor [channels, H, W], turned upright as its EXIF data say.

    Args:
        path: any format that Pillow reads; a path or an open file.
        channels: 1 converts to grey, 3 to RGB; an alpha channel is dropped.
        name: what an error calls the file; its path if not given.

    Raises:
        ValueError: the file is missing, no image, or truncated (it is named), or another number of channels.
    """
    pil = require("PIL.Image", "train")
    try:
        with pil.open(path) as image:
            return image_tensor(image, channels)
    # Pillow reports broken files in many ways: OSError, SyntaxError (PNG), EOFError, struct.error, its own bomb error.
    except Exception as error:
        if isinstance(error, _ChannelsError):
            raise
        raise ValueError(f"cannot read image {name or str(path)!r}: {_reason(error)}") from error


def read_mask(path: str | Path) -> Tensor:
    """The image file as class indices: a uint8 tensor [H, W] of its grey values, or of the indices of its palette.

    Raises:
        ValueError: the file cannot be read, or it has colours (the file is named).
    """
    pil = require("PIL.Image", "train")
    try:
        with pil.open(path) as image:
            if image.mode not in ("1", "L", "P"):
                raise ValueError(f"it has mode {image.mode}; a mask has one 8-bit channel (grey, palette or binary)")
            return torch.from_numpy(np.asarray(image).astype(np.uint8))
    except Exception as error:
        raise ValueError(f"cannot read mask {str(path)!r}: {_reason(error)}") from error


def image_tensor(image: Any, channels: int) -> Tensor:
    """A PIL image as a uint8 tensor [channels, H, W]. Raises ValueError unless `channels` is 1 or 3."""
    if channels not in _MODES:
        raise _ChannelsError(f"channels (={channels}) must be 1 (grey) or 3 (RGB) to read image files")
    image = require("PIL.ImageOps", "train").exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts 16-bit grey off at 255
        grey = torch.from_numpy((np.asarray(image) // 257).astype(np.uint8)).unsqueeze(0)
        return grey.expand(channels, -1, -1).contiguous()
    array = np.asarray(image.convert(_MODES[channels]))
    return torch.from_numpy(array.copy()).reshape(*array.shape[:2], channels).permute(2, 0, 1).contiguous()


def cover(image: Tensor, size: tuple[int, int], share: float = 1.0, *, nearest: bool = False) -> Tensor:
    """An image [C, H, W] scaled until `share` of it just covers the size, and its centre cut out; its type is kept.

    Args:
        image: uint8 or floating point.
        size: (height, width) of the result.
        share: in (0, 1]; 0.875 scales an image to 256 pixels where the centre of 224 is taken.
        nearest: take the nearest pixel, for masks, in place of bilinear interpolation with antialiasing.
    """
    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width) / share
    covering = [max(side, round(old * scale)) for side, old in zip(size, (height, width), strict=True)]
    if covering != [height, width]:
        mode = v2.InterpolationMode.NEAREST_EXACT if nearest else v2.InterpolationMode.BILINEAR
        image = F.resize(image, covering, mode, antialias=not nearest)
    return F.center_crop(image, list(size))


def fit_image(image: Tensor, size: tuple[int, int], share: float = 1.0) -> Tensor:
    """An image [C, H, W], uint8 or in [0, 1], as float in [0, 1] of the given (height, width); see `cover`."""
    return unit_range(cover(image, size, share)).clamp(0, 1)


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as float in [0, 1]; floating point as it is."""
    return images if images.is_floating_point() else images.float() / 255


def load_image(path: str | Path, channels: int, size: tuple[int, int], share: float = 1.0) -> Tensor:
    """The image file as float [channels, height, width] in [0, 1]; see `read_image` and `cover`."""
    return fit_image(read_image(path, channels), size, share)


class _ChannelsError(ValueError):
    """A number of channels that no file can be read with; not the file's fault."""


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is not an image that Pillow knows"
    return f"{error}" or type(error).__name__
