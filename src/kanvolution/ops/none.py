"""The family without functions: its expansion is the base function alone."""

from __future__ import annotations

from torch import Tensor

from kanvolution.ops.expansion import Planes, Slopes, expansion


@expansion
def no_functions(x: Tensor) -> Planes:
    """No function of x."""
    return ()


@no_functions.derivative
def no_derivatives(x: Tensor) -> Slopes:
    """No derivative."""
    return ()
