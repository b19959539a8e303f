"""Auxiliary losses: modules hold them during a training forward, the training task collects them.

loss = task_loss(model(x), target) + collect_losses(model)
loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.tracing import is_exporting


class HeldLosses:
    """The auxiliary losses of a module's last training forward, until they are collected.

    A module owns one as an attribute `losses` and calls `hold` in each forward. What is held lives no longer than it is
    useful: the next forward of the module replaces it, collecting takes it, and copies and pickles of the module begin
    without it. Nothing is held in eval mode, without gradients, or when a checkpointed forward is run again in backward
    (`use_reentrant=False`; the other kind runs the first forward without gradients and has no losses to collect).

    A module that is called several times in one forward of the model holds the losses of its last call. Where
    torch.compile is around a checkpoint (and not inside it), it wants
    `torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True` for a full graph.

    Args:
        always: hold in eval mode and without gradients too, for an owner that takes the losses at once.
    """

    def __init__(self, always: bool = False) -> None:
        self.always = always
        self._values: Mapping[str, Tensor] = {}

    def hold(self, values: Mapping[str, Tensor], training: bool) -> None:
        """Replace what is held by `values` (weighted losses by name), or by nothing outside of training."""
        if self.always:
            self._values = values
        elif not _in_backward():
            # An exported program has no module to keep them.
            wanted = training and torch.is_grad_enabled() and not is_exporting()
            self._values = values if wanted else {}

    def take(self) -> Mapping[str, Tensor]:
        """What is held; afterwards nothing is."""
        values, self._values = self._values, {}
        return values

    def peek(self) -> Mapping[str, Tensor]:
        """What is held, left where it is."""
        return self._values

    def __reduce__(self) -> tuple[Any, ...]:
        # Tensors with a graph can be neither copied nor pickled, and belong to this module's forward alone.
        return (HeldLosses, (self.always,))


def collect_losses(model: nn.Module) -> Tensor:
    """The sum of the auxiliary losses that the modules of `model` hold since its last training forward.

    Call it once for each forward, before backward; afterwards the modules hold nothing. The losses come with their
    weights (such as `Experts.balance`), ready to be added to the task's loss. Zero if there are none.

    Returns:
        tensor of no dimensions, float32 at least.

    Example:
        >>> import torch, kanvolution as kv
        >>> conv = kv.ConvSpec("gram", structure=kv.Experts(4, k=2))(8, 16, 3)
        >>> y = conv(torch.randn(5, 8, 9, 9))
        >>> (y.square().mean() + kv.collect_losses(conv)).backward()
        >>> float(kv.collect_losses(conv))
        0.0
    """
    values = [value for _, held in _holders(model) for value in held.take().values()]
    if not values:
        owned = next(model.parameters(), None)
        return torch.zeros((), device=None if owned is None else owned.device)
    return torch.stack([value.to(values[0].device) for value in values]).sum()


def named_losses(model: nn.Module) -> dict[str, Tensor]:
    """The losses that `collect_losses` would sum, detached, by the module's name and their own: for logging."""
    return {
        f"{path}.{name}" if path else name: value.detach()
        for path, held in _holders(model)
        for name, value in held.peek().items()
    }


def _holders(model: nn.Module) -> Iterator[tuple[str, HeldLosses]]:
    for path, module in model.named_modules():
        held = getattr(module, "losses", None)
        if isinstance(held, HeldLosses):
            yield path, held


def _in_backward() -> bool:
    """Whether autograd runs a backward now, so that this forward is a recomputation. Unknown to compiled code."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
