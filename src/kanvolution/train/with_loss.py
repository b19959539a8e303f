"""Model and loss as one module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.extras import require


class ModelWithLoss(nn.Module):
    """A model with the loss behind it: inputs and target to the loss, inputs alone to the model's output.

    This is what data-parallel training wraps. Every parameter that the loss depends on takes part in its output, those
    of losses that modules hold too; and the caller's model is not touched by what Accelerate puts around a forward.

    Args:
        model: the network.
        loss: (output in float32, target) -> loss; it is called outside of autocast.
        compile: call the network through torch.compile.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Tensor], compile: bool = False) -> None:
        super().__init__()
        self.model = model
        # In tuples, as neither may become a submodule: a compiled model has the parameters of the model once more.
        self._forward: tuple[Any] = (torch.compile(model) if compile else model,)
        self._loss = (loss,)

    def forward(self, inputs: Tensor, target: Any = None) -> Any:
        output = self._forward[0](inputs)
        if target is None:
            return output
        output = require("accelerate.utils.operations", "train").convert_to_fp32(output)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._loss[0](output, target)
