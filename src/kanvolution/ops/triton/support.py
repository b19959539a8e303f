"""What the kernels do: the conditions that a call has to meet. Others are evaluated by ordinary operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from kanvolution.ops.evaluation import Call, Planes, memory_format
from kanvolution.ops.joined import JoinedValues
from kanvolution.ops.triton.families import device_family
from kanvolution.ops.triton.pointwise import DEVICE_POINTWISE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

OLDEST = (8, 0)
"""The compute capability of the first GPUs that have all three types."""

CONDITIONS: dict[str, Callable[[Callable[..., Planes], Call], bool]] = {
    "the family has device functions": lambda values, call: all(
        device_family(own) is not None for own in _families(values)
    ),
    "joined families have no input map beside their own": lambda values, call: (
        call.input_map == "identity" or not isinstance(values, JoinedValues)
    ),
    "input map and base function have device functions": lambda values, call: all(
        name is None or name in DEVICE_POINTWISE for name in (*_input_maps(values, call), call.base)
    ),
    "float32, bfloat16 or float16": lambda values, call: (
        call.dtype in DTYPES and all(t.dtype in DTYPES for t in call.differentiable())
    ),
    "a GPU of compute capability 8.0 or later": lambda values, call: (
        call.x.device.type != "cuda" or torch.cuda.get_device_capability(call.x.device) >= OLDEST
    ),
    "at least one and fewer than 2^31 elements": lambda values, call: _within(call.x),
}

VECTOR = 8
"""Channels that a thread reads at once, at most."""


def _families(values: Callable[..., Planes]) -> list[Callable[..., Planes]]:
    return [family.values for family in values.families] if isinstance(values, JoinedValues) else [values]


def _input_maps(values: Callable[..., Planes], call: Call) -> Iterable[str]:
    return values.input_maps(call.scalars) if isinstance(values, JoinedValues) else (call.input_map,)


def unmet(values: Callable[..., Planes], call: Call) -> list[str]:
    """The names of the conditions that the call does not meet."""
    return [name for name, holds in CONDITIONS.items() if not holds(values, call)]


def supports(values: Callable[..., Planes], call: Call) -> bool:
    """Whether the kernels evaluate this call."""
    # Asked several times in every training step: what depends on types and names alone is remembered.
    dtypes = tuple(tensor.dtype for tensor in call.differentiable())
    known = (call.scalars, call.input_map, call.base, call.dtype)
    return _within(call.x) and _supports(values, known, dtypes, call.x.device)


@functools.cache
def _supports(
    values: Callable[..., Planes], known: tuple[Any, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> bool:
    x, *tensors = (torch.empty(1, dtype=dtype, device=device) for dtype in dtypes)
    return not unmet(values, Call(x, None, None, tuple(tensors), *known, backend="triton"))


def _within(x: Tensor) -> bool:
    return 0 < x.numel() < 2**31


def writes_functions_first(values: Callable[..., Planes], call: Call, groups: int) -> bool:
    """Whether the expansion inside of a convolution has its functions before its channels.

    In the order of the weight, channel by channel (c * K + k), the values of one function lie K apart in a
    channels-last expansion: a kernel would write and read them one by one. Function by function (k * C + c), channels
    lie next to each other as they do in x.
    """
    last = memory_format(call.x) != torch.contiguous_format
    return last and groups == 1 and call.x.shape[1] % VECTOR == 0 and supports(values, call)


def zero_channels(values: Callable[..., Planes], call: Call, size: int, groups: int) -> int:
    """How many channels of zeros follow the expansion inside of a convolution.

    Tensor cores take 8 channels of 16 bits at a time. With other numbers of channels, as in first layers, cuDNN was
    slower by a tenth.
    """
    vectors = call.dtype.itemsize == 2 and call.x.ndim == 4 and memory_format(call.x) != torch.contiguous_format
    return -(call.x.shape[1] * size) % VECTOR if vectors and groups == 1 and supports(values, call) else 0
