"""The course of a run and its confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanvolution.visualize.figures import BLUE, ORANGE, new_figure, plain_axes

_TRAIN, _VAL = BLUE, ORANGE


def draw_run(folder: str | Path) -> list[Path]:
    """Draw `curves.png`, and `confusion.png` where the run has a confusion matrix, into the folder of a finished run.

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
    figures = {"curves.png": curves_figure([json.loads(line) for line in lines], title=info["name"])}
    confusion = result["tables"].get("confusion")
    if confusion is not None:
        figures["confusion.png"] = confusion_figure(confusion, info["class_names"])
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]


def curves_figure(records: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """Loss, and accuracy where it was measured, over the epochs.

    Args:
        records: lines of `metrics.jsonl`, one for each epoch.
        title: shown above.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = new_figure((9, 3.8))
    epochs = [record["epoch"] for record in records]
    scored = all(record.get("val_top1") is not None for record in records)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    marker = "o" if len(epochs) <= 40 else None
    for key, label, color in (("train_loss", "training", _TRAIN), ("val_loss", "validation", _VAL)):
        axes[0].plot(epochs, _numbers(records, key), marker=marker, markersize=3, label=label, color=color)
    positive = all(v > 0 for key in ("train_loss", "val_loss") for v in _numbers(records, key))
    axes[0].set(title="Loss", ylabel="cross-entropy" + (" (log scale)" if positive else ""))
    if positive:
        axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    if scored:
        accuracy = [100 * value for value in _numbers(records, "val_top1")]
        axes[1].plot(epochs, accuracy, marker=marker, markersize=3, color=_VAL)
        axes[1].set(title=f"Validation accuracy (last epoch: {accuracy[-1]:.2f} %)", ylabel="top-1 (%)")
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


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float("nan") if record.get(key) is None else record[key] for record in records]
