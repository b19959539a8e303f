"""The fused expansion and cuDNN's convolution for channels-last inputs, with E ordered by functions.

In the order of the weight, channel by channel (c * K + k), the values of one function lie K apart in a channels-last E:
a kernel would write and read them one by one. Here E is ordered function by function (k * C + c), so that channels lie
next to each other as they do in x. The order is seen nowhere else: weight and gradient are permuted in the copy to
channels-last that cuDNN needs of them in any case.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kanvolution.ops.convolution import Contraction
from kanvolution.ops.evaluation import Call, Planes, empty_expansion, memory_format
from kanvolution.ops.triton.expand import evaluate, evaluate_gradients
from kanvolution.ops.triton.support import supports

VECTOR = 8
"""Channels that a thread reads at once, at most."""


def takes(direction: str, values: Callable[..., Planes], call: Call, into: Contraction) -> bool:
    """Whether this is how the call is computed, "forward" and "backward" alike."""
    last = memory_format(call.x) != torch.contiguous_format
    whole = into.convolution.groups == 1 and call.x.shape[1] % VECTOR == 0
    return last and whole and supports(values, call)


def _flat(expanded: Tensor) -> Tensor:
    """[N, C, K, *S] ordered by functions as [N, K * C, *S], a view."""
    return expanded.transpose(1, 2).flatten(1, 2)


def _by_functions(weight: Tensor, size: int, layout: torch.memory_format) -> Tensor:
    """The weight [O, C * K, *kernel] as [O, K * C, *kernel]."""
    ordered = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device, memory_format=layout)
    ordered.unflatten(1, (size, -1)).copy_(weight.unflatten(1, (-1, size)).transpose(1, 2))
    return ordered


def convolve(values: Callable[..., Planes], call: Call, into: Contraction, size: int) -> Tensor:
    """The convolution of the expansion into `size` functions; `into` has the call's dtype."""
    layout = memory_format(call.x)
    expanded = evaluate(values, call, size, functions_first=True)
    y = into.convolution(_flat(expanded), _by_functions(into.weight, size, layout), into.bias)
    return y.contiguous(memory_format=layout)


def gradients(
    values: Callable[..., Planes],
    call: Call,
    into: Contraction,
    size: int,
    grad: Tensor,
    wanted: tuple[bool, ...],
) -> list[Tensor]:
    """The wanted gradients of weight and bias and of `call.differentiable()`."""
    want_weight, want_bias, *inner = wanted
    layout, weight = memory_format(call.x), into.weight
    # Without a gradient of the weight, the sizes of the expansion alone are needed.
    if want_weight:
        expanded = evaluate(values, call, size, functions_first=True)
    else:
        expanded = empty_expansion(call.x, size, call.dtype, functions_first=True)
    of_expanded, of_weight, of_bias = into.convolution.gradients(
        grad.contiguous(memory_format=layout),
        _flat(expanded),
        _by_functions(weight, size, layout),
        (any(inner), want_weight, want_bias),
    )
    del expanded
    found = []
    if of_weight is not None:
        found.append(of_weight.unflatten(1, (size, -1)).transpose(1, 2).reshape(weight.shape).contiguous())
    if of_bias is not None:
        found.append(of_bias)
    if of_expanded is not None:
        of_planes = of_expanded.unflatten(1, (size, -1)).transpose(1, 2)
        found += evaluate_gradients(values, call, of_planes, tuple(inner))
    return found
