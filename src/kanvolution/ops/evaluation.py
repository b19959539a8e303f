"""How the values of a family and their gradients are computed: plainly, in blocks, by a compiled loop or a kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanvolution.ops.backends import any_size, compiled
from kanvolution.ops.pointwise import POINTWISE

Planes = Iterable[Tensor]
"""One tensor of x's shape for each function."""

TensorGradient = Tensor | Callable[[], Tensor]
"""The gradient of a learned tensor, or the function that computes it; that is called where the gradient is wanted."""

Vjp = Callable[..., tuple[Any, ...]]

# Elements of a block for each thread: its planes stay in the second-level cache, and PyTorch gives each thread at least
# as many.
_BLOCK = 32768


class Call(NamedTuple):
    """The arguments of a family's operator, checked and in order."""

    x: Tensor
    base_input: Tensor | None
    mix: Tensor | None
    tensors: tuple[Tensor, ...]
    scalars: tuple[Any, ...]
    input_map: str
    base: str | None
    dtype: torch.dtype
    backend: str
    keep: tuple[int, ...] | None = None
    groups: int | None = None
    """Groups of channels in which functions come before channels; None: channels come before functions."""
    zeros: int = 0
    """Channels of zeros behind the expansion inside of a convolution."""

    def differentiable(self) -> list[Tensor]:
        """The tensors that there are, in order."""
        return [t for t in (self.x, self.base_input, self.mix) if t is not None] + list(self.tensors)

    def with_tensors(self, tensors: Iterable[Tensor]) -> Call:
        """The same call with other tensors in place of `differentiable()`."""
        rest = iter(tensors)
        x = next(rest)
        base_input, mix = (None if old is None else next(rest) for old in (self.base_input, self.mix))
        return self._replace(x=x, base_input=base_input, mix=mix, tensors=tuple(rest))


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision functions are computed in: float32 for the 16-bit types, else the input's own."""
    return torch.promote_types(dtype, torch.float32)


def memory_format(x: Tensor) -> torch.memory_format:
    """torch.channels_last or channels_last_3d where x is laid out so (and not contiguous as well), else contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = x.ndim in formats and not x.is_contiguous() and x.is_contiguous(memory_format=formats[x.ndim])
    return formats[x.ndim] if last else torch.contiguous_format


def inner_sizes(x: Tensor, size: int, groups: int | None) -> tuple[int, ...]:
    """Channels and functions of an expansion: (C, K) or, with `groups`, (groups, K, C / groups)."""
    channels = x.shape[1]
    return (channels, size) if groups is None else (groups, size, channels // groups)


def empty_expansion(x: Tensor, size: int, dtype: torch.dtype, groups: int | None = None) -> Tensor:
    """An uninitialised expansion [N, *inner_sizes, *S]; its flattening to [N, C*K, *S] has the memory format of x."""
    batch, _, *space = x.shape
    inner = inner_sizes(x, size, groups)
    if memory_format(x) == torch.contiguous_format:
        return torch.empty((batch, *inner, *space), dtype=dtype, device=x.device)
    last = torch.empty((batch, *space, *inner), dtype=dtype, device=x.device)
    return last.movedim(tuple(range(1, x.ndim - 1)), tuple(range(2 - x.ndim, 0)))


def laid_out(x: Tensor, size: int, weight: Tensor) -> Tensor:
    """x in the layout that a convolution of its expansion into `size` functions is fastest in on x's device.

    On a CPU, oneDNN converts what is not channels-last, and the expansion is what there is most of. Only where the
    weight is larger still does its conversion cost more.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.device.type != "cpu" or x.ndim not in formats or x.numel() * size < weight.numel():
        return x
    return x.contiguous(memory_format=formats[x.ndim])


def stack(values: Callable[..., Planes], call: Call) -> Tensor:
    """The result by ordinary operators, to be differentiated, exported or compiled."""
    planes = list(_result_planes(values, call))
    if torch.compiler.is_compiling() and call.base == "identity":
        # Were x itself among the planes, the compiler would copy each of them into place in a loop of its own.
        planes[0] = planes[0].neg().neg()
    planes = [_grouped(plane, call.groups) for plane in planes]
    if len(planes) == 1:
        # A stack of one plane would be a copy, which the compiler lays out as it likes.
        return planes[0].unsqueeze(2).to(call.dtype)
    if memory_format(call.x) == torch.contiguous_format:
        return torch.stack(planes, dim=2).to(call.dtype)
    # In the order of memory: space before channels and functions.
    inner = 1 if call.groups is None else 2
    planes = [plane.movedim(tuple(range(1, 1 + inner)), tuple(range(-inner, 0))) for plane in planes]
    stacked = torch.stack(planes, dim=-inner)
    return stacked.movedim(tuple(range(-inner - 1, 0)), tuple(range(1, 2 + inner))).to(call.dtype)


def evaluate(values: Callable[..., Planes], call: Call, size: int) -> Tensor:
    """The result by the backend of the call, as `empty_expansion` is; not to be differentiated."""
    if call.backend == "triton":
        from kanvolution.ops import triton as kernels

        if kernels.supports(values, call):
            return kernels.evaluate(values, call, size)
    if call.backend == "compile" and call.x.numel():
        call = _with_columns(call)
        function = compiled(_make_values, values, call.with_tensors([_key(t) for t in call.differentiable()]))
        with torch.no_grad():
            return function(*map(any_size, call.differentiable()))
    out = empty_expansion(call.x, size, call.dtype, call.groups)
    for block in _blocks(call.x):
        # One plane at a time: a family that yields never has all of them in memory beside the result.
        target = block(out, out.ndim - call.x.ndim + 2)
        for k, plane in enumerate(_result_planes(values, block.of(call))):
            target[:, :, k].copy_(_grouped(plane, call.groups))
    return out


def evaluate_gradients(
    values: Callable[..., Planes], vjp: Vjp, call: Call, grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor]:
    """As `gradients`, by the backend of the call; not to be differentiated."""
    if call.backend == "triton":
        from kanvolution.ops import triton as kernels

        if kernels.supports(values, call):
            return kernels.evaluate_gradients(values, call, grad, wanted)
    if call.backend == "compile" and call.x.numel():
        targets = [t for t, want in zip(call.differentiable(), wanted, strict=True) if want]
        call = _with_columns(call)
        key = call.with_tensors([_key(t) for t in call.differentiable()])
        function = compiled(_make_gradients, values, vjp, key, _key(grad), wanted)
        with torch.no_grad():
            found = function(any_size(grad), *map(any_size, call.differentiable()))
        return [conform(value, target) for value, target in zip(found, targets, strict=True)]
    blocks = list(_blocks(call.x))
    if len(blocks) == 1:
        return [conform(value, t) for value, t in zip(*_gradients(values, vjp, call, grad, wanted), strict=True)]
    # Gradients of the inputs are written block by block, those of parameters are summed over the blocks.
    inputs = 1 + (call.base_input is not None)
    written = [torch.empty_like(t) for t, want in zip(call.differentiable()[:inputs], wanted, strict=False) if want]
    summed: list[Tensor] = []
    targets: list[Tensor] = []
    for block in blocks:
        found, targets = _gradients(values, vjp, block.of(call), block(grad, grad.ndim - call.x.ndim + 2), wanted)
        for whole, value in zip(written, found, strict=False):
            block(whole, 2).copy_(value)
        rest = found[len(written) :]
        summed = [a + b for a, b in zip(summed, rest, strict=True)] if summed else rest
    return written + [conform(v, t) for v, t in zip(summed, targets[len(written) :], strict=True)]


def gradients(
    values: Callable[..., Planes], vjp: Vjp, call: Call, grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor]:
    """The gradients of those of `call.differentiable()` that are wanted, by ordinary operators."""
    return [value.to(t.dtype) for value, t in zip(*_gradients(values, vjp, call, grad, wanted), strict=True)]


def _gradients(
    values: Callable[..., Planes], vjp: Vjp, call: Call, grad: Tensor, wanted: tuple[bool, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """The wanted gradients at working precision, and the tensors that they belong to."""
    targets = call.differentiable()
    dtype = working_dtype(call.x.dtype)
    call = call.with_tensors([t.to(dtype) for t in targets])
    work, mix = call.x, call.mix
    flags = list(wanted)
    want_x, want_base = flags.pop(0), call.base_input is not None and flags.pop(0)
    want_mix = mix is not None and flags.pop(0)
    planes = grad.unbind(2) if call.groups is None else [plane.flatten(1, 2) for plane in grad.unbind(2)]
    grads = [_dense_like(plane.to(dtype), work) for plane in planes]
    found: list[Tensor] = []
    if mix is not None:
        if want_mix:
            found.append(_combination_gradient(grads, _planes(values, call), mix))
        grads = _combine(grads, mix.transpose(1, 2))
    if call.keep is not None:
        kept = dict(zip(call.keep, grads, strict=True))
        grads = [kept.get(k, torch.zeros_like(work)) for k in range(_count(values, call))]
    base_grad = None
    if call.base is not None:
        function, seen = POINTWISE[call.base], work if call.base_input is None else call.base_input
        base_grad = grads.pop(0) * function.derivative(seen, function.value(seen))
    if want_base:
        assert base_grad is not None
        found.insert(0, base_grad)
    if want_x or any(flags):
        mapping = POINTWISE[call.input_map]
        mapped = mapping.value(work)
        grad_mapped, *grad_tensors = vjp(mapped, grads, *call.tensors, *call.scalars)
        if want_x:
            total = grad_mapped
            if call.input_map != "identity":
                total = total * mapping.derivative(work, mapped)
            if base_grad is not None and call.base_input is None:
                total = total + base_grad
            found.insert(0, total)
        for tensor_grad, want in zip(grad_tensors, flags, strict=True):
            if want:
                found.append(tensor_grad if isinstance(tensor_grad, Tensor) else tensor_grad())
    return found, [t for t, want in zip(targets, wanted, strict=True) if want]


def _grouped(plane: Tensor, groups: int | None) -> Tensor:
    return plane if groups is None else plane.unflatten(1, (groups, -1))


def _planes(values: Callable[..., Planes], call: Call) -> Iterator[Tensor]:
    """The base function, if there is one, and the functions, at working precision."""
    dtype = working_dtype(call.x.dtype)
    work = call.x.to(dtype)
    if call.base is not None:
        yield POINTWISE[call.base].value(work if call.base_input is None else call.base_input.to(dtype))
    mapped = POINTWISE[call.input_map].value(work)
    yield from values(mapped, *(t.to(dtype) for t in call.tensors), *call.scalars)


def _count(values: Callable[..., Planes], call: Call) -> int:
    return sum(1 for _ in _planes(values, call._replace(x=call.x[:0], base_input=None)))


def _result_planes(values: Callable[..., Planes], call: Call) -> Planes:
    planes = _planes(values, call)
    if call.keep is not None:
        planes = (plane for k, plane in enumerate(planes) if k in call.keep)
    return planes if call.mix is None else _combine(planes, call.mix.to(working_dtype(call.x.dtype)))


def _combine(planes: Planes, mix: Tensor) -> list[Tensor]:
    """The R planes sum_k mix[c, r, k] plane_k, one plane at a time."""
    totals: list[Tensor] = []
    for k, plane in enumerate(planes):
        columns = channelwise(mix[:, :, k], plane)
        if k == 0:
            totals = [plane * column for column in columns]
        else:
            totals = [torch.addcmul(total, plane, column) for total, column in zip(totals, columns, strict=True)]
    return totals


def _combination_gradient(grads: list[Tensor], planes: Planes, mix: Tensor) -> Tensor:
    """d/d mix[c, r, k] = sum over batch and space of grad_r plane_k (and over c, where all channels share mix)."""
    columns = [torch.stack([_channel_sums(grad * plane) for grad in grads], dim=1) for plane in planes]
    full = torch.stack(columns, dim=2)
    return full if mix.shape[0] == full.shape[0] else full.sum(dim=0, keepdim=True)


def _channel_sums(plane: Tensor) -> Tensor:
    return plane.sum(dim=(0, *range(2, plane.ndim)))


def channelwise(parameter: Tensor, x: Tensor) -> list[Tensor]:
    """The K columns of a [K] or [C, K] parameter, each shaped to broadcast against x [N, C, *S]."""
    columns = parameter.unbind(-1)
    if parameter.ndim == 1:
        return list(columns)
    return [column.view(-1, *(1,) * (x.ndim - 2)) for column in columns]


def sum_like(columns: Iterable[Tensor], parameter: Tensor) -> Tensor:
    """The gradient of a [K] or [C, K] parameter from K planes [N, C, *S]: summed over what was broadcast."""
    if parameter.ndim == 1:
        return torch.stack([plane.sum() for plane in columns])
    return torch.stack([_channel_sums(plane) for plane in columns], dim=-1)


# ------------------------------------------------------------------------------------------------------- blocks


class Block(NamedTuple):
    """A part of the batch and, where a sample alone is large, of the first dimension of space."""

    samples: slice
    rows: slice | None = None

    def __call__(self, tensor: Tensor, space: int = 2) -> Tensor:
        """The part of a tensor whose dimensions of space begin at `space`."""
        if self is WHOLE:
            return tensor
        return tensor[self.samples] if self.rows is None else tensor[(self.samples, *(_ALL,) * (space - 1), self.rows)]

    def of(self, call: Call) -> Call:
        """The call on this part."""
        if self is WHOLE:
            return call
        base_input = None if call.base_input is None else self(call.base_input, 2)
        return call._replace(x=self(call.x, 2), base_input=base_input)


_ALL = slice(None)

WHOLE = Block(_ALL)
"""Not a part, but all."""


def parts_of_batch(call: Call, size: int, weight: Tensor) -> list[Block]:
    """Parts of the batch whose expansions, with a convolution behind them, are made one after another.

    So the expansion, which is `size` times as large as x, is never in memory as a whole, and on a CPU the convolution
    finds it in the cache. A part is at most as large as what keeps a device busy, or as the weight, which is read again
    for each part.
    """
    batch = call.x.shape[0]
    limit = max(weight.numel() * weight.element_size(), _PART.get(call.x.device.type, _PART["cuda"]))
    sample = call.x.shape[1:].numel() * size * call.dtype.itemsize
    count = math.ceil(batch / max(1, limit // max(1, sample)))
    # No part of one sample beside larger ones: a compiled loop would be compiled again for it.
    count = batch if count > batch // 2 else count
    if count <= 1:
        return [WHOLE]
    ends = [batch * i // count for i in range(count + 1)]
    return [Block(slice(start, end)) for start, end in itertools.pairwise(ends)]


_PART = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Bytes: half of a large third-level cache; on a GPU, where smaller parts never were faster, little of its memory."""


def _blocks(x: Tensor) -> Iterator[Block]:
    """Parts of x [N, C, *S] that stay in a processor's cache; on other devices the whole."""
    if x.device.type != "cpu" or not x.numel():
        yield WHOLE
        return
    limit = _BLOCK * torch.get_num_threads()
    sample = x[0].numel()
    if sample > 2 * limit and x.ndim > 2:
        length = x.shape[2]
        step = max(1, limit * length // sample)
        for n in range(x.shape[0]):
            yield from (Block(slice(n, n + 1), slice(i, i + step)) for i in range(0, length, step))
        return
    count = math.ceil(x.shape[0] / max(1, limit // sample))
    step = math.ceil(x.shape[0] / count)
    yield from (Block(slice(i, i + step)) for i in range(0, x.shape[0], step))


def _dense_like(plane: Tensor, x: Tensor) -> Tensor:
    """`plane` without gaps between neighbours, which vector instructions need; unless a graph is being recorded."""
    if torch.compiler.is_compiling() or plane.requires_grad or plane.device.type != "cpu":
        return plane
    return plane if plane.stride() == x.stride() or plane.stride(-1) == 1 else torch.empty_like(x).copy_(plane)


def conform(value: Tensor, target: Tensor) -> Tensor:
    """`value` with the dtype and strides that torch.empty_like(target) has, as the fake kernels promise."""
    like = torch.empty_like(target)
    return value if value.dtype == like.dtype and value.stride() == like.stride() else like.copy_(value)


# ----------------------------------------------------------------------------------------------------- compiled


class _Key(NamedTuple):
    """What a compiled function depends on of a tensor."""

    dtype: torch.dtype
    ndim: int
    layout: torch.memory_format


def _key(tensor: Tensor) -> Any:
    return _Key(tensor.dtype, tensor.ndim, memory_format(tensor))


def _with_columns(call: Call) -> Call:
    """The call with the values of each function of all channels side by side, as a loop over channels reads them."""
    mix = None if call.mix is None else call.mix.movedim(0, -1).contiguous().movedim(-1, 0)
    tensors = tuple(t.movedim(0, -1).contiguous().movedim(-1, 0) for t in call.tensors)
    return call._replace(mix=mix, tensors=tensors)


def _make_values(values: Callable[..., Planes], call: Call) -> Callable[..., Tensor]:
    def expand(*tensors: Tensor) -> Tensor:
        own = call.with_tensors(tensors)
        expanded = stack(values, own)
        if expanded.shape[2] == 1:  # it has the strides of x, and may be x itself
            return empty_expansion(own.x, 1, own.dtype, own.groups).copy_(expanded)
        # The planes of an x with gaps leave gaps, and the fake kernels promise none.
        return expanded.contiguous() if memory_format(own.x) == torch.contiguous_format else expanded

    return expand


def _make_gradients(
    values: Callable[..., Planes], vjp: Vjp, call: Call, grad_key: Any, wanted: tuple[bool, ...]
) -> Callable[..., list[Tensor]]:
    def expand_backward(grad: Tensor, *tensors: Tensor) -> list[Tensor]:
        found, targets = _gradients(values, vjp, call.with_tensors(tensors), grad, wanted)
        return [conform(value, target) for value, target in zip(found, targets, strict=True)]

    return expand_backward
