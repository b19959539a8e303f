"""What classification of images and of pixels have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanvolution.checks import probability
from kanvolution.data.info import DataInfo
from kanvolution.train.losses import class_shares, create_loss
from kanvolution.train.tasks.task import Penalties, Task


class LabelledTask(Task):
    """Classes by index as targets: a loss by name with class weights and label smoothing, and the mean loss.

    Args:
        info: of the data set.
        loss: name of a loss, or a dictionary with `name` and options.
        class_weights: a positive weight for each class.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        penalties: strengths of penalties on weights and activations.

    Raises:
        ValueError: data with other targets, a value out of range, or another number of weights than of classes.
    """

    targets: ClassVar[str] = "labels"
    """The kind of target, see `DataInfo`."""

    def __init__(
        self,
        info: DataInfo,
        loss: str | Mapping[str, Any],
        class_weights: Sequence[float] | None,
        label_smoothing: float,
        penalties: Penalties | Mapping[str, float] | None,
    ) -> None:
        if info.targets != self.targets:
            fitting = "segmentation" if info.targets == "masks" else "classification"
            raise ValueError(
                f"data {info.name!r} has {info.targets} as targets, and this task needs {self.targets}; choose "
                f"task={fitting}, or other data"
            )
        self.penalties = Penalties.of(penalties)
        self.num_classes, self.ignore_index = info.num_classes, info.ignore_index
        if class_weights is not None and len(class_weights) != self.num_classes:
            raise ValueError(
                f"task.class_weights (={list(class_weights)}) must have one weight for each of the "
                f"{self.num_classes} classes"
            )
        self.criterion = create_loss(loss, class_weights)
        self.label_smoothing = probability("task.label_smoothing", label_smoothing)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        output, target = self._checked(output, target)
        if self.label_smoothing > 0:
            target = class_shares(target, self.num_classes, ignore_index=self.ignore_index)
            # Evenly over all classes; a pixel that belongs to none stays so.
            target = torch.lerp(target, target.mean(1, keepdim=True), self.label_smoothing)
        return self._criterion(output, target)

    def _criterion(self, output: Tensor, target: Tensor) -> Tensor:
        if self.ignore_index is not None:
            target = class_shares(target, self.num_classes, ignore_index=self.ignore_index)
        return self.criterion(output, target)

    def reset(self, device: torch.device) -> None:
        self._total, self._count = torch.zeros((), device=device), 0

    def update(self, output: Any, target: Tensor) -> None:
        output, target = self._checked(output, target)
        # Without label smoothing, so that runs with and without can be compared.
        self._total += self._criterion(output, target) * len(target)
        self._count += len(target)
        self.measure(output, target)

    def _checked(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Both, in float32 and in the types of class indices or shares. Raises ValueError if they do not fit."""
        channels = output.shape[1] if output.ndim > 1 else 0
        if channels != self.num_classes and not (channels == 1 and self.num_classes == 2):
            raise ValueError(
                f"the output of the network (shape {tuple(output.shape)}) must be [N, {self.num_classes}, ...], a "
                f"logit for each of the {self.num_classes} classes"
            )
        shares = target.is_floating_point()
        positions = (target.shape[0], *target.shape[2:]) if shares else tuple(target.shape)
        if positions != (output.shape[0], *output.shape[2:]):
            raise ValueError(
                f"the target (shape {tuple(target.shape)}) does not fit the output of the network (shape "
                f"{tuple(output.shape)}): task=classification takes a class of each image, task=segmentation one of "
                "each pixel; choose the task that fits the data and the model"
            )
        return output.float(), target.float() if shares else target.long()

    @abstractmethod
    def measure(self, output: Tensor, target: Tensor) -> None:
        """Take in the logits of a batch, in float32, for the metrics beside the loss."""

    def mean_loss(self) -> float:
        """The loss of the validation so far: the mean over batches, weighted by their sizes."""
        return float(self._total) / self._count
