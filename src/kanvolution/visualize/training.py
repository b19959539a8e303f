"""The course of a run and what came of it: curves, confusion matrix, reliability, and single images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanvolution.data.info import DataSets
from kanvolution.models.segmenter import predicted_mask
from kanvolution.visualize.examples import mistakes_figure, overlays_figure
from kanvolution.visualize.figures import BLUE, GREY, ORANGE, new_figure, plain_axes
from kanvolution.visualize.layers import in_eval

_TRAIN, _VAL = BLUE, ORANGE


def draw_run(folder: str | Path, data: DataSets | None = None, model: nn.Module | None = None) -> list[Path]:
    """Draw the pictures of a finished run into its folder; what is there already is drawn again.

    `curves.png`; of a classifier `confusion.png` and `reliability.png`, and with its data `mistakes.png`; of a network
    that segments `segmentation.png`, which takes the data and the network.

    Args:
        folder: of the run.
        data: what it was validated on.
        model: the trained network, in any mode, on any device; it is left as it was.

    Returns:
        The pictures made.

    Raises:
        ValueError: the folder holds no finished run.
    """
    folder = Path(folder)
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        info = json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"]
    except FileNotFoundError as error:
        raise ValueError(f"{str(folder)!r} is not the folder of a finished run: no {error.filename}") from None
    names, tables = info["class_names"], result["tables"]
    figures = {"curves.png": curves_figure([json.loads(line) for line in lines], title=info["name"])}
    if "confusion" in tables:
        figures["confusion.png"] = confusion_figure(tables["confusion"], names)
    if "calibration" in tables:
        figures["reliability.png"] = reliability_figure(tables["calibration"][1:])
    if data is not None:
        rows = tables.get("mistakes", [])[1:]
        if rows and data.info.targets == "labels":
            images = [data.info.denormalise(data.val[row[0]][0]) for row in rows]
            figures["mistakes.png"] = mistakes_figure(images, rows, names)
        rows = tables.get("images", [])[1:]
        if rows and model is not None and data.info.targets == "masks":
            figures["segmentation.png"] = _segmentation(data, model, rows)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=_DPI.get(name, 120))
    return [folder / name for name in figures]


def _segmentation(data: DataSets, model: nn.Module, rows: Sequence[Sequence[Any]]) -> Any:
    samples = [data.val[row[0]] for row in rows]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with in_eval(model), torch.no_grad():
        # One by one: what fits a batch of the validation is not known here.
        predictions = [predicted_mask(model(image.unsqueeze(0).to(device)))[0].cpu() for image, _ in samples]
    images = [data.info.denormalise(image) for image, _ in samples]
    titles = [f"image {number}\nDice {100 * dice:.1f} %" for number, dice in rows]
    # Pixels of no class are left as the image is, like the background.
    masks = [mask.where((mask >= 0) & (mask < data.info.num_classes), 0) for _, mask in samples]
    return overlays_figure(images, masks, predictions, data.info.class_names, titles)


_DPI = {"mistakes.png": 100, "segmentation.png": 100}
_SCORES = {"val_top1": ("accuracy", "top-1"), "val_dice": ("Dice", "Dice")}


def curves_figure(records: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """Loss, and accuracy or Dice where one of them was measured, over the epochs.

    Args:
        records: lines of `metrics.jsonl`, one for each epoch.
        title: shown above.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = new_figure((9, 3.8))
    epochs = [record["epoch"] for record in records]
    scores = [key for key in _SCORES if all(record.get(key) is not None for record in records)]
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    marker = "o" if len(epochs) <= 40 else None
    for key, label, color in (("train_loss", "training", _TRAIN), ("val_loss", "validation", _VAL)):
        axes[0].plot(epochs, _numbers(records, key), marker=marker, markersize=3, label=label, color=color)
    positive = all(v > 0 for key in ("train_loss", "val_loss") for v in _numbers(records, key))
    axes[0].set(title="Loss", ylabel="loss" + (" (log scale)" if positive else ""))
    if positive:
        axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    if scores:
        name, label = _SCORES[scores[0]]
        values = [100 * value for value in _numbers(records, scores[0])]
        axes[1].plot(epochs, values, marker=marker, markersize=3, color=_VAL)
        axes[1].set(title=f"Validation {name} (last epoch: {values[-1]:.2f} %)", ylabel=f"{label} (%)")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        plain_axes(axis)
    if title:
        figure.suptitle(title)
    return figure


def confusion_figure(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Any:
    """The confusion matrix: shares of each true class as colour, numbers of images as text.

    Args:
        confusion: one row for each true class, one column for each predicted one.
        class_names: by label.

    Returns:
        A `matplotlib.figure.Figure`. Beyond 30 classes numbers and names are left out, which would not be readable.
    """
    count = len(confusion)
    readable = count <= 30
    side = min(12.0, max(4.5, 2.5 + 0.42 * count))
    figure = new_figure((side + 0.9, side))
    axis = figure.subplots()
    totals = [max(1, sum(row)) for row in confusion]
    shares = [[100 * value / total for value in row] for row, total in zip(confusion, totals, strict=True)]
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03, label="share of the true class (%)")
    correct = sum(confusion[i][i] for i in range(count))
    images = sum(sum(row) for row in confusion)
    axis.set(
        title=f"{correct} of {images} correct ({100 * correct / max(1, images):.2f} %)",
        xlabel="predicted class",
        ylabel="true class",
    )
    if readable:
        rotation = 45 if max(map(len, class_names)) > 3 else 0
        axis.set_xticks(range(count), class_names, rotation=rotation, ha="right" if rotation else "center")
        axis.set_yticks(range(count), class_names)
        for i, row in enumerate(confusion):
            for j, value in enumerate(row):
                if value:
                    color = "white" if shares[i][j] > 55 else "black"
                    axis.text(j, i, str(value), ha="center", va="center", color=color, fontsize=8)
    return figure


def reliability_figure(bins: Sequence[Sequence[Any]]) -> Any:
    """Accuracy against confidence: bars on the diagonal mean that 80 % sure is right 80 times of 100.

    Args:
        bins: rows as of `train.metrics.calibration_bins`: from, to, images, mean confidence, accuracy (both None in an
            empty bin).

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = new_figure((4.6, 5.0))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    full = [row for row in bins if row[2]]
    total = sum(row[2] for row in full)
    error = sum(row[2] * abs(row[4] - row[3]) for row in full) / max(1, total)
    lows, widths = [row[0] for row in bins], [row[1] - row[0] for row in bins]
    accuracy = [row[4] or 0.0 for row in bins]
    upper.bar(lows, accuracy, widths, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    upper.plot([row[3] for row in full], [row[3] for row in full], "o", ms=3.5, color=ORANGE, label="mean confidence")
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"Reliability: calibration error {100 * error:.2f} %")
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    lower.bar(lows, [row[2] for row in bins], widths, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="confidence of the predicted class", ylabel="images", xlim=(0, 1))
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(bottom=0)
    for axis in (upper, lower):
        plain_axes(axis)
    return figure


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float("nan") if record.get(key) is None else record[key] for record in records]
