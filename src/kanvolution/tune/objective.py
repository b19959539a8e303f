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
    """Hands the metric of each epoch to a `Report`."""

    def __init__(self, metric: str, report: Report) -> None:
        self.metric, self.report = metric, report

    def log(self, record: Mapping[str, Any]) -> None:
        key = f"val_{self.metric}"
        if key not in record:
            names = [name.removeprefix("val_") for name in record if name.startswith("val_")]
            raise ValueError(unknown_name("metric", self.metric, names))
        value = record[key]
        if value is not None and math.isfinite(value):
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
        """Train in `folder`. Not a number where the metric has no value."""
        composed = compose([*self.overrides, *override_lines(settings), f"output_dir={quoted(str(folder))}"])
        values = {**composed.values, "tracker": _Reporter(self.metric, report)}
        value = run_job(values, text=composed.text, progress=self.progress).metrics[self.metric]
        return math.nan if value is None else float(value)


def override_lines(settings: Mapping[str, Any]) -> list[str]:
    """Settings as overrides of the command line."""
    return [f"{key}={_value(value)}" for key, value in settings.items()]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value.replace("_", "").isalnum() else quoted(value)
    return "null" if value is None else str(value)


def check_space(overrides: Sequence[str], space: Space) -> dict[str, Any]:
    """The values of the space's keys before the search, those that it contains.

    Raises:
        ConfigError: a key that does not exist, or a value that it cannot have.
    """
    for text in overrides:
        if text.startswith(("output_dir=", "resume=", "tracker=")):
            raise ConfigError(f"{text!r}: every trial has its own; leave it out")
    for settings in space.extremes():
        compose([*overrides, *override_lines(settings)])
    values: Any = compose(overrides).values
    found: dict[str, Any] = {}
    for key, dimension in space.dimensions.items():
        value = values
        for part in key.split("."):
            value = value[part]
        if dimension.contains(value):
            found[key] = value
    return found
