"""Penalties on weights and activations, as terms that the training loop adds to its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.checks import non_negative


def kan_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The Kolmogorov-Arnold layers of a model with their names: the modules that have a basis and a weight of it."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "basis", None), Basis) and isinstance(getattr(module, "weight", None), Tensor):
            yield name, module


def weight_penalty(
    model: nn.Module,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    filter: Callable[[str, nn.Parameter], bool] | None = None,
) -> Tensor:
    """l1 sum |w| + l2 / 2 sum w^2 over weights of a model, to be added to the loss.

    The gradients are l1 sign(w) and l2 w, what a weight decay of that strength adds; torch-conv-kan's `l1_decay` is
    `l1`. A weight that several layers share counts once.

    Args:
        model: any module.
        l1, l2: strengths, >= 0.
        filter: (name, parameter) -> whether the parameter counts. None: the weights of the functions of all
            Kolmogorov-Arnold layers, but no bias, norm, plain convolution, or parameter inside a basis.

    Returns:
        A float32 scalar (float64 for weights in float64); zero where nothing counts.

    Raises:
        ValueError: l1 or l2 negative.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.KANConv2d(3, 8, 3)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.5)
        >>> round(kv.weight_penalty(model, l2=0.1).item() / model.weight.numel(), 4)
        0.0125
    """
    l1, l2 = non_negative("l1", l1), non_negative("l2", l2)
    if filter is None:
        all_weights = [layer.weight for _, layer in kan_layers(model)]
        weights = list({id(weight): weight for weight in all_weights if isinstance(weight, Tensor)}.values())
    else:
        weights = [parameter for name, parameter in model.named_parameters() if filter(name, parameter)]
    owned = weights[0] if weights else next(model.parameters(), None)
    total = torch.zeros((), device=None if owned is None else owned.device)
    for weight in weights:
        total = total + _penalty(weight, l1, 0.5 * l2, torch.sum)
    return total


class ActivationPenalty:
    """Collects l1 mean |y| + l2 mean y^2 over the outputs y of layers, to be added to the loss.

    A context manager: while it is open, hooks on the layers compute their terms during forward; `take()` returns the
    sum over layers and forgets it. The means run over all entries of an output, so a term does not depend on the batch
    size, and the term of a batch is the mean of the terms of its samples. torch-conv-kan takes the mean over channels
    and space of the norm over the batch: its L1 term is N times this one for a batch of N; its L2 term, the norm and
    not its square, is sqrt(N) times a root mean square.

    Under gradient checkpointing (use_reentrant=False) stay inside the `with` until after backward; what is computed
    again there is not counted twice. Forwards in eval mode and without gradients count as well: validate outside of the
    `with` block, or call `take` before training goes on. A model that torch.compile has compiled without hooks does not
    see those added later (`take` then raises), so open the collector before the first call; torch.compile around a
    checkpoint needs what `HeldLosses` says. Copies of the model, and a pickled one, carry no hooks that collect.

    Args:
        model: any module.
        l1, l2: strengths, >= 0.
        where: (name, module) -> whether the module's output counts. None: all Kolmogorov-Arnold layers.

    Raises:
        ValueError: l1 or l2 negative, or no module to collect from.
        RuntimeError: opened twice, or `take` before any forward.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.KANConv2d(3, 8, 3)
        >>> with kv.ActivationPenalty(model, l1=1e-3) as penalty:
        ...     y = model(torch.randn(2, 3, 8, 8))
        ...     loss = y.square().mean() + penalty.take()
        ...     loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        where: Callable[[str, nn.Module], bool] | None = None,
    ) -> None:
        self.l1, self.l2 = non_negative("l1", l1), non_negative("l2", l2)
        if where is None:
            self.modules = [module for _, module in kan_layers(model)]
        else:
            self.modules = [module for name, module in model.named_modules() if where(name, module)]
        if not self.modules:
            raise ValueError(f"where (={where!r}) chose no module of {type(model).__name__}; see named_modules()")
        self._terms: list[Tensor] = []
        self._handles: list[Any] = []

    def __enter__(self) -> ActivationPenalty:
        if self._handles:
            raise RuntimeError("the penalty is open already; leave its `with` block first")
        self._handles = [module.register_forward_hook(_Hook(self)) for module in self.modules]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._terms.clear()

    def take(self) -> Tensor:
        """The sum of the terms since the last call, a scalar; from then on they are forgotten.

        Raises RuntimeError if no layer has run.
        """
        if not self._terms:
            raise RuntimeError(
                "no layer has run since the last take(); call the model inside the `with` block first, and open the "
                "block before the first call of a compiled model"
            )
        total = torch.stack(self._terms).sum()
        self._terms.clear()
        return total

    def discard(self) -> None:
        """Forget the terms since the last `take`, if there are any: those of a validation, for one."""
        self._terms.clear()

    def _collect(self, y: Tensor) -> None:
        term = _penalty(y, self.l1, self.l2, torch.mean)
        # Gradient checkpointing calls forward again in backward; the term must be computed there as well, since as
        # many tensors have to be saved as at first, but it has been counted.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            self._terms.append(term)


class _Hook:
    """A forward hook of a collector. Copying or pickling it makes one that does nothing."""

    def __init__(self, collector: ActivationPenalty | None = None) -> None:
        self.collector = collector

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.collector is not None:
            self.collector._collect(output)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _penalty(x: Tensor, l1: float, l2: float, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    total = torch.zeros((), device=x.device, dtype=wide.dtype)
    if l1 > 0:
        total = total + l1 * reduce(wide.abs())
    if l2 > 0:
        total = total + l2 * reduce(wide.square())
    return total
