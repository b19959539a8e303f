"""The fused expansion and its backward: one kernel each, for every family, any strides, and 16- or 32-bit types.

A program works on a tile of positions (samples and space together) by channels, reads x once and writes all functions;
backward reads x and the gradients once. Sums for learned tensors have two stages: each program writes the sum of its
tile to a place of its own, and PyTorch adds those up. There are no atomic additions, so results repeat bit by bit.
"""

# Bodies of device functions are Triton's language, which has other types.
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false, reportAssignmentType=false

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
from kanvolution.ops.triton.families import Family, device_family, numbers
from kanvolution.ops.triton.launch import Launch, facts, remembered
from kanvolution.ops.triton.pointwise import DEVICE_POINTWISE

TILE = 1024
"""Elements of a tile. Eight for each thread: vectors of 16 bytes in 16-bit types."""

TILE_OF_CHANNELS = 2048
"""The same, forward, where each channel has learned tensors of its own: they are read once for all of its positions."""

TILE_OF_SUMS = 256
"""The same where a program adds up sums for learned tensors, which each element of its tile has in registers."""

PROGRAMS = 1024
"""Among so many programs sums over positions are divided, at most; as many as a large GPU has room for at once."""


@triton.jit
def evaluated(
    value,
    seen,
    firsts,
    seconds,
    VALUE: tl.constexpr,
    MAP: tl.constexpr,
    BASE: tl.constexpr,
    PLANES: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """The planes of a tile: the functions of `value`, the base function of `seen`."""
    mapped = MAP(value)
    planes = ()
    for i in tl.static_range(len(PLANES)):
        plane = BASE(seen) if PLANES[i] < 0 else VALUE(mapped, PLANES[i], firsts, seconds, NUMBERS)
        planes = planes + (plane,)  # noqa: RUF005 (Triton has no star here)
    return planes


@triton.jit
def combined(planes, mix, RESULTS: tl.constexpr):
    """sum_k mix[r, k] plane_k for each r; the planes themselves without combinations (RESULTS = 0)."""
    if RESULTS == 0:
        return planes
    else:
        results = ()
        for r in tl.static_range(RESULTS):
            total = tl.load(mix + r * len(planes)).to(tl.float32) * planes[0]
            for k in tl.static_range(1, len(planes)):
                total += tl.load(mix + (r * len(planes) + k)).to(tl.float32) * planes[k]
            results = results + (total,)  # noqa: RUF005 (Triton has no star here)
        return results


@triton.jit
def distributed(grads, mix, RESULTS: tl.constexpr, COUNT: tl.constexpr):
    """The transposed of `combined`: from the gradients of the results to those of the COUNT planes."""
    if RESULTS == 0:
        return grads
    else:
        results = ()
        for k in tl.static_range(COUNT):
            total = tl.load(mix + k).to(tl.float32) * grads[0]
            for r in tl.static_range(1, RESULTS):
                total += tl.load(mix + (r * COUNT + k)).to(tl.float32) * grads[r]
            results = results + (total,)  # noqa: RUF005 (Triton has no star here)
        return results


@triton.jit
def entries(pointer, c, there, step, channel_step, COUNT: tl.constexpr, SHARED: tl.constexpr):
    """The COUNT entries of a learned tensor for channels c that are there; single numbers where all share them."""
    found = ()
    for k in tl.static_range(COUNT):
        if SHARED:
            value = tl.load(pointer + k * step)
        else:
            value = tl.load(pointer + k * step + c * channel_step, mask=there, other=1.0)  # scales are divided by
        found = found + (value.to(tl.float32),)  # noqa: RUF005 (Triton has no star here)
    return found


@triton.jit
def expand_kernel(
    x,
    base_input,
    out,
    mix,
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
    mix_c,
    first_k,
    first_c,
    second_k,
    second_c,
    VALUE: tl.constexpr,
    MAP: tl.constexpr,
    BASE: tl.constexpr,
    PLANES: tl.constexpr,
    RESULTS: tl.constexpr,
    NUMBERS: tl.constexpr,
    SEPARATE: tl.constexpr,
    COUNTS: tl.constexpr,
    SHARED: tl.constexpr,
    ADDS: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    across = tl.cdiv(channels, TILE_C)
    p = (tl.program_id(0) // across * TILE_P + tl.arange(0, TILE_P))[:, None]
    c = tl.program_id(0) % across * TILE_C + tl.arange(0, TILE_C)
    own = tl.minimum(c, channels - 1)  # for what is read without a mask
    firsts = entries(first, c, c < channels, first_k, first_c, COUNTS[0], SHARED)
    seconds = entries(second, c, c < channels, second_k, second_c, COUNTS[1], SHARED)
    c = c[None, :]
    inside = (p < positions) & (c < channels)
    # Offsets have 64 bits: E has more than 2^31 elements where x has not.
    n = (p // space).to(tl.int64)
    s = (p % space).to(tl.int64)
    c = c.to(tl.int64)
    value = tl.load(x + n * x_n + c * x_c + s * x_s, mask=inside, other=0.0).to(tl.float32)
    if SEPARATE:
        seen = tl.load(base_input + n * base_n + c * base_c + s * base_s, mask=inside, other=0.0).to(tl.float32)
    else:
        seen = value
    planes = evaluated(value, seen, firsts, seconds, VALUE, MAP, BASE, PLANES, NUMBERS)
    results = combined(planes, mix + own * mix_c, RESULTS)
    target = out + n * out_n + c * out_c + s * out_s
    if ADDS:
        there = fetched(target, out_k, inside, len(results))
        totals = ()
        for i in tl.static_range(len(results)):
            totals = totals + (results[i] + there[i].to(tl.float32),)  # noqa: RUF005 (Triton has no star here)
        results = totals
    # All stores come last: loads on either side of one are not recognised as the same.
    for i in tl.static_range(len(results)):
        tl.store(target + i * out_k, results[i].to(out.dtype.element_ty), mask=inside)


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
    ENTRIES: tl.constexpr,
    NUMBERS: tl.constexpr,
):
    """From the gradients of a tile's planes to those of the functions' and the base function's input, and what is to be
    summed over positions for learned tensors.

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
    width: tl.constexpr = 2 + len(PLANES)
    for e in tl.static_range(len(ENTRIES) // width):
        # see `numbers_of`: which learned tensor, its entry j, and for each plane whether it depends on it
        part = value * 0.0
        for i in tl.static_range(len(PLANES)):
            if ENTRIES[e * width + 2 + i]:
                part += grads[i] * PARTIAL(
                    mapped, PLANES[i], ENTRIES[e * width + 1], ENTRIES[e * width], firsts, seconds, NUMBERS
                )
        sums = sums + (part,)  # noqa: RUF005 (Triton has no star here)
    return total * MAP_SLOPE(value), base_total, sums


@triton.jit
def fetched(place, step, inside, COUNT: tl.constexpr):
    """COUNT tiles, `step` apart, as they are in memory."""
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (tl.load(place + i * step, mask=inside, other=0.0),)  # noqa: RUF005 (Triton has no star here)
    return found


@triton.jit
def expand_backward_kernel(
    grad,
    x,
    base_input,
    grad_x,
    grad_base,
    partials,
    mix,
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
    mix_c,
    first_k,
    first_c,
    second_k,
    second_c,
    parts,
    turns,
    VALUE: tl.constexpr,
    SLOPE: tl.constexpr,
    PARTIAL: tl.constexpr,
    MAP: tl.constexpr,
    MAP_SLOPE: tl.constexpr,
    BASE: tl.constexpr,
    BASE_SLOPE: tl.constexpr,
    PLANES: tl.constexpr,
    RESULTS: tl.constexpr,
    CONSTANTS: tl.constexpr,
    ENTRIES: tl.constexpr,
    SUMS: tl.constexpr,
    NUMBERS: tl.constexpr,
    SEPARATE: tl.constexpr,
    COUNTS: tl.constexpr,
    SHARED: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_BASE: tl.constexpr,
    WANT_MIX: tl.constexpr,
    OVERWRITES: tl.constexpr,
    ADDS: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_C: tl.constexpr,
):
    across = tl.cdiv(channels, TILE_C)
    part = tl.program_id(0) // across
    columns = tl.program_id(0) % across * TILE_C + tl.arange(0, TILE_C)
    own = tl.minimum(columns, channels - 1)
    firsts = entries(first, columns, columns < channels, first_k, first_c, COUNTS[0], SHARED)
    seconds = entries(second, columns, columns < channels, second_k, second_c, COUNTS[1], SHARED)
    columns = columns[None, :]
    mixes = mix + own * mix_c
    c = columns.to(tl.int64)
    sums = ()
    for _sum in tl.static_range(SUMS):
        sums = sums + (tl.zeros((TILE_P, TILE_C), tl.float32),)  # noqa: RUF005 (Triton has no star here)
    # Learned tensors are read before: stores to other places might be to theirs, for all that the compiler knows. And
    # while the functions of a tile are evaluated, the next one is on its way. All programs go through memory side by
    # side.
    count: tl.constexpr = RESULTS if RESULTS > 0 else len(PLANES)
    p = (part * TILE_P + tl.arange(0, TILE_P))[:, None]
    inside = (p < positions) & (columns < channels)
    n = (p // space).to(tl.int64)
    s = (p % space).to(tl.int64)
    read = fetched(x + n * x_n + c * x_c + s * x_s, 0, inside, 1)
    read_base = ()
    if SEPARATE:
        read_base = fetched(base_input + n * base_n + c * base_c + s * base_s, 0, inside, 1)
    source = grad + n * grad_n + c * grad_c + s * grad_s
    read_grads = fetched(source, grad_k, inside, count)
    for turn in range(turns):
        ahead = (turn + 1) * parts * TILE_P + p
        there = (ahead >= 0) & (ahead < positions) & (columns < channels)  # beyond 2^31 it is negative
        ahead_n = (ahead // space).to(tl.int64)
        ahead_s = (ahead % space).to(tl.int64)
        following = grad + ahead_n * grad_n + c * grad_c + ahead_s * grad_s
        next_read = read
        next_base = read_base
        next_grads = read_grads
        if SUMS > 0:  # there is one turn otherwise
            next_read = fetched(x + ahead_n * x_n + c * x_c + ahead_s * x_s, 0, there, 1)
            if SEPARATE:
                next_base = fetched(base_input + ahead_n * base_n + c * base_c + ahead_s * base_s, 0, there, 1)
            next_grads = fetched(following, grad_k, there, count)
        value = read[0].to(tl.float32)
        seen = read_base[0].to(tl.float32) if SEPARATE else value
        received = ()
        for i in tl.static_range(count):
            received = received + (read_grads[i].to(tl.float32),)  # noqa: RUF005 (Triton has no star here)
        grads = distributed(received, mixes, RESULTS, len(PLANES))
        total, base_total, found = chain(
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
            ENTRIES,
            NUMBERS,
        )
        planes = evaluated(value, seen, firsts, seconds, VALUE, MAP, BASE, PLANES, NUMBERS)
        if WANT_MIX:
            for r in tl.static_range(RESULTS):
                for k in tl.static_range(len(PLANES)):
                    found = found + (received[r] * planes[k],)  # noqa: RUF005 (Triton has no star here)
        if OVERWRITES:
            results = combined(planes, mixes, RESULTS)
            for i in tl.static_range(len(results)):
                tl.store(source + i * grad_k, results[i].to(grad.dtype.element_ty), mask=inside)
        added = ()
        for i in tl.static_range(SUMS):
            added = added + (sums[i] + found[i],)  # noqa: RUF005 (Triton has no star here)
        sums = added
        if WANT_X:
            if not SEPARATE:
                total += base_total
            place = grad_x + n * dx_n + c * dx_c + s * dx_s
            if ADDS:
                total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
            tl.store(place, total.to(grad_x.dtype.element_ty), mask=inside)
        if WANT_BASE:
            place = grad_base + n * db_n + c * db_c + s * db_s
            tl.store(place, base_total.to(grad_base.dtype.element_ty), mask=inside)
        read = next_read
        read_base = next_base
        read_grads = next_grads
        source = following
        inside = there
        n = ahead_n
        s = ahead_s
    for i in tl.static_range(SUMS):
        place = partials + (part.to(tl.int64) * SUMS + i) * channels + c
        tl.store(place, tl.sum(sums[i], axis=0)[None, :], mask=columns < channels)


class Entry(NamedTuple):
    """One sum over positions: the gradient of an entry of a learned tensor, and which planes depend on it."""

    which: int
    entry: int
    depends: tuple[bool, ...]


def planes_of(call: Call, size: int) -> tuple[int, ...]:
    """For each plane, of the result or to be combined for it, the number of its function, -1 for the base function."""
    based = int(call.base is not None)
    if call.mix is not None:
        size = call.mix.shape[2]
    numbers = range(size) if call.keep is None else call.keep
    return tuple(number - based for number in numbers)


def entries_of(
    family: Family, planes: tuple[int, ...], tensors: tuple[Tensor, ...], wanted: tuple[bool, ...]
) -> tuple[Entry, ...]:
    """The entries of the learned tensors that are wanted."""
    return tuple(
        Entry(which, j, tuple(k >= 0 and j in family.depends(k) for k in planes))
        for which, (tensor, want) in enumerate(zip(tensors, wanted, strict=True))
        if want
        for j in range(tensor.shape[-1])
    )


def numbers_of(entries: tuple[Entry, ...]) -> tuple[int, ...]:
    """The entries for a kernel, all in one tuple: Triton before 3.7 knows no tuples of tuples."""
    return tuple(int(number) for entry in entries for number in (entry.which, entry.entry, *entry.depends))


def collected(partials: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The gradients of learned tensors from the sums [programs, sums, C] of their entries, in order.

    A tensor has its entries for each channel (its first dimension), or once for all.
    """
    found, channels, start = [], partials.shape[2], 0
    totals = partials.sum(0) if tensors else partials
    for tensor in tensors:
        by_channel = tensor.ndim > 1 and tensor.shape[0] == channels
        count = tensor.numel() // (channels if by_channel else 1)
        own = totals[start : start + count]
        # A copy, since gradients that share memory are none of an operator.
        total = own.t().clone(memory_format=torch.contiguous_format) if by_channel else own.sum(1)
        found.append(conform(total.reshape(tensor.shape), tensor))
        start += count
    return found


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


def learned(tensors: tuple[Tensor, ...], x: Tensor) -> list[Tensor]:
    """Two learned tensors for a kernel (x in place of what is not there): entries before channels, which lie side by
    side then.
    """
    found = [tensor.t().contiguous() if tensor.ndim == 2 else tensor.contiguous() for tensor in tensors]
    return found + [x] * (2 - len(found))


class LearnedNumbers(NamedTuple):
    """Of `learned`: strides over entries and channels of both, how many entries they have, whether no channel has own
    ones.
    """

    strides: tuple[int, int, int, int]
    counts: tuple[int, int]
    shared: bool


def learned_numbers(tensors: tuple[Tensor, ...]) -> LearnedNumbers:
    """What a kernel has to know of learned tensors [entries] or [channels, entries]."""
    strides, counts = [], [tensor.shape[-1] for tensor in tensors]
    for tensor in tensors:
        strides += [tensor.shape[0], 1] if tensor.ndim == 2 and tensor.shape[0] > 1 else [1, 0]
    rest = 2 - len(tensors)
    steps = (*strides, *(0, 0) * rest)
    return LearnedNumbers(steps, (*counts, *(0,) * rest), not any(steps[1::2]))


def tile(elements: int, channels: int, strides: tuple[int, ...]) -> tuple[int, int]:
    """Positions and channels of a tile, along whichever lies next to each other in memory."""
    if strides[1] == 1 and channels > 1:
        width = min(triton.next_power_of_2(channels), 64, elements)
        return elements // width, width
    return elements, 1


def _by_channels(expanded: Tensor, call: Call) -> Tensor:
    """[N, C, K, *S], a view of an expansion that may have functions before channels."""
    return expanded if call.groups is None else expanded.squeeze(1).transpose(1, 2)


def _learned(call: Call, x: Tensor) -> list[Tensor]:
    """The combinations and two learned tensors; x in place of what is not there."""
    return [x if call.mix is None else call.mix.contiguous(), *learned(call.tensors, x)]


def _mix_numbers(call: Call) -> tuple[int, int]:
    """The stride of the call's combinations over the channels, and how many results they have."""
    if call.mix is None:
        return 0, 0
    return call.mix[0].numel() if call.mix.shape[0] > 1 else 0, call.mix.shape[1]


def evaluate(
    values: Callable[..., Planes], call: Call, size: int, out: Tensor | None = None, adds: bool = False
) -> Tensor:
    """The result of a family's call that `supports` says yes to.

    Args:
        out: where it is written, [N, *inner_sizes, *S]; by default a new tensor as `empty_expansion` is.
        adds: whether it is added to what is there.
    """
    if out is None:
        out = empty_expansion(call.x, size, call.dtype, call.groups)
    result, kernel = out, expand_kernel
    key = (id(kernel), values, adds, out.shape, out.stride(), out.dtype, *facts(call))
    launch = remembered(key, lambda: _forward(kernel, values, call, result, adds))
    x, base_input = launch.inputs(call.x, call.x if call.base_input is None else call.base_input)
    launch(x, base_input, out, *_learned(call, x))
    return out


def _forward(kernel: Any, values: Callable[..., Planes], call: Call, out: Tensor, adds: bool) -> Launch:
    family = device_family(values)
    assert family is not None
    x, x_strides = flat(call.x, 2)
    seen, seen_strides = (x, x_strides) if call.base_input is None else flat(call.base_input, 2)
    by_channels = _by_channels(out, call)
    out_strides = flat_strides(by_channels, 3)
    assert out_strides is not None
    mix_stride, results = _mix_numbers(call)
    own = learned_numbers(call.tensors)
    positions, space, channels = x.shape[0] * math.prod(x.shape[2:]), math.prod(x.shape[2:]), x.shape[1]
    tile_p, tile_c = tile(TILE if own.shared else TILE_OF_CHANNELS, channels, x_strides)
    return Launch(
        kernel,
        triton.cdiv(positions, tile_p) * triton.cdiv(channels, tile_c),
        (positions, space, channels, *x_strides, *seen_strides, *out_strides, mix_stride, *own.strides),
        {
            "VALUE": family.value,
            "MAP": DEVICE_POINTWISE[call.input_map].value,
            "BASE": DEVICE_POINTWISE[call.base or "identity"].value,
            "PLANES": planes_of(call, by_channels.shape[2]),
            "RESULTS": results,
            "NUMBERS": numbers(call.scalars),
            "SEPARATE": call.base_input is not None,
            "COUNTS": own.counts,
            "SHARED": own.shared,
            "ADDS": adds,
            "TILE_P": tile_p,
            "TILE_C": tile_c,
        },
        (x is not call.x, call.base_input is not None and seen is not call.base_input),
    )


def evaluate_gradients(
    values: Callable[..., Planes],
    call: Call,
    grad: Tensor,
    wanted: tuple[bool, ...],
    overwrites: bool = False,
    onto: Tensor | None = None,
) -> list[Tensor]:
    """The gradients of those of a family's `call.differentiable()` that are wanted; `supports` says yes to the call.

    Args:
        overwrites: whether the result of the call is written in place of its gradient, in the same memory; that must
            have a single stride over its dimensions of space, as every dense tensor has.
        onto: a gradient of x to which this one is added; x and it are contiguous or channels-last.
    """
    kernel, given, adds = expand_backward_kernel, _by_channels(grad, call), onto is not None
    key = (id(kernel), values, wanted, overwrites, adds, given.shape, given.stride(), given.dtype, *facts(call))
    launch = remembered(key, lambda: _backward(kernel, values, call, given, wanted, overwrites, adds))
    assert not (overwrites and launch.copies[2])
    x, base_input, grad = launch.inputs(call.x, call.x if call.base_input is None else call.base_input, given)
    want_x, want_base, want_mix, flags = _split(call, wanted)
    if onto is not None:
        grad_x, *rest = [onto]
    else:
        grad_x, *rest = launch.results(x, base_input) if want_base else launch.results(x) if want_x else [x]
    grad_base = rest[0] if rest else grad_x
    partials = torch.empty(launch.partials, dtype=torch.float32, device=x.device)
    launch(grad, x, base_input, grad_x, grad_base, partials, *_learned(call, x))
    found: list[Tensor] = []
    if want_x:
        found.append(grad_x if x is call.x and not launch.contiguous[0] else conform(grad_x, call.x))
    if want_base and call.base_input is not None:
        same = base_input is call.base_input and not launch.contiguous[1]
        found.append(grad_base if same else conform(grad_base, call.base_input))
    targets = [tensor for tensor, want in zip(call.tensors, flags, strict=True) if want]
    if want_mix and call.mix is not None:
        *of_tensors, of_mix = collected(partials, [*targets, call.mix])
        return [*found, of_mix, *of_tensors]
    return found + collected(partials, targets)


def _split(call: Call, wanted: tuple[bool, ...]) -> tuple[bool, bool, bool, tuple[bool, ...]]:
    """Whether gradients of x, of a base input of its own and of combinations are wanted, and which of the others."""
    flags = list(wanted)
    want_x, want_base = flags.pop(0), call.base_input is not None and flags.pop(0)
    want_mix = call.mix is not None and flags.pop(0)
    return want_x, want_base, want_mix, tuple(flags)


def _backward(
    kernel: Any,
    values: Callable[..., Planes],
    call: Call,
    given: Tensor,
    wanted: tuple[bool, ...],
    overwrites: bool,
    adds: bool,
) -> Launch:
    family = device_family(values)
    assert family is not None
    x, x_strides = flat(call.x, 2)
    seen, seen_strides = (x, x_strides) if call.base_input is None else flat(call.base_input, 2)
    grad, grad_strides = flat(given, 3)
    like_x, like_seen = torch.empty_like(x), torch.empty_like(seen)
    (dx, dx_strides), (db, db_strides) = flat(like_x, 2), flat(like_seen, 2)
    want_x, want_base, want_mix, flags = _split(call, wanted)
    planes = planes_of(call, given.shape[2])
    entries = entries_of(family, planes, call.tensors, flags)
    mix_stride, results = _mix_numbers(call)
    sums = len(entries) + (results * len(planes) if want_mix else 0)
    own = learned_numbers(call.tensors)
    positions, space, channels = x.shape[0] * math.prod(x.shape[2:]), math.prod(x.shape[2:]), x.shape[1]
    tile_p, tile_c = tile(TILE_OF_SUMS if sums else TILE, channels, x_strides)
    tiles, across = triton.cdiv(positions, tile_p), triton.cdiv(channels, tile_c)
    parts = min(tiles, max(1, PROGRAMS // across)) if sums else tiles
    mapping, base = DEVICE_POINTWISE[call.input_map], DEVICE_POINTWISE[call.base or "identity"]
    strides = (*grad_strides, *x_strides, *seen_strides, *dx_strides, *db_strides)
    return Launch(
        kernel,
        parts * across,
        (positions, space, channels, *strides, mix_stride, *own.strides, parts, triton.cdiv(tiles, parts)),
        {
            "VALUE": family.value,
            "SLOPE": family.slope,
            "PARTIAL": family.partial,
            "MAP": mapping.value,
            "MAP_SLOPE": mapping.derivative,
            "BASE": base.value,
            "BASE_SLOPE": base.derivative,
            "PLANES": planes,
            "RESULTS": results,
            "CONSTANTS": family.constants,
            "ENTRIES": numbers_of(entries),
            "SUMS": sums,
            "NUMBERS": numbers(call.scalars),
            "SEPARATE": call.base_input is not None,
            "COUNTS": own.counts,
            "SHARED": own.shared,
            "WANT_X": want_x,
            "WANT_BASE": want_base,
            "WANT_MIX": want_mix,
            "OVERWRITES": overwrites,
            "ADDS": adds,
            "TILE_P": tile_p,
            "TILE_C": tile_c,
        },
        (x is not call.x, call.base_input is not None and seen is not call.base_input, grad is not given),
        (dx is not like_x, db is not like_seen),
        (parts, sums, channels),
    )
