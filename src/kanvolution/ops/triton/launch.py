"""Launches of kernels that are prepared once and repeated, as a training step repeats them.

What a launch is made of (numbers of programs, strides, constants of the compilation) depends on shapes, types and names
alone. Working it out, and Triton's search for the compiled kernel, take longer on the processor than many kernels run
on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kanvolution.ops.evaluation import Call


@dataclass
class Launch:
    """A launch of a kernel for calls that differ in nothing but where their tensors are.

    Args:
        kernel: the kernel. Its arguments are tensors, then numbers, then constants.
        programs: how many there are.
        numbers: the numbers.
        constants: the constants by name, in order.
        copies: which inputs of the call have to be contiguous copies.
        contiguous: which gradients of inputs are made contiguous, since those like the inputs have no single stride.
        partials: the shape of the sums for learned tensors.
    """

    kernel: Any
    programs: int
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    copies: tuple[bool, ...] = ()
    contiguous: tuple[bool, ...] = ()
    partials: tuple[int, ...] = (0,)
    _compiled: dict[tuple[bool, ...], Any] = field(default_factory=dict)

    def __call__(self, *tensors: Tensor) -> None:
        # Of tensors, what is compiled depends on whether their places can be divided by 16.
        aligned = tuple(tensor.data_ptr() % 16 == 0 for tensor in tensors)
        compiled = self._compiled.get(aligned)
        with torch.cuda.device_of(tensors[0]):
            if compiled is not None:
                compiled[(self.programs, 1, 1)](*tensors, *self.numbers, *self.constants.values())
                return
            # None under the interpreter
            self._compiled[aligned] = self.kernel[(self.programs,)](*tensors, *self.numbers, **self.constants)

    def inputs(self, *given: Tensor) -> list[Tensor]:
        """The tensors, or their copies."""
        return [tensor.contiguous() if copy else tensor for tensor, copy in zip(given, self.copies, strict=True)]

    def results(self, *inputs: Tensor) -> list[Tensor]:
        """Uninitialised tensors for the gradients of these inputs."""
        formats = (torch.contiguous_format if dense else torch.preserve_format for dense in self.contiguous)
        return [torch.empty_like(tensor, memory_format=form) for tensor, form in zip(inputs, formats, strict=False)]


LAUNCHES: dict[Any, Launch] = {}
"""By all that they depend on."""

_MOST = 4096


def remembered(key: tuple[Any, ...], make: Callable[[], Launch]) -> Launch:
    """What `make()` returned for the same key at first."""
    launch = LAUNCHES.get(key)
    if launch is None:
        if len(LAUNCHES) == _MOST:
            LAUNCHES.clear()
        launch = LAUNCHES[key] = make()
    return launch


def facts(call: Call) -> tuple[Any, ...]:
    """All that a launch depends on of a call, as part of a key."""
    tensors = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in call.differentiable()]
    return (*tensors, call.base_input is None, call.mix is None, call.x.device, *call[4:])
