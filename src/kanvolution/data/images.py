"""Reading image files, and bringing them to the size and channels of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from kanvolution.extras import require

_MODES = {1: "L", 3: "RGB"}


def read_image(path: str | Path, channels: int) -> Tensor:
    """The image file as a uint8 tensor [channels, H, W], turned upright as its EXIF data say.

    Args:
        path: any format that Pillow reads.
        channels: 1 converts to grey, 3 to RGB; an alpha channel is dropped.

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
        raise ValueError(f"cannot read image {str(path)!r}: {_reason(error)}") from error


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


def fit_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image [C, H, W], uint8 or in [0, 1], as float in [0, 1] of the given (height, width).

    It is scaled (with antialiasing) until it just covers the size, and its centre is cut out.
    """
    image = v2.functional.to_dtype(image, torch.float32, scale=True)
    height, width = image.shape[-2:]
    if (height, width) == tuple(size):
        return image
    scale = max(size[0] / height, size[1] / width)
    covering = [max(size[0], round(height * scale)), max(size[1], round(width * scale))]
    resized = F.resize(image, covering, antialias=True).clamp(0, 1)
    return F.center_crop(resized, list(size))


def load_image(path: str | Path, channels: int, size: tuple[int, int]) -> Tensor:
    """The image file as float [channels, height, width] in [0, 1]; see `read_image` and `fit_image`."""
    return fit_image(read_image(path, channels), size)


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
