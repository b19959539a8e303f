"""What a run prints: a live bar on a terminal, one line for each epoch elsewhere, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from kanvolution.extras import require


class Progress(Protocol):
    """Told of the run's course by the engine."""

    def start(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        """Before the first epoch of `steps` steps; `done` is the number of steps that a continued run begins with."""

    def step(self, epoch: int, images: int) -> None:
        """After a step on `images` images."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """After an epoch, with its line of metrics."""

    def stop(self) -> None:
        """Before anything else is printed, however the run ends."""


class Silent:
    """Prints nothing."""

    def start(self, title: str, epochs: int, steps: int, done: int = 0) -> None: ...

    def step(self, epoch: int, images: int) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...


class Lines:
    """One line for each epoch."""

    def start(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.epochs = epochs
        self.print(title)

    def step(self, epoch: int, images: int) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.print(epoch_line(record, self.epochs))

    def stop(self) -> None: ...

    def print(self, text: str) -> None:
        print(text, flush=True)


class Bar(Lines):
    """A live bar with the rate in images a second and the time left, under the lines of the epochs."""

    def start(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        p = require("rich.progress", "train")
        self._images = 0
        self._bar = p.Progress(
            p.TextColumn("{task.description}"),
            p.BarColumn(),
            p.TaskProgressColumn(),
            p.TextColumn("{task.fields[rate]}"),
            p.TextColumn("{task.fields[memory]}"),
            p.TextColumn("elapsed"),
            p.TimeElapsedColumn(),
            p.TextColumn("left"),
            p.TimeRemainingColumn(),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            f"epoch {done // steps + 1}/{epochs}", total=epochs * steps, completed=done, rate="", memory=""
        )
        super().start(title, epochs, steps, done)

    def step(self, epoch: int, images: int) -> None:
        self._images += images
        elapsed = self._bar.tasks[0].elapsed or 0.0
        rate = f"{self._images / elapsed:.0f} images/s" if elapsed > 0 else ""
        memory = f"{memory_in_use() / 2**30:.2f} GiB"
        self._bar.update(self._task, advance=1, description=f"epoch {epoch}/{self.epochs}", rate=rate, memory=memory)

    def stop(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()

    def print(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def memory_in_use(device: torch.device | None = None) -> int:
    """Most bytes that the run's tensors took on the GPU so far; without one, or on the CPU, most that the process took.

    Args:
        device: where the run is; None asks for the GPU if one was used.
    """
    kind = ("cuda" if torch.cuda.is_initialized() else "cpu") if device is None else device.type
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def default_progress() -> Progress:
    """A bar where stdout is a terminal, lines elsewhere."""
    return Bar() if sys.stdout.isatty() else Lines()


_LABELS = {
    "top1": ("top-1", 100, "{:.2f} %"),
    "top5": ("top-5", 100, "{:.2f} %"),
    "macro_auc": ("AUC", 1, "{:.4f}"),
    "auc_ovo": ("AUC one-vs-one", 1, "{:.4f}"),
    "macro_f1": ("macro F1", 1, "{:.4f}"),
    "dice": ("Dice", 1, "{:.4f}"),
    "iou": ("IoU", 1, "{:.4f}"),
    "hd95": ("HD95", 1, "{:.2f} px"),
}
_SHOWN_APART = ("epoch", "lr", "train_loss", "seconds", "images_per_second", "memory_gib")
_NOT_IN_A_LINE = ("auc_ovo", "macro_recall", "macro_f1", "calibration_error", "sensitivity", "specificity", "precision")


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """One line of text from a line of `metrics.jsonl`."""
    width = len(str(epochs))
    parts = [f"epoch {record['epoch']:>{width}}/{epochs}", f"lr {record['lr']:.1e}"]
    parts += [f"train loss {record['train_loss']:.4f}"]
    apart = {*_SHOWN_APART, *(f"val_{name}" for name in _NOT_IN_A_LINE)}
    parts += [" ".join(measured(key, value)) for key, value in record.items() if key not in apart]
    parts += [f"{record['seconds']:.1f} s", f"{record['images_per_second']:.0f} images/s"]
    parts += [f"{record['memory_gib']:.2f} GiB"]
    return "  ".join(parts)


def measured(key: str, value: float | None) -> tuple[str, str]:
    """A metric as it is shown: its label, and the value with its unit.

    Example:
        >>> from kanvolution.train.progress import measured
        >>> measured("val_top1", 0.9876)
        ('top-1', '98.76 %')
    """
    name = key.removeprefix("val_")
    label, factor, form = _LABELS.get(name, (key.replace("_", " "), 1, "{:.4f}"))
    return label, "undefined" if value is None else form.format(value * factor)


def axis_label(key: str) -> tuple[str, float]:
    """A metric on the axis of a picture: its label with the unit, and the factor that it is shown with.

    Example:
        >>> from kanvolution.train.progress import axis_label
        >>> axis_label("top1")
        ('top-1 (%)', 100)
    """
    label, factor, form = _LABELS.get(key, (key.replace("_", " "), 1, "{}"))
    unit = form.partition("}")[2].strip()
    return f"{label} ({unit})" if unit else label, factor


def summary(rows: Mapping[str, str]) -> None:
    """Print a table of two columns."""
    table = require("rich.table", "train").Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    # Wider than any row: a path is to be copied, not cut to the width of the window.
    require("rich.console", "train").Console(width=1000).print(table)
