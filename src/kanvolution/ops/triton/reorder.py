"""A copy of a weight with its functions and channels in another order, in one pass that reads and writes it once.

For contiguous weights, whose taps lie side by side, it is faster than PyTorch's own.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from kanvolution.ops.triton.expand import flat_strides
from kanvolution.ops.triton.launch import Launch, remembered

TILE = 1024
"""Elements of a tile of taps by channels."""


@triton.jit
def reorder_kernel(
    source,
    target,
    channels,
    taps,
    source_o,
    source_k,
    source_c,
    source_t,
    target_o,
    target_k,
    target_c,
    target_t,
    FUNCTIONS: tl.constexpr,
    TILE_T: tl.constexpr,
    TILE_C: tl.constexpr,
):
    across = tl.cdiv(channels, TILE_C)
    o = (tl.program_id(0) // across).to(tl.int64)
    c = (tl.program_id(0) % across * TILE_C + tl.arange(0, TILE_C))[None, :]
    for start in range(0, taps, TILE_T):
        t = start + tl.arange(0, TILE_T)[:, None]
        inside = (t < taps) & (c < channels)
        # What one function leaves in the cache, the next ones read.
        for k in tl.static_range(FUNCTIONS):
            value = tl.load(source + o * source_o + k * source_k + c * source_c + t * source_t, mask=inside)
            place = target + o * target_o + k * target_k + c * target_c + t * target_t
            tl.store(place, value.to(target.dtype.element_ty), mask=inside)


def reorder(target: Tensor, source: Tensor) -> Tensor:
    """`target.copy_(source)` for views [O, K, C, *kernel] of weights."""
    layouts = (source.stride(), source.dtype, target.stride(), target.dtype)
    launch = remembered((id(reorder_kernel), source.shape, source.device, *layouts), lambda: _launch(target, source))
    if launch.programs:
        launch(source, target)
        return target
    return target.copy_(source)


def _launch(target: Tensor, source: Tensor) -> Launch:
    """That of the kernel, or one of no programs where the taps have no single stride, or there is nothing."""
    strides = [flat_strides(tensor, 3) for tensor in (source, target)]
    outputs, functions, channels, *kernel = source.shape
    taps = math.prod(kernel)
    if strides[0] is None or strides[1] is None or not source.numel():
        return Launch(reorder_kernel, 0, (), {})
    tile_t = min(triton.next_power_of_2(taps), 16)
    tile_c = min(triton.next_power_of_2(channels), TILE // tile_t)
    programs = outputs * triton.cdiv(channels, tile_c)
    numbers = (channels, taps, *strides[0], *strides[1])
    return Launch(reorder_kernel, programs, numbers, {"FUNCTIONS": functions, "TILE_T": tile_t, "TILE_C": tile_c})
