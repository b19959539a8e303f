"""Counting floating-point operations of networks whose layers are operators of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# Positions of the weight and of x in the arguments of each operator that ends in a convolution. The last arguments of
# such an operator are those of a `Convolution`; its backward has the gradient and the wanted gradients before all.
_OPERATORS: dict[str, tuple[int, int]] = {}


def enter_operator(name: str, weight: int, x: int) -> None:
    """Makes `flop_counter` count kanvolution::name and kanvolution::name_backward as the convolution in them."""
    _OPERATORS[name] = (weight, x)


def flop_counter(**options: Any) -> Any:
    """A torch.utils.flop_counter.FlopCounterMode that knows the operators of this package.

    A layer counts as its convolution; the evaluation of the functions is not counted, as PyTorch counts no pointwise
    operations. (A FlopCounterMode of PyTorch's own making counts nothing for these operators.)

    Args:
        **options: of FlopCounterMode.

    Example:
        >>> import torch, kanvolution as kv
        >>> layer = kv.KANLinear(8, 16, basis="gram", degree=3)
        >>> with kv.ops.flop_counter(display=False) as counter:
        ...     y = layer(torch.randn(10, 8))
        >>> counter.get_total_flops() == 2 * 10 * layer.weight.numel()
        True
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes Triton along

    mapping: dict[Any, Any] = {}
    for name, positions in _OPERATORS.items():
        forward, backward = _formulas(*positions)
        mapping[getattr(torch.ops.kanvolution, name)] = forward
        mapping[getattr(torch.ops.kanvolution, f"{name}_backward")] = backward
    return FlopCounterMode(custom_mapping={**mapping, **options.pop("custom_mapping", {})}, **options)


def _formulas(weight: int, x: int) -> tuple[Callable[..., int], Callable[..., int]]:
    def flops(arguments: Sequence[Any], out: Sequence[int]) -> int:
        transposed = arguments[-3]
        positions = math.prod((arguments[x] if transposed else out)[2:])
        return 2 * out[0] * positions * math.prod(arguments[weight])

    def forward(*arguments: Any, out_shape: Sequence[int], **_: Any) -> int:
        return flops(arguments, out_shape)

    def backward(grad: Sequence[int], wanted: Sequence[bool], *arguments: Any, **_: Any) -> int:
        others = any(want for i, want in enumerate(wanted) if i != weight)
        return (int(wanted[weight]) + int(others)) * flops(arguments, grad)

    return forward, backward
