"""What a task is to the training loop, and tasks by name."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanvolution.checks import non_negative
from kanvolution.data.info import DataInfo
from kanvolution.registry import Registry, unknown_name
from kanvolution.train.options import check_options, named_options


def _strength(help: str) -> Any:
    return dataclasses.field(default=0.0, metadata={"help": help})


@dataclass(frozen=True)
class Penalties:
    """Strengths of the penalties that are added to the training loss; 0 switches one off.

    See `kanvolution.weight_penalty` and `kanvolution.ActivationPenalty` for what they are. Raises ValueError for a
    negative strength.
    """

    weight_l1: float = _strength("of the sum of |w| over the weights of Kolmogorov-Arnold layers")
    weight_l2: float = _strength("of half the sum of w^2 over them")
    activation_l1: float = _strength("of the mean of |y| over the outputs of each Kolmogorov-Arnold layer")
    activation_l2: float = _strength("of the mean of y^2 over them")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            non_negative(f"task.penalties.{field.name}", getattr(self, field.name))

    @classmethod
    def of(cls, values: Penalties | Mapping[str, float] | None) -> Penalties:
        """`values` as penalties, None for none. Raises ValueError for an unknown name, naming the nearest."""
        if isinstance(values, Penalties):
            return values
        values = values or {}
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown_name("option of task.penalties", name, known))
        return cls(**values)


class Task(ABC):
    """Owns the loss and the metrics. Metrics are gathered with `update` over a validation and read with `compute`.

    `penalties` are added to the training loss by the loop.
    """

    penalties: Penalties = Penalties()
    lower_is_better: frozenset[str] = frozenset({"loss", "calibration_error", "hd95"})
    """Metrics whose best value is the lowest; of all others it is the highest."""

    def transform_batch(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A training batch as the model and the loss shall see it (MixUp and its like); unchanged by default.

        Randomness comes from torch's global generator, which is seeded anew for every step.
        """
        return inputs, target

    @abstractmethod
    def loss(self, output: Any, target: Tensor) -> Tensor:
        """The loss of a batch, averaged over its samples."""

    @abstractmethod
    def reset(self, device: torch.device) -> None:
        """Begin a new validation."""

    @abstractmethod
    def update(self, output: Any, target: Tensor) -> None:
        """Take in the outputs of a batch, gathered from all processes."""

    @abstractmethod
    def compute(self) -> dict[str, float | None]:
        """The metrics of the validation by name; None for one that is not defined on these samples."""

    def tables(self) -> dict[str, list[list[Any]]]:
        """Tables of the last validation by name, of JSON types; none by default."""
        return {}


TASKS: Registry[Callable[..., Task]] = Registry("task")


def register_task(name: str) -> Callable[[Callable[..., Task]], Callable[..., Task]]:
    """Decorator: makes a task available to every config as `task=name`. It takes `info` and options of its own."""
    return TASKS.register(name)


def list_tasks() -> list[str]:
    """The names of all registered tasks, sorted."""
    return list(TASKS)


def create_task(choice: str | Mapping[str, Any], info: DataInfo) -> Task:
    """The task on a data set: "classification" or {"name": "classification", "label_smoothing": 0.1}.

    Raises:
        ValueError: unknown name or option (the nearest is named), or a value out of range.
    """
    name, options = named_options("task", choice)
    make = TASKS[name]
    check_options(f"task {name!r}", make, options, filled=["info"])
    return make(info, **options)
