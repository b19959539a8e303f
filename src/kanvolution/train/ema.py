"""A running mean of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Exponential running mean of a model's parameters and floating-point buffers.

    After update t (from 1 on) mean = d mean + (1 - d) value with d = min(decay, (1 + t) / (10 + t)): while few steps
    are done, the mean forgets its beginning fast. It starts as the values themselves. Other than
    `torch.optim.swa_utils.AveragedModel` this is no second model: `swapped` puts the means into the model itself, so
    that compiled and distributed models are validated as they were trained. Of tensors that are spread over processes
    every process keeps the mean of its own part.

    Args:
        model: where the values are; its tensors must stay the same ones.
        decay: d in the long run, in (0, 1).

    Source: Polyak averaging with the warm-up of TensorFlow's ExponentialMovingAverage.

    Example:
        >>> import torch
        >>> from kanvolution.train.ema import Ema
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> ema = Ema(model, 0.9)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> ema.update()
        >>> with ema.swapped():  # (1 + 1) / (10 + 1)
        ...     print(round(model.weight.item(), 4))
        0.1818
        >>> model.weight.item()
        0.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._values = {**dict(model.named_parameters()), **buffers}
        self._means = {name: local(value).clone() for name, value in self._values.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the values after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        means, values = list(self._means.values()), [local(value) for value in self._values.values()]
        torch._foreach_lerp_(means, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the means and the values of the model."""
        for name, value in self._values.items():
            here, mean = local(value), self._means[name]
            kept = here.clone()
            here.copy_(mean)
            mean.copy_(kept)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model has the means for values."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def restart(self, updates: int) -> None:
        """Take the values of the model for the means, as they are after so many updates."""
        self.updates = updates
        for name, value in self._values.items():
            self._means[name].copy_(local(value))


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor: the tensor itself, or its part of one that is spread over processes."""
    value = value.detach()
    return value.to_local() if hasattr(value, "to_local") else value  # pyright: ignore[reportAttributeAccessIssue]
