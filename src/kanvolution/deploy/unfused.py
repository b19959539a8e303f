"""Layers as two: the expansion, and a convolution or linear layer of torch.nn.

For tools that look for `nn.Conv2d` and `nn.Linear`, such as quantisers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.layers import KANLinear
from kanvolution.layers.conv import KANConvNd

_CONVOLUTIONS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class ExpandedConv(nn.Module):
    """A Kolmogorov-Arnold convolution as its basis and an ordinary convolution of C K channels.

    Args:
        layer: the convolution; basis and weights are shared with it.

    Shape:
        input [N, C, *S]; output as the layer's.
    """

    def __init__(self, layer: KANConvNd) -> None:
        super().__init__()
        after = layer.convolution()
        out_channels, in_channels = layer.weight.shape[:2]
        self.basis = layer.basis
        self.conv = _CONVOLUTIONS[layer.ndim](
            in_channels * layer.groups,
            out_channels,
            layer.kernel_size,
            layer.stride,
            after.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            device="meta",
        )
        self.conv.weight, self.conv.bias = layer.weight, layer.bias
        # F.pad counts from the last dimension; `extra` is what is padded on the far side alone.
        self.after = [amount for extra in reversed(after.extra) for amount in (0, extra)] if any(after.extra) else None
        self.before = None if layer.padding_mode == "zeros" else layer._amounts()
        self.mode = layer.padding_mode

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = F.pad(x, self.before, mode=self.mode)
        expanded = self.basis(x).flatten(1, 2)
        if self.after is not None:
            expanded = F.pad(expanded, self.after)
        return self.conv(expanded)


class ExpandedLinear(nn.Module):
    """A `KANLinear` as its basis and an ordinary linear layer of C K features; basis and weights are shared with it.

    Shape:
        input [*, in_features]; output [*, out_features].
    """

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        out_features, in_features = layer.weight.shape
        self.basis = layer.basis
        self.linear = nn.Linear(in_features, out_features, layer.bias is not None, device="meta")
        self.linear.weight = layer.weight
        self.linear.bias = layer.bias  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return self.linear(self.basis(flat).flatten(1)).unflatten(0, x.shape[:-1])


def unfused(model: nn.Module) -> nn.Module:
    """A copy of a network whose convolutions and linear layers are expansions followed by layers of torch.nn.

    Outputs are the same up to rounding; training it keeps the expansions in memory. Layers whose basis is no expansion
    (`wavelet_edge`) stay as they are.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import unfused
        >>> layer = kv.KANConv2d(3, 8, 3, padding=1)
        >>> plain = unfused(layer)
        >>> plain.conv
        Conv2d(15, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> torch.allclose(plain(x), layer(x), atol=1e-5)
        True
    """
    return _replaced(copy.deepcopy(model))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, KANConvNd | KANLinear):
        if not module.basis.linear_in_weight:
            return module
        return ExpandedConv(module) if isinstance(module, KANConvNd) else ExpandedLinear(module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module
