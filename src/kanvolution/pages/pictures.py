"""Images inside of a page, as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

from kanvolution.extras import require
from kanvolution.visualize.examples import pixels

_SIDE = 112
"""Small images are enlarged to at least this many pixels, so that the map over them is smooth."""
_MAP_OPACITY = 0.55
_LARGE_PNG = 24_000


def picture(values: np.ndarray) -> str:
    """A picture [H, W] or [H, W, 3] with values in [0, 1] as the URI of a PNG, or of a JPEG where that is smaller."""
    image = require("PIL.Image", "viz").fromarray((values.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    data, kind = _encoded(image, format="PNG", optimize=True), "png"
    if len(data) > _LARGE_PNG:
        data, kind = _encoded(image, format="JPEG", quality=88), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def heat_over(image: Tensor, heat: Tensor) -> np.ndarray:
    """A map [H, W] in [0, 1] in colours over an image [C, H, W] in [0, 1], enlarged where it is small: [H', W', 3]."""
    scale = max(1, -(-_SIDE // min(image.shape[1:])))
    shown = pixels(image)
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    shown = shown.repeat(scale, axis=0).repeat(scale, axis=1)
    smooth = torch.nn.functional.interpolate(heat[None, None].float(), scale_factor=scale, mode="bilinear")[0, 0]
    return (1 - _MAP_OPACITY) * shown + _MAP_OPACITY * colored(smooth)


def colored(heat: Tensor) -> np.ndarray:
    """A map [H, W] in [0, 1] in the colours of `inferno`, [H, W, 3]."""
    return require("matplotlib", "viz").colormaps["inferno"](heat.cpu().numpy())[..., :3]


def signed(values: Tensor) -> np.ndarray:
    """A map [H, W] in colours [H, W, 3]: white is 0, blue negative, red positive, the largest magnitude full."""
    size = float(values.abs().max()) or 1.0
    return require("matplotlib", "viz").colormaps["RdBu_r"]((values / size / 2 + 0.5).cpu().numpy())[..., :3]


def _encoded(image: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # pyright: ignore[reportAttributeAccessIssue]
    return buffer.getvalue()
