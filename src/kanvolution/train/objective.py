"""What a training step minimises."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.layers.collect import collect_losses
from kanvolution.layers.penalties import ActivationPenalty, kan_layers, weight_penalty
from kanvolution.train.tasks import Task


class Objective:
    """The task's loss, with the losses that modules hold (experts, ...) and the task's penalties.

    A context manager: penalties on activations are collected while it is open. Open it before the first call of a
    compiled model.

    Args:
        task: gives the loss and the strengths of the penalties.
        model: the bare module, not its wrapping for several processes.

    Raises:
        ValueError: a penalty is asked for, and the model has no Kolmogorov-Arnold layer.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.data import create_data
        >>> from kanvolution.train import create_task
        >>> task = create_task({"name": "classification", "penalties": {"weight_l1": 1e-4}}, create_data("digits").info)
        >>> model = kv.create_model("simple4", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
        >>> with Objective(task, model) as objective:
        ...     loss = objective(model(torch.randn(4, 1, 8, 8)), torch.arange(4))
        ...     list(objective.means())
        ['weight_penalty']
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task, self.model = task, model
        strengths = vars(task.penalties)
        if any(strengths.values()) and next(kan_layers(model), None) is None:
            asked = ", ".join(f"task.penalties.{name} (={value})" for name, value in strengths.items() if value)
            raise ValueError(f"{asked}: {type(model).__name__} has no Kolmogorov-Arnold layer; set it to 0")
        on = task.penalties
        self._on_weights = bool(on.weight_l1 or on.weight_l2)
        self._activations = (
            ActivationPenalty(model, l1=on.activation_l1, l2=on.activation_l2)
            if on.activation_l1 or on.activation_l2
            else None
        )
        self.begin()

    def __enter__(self) -> Objective:
        with contextlib.ExitStack() as stack:
            if self._activations is not None:
                stack.enter_context(self._activations)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self) -> None:
        """Forget what was collected, such as in a validation, and begin new means."""
        self._sums: dict[str, Tensor] = {}
        self._calls = 0
        if self._activations is not None:
            self._activations.discard()

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """The value for the model's last forward, to be called once for each."""
        loss = self.task.loss(output, target) + collect_losses(self.model)
        for name, term in self._penalties().items():
            loss = loss + term
            self._sums[name] = self._sums.get(name, torch.zeros_like(term)) + term.detach()
        self._calls += 1
        return loss

    def means(self) -> dict[str, float]:
        """The mean of each penalty over the calls since `begin`; empty where there is none."""
        return {name: float(total) / self._calls for name, total in self._sums.items()}

    def _penalties(self) -> dict[str, Tensor]:
        terms = {}
        if self._on_weights:
            strengths = self.task.penalties
            terms["weight_penalty"] = weight_penalty(self.model, l1=strengths.weight_l1, l2=strengths.weight_l2)
        if self._activations is not None:
            terms["activation_penalty"] = self._activations.take()
        return terms
