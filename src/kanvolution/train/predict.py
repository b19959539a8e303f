"""Classifying images with a saved run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanvolution.checks import integer_at_least
from kanvolution.data.images import fit_image, image_tensor, read_image
from kanvolution.data.info import DataInfo
from kanvolution.train.checkpoint import Run, load_run


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, best first, with their probabilities."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.probabilities[0]


def predict(
    run: str | Path | Run,
    images: Sequence[str | Path | Tensor | Any],
    *,
    top: int = 1,
    invert: bool = False,
    batch_size: int = 64,
) -> list[Prediction]:
    """Classify images as the run's validation images were: same channels, size and normalisation.

    All images are read before the first is classified.

    Args:
        run: a run, or its folder.
        images: paths of image files, PIL images, or tensors [C, H, W] (uint8, or floating point in [0, 1]).
        top: how many classes to give for each image, at most as many as there are.
        invert: swap light and dark first, for dark-on-light writing where the run was trained on light-on-dark.
        batch_size: images classified at once.

    Returns:
        One prediction for each image, in order.

    Raises:
        ValueError: an image that cannot be read (the file is named) or has other channels, no run there, or
            one that segments.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if run.info.targets != "labels":
        raise ValueError(f"the run in {str(run.path)!r} gives a class to every pixel; use segment")
    integer_at_least("top", top, 1)
    integer_at_least("batch_size", batch_size, 1)
    if not images:
        return []
    prepared = [fit_image(read_for(image, run.info), run.info.image_size, run.info.crop_share) for image in images]
    prepared = torch.stack(prepared)
    prepared = run.info.normalise(1 - prepared if invert else prepared)
    device = next((p.device for p in run.model.parameters()), torch.device("cpu"))
    predictions: list[Prediction] = []
    with torch.no_grad():
        for batch in prepared.split(batch_size):
            probabilities = run.model(batch.to(device)).float().softmax(1).cpu()
            values, indices = probabilities.topk(min(top, run.info.num_classes))
            for row, labels in zip(values.tolist(), indices.tolist(), strict=True):
                predictions.append(Prediction(tuple(run.info.class_names[i] for i in labels), tuple(row)))
    return predictions


def read_for(image: str | Path | Tensor | Any, info: DataInfo) -> Tensor:
    """An image file, PIL image or tensor as a tensor [C, H, W] with the channels of a run, of its own size.

    Raises:
        ValueError: a file that cannot be read (it is named), or a tensor of another shape.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, info.in_chans)
    if not isinstance(image, Tensor):
        return image_tensor(image, info.in_chans)
    if image.ndim != 3 or image.shape[0] != info.in_chans:
        raise ValueError(f"image (shape {tuple(image.shape)}) must be [{info.in_chans}, H, W] for this run")
    return image
