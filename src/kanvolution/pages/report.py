"""A report of runs: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import datetime
import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kanvolution.checks import integer_at_least
from kanvolution.data.info import DataInfo
from kanvolution.files import write_text
from kanvolution.models.segmenter import predicted_mask
from kanvolution.pages.layers import LayerPart, layer_parts
from kanvolution.pages.pictures import heat_over, picture
from kanvolution.pages.records import Records, config_rows, environment_rows, read_records, run_names, summary_rows
from kanvolution.pages.svg import Line, confusion_chart, line_chart, reliability_chart
from kanvolution.pages.templates import asset, render
from kanvolution.registry import unknown_name
from kanvolution.train.progress import measured
from kanvolution.visualize.attribution import grad_cam
from kanvolution.visualize.examples import class_color, overlay, pixels
from kanvolution.visualize.layers import in_eval, layer_views

_LOOKED_AT = 8
_MISTAKES = 12
_PAIRS = 8
_MOST_CLASSES = 30


@dataclass(frozen=True)
class ReportedRun:
    """A run to report: its folder, its network, and the images it was validated on, normalised (None: without data).

    See `kanvolution.train.load_run` and `kanvolution.train.evaluate.validation_images`.
    """

    folder: str | Path
    model: nn.Module
    info: DataInfo
    images: Dataset | None = None


@dataclass(frozen=True)
class Shown:
    """An image of the page with two lines of text."""

    source: str
    title: str
    text: str = ""


@dataclass(frozen=True)
class Results:
    """What a run did with its validation images."""

    confusion: str = ""
    pairs: tuple[tuple[str, str, int, str], ...] = ()
    reliability: str = ""
    mistakes: tuple[Shown, ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    masks: tuple[tuple[Shown, Shown, Shown], ...] = ()
    legend: tuple[tuple[str, str], ...] = ()


def write_report(
    runs: Sequence[ReportedRun], path: str | Path, *, layers: Sequence[str] = ("*",), count: int = 12
) -> Path:
    """Write one HTML file about runs: what they measured, what their functions look like, where they look.

    Nothing is loaded from elsewhere when it is opened: pictures, style and script are inside.

    Args:
        runs: at least one; several are shown side by side.
        path: a new file.
        layers: names or shell patterns of the layers whose functions are shown, of any of the runs.
        count: functions of each layer.

    Returns:
        The file.

    Raises:
        ValueError: a file that is there already, no run there, or a layer that none of the runs has (the nearest is
            named).
    """
    path = Path(path)
    integer_at_least("count", count, 1)
    if not runs:
        raise ValueError("runs must hold at least one run")
    check_new_file(path)
    records = [read_records(run.folder) for run in runs]
    names = run_names([record.folder for record in records])
    chosen = _chosen_layers(runs, layers)
    script = asset("report.js")
    page = render(
        "report.html",
        runs=names,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        style=asset("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headlines=[_headline(record) for record in records],
        summary=summary_rows(records),
        charts=_curves(records),
        results=[_results(run, record) for run, record in zip(runs, records, strict=True)],
        layers=_layers(runs, chosen, count),
        with_data=all(run.images is not None for run in runs),
        looks=[_looks(run) for run in runs],
        config=config_rows(records),
        environment=environment_rows(records),
    )
    write_text(path, page)
    return path


def check_new_file(path: Path) -> None:
    """Raise ValueError if a file is there already, or its folder is not."""
    if path.exists():
        raise ValueError(f"file (={str(path)!r}) is there already; choose another name")
    if not path.parent.is_dir():
        raise ValueError(f"file (={str(path)!r}) cannot be written: there is no folder {str(path.parent)!r}")


def _chosen_layers(runs: Sequence[ReportedRun], patterns: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(view.name for run in runs for view in layer_views(run.model)))
    for pattern in patterns:
        if pattern != "*" and not fnmatch.filter(known, pattern):
            raise ValueError(unknown_name("layer", pattern, known or ["(none)"]))
    return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _layers(runs: Sequence[ReportedRun], names: Sequence[str], count: int) -> list[tuple[str, list[LayerPart | None]]]:
    """For each layer its part of each run, None where a run has no such layer."""
    columns = []
    for run in runs:
        own = [view.name for view in layer_views(run.model) if view.name in names]
        data = None if run.images is None else _mixed(run.images)
        parts = layer_parts(run.model, data, layers=own, count=count) if own else []
        columns.append({part.name: part for part in parts})
    return [(name, [column.get(name) for column in columns]) for name in names]


def _mixed(images: Dataset) -> DataLoader:
    """Batches in a mixed order, since the images of a folder come class by class."""
    return DataLoader(images, 64, shuffle=True, generator=torch.Generator().manual_seed(0))


_HEADLINES = ("top1", "dice")


def _headline(record: Records) -> tuple[str, str]:
    """The one number of a run: (label, value)."""
    for key in (*_HEADLINES, "loss"):
        if record.metrics.get(key) is not None:
            return measured(key, record.metrics[key])
    return "", ""


_CHARTS = (
    ("Loss", "loss", ("train_loss", "val_loss"), 1),
    ("Accuracy on the validation images", "top-1 (%)", ("val_top1",), 100),
    ("Dice on the validation images", "Dice (%)", ("val_dice",), 100),
    ("Learning rate", "learning rate", ("lr",), 1),
)


def _curves(records: Sequence[Records]) -> list[tuple[str, str]]:
    """(title, chart) of what was recorded over the epochs, a colour for each run."""
    charts = []
    for title, label, keys, factor in _CHARTS:
        lines = [
            Line(
                [epoch["epoch"] for epoch in record.epochs],
                [None if epoch.get(key) is None else factor * epoch[key] for epoch in record.epochs],
                number,
                dashed=key.startswith("train_"),
            )
            for number, record in enumerate(records)
            for key in keys
        ]
        values = [y for line in lines for y in line.y if y is not None]
        if values:
            log = len(keys) > 1 and min(values) > 0
            unit = label + (" (log scale)" if log else "")
            charts.append((title, line_chart(lines, title=title, x_label="epoch", y_label=unit, log=log)))
    return charts


def _results(run: ReportedRun, record: Records) -> Results:
    names, tables = run.info.class_names, record.tables
    found: dict[str, Any] = {}
    confusion = tables.get("confusion")
    if confusion is not None:
        if len(names) <= _MOST_CLASSES:
            found["confusion"] = confusion_chart(confusion, names, "confusion matrix")
        found["pairs"] = tuple(_pairs(confusion, names))
    if tables.get("calibration"):
        found["reliability"] = reliability_chart(tables["calibration"][1:], "accuracy of each bin of confidence")
    if tables.get("classes"):
        found["classes"] = tuple(_class_rows(tables["classes"]))
    if run.images is not None:
        data = run.images
        found["mistakes"] = tuple(
            Shown(
                picture(pixels(run.info.denormalise(data[row[0]][0]))),
                f"{names[row[2]]}, {100 * row[3]:.0f} %",
                f"is {names[row[1]]}\nimage {row[0]}",
            )
            for row in tables.get("mistakes", [])[1 : _MISTAKES + 1]
        )
        rows = tables.get("images", [])[1:]
        if rows:
            found["masks"] = tuple(_masked(run, data, number, dice) for number, dice in rows)
            found["legend"] = tuple((name, _css(class_color(i))) for i, name in enumerate(names) if 0 < i <= 10)
    return Results(**found)


def _pairs(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[tuple[str, str, int, str]]:
    """The largest entries off the diagonal: true class, predicted class, images, share of the true class."""
    off = [(n, i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j and n]
    off.sort(key=lambda entry: -entry[0])
    return [(names[i], names[j], n, f"{100 * n / sum(confusion[i]):.1f} %") for n, i, j in off[:_PAIRS]]


def _class_rows(table: Sequence[Sequence[Any]]) -> list[tuple[str, ...]]:
    """The table `classes` of a segmentation with labels and units."""
    keys = table[0][1:]
    head = (table[0][0], *(measured(key, 0.0)[0] for key in keys))
    rows = [(row[0], *(measured(key, v)[1] for key, v in zip(keys, row[1:], strict=True))) for row in table[1:]]
    return [head, *rows]


def _masked(run: ReportedRun, data: Dataset, number: int, dice: float) -> tuple[Shown, Shown, Shown]:
    image, mask = data[number]
    with in_eval(run.model), torch.no_grad():
        predicted = predicted_mask(run.model(image.unsqueeze(0).to(_device(run.model))))[0].cpu()
    shown = run.info.denormalise(image)
    return (
        Shown(picture(pixels(shown)), f"image {number}", f"Dice {100 * dice:.1f} %"),
        Shown(picture(overlay(shown, mask)), "true mask"),
        Shown(picture(overlay(shown, predicted)), "predicted mask"),
    )


def _looks(run: ReportedRun) -> tuple[list[tuple[Shown, Shown]], str]:
    """Images and where the network looks in them; or why there are none."""
    if run.images is None:
        return [], "The report was made without data."
    numbers = _varied(run)
    samples = [run.images[number] for number in numbers]
    images = torch.stack([image for image, _ in samples])
    try:
        heat = grad_cam(run.model, images)
    except ValueError as error:
        return [], f"Grad-CAM cannot be computed: {error}."
    texts = _texts(run, images, numbers, [target for _, target in samples])
    looks = []
    for image, place, (title, text) in zip(run.info.denormalise(images), heat, texts, strict=True):
        looks.append((Shown(picture(pixels(image)), title, text), Shown(picture(heat_over(image, place)), "")))
    return looks, ""


def _varied(run: ReportedRun) -> list[int]:
    """Numbers of images of different classes, as far as there are; the first of each."""
    size = len(run.images)  # pyright: ignore[reportArgumentType]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()[:512]
    if run.info.targets != "labels" or run.images is None:
        return order[:_LOOKED_AT]
    first: dict[int, int] = {}
    for index in order:
        first.setdefault(int(run.images[index][1]), index)
        if len(first) == min(_LOOKED_AT, run.info.num_classes):
            break
    rest = [index for index in order if index not in first.values()]
    return [*(first[label] for label in sorted(first)), *rest][:_LOOKED_AT]


def _texts(run: ReportedRun, images: Tensor, numbers: Sequence[int], targets: Sequence[Any]) -> list[tuple[str, str]]:
    if run.info.targets != "labels":
        return [(f"image {number}", "") for number in numbers]
    with in_eval(run.model), torch.no_grad():
        found = run.model(images.to(_device(run.model))).float().softmax(1).cpu().max(1)
    names = run.info.class_names
    return [
        (f"{names[label]}, {100 * share:.0f} %", "right" if label == int(target) else f"is {names[int(target)]}")
        for share, label, target in zip(found.values.tolist(), found.indices.tolist(), targets, strict=True)
    ]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _css(color: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in color)
