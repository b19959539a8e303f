"""What follows an expansion, as data: a convolution, transposed convolution or linear map, with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}

CONVOLUTION_SCHEMA = (
    "int[] stride, int[] padding, int[] dilation, SymInt groups, bool transposed, SymInt[] output_padding, int[] extra"
)
"""The fields of a `Convolution` as arguments of an operator of torch.library."""


@dataclass(frozen=True)
class Convolution:
    """A convolution of [N, I, *S] with a weight [O, I / groups, *kernel] and a bias [O] or None, to [N, O, *S'].

    Without dimensions of space (the default) it is a linear map of [N, I], with a weight [O, I / groups].

    Args:
        stride, padding, dilation: one integer for each dimension of space.
        extra: zeros added at the end of each dimension beyond `padding` (an even kernel with padding="same").
        groups: number of groups.
        transposed: whether it is the transposed convolution. The weight keeps its layout [O, I / groups, *kernel].
        output_padding: one integer for each dimension of space; of the transposed convolution.
    """

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()

    def arguments(self) -> tuple[Any, ...]:
        """The fields in the order of `CONVOLUTION_SCHEMA`."""
        layout = (self.stride, self.padding, self.dilation)
        return (*layout, self.groups, self.transposed, self.output_padding, self.extra)

    @staticmethod
    def from_arguments(arguments: Sequence[Any]) -> Convolution:
        """The inverse of `arguments`."""
        stride, padding, dilation, groups, transposed, output_padding, extra = arguments
        layout = (tuple(stride), tuple(padding), tuple(dilation))
        return Convolution(*layout, groups, transposed, tuple(output_padding), tuple(extra))

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The dimensions of space of the result, for those of the input and of the kernel."""
        zeros = (0,) * len(self.stride)
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]
        if self.transposed:
            layout = zip(size, spans, self.stride, self.padding, self.output_padding or zeros, strict=True)
            return tuple((s - 1) * st - 2 * p + span + end for s, span, st, p, end in layout)
        layout = zip(size, spans, self.stride, self.padding, self.extra or zeros, strict=True)
        return tuple((s + 2 * p + end - span) // st + 1 for s, span, st, p, end in layout)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ndim = len(self.stride)
        if ndim == 0:
            return _grouped_linear(x, weight, bias, self.groups)
        if self.transposed:
            swapped = self._swap(weight)
            padding = (self.padding, self.output_padding, self.groups, self.dilation)
            return _TRANSPOSED[ndim](x, swapped, bias, self.stride, *padding)
        x = self._pad(x)
        return _CONVOLUTIONS[ndim](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, weight and bias that are wanted, None for the others."""
        if not self.stride:
            return _linear_gradients(grad, x, weight, self.groups, wanted)
        padded = self._pad(x)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            padded,
            self._swap(weight) if self.transposed else weight,
            [weight.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding or (0,) * len(self.stride),
            self.groups,
            wanted,
        )
        # On a CPU there is a gradient of the weight wherever there is one of the bias.
        grad_x, grad_weight, grad_bias = (
            g if want else None for g, want in zip((grad_x, grad_weight, grad_bias), wanted, strict=True)
        )
        if grad_weight is not None and self.transposed:
            grad_weight = self._swap(grad_weight)
        return None if grad_x is None else _narrowed(grad_x, x.shape[2:]), grad_weight, grad_bias

    def input_gradient(self, grad: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        """The gradient of an input [N, I, *size] alone, for which no input is needed."""
        if not self.stride:
            one = grad.new_empty(1).expand(grad.shape[0], weight.shape[1] * self.groups)
            found, _, _ = _linear_gradients(grad, one, weight, self.groups, (True, False, False))
            assert found is not None
            return found
        ndim = len(self.stride)
        if self.transposed:
            swapped = self._swap(weight)
            found = _CONVOLUTIONS[ndim](grad, swapped, None, self.stride, self.padding, self.dilation, self.groups)
            return _narrowed(found, size)
        extra = self.extra or (0,) * ndim
        # What strides leave over at the end sees no output.
        kernel = weight.shape[2:]
        reached = [
            (out - 1) * stride - 2 * padding + dilation * (k - 1) + 1
            for out, stride, padding, dilation, k in zip(
                grad.shape[2:], self.stride, self.padding, self.dilation, kernel, strict=True
            )
        ]
        rest = [s + e - r for s, e, r in zip(size, extra, reached, strict=True)]
        layout = (self.stride, self.padding, rest, self.groups, self.dilation)
        return _narrowed(_TRANSPOSED[ndim](grad, weight, None, *layout), size)

    def _pad(self, x: Tensor) -> Tensor:
        if not any(self.extra):
            return x
        return F.pad(x, [amount for end in reversed(self.extra) for amount in (0, end)])

    def _swap(self, weight: Tensor) -> Tensor:
        """From our layout to torch's of a transposed convolution and back: [G*A, B, ...] -> [G*B, A, ...]."""
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)


def _narrowed(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first entries of each dimension of space."""
    for dim, length in enumerate(size, start=2):
        if x.shape[dim] != length:
            x = x.narrow(dim, 0, length)
    return x


class Contraction(NamedTuple):
    """A convolution with its weight and bias: what becomes of an expansion."""

    convolution: Convolution
    weight: Tensor
    bias: Tensor | None

    def __call__(self, expanded: Tensor) -> Tensor:
        return self.convolution(expanded, self.weight, self.bias)


Copy = Callable[[Tensor, Tensor], Tensor]
"""(target, source) -> target, filled with the source."""


def functions_first(
    weight: Tensor, channels: int, layout: torch.memory_format, dtype: torch.dtype, copy: Copy = Tensor.copy_
) -> Tensor:
    """A weight [O, channels * K, *kernel] with the functions before the channels: [O, K * channels, *kernel]."""
    ordered = torch.empty_like(weight, memory_format=layout, dtype=dtype)
    outputs, _, *kernel = weight.shape
    source = weight.view(outputs, channels, -1, *kernel).transpose(1, 2)
    copy(ordered.view(outputs, -1, channels, *kernel), source)
    return ordered


def channels_first(ordered: Tensor, channels: int, like: Tensor) -> Tensor:
    """The inverse of `functions_first`, in dtype and layout of `like`."""
    weight = torch.empty_like(like)
    outputs, _, *kernel = weight.shape
    target = weight.view(outputs, channels, -1, *kernel).transpose(1, 2)
    target.copy_(ordered.view(outputs, -1, channels, *kernel))
    return weight


def _grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    if groups == 1:
        return F.linear(x, weight, bias)
    rows = x.unflatten(1, (groups, -1))
    y = torch.einsum("ngi,goi->ngo", rows, weight.unflatten(0, (groups, -1))).flatten(1)
    return y if bias is None else y + bias


def _linear_gradients(grad: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: tuple[bool, bool, bool]) -> Any:
    grads, rows = grad.unflatten(1, (groups, -1)), x.unflatten(1, (groups, -1))
    grad_x = grad_weight = grad_bias = None
    if wanted[0]:
        grad_x = torch.einsum("ngo,goi->ngi", grads, weight.unflatten(0, (groups, -1))).flatten(1)
    if wanted[1]:
        grad_weight = torch.einsum("ngo,ngi->goi", grads, rows).flatten(0, 1)
    if wanted[2]:
        grad_bias = grad.sum(0)
    return grad_x, grad_weight, grad_bias
