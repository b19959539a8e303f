"""What every trial does, whoever chooses its settings: a training, told of epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanvolution.configs import ConfigError, compose
from kanvolution.configs.compose import quoted
from kanvolution.registry import unknown_name
from kanvolution.train import run_job
from kanvolution.train.progress import Progress
from kanvolution.train.trackers import NoTracker
from kanvolution.tune.space import Space

Report = Callable[[float, int], None]
"""Told of the metric's value and the epoch; may raise to stop the training."""


class _Reporter(NoTracker):
    """Hands the metric of each epoch but the last to a `Report`: after the last there is nothing to stop."""

    def __init__(self, metric: str, epochs: int, report: Report) -> None:
        self.metric, self.epochs, self.report = metric, epochs, report

    def log(self, record: Mapping[str, Any]) -> None:
        key = f"val_{self.metric}"
        if key not in record:
            names = [name.removeprefix("val_") for name in record if name.startswith("val_")]
            raise ValueError(unknown_name("metric", self.metric, names))
        value = record[key]
        if value is not None and math.isfinite(value) and record["epoch"] < self.epochs:
            self.report(value, record["epoch"])


@dataclass(frozen=True)
class TrialObjective:
    """Trains with some settings, and returns the metric of the last epoch.

    Args:
        overrides: of `kanvolution train`, for all trials.
        metric: of validation.
        progress: what is told of each training; None prints.
    """

    overrides: Sequence[str]
    metric: str
    progress: Progress | None = None

    def __call__(self, settings: Mapping[str, Any], folder: Path, report: Report) -> float:
        """Train in `folder`, and return the metric.

        Raises:
            ValueError: the metric has no value; or see `run_job`.
        """
        composed = compose([*self.overrides, *override_lines(settings), f"output_dir={quoted(str(folder))}"])
        reporter = _Reporter(self.metric, composed.values["trainer"]["epochs"], report)
        values = {**composed.values, "tracker": reporter}
        value = run_job(values, text=composed.text, progress=self.progress).metrics[self.metric]
        if value is None or not math.isfinite(value):
            raise ValueError(f"{self.metric} has no value")
        return float(value)


def error_text(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def override_lines(settings: Mapping[str, Any]) -> list[str]:
    """Settings as overrides of the command line."""
    return [f"{key}={_value(value)}" for key, value in settings.items()]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value.replace("_", "").isalnum() else quoted(value)
    return "null" if value is None else str(value)


def check_space(overrides: Sequence[str], space: Space) -> tuple[dict[str, Any], int]:
    """The values of the space's keys before the search, those that it contains, and the epochs of the longest training.

    Raises:
        ConfigError: a key that does not exist, or a value that it cannot have.
    """
    for text in overrides:
        if text.startswith(("output_dir=", "resume=", "tracker=")):
            raise ConfigError(f"{text!r}: every trial has its own; leave it out")
    configs = [compose([*overrides, *override_lines(settings)]).values for settings in space.extremes()]
    values: Any = compose(overrides).values
    found: dict[str, Any] = {}
    for key, dimension in space.dimensions.items():
        value = values
        for part in key.split("."):
            value = value[part]
        if dimension.contains(value):
            found[key] = value
    return found, max(config["trainer"]["epochs"] for config in configs)
