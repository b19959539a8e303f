"""What went wrong when the loss is not a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.train.ema import local


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number, or an optimiser was left without a usable one.

    Args:
        loss: its value.
        epoch, step: where, both from 1 on.
        lr: the learning rate there.
        cause: what `diagnose` found.
        checkpoint: the last state that was saved.
    """

    def __init__(self, loss: float, epoch: int, step: int, lr: float, cause: str, checkpoint: str) -> None:
        self.loss, self.epoch, self.step, self.lr, self.cause, self.checkpoint = (
            loss,
            epoch,
            step,
            lr,
            cause,
            checkpoint,
        )
        super().__init__(
            f"the loss is {loss} at epoch {epoch}, step {step} (lr {lr:.2e}): {cause}. "
            "Start again with a lower optim.lr or trainer.grad_clip, or with trainer.mixed_precision=no; "
            f"the last good checkpoint is {checkpoint}"
        )


def diagnose(model: nn.Module, inputs: Any, forward: Callable[[], Any]) -> str:
    """Where values stop being finite, in words: the images, the weights, the first layer, or the loss itself.

    Args:
        model: the network.
        inputs: its input.
        forward: runs the model on that input once more. While it runs every module has hooks, afterwards none has.
    """
    if not _finite(inputs):
        return "the images of the batch hold values that are not finite"
    broken = [name for name, parameter in model.named_parameters() if not _finite(local(parameter))]
    if broken:
        return f"the weights are not finite after the step before ({_listed(broken)}), so its gradient was not"
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def before(module: nn.Module, arguments: Any, options: Any) -> None:
        if not found and not _finite((arguments, options)):
            found.append(f"what goes into {_called(names[module], module)} is the first that is not finite")

    def after(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        if not found and not _finite(output):
            found.append(
                f"the output of {_called(names[module], module)} is the first that is not finite (largest value of "
                f"its input: {_largest((arguments, options)):.3g})"
            )

    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in names]
    handles += [m.register_forward_hook(after, with_kwargs=True) for m in names]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "every layer's output is finite, so the loss function or a layer's own loss is not"


def _called(name: str, module: nn.Module) -> str:
    return f"layer {name!r} ({type(module).__name__})" if name else f"the network ({type(module).__name__}) as a whole"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _finite(values: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in _tensors(values) if t.is_floating_point())


def _largest(values: Any) -> float:
    sizes = [float(t.abs().max()) for t in _tensors(values) if t.is_floating_point() and t.numel()]
    return max(sizes, default=0.0)
