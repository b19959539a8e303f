"""The Kolmogorov-Arnold convolution in 1, 2 and 3 dimensions: a drop-in for nn.Conv1d, nn.Conv2d and nn.Conv3d."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.bases import Basis
from kanvolution.layers.arguments import per_dimension
from kanvolution.layers.layer import KANImageLayer
from kanvolution.ops.convolution import Convolution
from kanvolution.registry import unknown_name

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_PADDINGS = ("same", "valid")


class KANConvNd(KANImageLayer):
    """y[o, p] = bias[o] + sum_{c, t} phi_{o,c,t}(x[c, p + t]) with phi_{o,c,t}(x) = sum_k W[o, c, k, t] B_k(x).

    Takes the arguments of nn.Conv{n}d with their meaning, and a basis. Computed as an expansion of x in the K functions
    of the basis, [N, C, *S] -> [N, C*K, *S], and one grouped convolution with `weight`
    [out_channels, in_channels / groups * K, *kernel_size]; the functions of one channel lie next to each other.

    padding_mode="zeros" pads the expanded tensor with zeros, so that phi contributes nothing on the border (as
    torch-conv-kan does). The other modes pad x, as nn.Conv does, and phi is evaluated on the padding.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one integer or one for each dimension, >= 1.
        stride: one integer or one for each dimension, >= 1.
        padding: one integer or one for each dimension, >= 0, or "same" (stride 1 only), or "valid".
        dilation: one integer or one for each dimension, >= 1.
        groups: number of groups; divides in_channels and out_channels.
        bias: whether a learned bias is added.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device, dtype: of the parameters.
        basis: name of a registered basis, or a `Basis` made for these channels.
        **basis_options: options of the named basis (`degree`, `grid_size`, ...).

    Shape:
        input [N, in_channels, *S] or [in_channels, *S]; output [N, out_channels, *S'] or [out_channels, *S'] with S' as
        nn.Conv gives it.

    Raises:
        TypeError: a value of the wrong type (also: an input that is not floating point).
        ValueError: a value out of range, an unknown basis or option, an input of other channels or dimensions.

    Source: Drokin, "Kolmogorov-Arnold Convolutions: Design Principles and Empirical Studies", arXiv 2407.01092.

    Example:
        >>> import torch, kanvolution as kv
        >>> conv = kv.KANConv2d(64, 128, 3, padding="same", groups=4, basis="gram", degree=3)
        >>> conv(torch.randn(2, 64, 16, 16)).shape
        torch.Size([2, 128, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        basis: str | Basis = "gram",
        **basis_options: Any,
    ) -> None:
        super().__init__()
        self._set_sizes(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = self._check_padding(padding)
        if padding_mode not in _PADDING_MODES:
            raise ValueError(unknown_name("padding_mode", padding_mode, _PADDING_MODES))
        self.padding_mode = padding_mode
        sizes = (in_channels, out_channels)
        self._make_parameters(sizes, groups, self.kernel_size, bias, basis, basis_options, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        batched = x.ndim == self.ndim + 2
        if not batched:
            x = x.unsqueeze(0)
        if self.padding_mode != "zeros":
            x = F.pad(x, self._amounts(), mode=self.padding_mode)
        y = self.basis.contract(x, self.weight, self.bias, self.convolution())
        return y if batched else y.squeeze(0)

    def convolution(self) -> Convolution:
        """What follows the expansion, as data."""
        padding: tuple[int, ...] = (0,) * self.ndim
        extra: tuple[int, ...] = ()
        if self.padding_mode == "zeros" and self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            padding, extra = tuple(total // 2 for total in totals), tuple(total % 2 for total in totals)
        elif self.padding_mode == "zeros" and not isinstance(self.padding, str):
            padding = self.padding
        return Convolution(self.stride, padding, self.dilation, self.groups, extra=extra)

    def single_convolution(self) -> Convolution:
        """The same without groups: for one channel that all outputs see."""
        return replace(self.convolution(), groups=1)

    def pads_zeros(self) -> bool:
        """Whether some outputs see zeros beside the expansion."""
        convolution = self.convolution()
        return any(convolution.padding) or any(convolution.extra)

    def _amounts(self) -> list[int]:
        """Padding in F.pad's order: last dimension first, (left, right) each."""
        amounts: list[int] = []
        for i in reversed(range(self.ndim)):
            if self.padding == "same":
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                amounts += [total // 2, total - total // 2]
            else:
                amounts += [0, 0] if isinstance(self.padding, str) else [self.padding[i]] * 2
        return amounts

    def _check_padding(self, padding: str | int | tuple[int, ...]) -> str | tuple[int, ...]:
        if not isinstance(padding, str):
            return per_dimension("padding", padding, self.ndim, 0)
        if padding not in _PADDINGS:
            raise ValueError(unknown_name("padding", padding, _PADDINGS))
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"padding='same' needs stride 1, got stride (={self.stride}); pad by numbers instead")
        return padding


class KANConv1d(KANConvNd):
    """The 1-dimensional Kolmogorov-Arnold convolution: nn.Conv1d with a basis. See `KANConvNd`."""

    ndim = 1


class KANConv2d(KANConvNd):
    """The 2-dimensional Kolmogorov-Arnold convolution: nn.Conv2d with a basis. See `KANConvNd`."""

    ndim = 2


class KANConv3d(KANConvNd):
    """The 3-dimensional Kolmogorov-Arnold convolution: nn.Conv3d with a basis. See `KANConvNd`."""

    ndim = 3


KAN_CONVOLUTIONS: dict[int, type[KANConvNd]] = {1: KANConv1d, 2: KANConv2d, 3: KANConv3d}
"""The layer of each dimension."""
