"""One wavelet for every edge and the convolution behind it, forward and backward, without the tensor of all edges.

With u = (x[m, c] - translation[o, c]) / scale[o, c] at the position m of the input, all samples together, and T taps:

    values      z[m, t, o]  = sum_c W[o, c, t] psi(u)           each wavelet evaluated once for all taps
    fold        y[p, o]     = sum_t z[the position that tap t takes to p, t, o]
    unfold      g[m, t, o]  = dy[the position that tap t takes m to, o]
    data        h           = sum_t W[o, c, t] g[m, t, o] psi'(u) / scale[o, c]
                dx[m, c] = sum_o h;  dtranslation[o, c] = -sum_m h;  dscale[o, c] = -sum_m u h
    weight      dW[o, c, t] = sum_m g[m, t, o] psi(u)

Strides, padding and dilation, of an ordinary or a transposed convolution in up to three dimensions, matter to fold and
unfold alone. z and g are made for a few samples at a time. Sums over positions have two stages: each program writes
its own, and PyTorch adds those up; there are no atomic additions. All is computed in float32.

What depends on a tile's row or column alone is loaded in one dimension: in two, each thread would load it once for each
of its elements.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kanvolution.ops.convolution import Contraction, Convolution
from kanvolution.ops.evaluation import Call, conform, memory_format
from kanvolution.ops.triton.expand import flat
from kanvolution.ops.triton.families import numbers, psi, psi_slope
from kanvolution.ops.triton.support import supports
from kanvolution.ops.wavelet import wavelet

TAPS = 9
"""Taps of a program at most: each has sums of its own in registers."""

MOST_TAPS = 64
"""Beyond so many, ordinary operators: the kernels' loops over taps are written out."""

TILE = 1024
"""Elements of a tile with sums for each tap, for the same reason."""

TILE_OF_WEIGHT = 512
"""Elements of a tile of the gradients of weights, scales and translations, which has two sums more."""

TILE_OF_DATA = 2048
"""Elements of a tile of the gradient of x, which has no such sums."""

AHEAD = 2**23
"""Elements of z, or of g and partial sums, at a time: 32 MiB of float32, which stay in a large GPU's L2 cache."""

PROGRAMS = 2048
"""Into so many programs the sums over positions are divided, about; enough to fill a GPU."""


def takes(call: Call, into: Contraction) -> bool:
    """Whether the kernels compute these edges; `call.tensors` are scale and translation."""
    taps = math.prod(into.weight.shape[2:])
    return taps <= MOST_TAPS and supports(wavelet.values, call._replace(tensors=(*call.tensors, into.weight)))


@triton.jit
def along(at, tap, size, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, DOWN: tl.constexpr):
    """The position of the other side that a tap joins to `at` in one dimension, and whether there is one.

    DOWN: from the side that the stride makes smaller.
    """
    if DOWN:
        there = at * STRIDE - PADDING + tap * DILATION
        inside = (there >= 0) & (there < size)
    else:
        far = at + PADDING - tap * DILATION
        there = far // STRIDE
        inside = (far >= 0) & (far % STRIDE == 0) & (there < size)
    return there, inside


@triton.jit
def joined(s, t, height, width, to_depth, to_height, to_width, GEOMETRY: tl.constexpr, DOWN: tl.constexpr):
    """`along` in all three dimensions, for positions s of a sample and tap t, both counted through."""
    kernel_w: tl.constexpr = GEOMETRY[2]
    kernel_hw: tl.constexpr = GEOMETRY[1] * GEOMETRY[2]
    d, inside_d = along(s // (height * width), t // kernel_hw, to_depth, GEOMETRY[3], GEOMETRY[6], GEOMETRY[9], DOWN)
    h, inside_h = along(
        s // width % height, t // kernel_w % GEOMETRY[1], to_height, GEOMETRY[4], GEOMETRY[7], GEOMETRY[10], DOWN
    )
    w, inside_w = along(s % width, t % kernel_w, to_width, GEOMETRY[5], GEOMETRY[8], GEOMETRY[11], DOWN)
    return (d * to_height + h) * to_width + w, inside_d & inside_h & inside_w


@triton.jit
def values_kernel(
    x,
    packed,
    z,
    rows,
    space,
    channels,
    outputs,
    all_outputs,
    x_n,
    x_c,
    x_s,
    KIND: tl.constexpr,
    ALL_TAPS: tl.constexpr,
    TAPS: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_O: tl.constexpr,
):
    blocks: tl.constexpr = (ALL_TAPS + TAPS - 1) // TAPS
    tiles = tl.cdiv(outputs, TILE_O)
    across = all_outputs // outputs * tiles * blocks
    column = tl.program_id(0) % across
    first = column % blocks * TAPS
    group = column // blocks // tiles
    o = column // blocks % tiles * TILE_O + tl.arange(0, TILE_O)
    r = tl.program_id(0) // across * TILE_R + tl.arange(0, TILE_R)
    source = x + (r // space).to(tl.int64) * x_n + (r % space).to(tl.int64) * x_s + group.to(tl.int64) * channels * x_c
    output = group * outputs + o
    sums = ()
    for _tap in tl.static_range(TAPS):
        sums = sums + (tl.zeros((TILE_R, TILE_O), tl.float32),)  # noqa: RUF005 (Triton has no star here)
    for c in range(channels):
        value = tl.load(source, mask=r < rows, other=0.0).to(tl.float32)
        place = packed + c * (ALL_TAPS + 2) * all_outputs + output
        inverse = tl.load(place, mask=o < outputs, other=0.0)
        translation = tl.load(place + all_outputs, mask=o < outputs, other=0.0)
        edge = psi((value[:, None] - translation[None, :]) * inverse[None, :], KIND)
        added = ()
        for i in tl.static_range(TAPS):
            t = first + i
            w = tl.load(place + (2 + t) * all_outputs, mask=(o < outputs) & (t < ALL_TAPS), other=0.0)
            added = added + (sums[i] + w[None, :] * edge,)  # noqa: RUF005 (Triton has no star here)
        sums = added
        source += x_c
    inside = (r < rows)[:, None] & (o < outputs)[None, :]
    target = z + ((r.to(tl.int64) * ALL_TAPS + first) * all_outputs)[:, None] + output[None, :]
    for i in tl.static_range(TAPS):
        tl.store(target + i * all_outputs, sums[i], mask=inside & (first + i < ALL_TAPS))


@triton.jit
def fold_kernel(
    z,
    y,
    rows,
    height,
    width,
    space,
    from_depth,
    from_height,
    from_width,
    outputs,
    y_n,
    y_c,
    y_s,
    ALL_TAPS: tl.constexpr,
    GEOMETRY: tl.constexpr,
    DOWN: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_O: tl.constexpr,
):
    across = tl.cdiv(outputs, TILE_O)
    o = (tl.program_id(0) % across * TILE_O + tl.arange(0, TILE_O))[None, :]
    r = (tl.program_id(0) // across * TILE_R + tl.arange(0, TILE_R))[:, None]
    n = (r // space).to(tl.int64)
    s = r % space
    total = tl.zeros((TILE_R, TILE_O), tl.float32)
    for t in range(ALL_TAPS):
        there, inside = joined(s, t, height, width, from_depth, from_height, from_width, GEOMETRY, DOWN)
        row = n * (from_depth * from_height * from_width) + there
        place = z + (row * ALL_TAPS + t) * outputs + o
        total += tl.load(place, mask=inside & (r < rows) & (o < outputs), other=0.0)
    place = y + n * y_n + o.to(tl.int64) * y_c + s.to(tl.int64) * y_s
    tl.store(place, total.to(y.dtype.element_ty), mask=(r < rows) & (o < outputs))


@triton.jit
def unfold_kernel(
    grad,
    g,
    rows,
    height,
    width,
    space,
    to_depth,
    to_height,
    to_width,
    outputs,
    grad_n,
    grad_c,
    grad_s,
    ALL_TAPS: tl.constexpr,
    GEOMETRY: tl.constexpr,
    DOWN: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_O: tl.constexpr,
):
    across = tl.cdiv(outputs, TILE_O) * ALL_TAPS
    t = tl.program_id(0) % ALL_TAPS
    o = (tl.program_id(0) % across // ALL_TAPS * TILE_O + tl.arange(0, TILE_O))[None, :]
    r = (tl.program_id(0) // across * TILE_R + tl.arange(0, TILE_R))[:, None]
    there, inside = joined(r % space, t, height, width, to_depth, to_height, to_width, GEOMETRY, DOWN)
    place = grad + (r // space).to(tl.int64) * grad_n + o.to(tl.int64) * grad_c + there.to(tl.int64) * grad_s
    value = tl.load(place, mask=inside & (r < rows) & (o < outputs), other=0.0)
    tl.store(g + (t * outputs + o).to(tl.int64) * rows + r, value, mask=(r < rows) & (o < outputs))


@triton.jit
def data_kernel(
    x,
    g,
    packed,
    grad_x,
    rows,
    space,
    channels,
    outputs,
    all_outputs,
    x_n,
    x_c,
    x_s,
    dx_n,
    dx_c,
    dx_s,
    KIND: tl.constexpr,
    ALL_TAPS: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_C: tl.constexpr,
):
    tiles = tl.cdiv(channels, TILE_C)
    across = all_outputs // outputs * tiles
    column = tl.program_id(0) % across
    group = column // tiles
    c = column % tiles * TILE_C + tl.arange(0, TILE_C)
    r = tl.program_id(0) // across * TILE_R + tl.arange(0, TILE_R)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    across_taps = tl.cast(all_outputs, tl.int64) * rows
    n = (r // space).to(tl.int64)[:, None]
    s = (r % space).to(tl.int64)[:, None]
    own = (group * channels + c).to(tl.int64)[None, :]
    value = tl.load(x + n * x_n + own * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
    received = g + group.to(tl.int64) * outputs * rows + r
    place = packed + group * outputs * (ALL_TAPS + 2) * channels + c
    total = tl.zeros((TILE_R, TILE_C), tl.float32)
    for _output in range(outputs):
        inverse = tl.load(place, mask=c < channels, other=0.0)
        translation = tl.load(place + channels, mask=c < channels, other=0.0)
        at = (value - translation[None, :]) * inverse[None, :]
        slope = tl.zeros((TILE_R, TILE_C), tl.float32)
        for t in tl.static_range(ALL_TAPS):
            w = tl.load(place + (2 + t) * channels, mask=c < channels, other=0.0)
            dy = tl.load(received + t * across_taps, mask=r < rows, other=0.0).to(tl.float32)
            slope += w[None, :] * dy[:, None]
        total += slope * psi_slope(at, KIND) * inverse[None, :]
        place += (ALL_TAPS + 2) * channels
        received += rows
    tl.store(grad_x + n * dx_n + own * dx_c + s * dx_s, total.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def weight_kernel(
    x,
    g,
    packed,
    partials,
    edge_partials,
    rows,
    rows_of_part,
    space,
    channels,
    outputs,
    all_outputs,
    x_n,
    x_c,
    x_s,
    KIND: tl.constexpr,
    ALL_TAPS: tl.constexpr,
    TAPS: tl.constexpr,
    WANT_WEIGHT: tl.constexpr,
    WANT_SUMS: tl.constexpr,
    TILE_R: tl.constexpr,
    TILE_C: tl.constexpr,
):
    blocks: tl.constexpr = (ALL_TAPS + TAPS - 1) // TAPS
    tiles = tl.cdiv(channels, TILE_C)
    across = all_outputs * tiles * blocks
    column = tl.program_id(0) % across
    part = tl.program_id(0) // across
    first = column % blocks * TAPS
    output = column // blocks // tiles
    c = column // blocks % tiles * TILE_C + tl.arange(0, TILE_C)
    own = (output // outputs * channels + c).to(tl.int64)[None, :]
    place = packed + output * (ALL_TAPS + 2) * channels + c
    inverse = tl.load(place, mask=c < channels, other=0.0)
    translation = tl.load(place + channels, mask=c < channels, other=0.0)
    sums = ()
    weights = ()
    for i in tl.static_range(TAPS):
        sums = sums + (tl.zeros((TILE_R, TILE_C), tl.float32),)  # noqa: RUF005 (Triton has no star here)
        w = tl.load(place + (2 + first + i) * channels, mask=(c < channels) & (first + i < ALL_TAPS), other=0.0)
        weights = weights + (w,)  # noqa: RUF005 (Triton has no star here)
    of_scale = tl.zeros((TILE_R, TILE_C), tl.float32)
    of_translation = tl.zeros((TILE_R, TILE_C), tl.float32)
    across_taps = tl.cast(all_outputs, tl.int64) * rows
    received = g + first * across_taps + output.to(tl.int64) * rows
    last = tl.minimum(rows, (part + 1) * rows_of_part)
    for start in range(part * rows_of_part, last, TILE_R):
        r = start + tl.arange(0, TILE_R)
        n = (r // space).to(tl.int64)[:, None]
        s = (r % space).to(tl.int64)[:, None]
        inside = (r < last)[:, None] & (c < channels)[None, :]
        value = tl.load(x + n * x_n + own * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
        at = (value - translation[None, :]) * inverse[None, :]
        edge = psi(at, KIND)
        total = tl.zeros((TILE_R, TILE_C), tl.float32)
        added = ()
        for i in tl.static_range(TAPS):
            there = (r < last) & (first + i < ALL_TAPS)
            dy = tl.load(received + i * across_taps + r, mask=there, other=0.0).to(tl.float32)
            added = added + (sums[i] + dy[:, None] * edge,)  # noqa: RUF005 (Triton has no star here)
            total += weights[i][None, :] * dy[:, None]
        sums = added
        slope = total * psi_slope(at, KIND) * inverse[None, :]
        of_scale -= at * slope
        of_translation -= slope
    if WANT_WEIGHT:
        target = partials + ((part.to(tl.int64) * all_outputs + output) * ALL_TAPS + first) * channels + c
        for i in tl.static_range(TAPS):
            there = (c < channels) & (first + i < ALL_TAPS)
            tl.store(target + i * channels, tl.sum(sums[i], axis=0), mask=there)
    if WANT_SUMS:
        target = (
            edge_partials + ((part.to(tl.int64) * blocks + first // TAPS) * 2 * all_outputs + output) * channels + c
        )
        tl.store(target, tl.sum(of_scale, axis=0), mask=c < channels)
        tl.store(target + all_outputs * channels, tl.sum(of_translation, axis=0), mask=c < channels)


def _three(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
    """One entry for each of three dimensions, those in front filled up."""
    return (fill,) * (3 - len(values)) + tuple(values)


def _geometry(convolution: Convolution, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Kernel, stride, padding and dilation of three dimensions each."""
    return (
        *_three(kernel, 1),
        *_three(convolution.stride, 1),
        *_three(convolution.padding, 0),
        *_three(convolution.dilation, 1),
    )


def _packed(call: Call, into: Contraction) -> Tensor:
    """1 / scale, translation and weights of each edge, float32 [O, 2 + taps, C / groups]."""
    scale, translation = (t.float().unsqueeze(1) for t in call.tensors)
    weight = into.weight.float().reshape(*into.weight.shape[:2], -1).transpose(1, 2)
    return torch.cat([1 / scale, translation, weight], dim=1)


def _taps_of_program(taps: int) -> int:
    return triton.cdiv(taps, triton.cdiv(taps, TAPS))


def _tile(count: int, most: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile, `count` columns being there.

    Fewer rows than a program's 128 threads: what is loaded for the rows alone then needs no exchange between threads.
    """
    columns = min(triton.next_power_of_2(count), most)
    return min(elements // columns, 64), columns


def _chunks(batch: int, elements: int) -> Iterator[slice]:
    """Parts of the batch, for `elements` of intermediate results for a sample."""
    step = max(1, AHEAD // max(1, elements))
    return (slice(start, min(start + step, batch)) for start in range(0, batch, step))


def convolve(call: Call, into: Contraction) -> Tensor:
    """The result [N, O, *S'] where `takes` says yes; `call.tensors` are scale and translation."""
    convolution, weight = into.convolution, into.weight
    kernel, (outputs, channels) = tuple(weight.shape[2:]), weight.shape[:2]
    taps, groups = math.prod(kernel), convolution.groups
    x, x_strides = flat(call.x, 2)
    size = tuple(x.shape[2:])
    size_out = convolution.output_size(size, kernel)
    space, space_out = math.prod(size), math.prod(size_out)
    y = torch.empty((x.shape[0], outputs, *size_out), dtype=call.dtype, device=x.device, memory_format=memory_format(x))
    _, y_strides = flat(y, 2)
    packed = _packed(call, into).permute(2, 1, 0).contiguous()
    of_program, (kind,) = _taps_of_program(taps), numbers(call.scalars)
    tile_r, tile_o = _tile(outputs // groups, 32, TILE)
    fold_r, fold_o = _tile(outputs, 64, TILE)
    with torch.cuda.device_of(x):
        for part in _chunks(x.shape[0], space * taps * outputs):
            rows, rows_out = (part.stop - part.start) * space, (part.stop - part.start) * space_out
            z = torch.empty((rows, taps, outputs), dtype=torch.float32, device=x.device)
            across = groups * triton.cdiv(outputs // groups, tile_o) * triton.cdiv(taps, of_program)
            values_kernel[(triton.cdiv(rows, tile_r) * across,)](
                x[part],
                packed,
                z,
                rows,
                space,
                channels,
                outputs // groups,
                outputs,
                *x_strides,
                KIND=kind,
                ALL_TAPS=taps,
                TAPS=of_program,
                TILE_R=tile_r,
                TILE_O=tile_o,
            )
            fold_kernel[(triton.cdiv(rows_out, fold_r) * triton.cdiv(outputs, fold_o),)](
                z,
                y[part],
                rows_out,
                *_three(size_out, 1)[1:],
                space_out,
                *_three(size, 1),
                outputs,
                *y_strides,
                ALL_TAPS=taps,
                GEOMETRY=_geometry(convolution, kernel),
                DOWN=not convolution.transposed,
                TILE_R=fold_r,
                TILE_O=fold_o,
            )
    return y


def gradients(call: Call, into: Contraction, grad: Tensor, wanted: tuple[bool, bool, bool, bool]) -> list[Tensor]:
    """The gradients of x, weight, scale and translation that are wanted, where `takes` says yes."""
    want_x, want_weight, want_scale, want_translation = wanted
    want_sums = want_scale or want_translation
    convolution, weight = into.convolution, into.weight
    kernel, (outputs, channels) = tuple(weight.shape[2:]), weight.shape[:2]
    taps, groups = math.prod(kernel), convolution.groups
    x, x_strides = flat(call.x, 2)
    # Outputs next to each other: in this order unfold reads and writes.
    grad, grad_strides = flat(grad.movedim(1, -1).contiguous().movedim(-1, 1), 2)
    size, size_out = tuple(x.shape[2:]), tuple(grad.shape[2:])
    space = math.prod(size)
    packed = _packed(call, into)
    of_program, (kind,) = _taps_of_program(taps), numbers(call.scalars)
    fold_r, fold_o = _tile(outputs, 64, TILE)
    data_r, data_c = _tile(channels, 64, TILE_OF_DATA)
    weight_r, weight_c = _tile(channels, 64, TILE_OF_WEIGHT)
    weight_across = outputs * triton.cdiv(channels, weight_c) * triton.cdiv(taps, of_program)
    grad_x, dx_strides = flat(torch.empty_like(x), 2)
    options = {"dtype": torch.float32, "device": x.device}
    grad_weight = torch.zeros((outputs, taps, channels), **options)
    sums = torch.zeros((2, outputs, channels), **options)
    blocks = triton.cdiv(taps, of_program)
    with torch.cuda.device_of(x):
        for part in _chunks(x.shape[0], space * taps * outputs):
            rows = (part.stop - part.start) * space
            g = torch.empty((taps, outputs, rows), dtype=grad.dtype, device=x.device)
            unfold_kernel[(triton.cdiv(rows, fold_r) * triton.cdiv(outputs, fold_o) * taps,)](
                grad[part],
                g,
                rows,
                *_three(size, 1)[1:],
                space,
                *_three(size_out, 1),
                outputs,
                *grad_strides,
                ALL_TAPS=taps,
                GEOMETRY=_geometry(convolution, kernel),
                DOWN=convolution.transposed,
                TILE_R=fold_r,
                TILE_O=fold_o,
            )
            if want_x:
                data_kernel[(triton.cdiv(rows, data_r) * groups * triton.cdiv(channels, data_c),)](
                    x[part],
                    g,
                    packed,
                    grad_x[part],
                    rows,
                    space,
                    channels,
                    outputs // groups,
                    outputs,
                    *x_strides,
                    *dx_strides,
                    KIND=kind,
                    ALL_TAPS=taps,
                    TILE_R=data_r,
                    TILE_C=data_c,
                )
            if want_weight or want_sums:
                tiles = triton.cdiv(rows, weight_r)
                rows_of_part = triton.cdiv(tiles, triton.cdiv(PROGRAMS, weight_across)) * weight_r
                parts = triton.cdiv(rows, rows_of_part)
                partials = torch.empty((parts if want_weight else 0, outputs, taps, channels), **options)
                edge_partials = torch.empty((parts * blocks if want_sums else 0, 2, outputs, channels), **options)
                weight_kernel[(parts * weight_across,)](
                    x[part],
                    g,
                    packed,
                    partials,
                    edge_partials,
                    rows,
                    rows_of_part,
                    space,
                    channels,
                    outputs // groups,
                    outputs,
                    *x_strides,
                    KIND=kind,
                    ALL_TAPS=taps,
                    TAPS=of_program,
                    WANT_WEIGHT=want_weight,
                    WANT_SUMS=want_sums,
                    TILE_R=weight_r,
                    TILE_C=weight_c,
                )
                grad_weight += partials.sum(0)
                sums += edge_partials.sum(0)
    scale, translation = call.tensors
    found = (
        (grad_x, call.x),
        (grad_weight.transpose(1, 2).reshape(weight.shape), weight),
        (sums[0].clone(), scale),
        (sums[1].clone(), translation),
    )
    return [conform(value, target) for (value, target), want in zip(found, wanted, strict=True) if want]
