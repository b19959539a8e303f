"""Networks for inference: the same outputs with fewer operations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.layers import KANConvNormAct, KANLinear
from kanvolution.layers.conv import KANConvNd
from kanvolution.layers.layer import KANLayer

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def optimize(model: nn.Module, *, compile: bool = False, channels_last: bool = False) -> nn.Module:
    """A copy of a network in evaluation mode that computes the same with fewer operations; for inference only.

    - A batch norm behind a layer becomes part of the layer's weight and bias: W' = W g / sqrt(v + eps),
      b' = (b - m) g / sqrt(v + eps) + beta, with its running mean m and variance v.
    - Functions that are constant, such as P_0, do not depend on the input: they leave the expansion, and what they
      contribute, sum_{c,k} W[o, c, k, t] * B_k, is a bias; where zeros are padded it is smaller at the border, and one
      convolution of one channel of ones gives it.

    What has another norm, no layer of its own before the norm, or no constant function stays as it is.

    Args:
        model: a network or layer. It is not changed.
        compile: whether the result is compiled by torch.compile.
        channels_last: whether weights of four dimensions are stored channels-last; feed such images then.

    Returns:
        A new module; outputs are those of `model.eval()` up to rounding.

    Example:
        >>> import torch, kanvolution as kv
        >>> model = kv.create_model("simple4", conv="legendre", num_classes=10, in_chans=1).eval()
        >>> fast = kv.optimize(model)
        >>> x = torch.randn(2, 1, 28, 28)
        >>> torch.allclose(fast(x), model(x), atol=1e-4)
        True
    """
    result = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(result.modules()):
        if isinstance(module, KANConvNormAct):
            _fold_norm(module)
    result = _without_constants(result)
    if channels_last:
        result = result.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return torch.compile(result) if compile else result  # pyright: ignore[reportReturnType]


class ConstantAtBorder(nn.Module):
    """A convolution, and a convolution of ones added to it: what constant functions give where zeros are padded.

    Args:
        conv: the convolution of the other functions.
        kernel: [out_channels, 1, *kernel_size], the sum over the constant functions of all channels.
    """

    kernel: Tensor

    def __init__(self, conv: KANConvNd, kernel: Tensor) -> None:
        super().__init__()
        self.conv: nn.Module = conv
        self.convolution = conv.single_convolution()
        self.register_buffer("kernel", kernel)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        ones = y.new_ones((1, 1, *x.shape[2 - self.kernel.ndim :]))
        constant = self.convolution(ones, self.kernel.to(y.dtype), None)
        return y + (constant if y.ndim == constant.ndim else constant.squeeze(0))


def _fold_norm(block: KANConvNormAct) -> None:
    norm, conv = block.norm, block.conv
    if not isinstance(norm, _BATCH_NORMS) or norm.running_mean is None or norm.running_var is None:
        return
    if not isinstance(conv, KANLayer) or not conv.basis.linear_in_weight:
        return
    factor = (norm.running_var + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight
    shift = -norm.running_mean * factor
    shift = shift if norm.bias is None else shift + norm.bias
    conv.weight.data = conv.weight * factor.view(-1, *(1,) * (conv.weight.ndim - 1))
    bias = shift if conv.bias is None else conv.bias * factor + shift
    conv.bias = nn.Parameter(bias, requires_grad=False)
    block.norm = None


def _without_constants(module: nn.Module) -> nn.Module:
    """`module` with its layers replaced by ones without constant functions."""
    if isinstance(module, KANConvNd | KANLinear):
        return _split(module)
    for name, child in module.named_children():
        setattr(module, name, _without_constants(child))
    return module


def _split(layer: KANConvNd | KANLinear) -> nn.Module:
    basis = layer.basis
    if type(basis).contract is not Basis.contract or basis.norm is not None:
        return layer
    constants = _constant_values(basis)
    keep = tuple(k for k, value in enumerate(constants.unbind(1)) if bool(value.isnan().any()))
    if len(keep) == basis.size or not keep:
        return layer
    channels = layer.weight.shape[1] // basis.size
    weight = layer.weight.unflatten(1, (channels, basis.size))
    fixed = [k for k in range(basis.size) if k not in keep]
    groups = layer.groups if isinstance(layer, KANConvNd) else 1
    # Each output sees the channels of its group.
    values = constants[:, fixed].to(weight).expand(channels * groups, -1).unflatten(0, (groups, channels))
    values = values.repeat_interleave(layer.weight.shape[0] // groups, dim=0)
    kernel = torch.einsum("ock...,ock->o...", weight[:, :, fixed], values).unsqueeze(1)
    layer.weight = nn.Parameter(weight[:, :, list(keep)].flatten(1, 2), requires_grad=False)
    layer.basis = basis.kept(keep)
    if isinstance(layer, KANConvNd) and layer.pads_zeros():
        return ConstantAtBorder(layer, kernel)
    constant = kernel.flatten(1).sum(1)
    layer.bias = nn.Parameter(constant if layer.bias is None else layer.bias + constant, requires_grad=False)
    return layer


@torch.no_grad()
def _constant_values(basis: Basis) -> Tensor:
    """[C or 1, K]: the value of each function that is constant, NaN for the others."""
    far = torch.tensor([10.0**e for e in range(2, 31, 4)], dtype=torch.float64)
    x = torch.cat([-far, torch.linspace(-9, 9, 721, dtype=torch.float64), far])
    channels = getattr(basis, "in_channels", 1)
    own = copy.deepcopy(basis).cpu().double()
    values = own(x.expand(1, channels, -1))[0]
    first = values[..., :1]
    return torch.where((values == first).all(-1), first.squeeze(-1), torch.nan)
