"""Images that someone sends: bounded, verified, and only then decoded."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor

from kanvolution.data.images import cover, image_tensor, unit_range
from kanvolution.data.info import DataInfo
from kanvolution.extras import require

MOST_BYTES = 10 * 10**6
"""Largest upload."""
MOST_PIXELS = 32 * 10**6
"""Largest image; more would be a decompression bomb, or a photo that should be made smaller first."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Formats that are read; no other decoder of Pillow is ever called."""

_INK = 0.2
MARGIN = 20 / 28
"""What a drawing takes of the image's side where nothing else is known, as in MNIST."""


def read_upload(data: bytes, channels: int) -> Tensor:
    """An uploaded image as a uint8 tensor [channels, H, W].

    Its size is taken from its head, and it is verified, before a pixel is decoded.

    Raises:
        ValueError: no image of a format that is read, a damaged one, or one that is too large.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"the file has {len(data):,} bytes; at most {MOST_BYTES:,} are taken")
    pil = require("PIL.Image", "demo")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                _check_size(width, height)
                image.verify()
            with pil.open(io.BytesIO(data), formats=FORMATS) as image:
                return image_tensor(image, channels)
    except _TooLargeError:
        raise
    # Pillow reports damaged files in many ways: OSError, SyntaxError (PNG), struct.error, its own error of bombs.
    except Exception as error:
        if isinstance(error, pil.DecompressionBombError | pil.DecompressionBombWarning):
            raise ValueError(f"the image has too many pixels; at most {MOST_PIXELS:,} are taken") from error
        raise ValueError(f"this is no image that can be read ({', '.join(FORMATS)}), or it is damaged") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _TooLargeError(f"the image has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are taken")


class _TooLargeError(ValueError):
    pass


def place_drawing(image: Tensor, info: DataInfo, share: float = MARGIN) -> Tensor:
    """A drawing, light on dark, as an image of the data: [C, H, W] in [0, 1].

    What is drawn is cut out, scaled until its longer side takes `share` of the image, and put into the middle. Where
    the images of the data are dark on light, it is inverted.

    Args:
        image: uint8 or in [0, 1], [C, H, W].
        info: of the data; a mean of at least one half means dark on light.
        share: see above, in (0, 1].

    Raises:
        ValueError: nothing is drawn.
    """
    pixels = unit_range(image)
    ink = pixels.amax(0) > _INK
    if not ink.any():
        raise ValueError("nothing is drawn yet")
    rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
    cut = pixels[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    side = max(1, round(max(cut.shape[1:]) / share))
    square = torch.zeros(len(cut), side, side)
    top, left = (side - cut.shape[1]) // 2, (side - cut.shape[2]) // 2
    square[:, top : top + cut.shape[1], left : left + cut.shape[2]] = cut
    shown = cover(square, info.image_size).clamp(0, 1)
    return 1 - shown if sum(info.mean) / len(info.mean) >= 0.5 else shown


def ink_share(images: Tensor, info: DataInfo) -> float:
    """What the drawn things of some images [N, C, H, W] in [0, 1] take of the longer side, in the mean; see above."""
    images = 1 - images if sum(info.mean) / len(info.mean) >= 0.5 else images
    shares = []
    for image in images:
        ink = image.amax(0) > _INK
        if ink.any():
            lines = [ink.any(dim).nonzero() for dim in (1, 0)]
            shares.append(max(int(line[-1] - line[0]) + 1 for line in lines) / max(image.shape[1:]))
    return sum(shares) / len(shares) if shares else MARGIN
