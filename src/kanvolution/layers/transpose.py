"""The transposed Kolmogorov-Arnold convolution: a drop-in for nn.ConvTranspose1d, 2d and 3d."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanvolution.bases import Basis
from kanvolution.layers.arguments import per_dimension
from kanvolution.layers.layer import KANImageLayer
from kanvolution.ops.convolution import Convolution
from kanvolution.registry import unknown_name

_PADDING_MODES = ("zeros",)


class KANConvTransposeNd(KANImageLayer):
    """y[o, stride p + dilation t - padding] = bias[o] + sum over all such (c, p, t) of phi_{o,c,t}(x[c, p]).

    phi_{o,c,t}(x) = sum_k W[o, c, k, t] B_k(x). Takes the arguments of nn.ConvTranspose{n}d in their order and with
    their meaning, and a basis. Computed as an expansion of x in the K functions of the basis and one grouped transposed
    convolution. `weight` has the layout of `KANConvNd`, [out_channels, in_channels / groups * K, *kernel_size], where
    nn.ConvTranspose has [in_channels, out_channels / groups, *kernel_size].

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one integer or one for each dimension, >= 1.
        stride: one integer or one for each dimension, >= 1.
        padding: one integer or one for each dimension, >= 0: by how much each side of the output is cut.
        output_padding: one integer or one for each dimension, >= 0: by how much one side of the output is extended;
            smaller than the stride or the dilation.
        groups: number of groups; divides in_channels and out_channels.
        bias: whether a learned bias is added.
        dilation: one integer or one for each dimension, >= 1.
        padding_mode: "zeros".
        device, dtype: of the parameters.
        basis: name of a registered basis, or a `Basis` made for these channels.
        **basis_options: options of the named basis (`degree`, `grid_size`, ...).

    Shape:
        input [N, in_channels, *S] or [in_channels, *S]; output [N, out_channels, *S'] or [out_channels, *S'] with
        S' = (S - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1.

    Raises:
        TypeError: a value of the wrong type (also: an input that is not floating point).
        ValueError: a value out of range, an unknown basis or option, an input of other channels or dimensions, an
            output_size that no output_padding gives.

    Source: the layer of arXiv 2407.01092 with the transposed convolution in place of the convolution.

    Example:
        >>> import torch, kanvolution as kv
        >>> up = kv.KANConvTranspose2d(64, 32, 4, stride=2, padding=1, basis="gram", degree=3)
        >>> up(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 32, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        basis: str | Basis = "gram",
        **basis_options: Any,
    ) -> None:
        super().__init__()
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = per_dimension("padding", padding, self.ndim, 0)
        self.output_padding = per_dimension("output_padding", output_padding, self.ndim, 0)
        for extra, step, spread in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(step, spread):
                raise ValueError(
                    f"output_padding (={output_padding}) must be smaller than stride (={stride}) or dilation "
                    f"(={dilation}); pass {max(step, spread) - 1} or less"
                )
        if padding_mode not in _PADDING_MODES:
            raise ValueError(unknown_name("padding_mode of a transposed convolution", padding_mode, _PADDING_MODES))
        self.padding_mode = padding_mode
        sizes = (in_channels, out_channels)
        self._make_parameters(sizes, groups, self.kernel_size, bias, basis, basis_options, device, dtype)

    def _gain(self) -> float:
        # An output sees in_channels / groups * prod(kernel_size / stride) terms on average; where the stride exceeds
        # the kernel, those that see any see one in that dimension.
        return math.prod(min(s, k) for s, k in zip(self.stride, self.kernel_size, strict=True)) ** 0.5

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """x and, where wanted, the size of the output: S' or the whole shape, as nn.ConvTranspose takes it."""
        self._check_input(x)
        batched = x.ndim == self.ndim + 2
        if not batched:
            x = x.unsqueeze(0)
        extra = self.output_padding if output_size is None else self._extra(x, output_size, batched)
        convolution = Convolution(self.stride, self.padding, self.dilation, self.groups, True, extra)
        y = self.basis.contract(x, self.weight, self.bias, convolution)
        return y if batched else y.squeeze(0)

    def _extra(self, x: Tensor, output_size: Sequence[int], batched: bool) -> tuple[int, ...]:
        """The output_padding that gives `output_size`."""
        if len(output_size) not in (self.ndim, self.ndim + 1 + batched):
            raise ValueError(
                f"output_size (={tuple(output_size)}) must have {self.ndim} entries, one for each dimension of space, "
                f"or {self.ndim + 1 + batched}, those of the whole output"
            )
        wanted = tuple(output_size)[-self.ndim :]
        least = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(
                x.shape[2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        for size, low, step in zip(wanted, least, self.stride, strict=True):
            if not low <= size < low + step:
                most = tuple(low + step - 1 for low, step in zip(least, self.stride, strict=True))
                raise ValueError(
                    f"output_size (={wanted}) must be between {tuple(least)} and {most} for an input of size "
                    f"{tuple(x.shape[2:])}; change padding or kernel_size for another size"
                )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class KANConvTranspose1d(KANConvTransposeNd):
    """The 1-dimensional transposed layer: nn.ConvTranspose1d with a basis. See `KANConvTransposeNd`."""

    ndim = 1


class KANConvTranspose2d(KANConvTransposeNd):
    """The 2-dimensional transposed layer: nn.ConvTranspose2d with a basis. See `KANConvTransposeNd`."""

    ndim = 2


class KANConvTranspose3d(KANConvTransposeNd):
    """The 3-dimensional transposed layer: nn.ConvTranspose3d with a basis. See `KANConvTransposeNd`."""

    ndim = 3


KAN_TRANSPOSED_CONVOLUTIONS: dict[int, type[KANConvTransposeNd]] = {
    1: KANConvTranspose1d,
    2: KANConvTranspose2d,
    3: KANConvTranspose3d,
}
"""The layer of each dimension."""
