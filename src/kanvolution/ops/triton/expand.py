"""The fused expansion and its backward: one kernel each, for every family, any strides, and 16- or 32-bit types.

A program works on a tile of positions (samples and space together) by channels, reads x once and writes all functions;
backward reads x and the gradients once. Sums for learned tensors have two stages: each program writes the sum of its
tile to a place of its own, and PyTorch adds those up. There are no atomic additions, so results repeat bit by bit.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kanvolution.ops.evaluation import Call, Planes, conform, empty_expansion
from kanvolution.ops.triton.families import Family, device_family
from kanvolution.ops.triton.pointwise import DEVICE_POINTWISE

TILE = 1024
"""Elements of a tile; not yet chosen by measurement."""


@triton.jit
def expand_kernel(
    x,
    base_input,
    out,
    first,
    second,
    positions,
    space,
    channels,
    x_n,
    x_c,
    x_s,
    base_n,
    base_c,
    base_s,
    out_n,
    out_c,
    out_k,
    out_s,
    first_c,
    second_c,
    VALUE: tl.constexpr,
    MAP: tl.constexpr,
    BASE: tl.constexpr,
    PLANES: tl.constexpr,
    NUMBERS: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    p = (tl.program_id(0) * TILE_P + tl.arange(0, TILE_P))[:, None]
    c = (tl.program_id(1) * TILE_C + tl.arange(0, TILE_C))[None, :]
    inside = (p < positions) & (c < channels)
    n = (p // space).to(tl.int64)
    s = p % space
    own = tl.minimum(c, channels - 1)
    value = tl.load(x + n * x_n + own * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
    mapped = MAP(value)
    planes = ()
    for i in tl.static_range(len(PLANES)):
        if PLANES[i] < 0:
            seen = tl.load(base_input + n * base_n + own * base_c + s * base_s, mask=inside, other=0.0).to(tl.float32)
            plane = BASE(seen)
        else:
            plane = VALUE(mapped, PLANES[i], first + own * first_c, second + own * second_c, NUMBERS)
        planes = planes + (plane,)  # noqa: RUF005 (Triton has no star here)
    # All stores come last: loads on either side of one are not recognised as the same.
    target = out + n * out_n + own * out_c + s * out_s
    for i in tl.static_range(len(PLANES)):
        tl.store(target + i * out_k, planes[i].to(out.dtype.element_ty), mask=inside)


@triton.jit
def chain(
    grads,
    value,
    seen,
    firsts,
    seconds,
    SLOPE: tl.constexpr,
    PARTIAL: tl.constexpr,
    MAP: tl.constexpr,
    MAP_SLOPE: tl.constexpr,
    BASE_SLOPE: tl.constexpr,
    PLANES: tl.constexpr,
    CONSTANTS: tl.constexpr,
    TERMS: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """From the gradients of a tile's planes to those of the functions' and the base function's input, and the sums.

    The compiler drops what is not used of it.
    """
    mapped = MAP(value)
    total = value * 0.0
    base_total = value * 0.0
    for i in tl.static_range(len(PLANES)):
        if PLANES[i] < 0:
            base_total = grads[i] * BASE_SLOPE(seen)
        elif PLANES[i] >= CONSTANTS:
            total += grads[i] * SLOPE(mapped, PLANES[i], firsts, seconds, NUMBERS)
    sums = ()
    for i in tl.static_range(len(TERMS)):
        # TERMS[i]: which learned tensor, plane, function k, entry j
        part = grads[TERMS[i][1]] * PARTIAL(mapped, TERMS[i][2], TERMS[i][3], TERMS[i][0], firsts, seconds, NUMBERS)
        sums = sums + (tl.sum(part, axis=0)[None, :],)  # noqa: RUF005 (Triton has no star here)
    return total * MAP_SLOPE(value), base_total, sums


@triton.jit
def expand_backward_kernel(
    grad,
    x,
    base_input,
    grad_x,
    grad_base,
    partials,
    first,
    second,
    positions,
    space,
    channels,
    grad_n,
    grad_c,
    grad_k,
    grad_s,
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
    first_c,
    second_c,
    SLOPE: tl.constexpr,
    PARTIAL: tl.constexpr,
    MAP: tl.constexpr,
    MAP_SLOPE: tl.constexpr,
    BASE_SLOPE: tl.constexpr,
    PLANES: tl.constexpr,
    CONSTANTS: tl.constexpr,
    TERMS: tl.constexpr,
    NUMBERS: tl.constexpr,
    SEPARATE: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_BASE: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    p = (tl.program_id(0) * TILE_P + tl.arange(0, TILE_P))[:, None]
    c = (tl.program_id(1) * TILE_C + tl.arange(0, TILE_C))[None, :]
    inside = (p < positions) & (c < channels)
    n = (p // space).to(tl.int64)
    s = p % space
    own = tl.minimum(c, channels - 1)
    value = tl.load(x + n * x_n + own * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
    seen = tl.load(base_input + n * base_n + own * base_c + s * base_s, mask=inside, other=0.0).to(tl.float32)
    source = grad + n * grad_n + own * grad_c + s * grad_s
    firsts = first + own * first_c
    seconds = second + own * second_c
    grads = ()
    for i in tl.static_range(len(PLANES)):
        g = tl.load(source + i * grad_k, mask=inside, other=0.0).to(tl.float32)
        grads = grads + (g,)  # noqa: RUF005 (Triton has no star here)
    total, base_total, sums = chain(
        grads,
        value,
        seen,
        firsts,
        seconds,
        SLOPE,
        PARTIAL,
        MAP,
        MAP_SLOPE,
        BASE_SLOPE,
        PLANES,
        CONSTANTS,
        TERMS,
        NUMBERS,
    )
    for i in tl.static_range(len(TERMS)):
        place = partials + (tl.program_id(0).to(tl.int64) * len(TERMS) + i) * channels + c
        tl.store(place, sums[i], mask=c < channels)
    if WANT_X:
        if not SEPARATE:
            total += base_total
        tl.store(grad_x + n * dx_n + own * dx_c + s * dx_s, total.to(grad_x.dtype.element_ty), mask=inside)
    if WANT_BASE:
        place = grad_base + n * db_n + own * db_c + s * db_s
        tl.store(place, base_total.to(grad_base.dtype.element_ty), mask=inside)


class Term(NamedTuple):
    """One sum over positions: of g_plane times the derivative of B_function by an entry of a learned tensor."""

    which: int
    plane: int
    function: int
    entry: int


def planes_of(call: Call, size: int) -> tuple[int, ...]:
    """For each plane of the result the number of its function, -1 for the base function."""
    based = int(call.base is not None)
    numbers = range(size) if call.keep is None else call.keep
    return tuple(number - based for number in numbers)


def terms_of(family: Family, planes: tuple[int, ...], wanted: tuple[bool, ...]) -> tuple[Term, ...]:
    """The sums for the learned tensors that are wanted, by tensor and entry."""
    terms = [
        Term(which, plane, k, j)
        for which, want in enumerate(wanted)
        for plane, k in enumerate(planes)
        if want and k >= 0
        for j in family.depends(k)
    ]
    return tuple(sorted(terms, key=lambda term: (term.which, term.entry)))


def gather_terms(partials: Tensor, terms: tuple[Term, ...], which: int, learned: Tensor) -> Tensor:
    """The gradient of a [K] or [C, K] tensor from the sums [programs, terms, C]."""
    sums = partials.sum(0)  # [terms, C]
    columns = [sums.new_zeros(sums.shape[1])] * learned.shape[-1]
    for i, term in enumerate(terms):
        if term.which == which:
            columns[term.entry] = columns[term.entry] + sums[i]
    full = torch.stack(columns, dim=-1)
    return full if learned.ndim == 2 else full.sum(0)


def flat_strides(tensor: Tensor, space: int) -> tuple[int, ...] | None:
    """The strides with all dimensions from `space` on as one; None where no stride says that."""
    shape, strides = tensor.shape[space:], tensor.stride()[space:]
    spans = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    for (_, outer), (size, inner) in itertools.pairwise(spans):
        if outer != size * inner:
            return None
    return (*tensor.stride()[:space], spans[-1][1] if spans else 1)


def flat(tensor: Tensor, space: int) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor, or a contiguous copy, whose dimensions of space have one stride; and its strides."""
    strides = flat_strides(tensor, space)
    if strides is None:
        tensor = tensor.contiguous()
        strides = flat_strides(tensor, space)
    assert strides is not None
    return tensor, strides


def learned_strides(tensors: tuple[Tensor, ...], x: Tensor) -> tuple[list[Tensor], list[int]]:
    """Two learned tensors (x in place of what is not there) and their strides over the channels."""
    found = [tensor.contiguous() for tensor in tensors]
    strides = [tensor.stride(0) if tensor.ndim == 2 else 0 for tensor in found]
    missing = 2 - len(found)
    return found + [x] * missing, strides + [0] * missing


def tile(call: Call, strides: tuple[int, ...]) -> tuple[int, int]:
    """Positions and channels of a tile, along whichever lies next to each other in memory."""
    channels = call.x.shape[1]
    if strides[1] == 1 and channels > 1:
        width = min(triton.next_power_of_2(channels), 64, TILE)
        return TILE // width, width
    return TILE, 1


def evaluate(values: Callable[..., Planes], call: Call, size: int) -> Tensor:
    """The result [N, C, size, *S] of a call that `supports` says yes to."""
    family = device_family(values)
    assert family is not None
    x, x_strides = flat(call.x, 2)
    base_input, base_strides = (x, x_strides) if call.base_input is None else flat(call.base_input, 2)
    out = empty_expansion(call.x, size, call.dtype)
    out_strides = flat_strides(out, 3)
    assert out_strides is not None
    batch, channels, space = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    (first, second), learned = learned_strides(call.tensors, x)
    tile_p, tile_c = tile(call, x_strides)
    with torch.cuda.device_of(x):
        expand_kernel[(triton.cdiv(batch * space, tile_p), triton.cdiv(channels, tile_c))](
            x,
            base_input,
            out,
            first,
            second,
            batch * space,
            space,
            channels,
            *x_strides,
            *base_strides,
            *out_strides,
            *learned,
            VALUE=family.value,
            MAP=DEVICE_POINTWISE[call.input_map].value,
            BASE=DEVICE_POINTWISE[call.base or "identity"].value,
            PLANES=planes_of(call, size),
            NUMBERS=call.scalars,
            TILE_P=tile_p,
            TILE_C=tile_c,
        )
    return out


def evaluate_gradients(
    values: Callable[..., Planes], call: Call, grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor]:
    """The gradients of those of `call.differentiable()` that are wanted, of a call that `supports` says yes to."""
    family = device_family(values)
    assert family is not None
    x, x_strides = flat(call.x, 2)
    base_input, base_strides = (x, x_strides) if call.base_input is None else flat(call.base_input, 2)
    grad, grad_strides = flat(grad, 3)
    flags = list(wanted)
    want_x, want_base = flags.pop(0), call.base_input is not None and flags.pop(0)
    planes = planes_of(call, grad.shape[2])
    terms = terms_of(family, planes, tuple(flags))
    grad_x, dx_strides = flat(torch.empty_like(x), 2)
    grad_base, db_strides = flat(torch.empty_like(base_input), 2) if want_base else (grad_x, dx_strides)
    batch, channels, space = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    (first, second), learned = learned_strides(call.tensors, x)
    tile_p, tile_c = tile(call, x_strides)
    programs = triton.cdiv(batch * space, tile_p)
    partials = torch.empty((programs, len(terms), channels), dtype=torch.float32, device=x.device)
    mapping = DEVICE_POINTWISE[call.input_map]
    with torch.cuda.device_of(x):
        expand_backward_kernel[(programs, triton.cdiv(channels, tile_c))](
            grad,
            x,
            base_input,
            grad_x,
            grad_base,
            partials,
            first,
            second,
            batch * space,
            space,
            channels,
            *grad_strides,
            *x_strides,
            *base_strides,
            *dx_strides,
            *db_strides,
            *learned,
            SLOPE=family.slope,
            PARTIAL=family.partial,
            MAP=mapping.value,
            MAP_SLOPE=mapping.derivative,
            BASE_SLOPE=DEVICE_POINTWISE[call.base or "identity"].derivative,
            PLANES=planes,
            CONSTANTS=family.constants,
            TERMS=tuple(tuple(term) for term in terms),
            NUMBERS=call.scalars,
            SEPARATE=call.base_input is not None,
            WANT_X=want_x,
            WANT_BASE=want_base,
            TILE_P=tile_p,
            TILE_C=tile_c,
        )
    found: list[Any] = []
    if want_x:
        found.append(conform(grad_x, call.x))
    if want_base and call.base_input is not None:
        found.append(conform(grad_base, call.base_input))
    for which, (tensor, want) in enumerate(zip(call.tensors, flags, strict=True)):
        if want:
            found.append(conform(gather_terms(partials, terms, which, tensor), tensor))
    return found
