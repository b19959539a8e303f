"""Segmenting images with a saved run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V2

from kanvolution.data.images import unit_range
from kanvolution.data.info import DataInfo
from kanvolution.extras import require
from kanvolution.files import atomic
from kanvolution.models.segmenter import predicted_mask
from kanvolution.train.checkpoint import Run, load_run
from kanvolution.train.predict import read_for
from kanvolution.visualize.examples import class_color, overlay


def segment(
    run: str | Path | Run, images: Sequence[str | Path | Tensor | Any], *, invert: bool = False
) -> list[Tensor]:
    """The class of every pixel of images, each at its own size.

    An image is scaled as the run's validation images were, but not cropped; the logits are scaled back.

    Args:
        run: a run of task=segmentation, or its folder.
        images: paths of image files, PIL images, or tensors [C, H, W] (uint8, or floating point in [0, 1]).
        invert: swap light and dark first.

    Returns:
        A mask [H, W] of class indices for each image, in order.

    Raises:
        ValueError: an image that cannot be read (the file is named) or has other channels, no run there, or one that
            classifies.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if run.info.targets != "masks":
        raise ValueError(f"the run in {str(run.path)!r} gives a class to every image, not to its pixels; use predict")
    read = [read_for(image, run.info) for image in images]
    device = next((p.device for p in run.model.parameters()), torch.device("cpu"))
    masks = []
    with torch.no_grad():
        for image in read:
            prepared = unit_range(_scaled(image, run.info))
            prepared = run.info.normalise(1 - prepared if invert else prepared)
            logits = run.model(prepared.unsqueeze(0).to(device)).float()
            if logits.shape[2:] != image.shape[1:]:
                logits = F.interpolate(logits, size=image.shape[1:], mode="bilinear", align_corners=False)
            masks.append(predicted_mask(logits)[0].cpu())
    return masks


def _scaled(image: Tensor, info: DataInfo) -> Tensor:
    """The whole image at the scale of `kanvolution.data.cover`."""
    height, width = image.shape[1:]
    scale = max(info.image_size[0] / height, info.image_size[1] / width) / info.crop_share
    size = [round(height * scale), round(width * scale)]
    return image if size == [height, width] else V2.resize(image, size, antialias=True)


def class_areas(mask: Tensor, info: DataInfo) -> dict[str, float]:
    """The share of a mask [H, W] that each class has."""
    counts = torch.bincount(mask.flatten(), minlength=info.num_classes)
    return {name: count / mask.numel() for name, count in zip(info.class_names, counts.tolist(), strict=True)}


def mask_files(folder: str | Path, images: Sequence[str | Path], info: DataInfo) -> list[tuple[Path, Path]]:
    """The files that `save_masks` writes, mask and overlay for each image.

    Raises:
        ValueError: two images of one name, a file that is there already, or more than 256 classes.
    """
    if info.num_classes > 256:
        raise ValueError(
            f"a mask file holds up to 256 classes, and there are {info.num_classes}; use segment in Python"
        )
    names = [Path(image).stem for image in images]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} images are named {name!r}; write their masks to different folders")
    files = [(Path(folder) / f"{name}_mask.png", Path(folder) / f"{name}_overlay.png") for name in names]
    for file in (file for pair in files for file in pair):
        if file.exists():
            raise ValueError(f"{str(file)!r} exists already; remove it, or choose another folder")
    return files


def save_masks(
    folder: str | Path, images: Sequence[str | Path], masks: Sequence[Tensor], info: DataInfo
) -> list[tuple[Path, Path]]:
    """Write NAME_mask.png and NAME_overlay.png for each image file; nothing is overwritten.

    A mask is a palette image of class indices in the colours of the classes, as `data=segmentation_folder` reads them;
    an overlay is the image with those colours over it.

    Args:
        folder: where to; made if it is not there.
        images: paths of the images.
        masks: their masks [H, W], as of `segment`.
        info: of the run.

    Returns:
        The files written, see `mask_files`.

    Raises:
        ValueError: as `mask_files`, before anything is written.
    """
    files = mask_files(folder, images, info)
    Path(folder).mkdir(parents=True, exist_ok=True)
    pil = require("PIL.Image", "train")
    palette = [round(255 * value) for index in range(1, info.num_classes) for value in class_color(index)]
    for image, mask, pair in zip(images, masks, files, strict=True):
        indexed = pil.fromarray(mask.to(torch.uint8).numpy()).convert("P")
        indexed.putpalette([0, 0, 0, *palette])
        shown = overlay(unit_range(read_for(image, info)), mask)
        for file, picture in zip(pair, (indexed, pil.fromarray((255 * shown).astype(np.uint8))), strict=True):
            with atomic(file) as temporary:
                picture.save(temporary, format="PNG")
    return files
