"""What a back end is asked for, and the registry of back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanvolution.registry import Registry
from kanvolution.train.tasks import Task
from kanvolution.tune.objective import TrialObjective
from kanvolution.tune.report import Trial
from kanvolution.tune.space import Space


@dataclass(frozen=True)
class Plan:
    """A study.

    Args:
        objective: what each trial does.
        space: what is searched.
        base: the settings of the first trial, for the keys whose value lies in the space.
        folder: of the study, as an absolute path.
        samples: trials in all, those that are there already included.
        seed: of the choice of settings.
        epochs: of the longest training.
        grace_epochs: a training is not stopped before.
        reduction: from one comparison to the next, the share of trainings that goes on is 1 / reduction.
        prepare: to be called in every other process before it trains.
    """

    objective: TrialObjective
    space: Space
    base: dict[str, Any]
    folder: Path
    samples: int
    seed: int
    epochs: int
    grace_epochs: int
    reduction: int
    prepare: Callable[[], None] | None = None

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is to become small."""
        return self.objective.metric in Task.lower_is_better

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / f"trial{number:03d}"


BACKENDS: Registry[Callable[..., list[Trial]]] = Registry("backend")
"""What makes the trials of a `Plan`, with options of its own; returns all of them, those of earlier calls included.

A back end is called with the plan and with a function that makes the study's folder, which it calls when it is ready.
"""


class StudyInterruptedError(Exception):
    """SIGINT or SIGTERM ended a study; the same call goes on with it."""

    def __init__(self, folder: Path, signal_name: str) -> None:
        self.folder, self.signal_name = folder, signal_name
        super().__init__(f"stopped by {signal_name}; the trials so far are in {folder}")


def first_trial_failed(message: str) -> ValueError:
    """The error that ends a study: the settings it starts from cannot be trained with."""
    return ValueError(f"the first trial, with the settings given, failed: {message}")
