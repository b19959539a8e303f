"""What the time of a training step goes to."""

from __future__ import annotations

import contextlib
import functools
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kanvolution.benchmark.contestants import Contestant
from kanvolution.ops.backends import HAS_TRITON
from kanvolution.ops.convolution import Convolution

PARTS: dict[str, str] = {
    "convolution": "the convolution, forward",
    "data gradient": "the convolution's gradient of its input",
    "weight gradient": "the convolution's gradient of its weight and bias",
    "functions": "values of the functions: in the forward, and again in the backward",
    "functions backward": "from the gradient of the expansion to that of the input and of learned tensors",
    "layout": "copies of the input and the weight in another order",
    "norm": "batch norm, both ways",
    "silu": "SiLU, both ways; the formula's base function is one, too",
    "operator": "the rest inside of our operators: copies of the output and its gradient",
    "other": "all other operators: of the formula and of torch-conv-kan the functions, of networks pooling and head",
}
"""The parts by name. Each excludes those inside of it; time between operators (autograd, Python) is in none."""

# What our operators call, by part.
_SEAMS: dict[str, str] = {
    "expansion.evaluate": "functions",
    "expansion.stack": "functions",
    "expansion.evaluate_gradients": "functions backward",
    "expansion.laid_out": "layout",
    "expansion.functions_first": "layout",
    "expansion.channels_first": "layout",
    "edge_wavelet.evaluate": "functions",
    "edge_wavelet.evaluate_gradients": "functions backward",
    "edge_wavelet.laid_out": "layout",
    "expansion._with_zeros": "layout",
    "convolution.Convolution.__call__": "convolution",
    "convolution.Convolution.input_gradient": "data gradient",
}
if HAS_TRITON:
    _SEAMS |= {"triton.evaluate": "functions", "triton.evaluate_gradients": "functions backward"}

# Operators by a piece of the name, the first that fits.
_OPERATORS = {"kanvolution::": "operator", "convolution": "convolution", "batch_norm": "norm", "silu": "silu"}


def parts(contestant: Contestant, clock: Callable[[], float]) -> dict[str, float]:
    """The seconds of `clock` that each of `PARTS` takes in a training step.

    Operators are timed one by one as PyTorch dispatches them, and ours at the functions they call. A convolution's two
    gradients are made one after the other.
    """
    watch = _Stopwatch(clock)
    with contextlib.ExitStack() as stack:
        for place, part in _SEAMS.items():
            place = f"kanvolution.ops.{place}"
            stack.enter_context(mock.patch(place, watch.timing(part, pkgutil.resolve_name(place))))
        stack.enter_context(mock.patch.object(Convolution, "gradients", watch.apart(Convolution.gradients)))
        stack.enter_context(watch)
        contestant.step()
    return {part: watch.seconds[part] for part in PARTS if part in watch.seconds}


class _Stopwatch(TorchDispatchMode):
    """Seconds by part, each without the parts inside of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []  # for each part that runs, the seconds of the parts inside of it

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inside.append(0.0)
        start = self.clock()
        try:
            yield
        finally:
            spent = self.clock() - start
            self.seconds[name] += spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent

    def timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return function(*args, **kwargs)

        return timed

    def apart(self, gradients: Callable[..., Any]) -> Callable[..., Any]:
        """`Convolution.gradients`, one after the other."""

        @functools.wraps(gradients)
        def timed(convolution: Convolution, grad: Any, x: Any, weight: Any, wanted: tuple[bool, bool, bool]) -> Any:
            data = rest = (None, None, None)
            if wanted[0]:
                with self.part("data gradient"):
                    data = gradients(convolution, grad, x, weight, (True, False, False))
            if wanted[1] or wanted[2]:
                with self.part("weight gradient"):
                    rest = gradients(convolution, grad, x, weight, (False, *wanted[1:]))
            return data[0], *rest[1:]

        return timed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.convolution_backward.default:
            *rest, wanted = args

            def gradients(_: Any, *__: Any) -> Any:
                return func(*rest, list(__[-1]))

            return self.apart(gradients)(None, *args[:3], tuple(wanted))
        name = func.name()
        part = next((part for piece, part in _OPERATORS.items() if piece in name), "other")
        with self.part(part):
            return func(*args, **kwargs)
