"""Checks of the arguments and inputs that several layers share."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from kanvolution.checks import integer_at_least


def per_dimension(name: str, value: int | tuple[int, ...], ndim: int, minimum: int) -> tuple[int, ...]:
    """`value` as `ndim` integers. Raises TypeError or ValueError for another number of them or one below `minimum`."""
    values = tuple(value) if isinstance(value, Iterable) else (value,) * ndim
    if len(values) != ndim:
        raise ValueError(f"{name} (={value!r}) must be one integer or {ndim} of them")
    return tuple(integer_at_least(name, v, minimum) for v in values)


def check_floating_point(x: Tensor) -> None:
    """Raises TypeError unless x is floating point."""
    if not x.is_floating_point():
        raise TypeError(f"input must be floating point, got {x.dtype}; convert it with x.float()")
