"""Expansion and 2-D convolution in one kernel: tiles of E are made in registers and multiplied; E is never written.

A convolution is a product of matrices: rows are output positions, and the sum goes over channels and taps (q = c *
taps + t) and functions. The kernels gather x for a tile of rows and q, evaluate the functions there and multiply by the
weight:

    forward          y[m, o]    = sum_{q, k} B_k(x[m, q]) W[o, q, k]
    backward, data   g_k[m, c]  = sum_{t, o} dy[m - t, o] W[o, c, k, t], and from all g_k the chain rule of `expand`
    backward, weight dW[o, q, k] = sum_m dy[m, o] B_k(x[m, q]), over a part of the rows each, added up by PyTorch

A value of x is evaluated once for each tap (and block of outputs) instead of once: that pays where E would be large
beside x and the product is narrow, which is many positions and few channels. All q are in one tile, so that a program
reads weights once for many tiles of positions.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kanvolution.ops.backends import INTERPRETS_TRITON
from kanvolution.ops.convolution import Contraction, Convolution
from kanvolution.ops.evaluation import Call, Planes, conform, memory_format
from kanvolution.ops.triton.expand import (
    chain,
    collected,
    entries,
    entries_of,
    flat,
    learned,
    learned_numbers,
    numbers_of,
    planes_of,
)
from kanvolution.ops.triton.families import device_family, numbers
from kanvolution.ops.triton.pointwise import DEVICE_POINTWISE
from kanvolution.ops.triton.support import supports


@dataclass(frozen=True)
class Threshold:
    """Where these kernels are taken instead of an expansion and cuDNN's convolution.

    Args:
        channels: at most so many input channels of a group.
        positions: at least so many output positions, of all samples together.
        outputs: at least so many output channels of a group; a narrower product wastes the tile.
    """

    channels: int
    positions: int
    outputs: int = 16


THRESHOLDS: dict[str, Threshold] = {
    "forward": Threshold(channels=0, positions=0),
    "backward": Threshold(channels=0, positions=0),
}
"""By direction: nowhere. On an H200 an expansion and cuDNN were faster in the first layers measured (3 to 64 channels,
224x224, bfloat16), forward by a little and backward by far."""

ROWS = 128
"""Positions of a tile, in 16-bit types; half as many in float32, whose tiles take twice the shared memory."""

MOST_Q = 64
"""Channels of a group times taps, at most."""

PROGRAMS = 1024
"""Among so many programs, about, tiles of positions are divided; several for each processor of a GPU."""


def takes(direction: str, values: Callable[..., Planes], call: Call, into: Contraction) -> bool:
    """Whether these kernels compute this call in the direction "forward" or "backward"."""
    convolution, threshold = into.convolution, THRESHOLDS[direction]
    channels, outputs = (size // convolution.groups for size in (call.x.shape[1], into.weight.shape[0]))
    if (
        channels > threshold.channels
        or outputs < threshold.outputs
        or channels * math.prod(into.weight.shape[2:]) > MOST_Q
    ):
        return False
    if len(convolution.stride) != 2 or convolution.transposed or call.mix is not None:
        return False
    if device_family(values) is None or not supports(values, call):  # joined families have no single one
        return False
    positions = call.x.shape[0] * math.prod(convolution.output_size(call.x.shape[2:], into.weight.shape[2:]))
    inputs = [call.x] if call.base_input is None else [call.x, call.base_input]
    if any(sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) >= 2**31 for t in inputs):
        return False
    return threshold.positions <= positions < 2**31


@triton.jit
def gathered(
    source,
    m,
    c,
    t,
    rows,
    OUT_W,
    OUT_HW,
    height,
    width,
    s_n,
    s_c,
    s_h,
    s_w,
    inside_q,
    GEOMETRY: tl.constexpr,
):
    """source[n, c, h, w] for output positions m and taps t, zero outside, and where it is inside."""
    n = (m // OUT_HW).to(tl.int64)
    h = (m % OUT_HW) // OUT_W * GEOMETRY[2] - GEOMETRY[4] + t // GEOMETRY[1] * GEOMETRY[6]
    w = m % OUT_W * GEOMETRY[3] - GEOMETRY[5] + t % GEOMETRY[1] * GEOMETRY[7]
    inside = (m < rows) & inside_q & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    place = source + n * s_n + (c * s_c + h * s_h + w * s_w)  # 32 bits suffice within a sample, by `takes`
    value = tl.load(place, mask=inside, other=0.0)
    return value.to(tl.float32), inside


@triton.jit
def forward_kernel(
    x,
    base_input,
    weight,
    bias,
    y,
    first,
    second,
    rows,
    out_w,
    out_hw,
    height,
    width,
    channels,
    outputs,
    groups,
    x_n,
    x_c,
    x_h,
    x_w,
    base_n,
    base_c,
    base_h,
    base_w,
    y_n,
    y_c,
    y_h,
    y_w,
    weight_o,
    first_k,
    first_c,
    second_k,
    second_c,
    parts,
    turns,
    VALUE: tl.constexpr,
    MAP: tl.constexpr,
    BASE: tl.constexpr,
    PLANES: tl.constexpr,
    NUMBERS: tl.constexpr,
    GEOMETRY: tl.constexpr,
    BIASED: tl.constexpr,
    SEPARATE: tl.constexpr,
    COUNTS: tl.constexpr,
    SHARED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_O: tl.constexpr,
):
    tiles = tl.cdiv(outputs, TILE_O)
    across = groups * tiles
    part = tl.program_id(0) // across
    o = (tl.program_id(0) % tiles * TILE_O + tl.arange(0, TILE_O))[None, :]
    group = tl.program_id(0) % across // tiles
    taps = GEOMETRY[0] * GEOMETRY[1]
    output = (group * outputs + o).to(tl.int64)
    q = tl.arange(0, TILE_Q)
    c = q // taps
    t = q % taps
    own = group * channels + tl.minimum(c, channels - 1)
    there = (c < channels)[None, :]
    firsts = entries(first, own, own < groups * channels, first_k, first_c, COUNTS[0], SHARED)
    seconds = entries(second, own, own < groups * channels, second_k, second_c, COUNTS[1], SHARED)
    w_place = weight + output * weight_o + (c * (len(PLANES) * taps) + t)[:, None]
    w_there = (c < channels)[:, None] & (o < outputs)
    rights = ()
    for i in tl.static_range(len(PLANES)):
        right = tl.load(w_place + i * taps, mask=w_there, other=0.0).to(OPERAND)
        rights = rights + (right,)  # noqa: RUF005 (Triton has no star here)
    for turn in range(turns):
        m = ((turn * parts + part) * TILE_M + tl.arange(0, TILE_M))[:, None]
        value, inside = gathered(
            x, m, own[None, :], t[None, :], rows, out_w, out_hw, height, width, x_n, x_c, x_h, x_w, there, GEOMETRY
        )
        mapped = MAP(value)
        total = tl.zeros((TILE_M, TILE_O), tl.float32)
        for i in tl.static_range(len(PLANES)):
            if PLANES[i] < 0 and not SEPARATE:
                plane = BASE(value)
            elif PLANES[i] < 0:
                seen, _also_inside = gathered(
                    base_input,
                    m,
                    own[None, :],
                    t[None, :],
                    rows,
                    out_w,
                    out_hw,
                    height,
                    width,
                    base_n,
                    base_c,
                    base_h,
                    base_w,
                    there,
                    GEOMETRY,
                )
                plane = BASE(seen)
            else:
                plane = VALUE(mapped, PLANES[i], firsts, seconds, NUMBERS)
            left = tl.where(inside, plane, 0.0).to(OPERAND)
            total = tl.dot(left, rights[i], total, input_precision=PRECISION)
        if BIASED:
            total += tl.load(bias + output, mask=o < outputs, other=0.0).to(tl.float32)
        place = y + (m // out_hw).to(tl.int64) * y_n + output * y_c
        place += ((m % out_hw) // out_w).to(tl.int64) * y_h + (m % out_w).to(tl.int64) * y_w
        tl.store(place, total.to(y.dtype.element_ty), mask=(m < rows) & (o < outputs))


@triton.jit
def data_kernel(
    grad,
    x,
    base_input,
    weight,
    grad_x,
    grad_base,
    partials,
    first,
    second,
    rows,
    width,
    area,
    out_h,
    out_w,
    channels,
    outputs,
    all_channels,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    x_n,
    x_c,
    x_s,
    base_n,
    base_c,
    base_s,
    dx_n,
    dx_c,
    dx_s,
    db_n,
    db_c,
    db_s,
    weight_t,
    weight_k,
    weight_o,
    weight_c,
    first_k,
    first_c,
    second_k,
    second_c,
    SLOPE: tl.constexpr,
    PARTIAL: tl.constexpr,
    MAP: tl.constexpr,
    MAP_SLOPE: tl.constexpr,
    BASE_SLOPE: tl.constexpr,
    PLANES: tl.constexpr,
    CONSTANTS: tl.constexpr,
    ENTRIES: tl.constexpr,
    NUMBERS: tl.constexpr,
    GEOMETRY: tl.constexpr,
    SEPARATE: tl.constexpr,
    COUNTS: tl.constexpr,
    SHARED: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_BASE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_C: tl.constexpr,
    TILE_O: tl.constexpr,
):
    tiles = tl.cdiv(channels, TILE_C)
    across = all_channels // channels * tiles
    part = tl.program_id(0) // across
    m = (part * TILE_M + tl.arange(0, TILE_M))[:, None]  # positions of x
    columns = tl.program_id(0) % tiles * TILE_C + tl.arange(0, TILE_C)
    c = columns[None, :]
    group = tl.program_id(0) % across // tiles
    taps = GEOMETRY[0] * GEOMETRY[1]
    n = (m // area).to(tl.int64)
    s = m % area
    grads = ()
    for _function in tl.static_range(len(PLANES)):
        grads = grads + (tl.zeros((TILE_M, TILE_C), tl.float32),)  # noqa: RUF005 (Triton has no star here)
    for t in range(taps):
        up = s // width + GEOMETRY[4] - t // GEOMETRY[1] * GEOMETRY[6]
        left = s % width + GEOMETRY[5] - t % GEOMETRY[1] * GEOMETRY[7]
        reached = (m < rows) & (up >= 0) & (left >= 0) & (up % GEOMETRY[2] == 0) & (left % GEOMETRY[3] == 0)
        h = (up // GEOMETRY[2]).to(tl.int64)
        w = (left // GEOMETRY[3]).to(tl.int64)
        reached = reached & (h < out_h) & (w < out_w)
        for start in range(0, outputs, TILE_O):
            o = start + tl.arange(0, TILE_O)
            output = (group * outputs + o).to(tl.int64)
            place = grad + n * grad_n + output[None, :] * grad_c + h * grad_h + w * grad_w
            dy = tl.load(place, mask=reached & (o < outputs)[None, :], other=0.0).to(OPERAND)
            w_place = weight + output[:, None] * weight_o + c * weight_c + t * weight_t
            w_there = (o < outputs)[:, None] & (c < channels)
            added = ()
            for i in tl.static_range(len(PLANES)):
                right = tl.load(w_place + i * weight_k, mask=w_there, other=0.0).to(OPERAND)
                added = added + (tl.dot(dy, right, grads[i], input_precision=PRECISION),)  # noqa: RUF005
            grads = added
    inside = (m < rows) & (c < channels)
    own = group * channels + tl.minimum(columns, channels - 1)
    seen_c = (group * channels + c).to(tl.int64)
    s = s.to(tl.int64)
    value = tl.load(x + n * x_n + seen_c * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
    if SEPARATE:
        seen = tl.load(base_input + n * base_n + seen_c * base_c + s * base_s, mask=inside, other=0.0).to(tl.float32)
    else:
        seen = value
    total, base_total, sums = chain(
        grads,
        value,
        seen,
        entries(first, own, own < all_channels, first_k, first_c, COUNTS[0], SHARED),
        entries(second, own, own < all_channels, second_k, second_c, COUNTS[1], SHARED),
        SLOPE,
        PARTIAL,
        MAP,
        MAP_SLOPE,
        BASE_SLOPE,
        PLANES,
        CONSTANTS,
        ENTRIES,
        NUMBERS,
    )
    for i in tl.static_range(len(sums)):
        place = partials + (part.to(tl.int64) * len(sums) + i) * all_channels + seen_c
        tl.store(place, tl.sum(sums[i], axis=0)[None, :], mask=c < channels)
    if WANT_X:
        if not SEPARATE:
            total += base_total
        place = grad_x + n * dx_n + seen_c * dx_c + s * dx_s
        tl.store(place, total.to(grad_x.dtype.element_ty), mask=inside)
    if WANT_BASE:
        place = grad_base + n * db_n + seen_c * db_c + s * db_s
        tl.store(place, base_total.to(grad_base.dtype.element_ty), mask=inside)


@triton.jit
def weight_kernel(
    grad,
    x,
    base_input,
    partials,
    first,
    second,
    rows,
    rows_of_part,
    out_w,
    out_hw,
    height,
    width,
    channels,
    outputs,
    groups,
    grad_n,
    grad_c,
    grad_h,
    grad_w,
    x_n,
    x_c,
    x_h,
    x_w,
    base_n,
    base_c,
    base_h,
    base_w,
    weight_o,
    first_k,
    first_c,
    second_k,
    second_c,
    VALUE: tl.constexpr,
    MAP: tl.constexpr,
    BASE: tl.constexpr,
    PLANES: tl.constexpr,
    NUMBERS: tl.constexpr,
    GEOMETRY: tl.constexpr,
    SEPARATE: tl.constexpr,
    COUNTS: tl.constexpr,
    SHARED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_O: tl.constexpr,
):
    taps = GEOMETRY[0] * GEOMETRY[1]
    tiles = tl.cdiv(outputs, TILE_O)
    across = groups * tiles
    column = tl.program_id(0) % across
    part = tl.program_id(0) // across
    q = tl.arange(0, TILE_Q)
    o = (column % tiles * TILE_O + tl.arange(0, TILE_O))[None, :]
    group = column // tiles
    c = q // taps
    t = q % taps
    own = group * channels + tl.minimum(c, channels - 1)
    there = (c < channels)[None, :]
    output = (group * outputs + o).to(tl.int64)
    firsts = entries(first, own, own < groups * channels, first_k, first_c, COUNTS[0], SHARED)
    seconds = entries(second, own, own < groups * channels, second_k, second_c, COUNTS[1], SHARED)
    sums = ()
    for _function in tl.static_range(len(PLANES)):
        sums = sums + (tl.zeros((TILE_Q, TILE_O), tl.float32),)  # noqa: RUF005 (Triton has no star here)
    last = tl.minimum(rows, (part + 1) * rows_of_part)
    for start in range(part * rows_of_part, last, TILE_M):
        m = (start + tl.arange(0, TILE_M))[:, None]
        value, inside = gathered(
            x, m, own[None, :], t[None, :], last, out_w, out_hw, height, width, x_n, x_c, x_h, x_w, there, GEOMETRY
        )
        mapped = MAP(value)
        place = (
            grad
            + (m // out_hw).to(tl.int64) * grad_n
            + output * grad_c
            + ((m % out_hw) // out_w).to(tl.int64) * grad_h
            + (m % out_w).to(tl.int64) * grad_w
        )
        dy = tl.load(place, mask=(m < last) & (o < outputs), other=0.0).to(OPERAND)
        added = ()
        for i in tl.static_range(len(PLANES)):
            if PLANES[i] < 0 and not SEPARATE:
                plane = BASE(value)
            elif PLANES[i] < 0:
                seen, _also_inside = gathered(
                    base_input,
                    m,
                    own[None, :],
                    t[None, :],
                    last,
                    out_w,
                    out_hw,
                    height,
                    width,
                    base_n,
                    base_c,
                    base_h,
                    base_w,
                    there,
                    GEOMETRY,
                )
                plane = BASE(seen)
            else:
                plane = VALUE(mapped, PLANES[i], firsts, seconds, NUMBERS)
            left = tl.trans(tl.where(inside, plane, 0.0).to(OPERAND))
            added = added + (tl.dot(left, dy, sums[i], input_precision=PRECISION),)  # noqa: RUF005
        sums = added
    place = partials + part.to(tl.int64) * (groups * outputs * weight_o) + output * weight_o
    place += (c * (len(PLANES) * taps) + t)[:, None]
    for i in tl.static_range(len(PLANES)):
        tl.store(place + i * taps, sums[i], mask=(c < channels)[:, None] & (o < outputs))


def _operands(dtype: torch.dtype) -> dict[str, Any]:
    """What is multiplied: values of the call's type, float32 as in cuDNN. The interpreter multiplies no bfloat16."""
    kinds = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    kind = tl.float32 if INTERPRETS_TRITON and dtype == torch.bfloat16 else kinds[dtype]
    return {"OPERAND": kind, "PRECISION": "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"}


def _rows(dtype: torch.dtype) -> int:
    return ROWS if dtype.itemsize == 2 else ROWS // 2


def _geometry(convolution: Convolution, weight: Tensor) -> tuple[int, ...]:
    """Kernel, stride, padding and dilation, of both dimensions each."""
    return (*weight.shape[2:], *convolution.stride, *convolution.padding, *convolution.dilation)


def _width(count: int, most: int) -> int:
    """The size of a tile over `count` entries: what the tensor cores take is at least 16."""
    return min(max(16, triton.next_power_of_2(count)), most)


def convolve(values: Callable[..., Planes], call: Call, into: Contraction, size: int) -> Tensor:
    """The convolution of the expansion into `size` functions, where `takes` says yes; `into` has the call's dtype."""
    family = device_family(values)
    assert family is not None
    x, weight, groups = call.x, into.weight.contiguous(), into.convolution.groups
    base_input = x if call.base_input is None else call.base_input
    out_h, out_w = into.convolution.output_size(x.shape[2:], weight.shape[2:])
    batch, all_outputs = x.shape[0], weight.shape[0]
    y = torch.empty(
        (batch, all_outputs, out_h, out_w), dtype=call.dtype, device=x.device, memory_format=memory_format(x)
    )
    (first, second), own = learned(call.tensors, x), learned_numbers(call.tensors)
    rows, channels, outputs = batch * out_h * out_w, x.shape[1] // groups, all_outputs // groups
    tile_m = _rows(call.dtype)
    tile_q, tile_o = _width(channels * math.prod(weight.shape[2:]), MOST_Q), _width(outputs, 64)
    across, tiles = groups * triton.cdiv(outputs, tile_o), triton.cdiv(rows, tile_m)
    parts = min(tiles, max(1, PROGRAMS // across))
    with torch.cuda.device_of(x):
        forward_kernel[(parts * across,)](
            x,
            base_input,
            weight,
            weight if into.bias is None else into.bias,
            y,
            first,
            second,
            rows,
            out_w,
            out_h * out_w,
            x.shape[2],
            x.shape[3],
            channels,
            outputs,
            groups,
            *x.stride(),
            *base_input.stride(),
            *y.stride(),
            weight.stride(0),
            *own.strides,
            parts,
            triton.cdiv(tiles, parts),
            VALUE=family.value,
            MAP=DEVICE_POINTWISE[call.input_map].value,
            BASE=DEVICE_POINTWISE[call.base or "identity"].value,
            PLANES=planes_of(call, size),
            NUMBERS=numbers(call.scalars),
            GEOMETRY=_geometry(into.convolution, weight),
            BIASED=into.bias is not None,
            SEPARATE=call.base_input is not None,
            COUNTS=own.counts,
            SHARED=own.shared,
            TILE_M=tile_m,
            TILE_Q=tile_q,
            TILE_O=tile_o,
            num_warps=8,
            **_operands(call.dtype),
        )
    return y


def data_gradients(
    values: Callable[..., Planes], call: Call, into: Contraction, size: int, grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor]:
    """The gradients of those of `call.differentiable()` that are wanted."""
    family = device_family(values)
    assert family is not None
    groups = into.convolution.groups
    # [taps, K, O, C]: a program reads all of it for every tile.
    weight = (
        into.weight.reshape(into.weight.shape[0], call.x.shape[1] // groups, size, -1).permute(3, 2, 0, 1).contiguous()
    )
    x, x_strides = flat(call.x, 2)
    base_input, base_strides = (x, x_strides) if call.base_input is None else flat(call.base_input, 2)
    flags = list(wanted)
    want_x, want_base = flags.pop(0), call.base_input is not None and flags.pop(0)
    planes = planes_of(call, size)
    entries = entries_of(family, planes, call.tensors, tuple(flags))
    grad_x, dx_strides = flat(torch.empty_like(x), 2)
    grad_base, db_strides = flat(torch.empty_like(base_input), 2) if want_base else (grad_x, dx_strides)
    (first, second), own = learned(call.tensors, x), learned_numbers(call.tensors)
    batch, all_channels, height, width = x.shape
    rows, channels, outputs = batch * height * width, all_channels // groups, weight.shape[2] // groups
    tile_m = _rows(call.dtype)
    tile_c, tile_o = _width(channels, 16), _width(outputs, 64 if call.dtype.itemsize == 2 else 32)
    programs = triton.cdiv(rows, tile_m)
    partials = torch.empty((programs, len(entries), all_channels), dtype=torch.float32, device=x.device)
    mapping = DEVICE_POINTWISE[call.input_map]
    with torch.cuda.device_of(x):
        data_kernel[(programs * groups * triton.cdiv(channels, tile_c),)](
            grad,
            x,
            base_input,
            weight,
            grad_x,
            grad_base,
            partials,
            first,
            second,
            rows,
            width,
            height * width,
            *grad.shape[2:],
            channels,
            outputs,
            all_channels,
            *grad.stride(),
            *x_strides,
            *base_strides,
            *dx_strides,
            *db_strides,
            *weight.stride(),
            *own.strides,
            SLOPE=family.slope,
            PARTIAL=family.partial,
            MAP=mapping.value,
            MAP_SLOPE=mapping.derivative,
            BASE_SLOPE=DEVICE_POINTWISE[call.base or "identity"].derivative,
            PLANES=planes,
            CONSTANTS=family.constants,
            ENTRIES=numbers_of(entries),
            NUMBERS=numbers(call.scalars),
            GEOMETRY=_geometry(into.convolution, into.weight),
            SEPARATE=call.base_input is not None,
            COUNTS=own.counts,
            SHARED=own.shared,
            WANT_X=want_x,
            WANT_BASE=want_base,
            TILE_M=tile_m,
            TILE_C=tile_c,
            TILE_O=tile_o,
            num_stages=2,
            num_warps=8,
            **_operands(call.dtype),
        )
    found: list[Tensor] = []
    if want_x:
        found.append(conform(grad_x, call.x))
    if want_base and call.base_input is not None:
        found.append(conform(grad_base, call.base_input))
    return found + collected(partials, [tensor for tensor, want in zip(call.tensors, flags, strict=True) if want])


def weight_gradient(values: Callable[..., Planes], call: Call, into: Contraction, size: int, grad: Tensor) -> Tensor:
    """The gradient of the weight, float32."""
    family = device_family(values)
    assert family is not None
    x, weight, groups = call.x, into.weight, into.convolution.groups
    base_input = x if call.base_input is None else call.base_input
    (first, second), own = learned(call.tensors, x), learned_numbers(call.tensors)
    batch, all_outputs, out_h, out_w = grad.shape
    rows, channels, outputs = batch * out_h * out_w, x.shape[1] // groups, all_outputs // groups
    length = channels * math.prod(weight.shape[2:])
    tile_m = _rows(call.dtype)
    tile_q, tile_o = _width(length, MOST_Q), _width(outputs, 64 if size * length <= 160 else 32)
    across = groups * triton.cdiv(outputs, tile_o)
    rows_of_part = triton.cdiv(triton.cdiv(rows, tile_m), triton.cdiv(PROGRAMS, across)) * tile_m
    parts = triton.cdiv(rows, rows_of_part)
    partials = torch.empty((parts, *weight.shape), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        weight_kernel[(parts * across,)](
            grad,
            x,
            base_input,
            partials,
            first,
            second,
            rows,
            rows_of_part,
            out_w,
            out_h * out_w,
            x.shape[2],
            x.shape[3],
            channels,
            outputs,
            groups,
            *grad.stride(),
            *x.stride(),
            *base_input.stride(),
            partials.stride(1),
            *own.strides,
            VALUE=family.value,
            MAP=DEVICE_POINTWISE[call.input_map].value,
            BASE=DEVICE_POINTWISE[call.base or "identity"].value,
            PLANES=planes_of(call, size),
            NUMBERS=numbers(call.scalars),
            GEOMETRY=_geometry(into.convolution, weight),
            SEPARATE=call.base_input is not None,
            COUNTS=own.counts,
            SHARED=own.shared,
            TILE_M=tile_m,
            TILE_Q=tile_q,
            TILE_O=tile_o,
            num_stages=2,
            num_warps=8,
            **_operands(call.dtype),
        )
    return partials.sum(0)


def gradients(
    values: Callable[..., Planes],
    call: Call,
    into: Contraction,
    size: int,
    grad: Tensor,
    wanted: tuple[bool, ...],
) -> list[Tensor]:
    """The wanted gradients of weight and bias and of `call.differentiable()`, where `takes` says yes."""
    want_weight, want_bias, *inner = wanted
    found = [weight_gradient(values, call, into, size, grad)] if want_weight else []
    if want_bias:
        found.append(grad.sum((0, 2, 3), dtype=torch.float32))
    return found + (data_gradients(values, call, into, size, grad, tuple(inner)) if any(inner) else [])
