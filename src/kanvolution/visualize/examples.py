"""Pictures of single images: the worst mistakes of a classifier, and masks laid over what they segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kanvolution.extras import require
from kanvolution.visualize.figures import new_figure

_COLUMNS = 8
_MOST_NAMES = 12
_OPACITY = 0.5


def pixels(image: Tensor) -> np.ndarray:
    """An image [C, H, W] in [0, 1] as it is shown: [H, W, 3], or grey [H, W], the mean of other channels than 3."""
    image = image.detach().float().cpu().clamp(0, 1)
    return image.permute(1, 2, 0).numpy() if len(image) == 3 else image.mean(0).numpy()


def mistakes_figure(images: Sequence[Tensor], rows: Sequence[Sequence[Any]], class_names: Sequence[str]) -> Any:
    """Wrongly classified images with their true and predicted classes.

    Args:
        images: [C, H, W] in [0, 1].
        rows: for each, as in the table `mistakes` of `Classification`: number, true class, predicted class, probability
            of the predicted one, probability of the true one.
        class_names: by label.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: no images, or another number of rows.
    """
    if not images or len(images) != len(rows):
        raise ValueError(f"images (={len(images)}) and rows (={len(rows)}) must be as many, and at least one")
    columns = min(_COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = new_figure((1.25 * max(columns, 4) + 0.2, 1.75 * lines + 0.5))
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, (number, true, predicted, confidence, _) in zip(panels, images, rows, strict=False):
        panel.imshow(pixels(image), cmap="gray", vmin=0, vmax=1)
        panel.set_title(
            f"{_short(class_names[int(predicted)])} ({100 * confidence:.0f} %)\n"
            f"is {_short(class_names[int(true)])}\nimage {number}",
            fontsize=7,
            linespacing=1.15,
        )
    figure.suptitle("Worst mistakes, most confident first", fontsize=10)
    return figure


def overlays_figure(
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    predictions: Sequence[Tensor],
    class_names: Sequence[str],
    titles: Sequence[str],
) -> Any:
    """Images, and the true and the predicted masks laid over them.

    Args:
        images: [C, H, W] in [0, 1].
        masks, predictions: [H, W] of class indices; class 0 is left as the image is.
        class_names: by index.
        titles: one for each image.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: no images, or another number of masks, predictions or titles.
    """
    if not images or {len(masks), len(predictions), len(titles)} != {len(images)}:
        raise ValueError(
            f"images (={len(images)}), masks (={len(masks)}), predictions (={len(predictions)}) and titles "
            f"(={len(titles)}) must be as many, and at least one"
        )
    figure = new_figure((1.7 * max(len(images), 2) + 0.4, 5.9))
    panels = figure.subplots(3, len(images), squeeze=False)
    rows = (("image", None), ("true mask", masks), ("predicted mask", predictions))
    for line, (name, shown) in zip(panels, rows, strict=True):
        for i, panel in enumerate(line):
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            panel.imshow(
                pixels(images[i]) if shown is None else overlay(images[i], shown[i]), cmap="gray", vmin=0, vmax=1
            )
        line[0].set_ylabel(name, fontsize=9)
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=8)
    present = sorted({int(c) for mask in (*masks, *predictions) for c in mask.unique()} - {0})[:_MOST_NAMES]
    patch = require("matplotlib.patches", "viz").Patch
    figure.legend(
        handles=[patch(color=class_color(c), label=_short(class_names[c], 24)) for c in present],
        loc="outside lower center",
        ncols=min(len(present), 6) or 1,
        frameon=False,
        fontsize=8,
    )
    return figure


def overlay(image: Tensor, mask: Tensor) -> np.ndarray:
    """An image [C, H, W] in [0, 1] with the classes of a mask [H, W] over it in colours, [H, W, 3]; 0 is clear."""
    shown = pixels(image)
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown.copy()
    for index in mask.unique().tolist():
        if index:
            inside = (mask == index).cpu().numpy()
            shown[inside] = (1 - _OPACITY) * shown[inside] + _OPACITY * np.array(class_color(index))
    return shown


def class_color(index: int) -> tuple[float, float, float]:
    """The colour of a class, each of red, green and blue in [0, 1]."""
    return require("matplotlib", "viz").colormaps["tab10"].colors[index % 10]


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
