"""One wavelet for every edge, and the convolution behind it: the tensor of all edges never exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kanvolution.ops.backends import resolve_backend
from kanvolution.ops.convolution import CONVOLUTION_SCHEMA, Contraction, Convolution
from kanvolution.ops.evaluation import Call, conform, evaluate, evaluate_gradients, laid_out, memory_format
from kanvolution.ops.flops import enter_operator
from kanvolution.ops.wavelet import wavelet
from kanvolution.tracing import is_exporting, is_transforming

_SCHEMA = (
    "Tensor x, Tensor weight, Tensor scale, Tensor translation, str kind, ScalarType dtype, str backend, "
    + CONVOLUTION_SCHEMA
)


def edge_wavelet_convolution(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str,
    convolution: Convolution,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """y[n, o] = sum_c weight[o, c] * psi((x[n, c] - translation[o, c]) / scale[o, c]), * the convolution over space.

    Forward and backward hold the wavelets of one output at a time, [N, C / groups, *S], or of none in GPU kernels, and
    x, the weight, scale and translation alone are saved. Source: Bozorgasl and Chen, "Wav-KAN", arXiv 2405.12832.

    Args:
        x: [N, C, *S].
        weight: [O, C / groups, *kernel].
        scale, translation: [O, C / groups].
        kind: name of one of `WAVELETS`.
        convolution: strides, padding and groups.
        dtype: dtype of the wavelets and the result; x's own by default.
        backend: name of one of `BACKENDS`.

    Returns:
        Tensor [N, O, *S'].
    """
    dtype = dtype or x.dtype
    backend = resolve_backend(backend, x.device)
    if is_exporting() or is_transforming():
        return _plain(x, weight, scale, translation, kind, dtype, convolution)
    return _forward(x, weight, scale, translation, kind, dtype, backend, *convolution.arguments())


def edge_wavelets(x: Tensor, scale: Tensor, translation: Tensor, kind: str, groups: int, **options: Any) -> Tensor:
    """The wavelets of all edges, [N, O * C / groups, K, *S]; `options` are those of an `Expansion`."""
    edges = _repeat(x, scale.shape[0], groups)
    return wavelet(edges, scale.reshape(-1, 1), translation.reshape(-1, 1), kind, **options)


def _repeat(x: Tensor, outputs: int, groups: int) -> Tensor:
    """The channels that each output sees, one output after the other."""
    grouped = x.unflatten(1, (groups, -1)).unsqueeze(2)
    return grouped.expand(-1, -1, outputs // groups, *(-1 for _ in grouped.shape[3:])).flatten(1, 3)


def _plain(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str,
    dtype: torch.dtype,
    convolution: Convolution,
) -> Tensor:
    edges = _repeat(x, scale.shape[0], convolution.groups)
    planes = wavelet.plain(edges, scale.reshape(-1, 1), translation.reshape(-1, 1), kind, dtype=dtype)
    return replace(convolution, groups=scale.shape[0])(planes.squeeze(2), weight.to(dtype), None)


def _outputs(
    x: Tensor, scale: Tensor, translation: Tensor, kind: str, dtype: torch.dtype, backend: str, groups: int
) -> Iterator[tuple[int, slice, Call]]:
    """For each output: its number, the channels it sees, and the call that gives their wavelets."""
    outputs, width = scale.shape
    for o in range(outputs):
        first = o // (outputs // groups) * width
        channels = slice(first, first + width)
        own = (scale[o].unsqueeze(1), translation[o].unsqueeze(1))
        yield o, channels, Call(x[:, channels], None, None, own, (kind,), "identity", None, dtype, backend)


def _edges(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str,
    dtype: torch.dtype,
    convolution: Convolution,
) -> tuple[Call, Contraction]:
    """All edges at once, as the kernels take them."""
    call = Call(x, None, None, (scale, translation), (kind,), "identity", None, dtype, "triton")
    return call, Contraction(convolution, weight, None)


@torch.library.custom_op("kanvolution::edge_wavelet_convolution", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor")
def _forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str,
    dtype: torch.dtype,
    backend: str,
    *layout: Any,
) -> Tensor:
    whole = Convolution.from_arguments(layout)
    if backend == "triton":
        from kanvolution.ops.triton import edge_wavelet as kernels

        call, into = _edges(x, weight, scale, translation, kind, dtype, whole)
        if kernels.takes(call, into):
            return kernels.convolve(call, into)
    convolution = replace(whole, groups=1)
    weight = weight.to(dtype)
    result: Tensor | None = None
    inside = laid_out(x, 1, weight)
    for o, _, call in _outputs(inside, scale, translation, kind, dtype, backend, layout[3]):
        plane = convolution(evaluate(wavelet.values, call, 1).flatten(1, 2), weight[o : o + 1], None)
        if result is None:
            shape = (x.shape[0], weight.shape[0], *plane.shape[2:])
            result = _empty(plane, shape, memory_format(x))
        result[:, o : o + 1] = plane
    assert result is not None
    return result


@_forward.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, translation: Tensor, kind: str, dtype: Any, *rest: Any) -> Tensor:
    _, *layout = rest
    one = x.new_empty((x.shape[0], weight.shape[1], *x.shape[2:]), dtype=dtype)
    plane = replace(Convolution.from_arguments(layout), groups=1)(one, weight[:1].to(dtype), None)
    return _empty(plane, (x.shape[0], weight.shape[0], *plane.shape[2:]), memory_format(x))


def _empty(like: Tensor, shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


@torch.library.custom_op(
    "kanvolution::edge_wavelet_convolution_backward",
    mutates_args=(),
    schema=f"(Tensor grad, bool[] wanted, {_SCHEMA}) -> Tensor[]",
)
def _backward(
    grad: Tensor,
    wanted: list[bool],
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str,
    dtype: torch.dtype,
    backend: str,
    *layout: Any,
) -> list[Tensor]:
    want_x, want_weight, want_scale, want_translation = wanted
    whole = Convolution.from_arguments(layout)
    if backend == "triton":
        from kanvolution.ops.triton import edge_wavelet as kernels

        call, into = _edges(x, weight, scale, translation, kind, dtype, whole)
        if kernels.takes(call, into):
            return kernels.gradients(call, into, grad, (want_x, want_weight, want_scale, want_translation))
    convolution = replace(whole, groups=1)
    grads = [torch.zeros_like(t) for t in (x, weight, scale, translation)]
    grad_x, grad_weight, grad_scale, grad_translation = grads
    inside = laid_out(x, 1, weight)
    if want_x:
        grad_x = torch.zeros_like(inside)
    inner, vjp = (want_x, want_scale, want_translation), wavelet.gradient
    assert vjp is not None
    for o, channels, call in _outputs(inside, scale, translation, kind, dtype, backend, layout[3]):
        edges = evaluate(wavelet.values, call, 1).flatten(1, 2)
        cotangent = grad[:, o : o + 1].contiguous(memory_format=memory_format(inside))
        found = convolution.gradients(cotangent, edges, weight[o : o + 1].to(dtype), (any(inner), want_weight, False))
        if found[1] is not None:
            grad_weight[o : o + 1] = found[1]
        if found[0] is not None:
            parts = iter(evaluate_gradients(wavelet.values, vjp, call, found[0].unsqueeze(2), inner))
            if want_x:
                grad_x[:, channels] += next(parts)
            if want_scale:
                grad_scale[o] = next(parts).squeeze(1)
            if want_translation:
                grad_translation[o] = next(parts).squeeze(1)
    if want_x:
        grad_x = conform(grad_x, x)
    results = (grad_x, grad_weight, grad_scale, grad_translation)
    return [g for g, want in zip(results, wanted, strict=True) if want]


@_backward.register_fake
def _(grad: Tensor, wanted: list[bool], *arguments: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t, want in zip(arguments[:4], wanted, strict=True) if want]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _autograd_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:4])
    if torch.is_grad_enabled():  # a graph of this backward is asked for, and plain operators give one
        kind, dtype, _, *layout = ctx.options
        x, weight, scale, translation = tensors
        y = _plain(x, weight, scale, translation, kind, dtype, Convolution.from_arguments(layout))
        inputs = [t for t, want in zip(tensors, wanted, strict=True) if want]
        found = torch.autograd.grad(y, inputs, grad, create_graph=True)
    else:
        found = _backward(grad, wanted, *tensors, *ctx.options)
    rest = iter(found)
    return (*(next(rest) if want else None for want in wanted), *(None for _ in ctx.options))


enter_operator("edge_wavelet_convolution", weight=1, x=0)
_forward.register_autograd(_autograd_backward, setup_context=_setup_context)
