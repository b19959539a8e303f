"""Measuring a saved run on data: the metrics of its task, and those of each class."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kanvolution.checks import integer_at_least
from kanvolution.data.info import DataInfo, DataSets
from kanvolution.data.registry import PreparedImages
from kanvolution.registry import unknown_name
from kanvolution.train.checkpoint import Run, load_run
from kanvolution.train.tasks import Task, create_task

CHECKPOINTS = ("last", "best")


@dataclass(frozen=True)
class ClassResult:
    """What a classifier does with one class; None where it is not defined.

    Args:
        name: of the class.
        images: number of images of this class.
        recall: share of them that is classified as this class.
        precision: share of this class among the images that are classified as it.
        f1: harmonic mean of the two.
    """

    name: str
    images: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics and tables of a task (see `Task`), results by class where it has a confusion matrix, images, seconds."""

    metrics: dict[str, float | None]
    tables: dict[str, list[list[Any]]]
    classes: tuple[ClassResult, ...]
    images: int
    seconds: float


def find_checkpoint(folder: str | Path, which: str = "last") -> Path:
    """The folder with the "last" or the "best" weights of a run.

    Raises:
        ValueError: another word, or the run kept no best weights.
    """
    if which not in CHECKPOINTS:
        raise ValueError(unknown_name("checkpoint", which, CHECKPOINTS))
    path = Path(folder) if which == "last" else Path(folder) / "best"
    if not path.is_dir() and Path(folder).is_dir():
        raise ValueError(f"{str(folder)!r} has no best checkpoint; take the last, or train with trainer.keep_best=top1")
    return path


def evaluate(
    run: str | Path | Run,
    data: DataSets,
    *,
    task: str | Mapping[str, Any] | Task = "classification",
    batch_size: int = 256,
    device: torch.device | str | None = None,
    flips: bool = False,
) -> Evaluation:
    """The metrics of a saved run on the validation part of a data set.

    Images are normalised as those of the run were, whatever the mean and standard deviation of this data set.

    Args:
        run: a run, or the folder of its weights (see `find_checkpoint`).
        data: see `kanvolution.data.create_data`.
        task: a name, or a dictionary with `name` and options, as in training.
        batch_size: images taken at once.
        device: None takes a GPU where there is one.
        flips: average the outputs for each image and its mirror image (last dimension), which doubles the time.
            Outputs of an image's shape are mirrored back before. For images whose meaning survives a mirror: not for
            digits or letters.

    Raises:
        ValueError: no run there, or data of other classes, channels or image size than the run's.

    Example:
        >>> import tempfile, kanvolution as kv
        >>> from kanvolution.data import create_data
        >>> from kanvolution.train import evaluate, save_run
        >>> data = create_data("digits")
        >>> model = kv.create_model("simple4", "gram", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
        >>> folder = tempfile.mkdtemp()
        >>> save_run(folder, model, data.info)
        >>> evaluate(folder, data).images
        359
    """
    run = run if isinstance(run, Run) else load_run(run)
    integer_at_least("batch_size", batch_size, 1)
    images = validation_images(run, data)
    # Which pixels belong to no class is said by the data that is measured on.
    task = task if isinstance(task, Task) else create_task(task, replace(run.info, ignore_index=data.info.ignore_index))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = run.model.to(device).eval()
    task.reset(device)
    count, started = 0, time.perf_counter()
    with torch.no_grad():
        for inputs, target in DataLoader(images, batch_size):
            inputs = inputs.to(device)
            task.update(mean_of_flips(model, inputs) if flips else model(inputs), target.to(device))
            count += len(target)
    seconds = time.perf_counter() - started
    metrics, tables = task.compute(), task.tables()
    confusion = tables.get("confusion")
    classes = () if confusion is None else class_results(confusion, run.info.class_names)
    return Evaluation(metrics, tables, classes, count, round(seconds, 3))


def mean_of_flips(model: nn.Module, inputs: Tensor) -> Tensor:
    """The mean of a model's outputs for images and for their mirror images; see `evaluate`."""
    outputs, mirrored = model(inputs), model(inputs.flip(-1))
    return (outputs + (mirrored.flip(-1) if outputs.ndim == inputs.ndim else mirrored)) / 2


def validation_images(run: Run, data: DataSets) -> Dataset:
    """The validation part of a data set, normalised as the images of the run were.

    Raises:
        ValueError: data of other classes, channels or image size than the run's.
    """
    check_same_images(data.info, run.info)
    return PreparedImages(data.val.images, run.info) if isinstance(data.val, PreparedImages) else data.val


def check_same_images(data: DataInfo, run: DataInfo) -> None:
    """Raises ValueError unless images of `data` can be given to a network trained on those of `run`."""
    if data.class_names != run.class_names:
        odd = [name for name in data.class_names if name not in run.class_names]
        lacking = [name for name in run.class_names if name not in data.class_names]
        parts = [
            f"it has {_few(odd)}, which the checkpoint does not know" if odd else "",
            f"it lacks {_few(lacking)}" if lacking else "",
            "" if odd or lacking else f"they stand in another order, {_few(data.class_names)}",
        ]
        raise ValueError(
            f"the classes of {data.name} ({data.num_classes}) do not match the checkpoint's ({run.num_classes}): "
            f"{'; '.join(filter(None, parts))}. Evaluate on data of the classes {_few(run.class_names)}"
        )
    if data.in_chans != run.in_chans:
        raise ValueError(
            f"images of {data.name} have {data.in_chans} channels, the checkpoint takes {run.in_chans}; "
            f"for image files pass data.channels={run.in_chans}"
        )
    if data.image_size != run.image_size:
        raise ValueError(
            f"images of {data.name} are {data.image_size[0]}x{data.image_size[1]}, the checkpoint was trained on "
            f"{run.image_size[0]}x{run.image_size[1]}; for image files pass data.image_size={run.image_size[0]}"
        )


def class_results(confusion: list[list[int]], names: tuple[str, ...]) -> tuple[ClassResult, ...]:
    """Recall, precision and F1 of each class.

    Args:
        confusion: one row for each true class, one column for each predicted one, numbers of images.
        names: of the classes.

    Example:
        >>> from kanvolution.train.evaluate import class_results
        >>> class_results([[3, 1], [0, 0]], ("a", "b"))[0]
        ClassResult(name='a', images=4, recall=0.75, precision=1.0, f1=0.8571428571428571)
    """
    results = []
    for i, name in enumerate(names):
        hits, actual, predicted = confusion[i][i], sum(confusion[i]), sum(row[i] for row in confusion)
        results.append(
            ClassResult(
                name,
                actual,
                hits / actual if actual else None,
                hits / predicted if predicted else None,
                2 * hits / (actual + predicted) if actual else None,
            )
        )
    return tuple(results)


def _few(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
