"""Noise in training, as a regulariser beside dropout.

Stochastic depth is torchvision's, on the branch of a residual block:

    >>> import torch, torchvision, kanvolution as kv
    >>> conv = kv.ConvSpec("gram")(8, 8, 3, padding=1)
    >>> branch = torch.nn.Sequential(conv, torchvision.ops.StochasticDepth(0.1, "row"))
    >>> x = torch.randn(4, 8, 6, 6)
    >>> (x + branch(x)).shape
    torch.Size([4, 8, 6, 6])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanvolution.checks import non_negative, probability


class NoiseInjection(nn.Module):
    """x + alpha m std(x) n: Gaussian noise on a random part of the entries, as strong as their channel varies.

    n is standard normal and m is 1 with probability p, both drawn for each entry; std(x) is the standard deviation of
    a channel over batch and space (uncorrected, so that a single value has 0). It takes part in no gradient. In
    training, then, the strength of the noise depends on the other samples of the batch; in evaluation x passes as it
    is and no sample depends on another.

    Args:
        p: share of the entries that get noise, in [0, 1).
        alpha: strength of the noise, in standard deviations of the channel, >= 0.
        channel_dim: dimension of the channels; -3 takes [N, C, H, W] and [C, H, W] alike.

    Shape:
        any; the output has the input's.

    Raises:
        ValueError: p or alpha out of range.

    Source: Drokin, arXiv 2407.01092, section on regularisation; alpha as in its code.

    Example:
        >>> import torch, kanvolution as kv
        >>> block = kv.ConvSpec("gram", dropout=0.25, dropout_kind="noise", dropout_site="poly")(3, 8, 3)
        >>> block(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.05, channel_dim: int = 1) -> None:
        super().__init__()
        self.p = probability("p", p)
        self.alpha = non_negative("alpha", alpha)
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        dims = [d for d in range(x.ndim) if d != self.channel_dim % x.ndim]
        std = torch.std(x.detach(), dims, correction=0, keepdim=True) if dims else torch.zeros_like(x)
        return x + _masked_noise(x, self.p) * (self.alpha * std)

    def extra_repr(self) -> str:
        return f"p={self.p}, alpha={self.alpha}"


class MultiplicativeNoise(nn.Module):
    """x (1 + alpha m n): Gaussian noise as strong as the entry itself, on a random part of the entries.

    n is standard normal and m is 1 with probability p, both drawn for each entry; the mean of the output is x.
    Evaluation leaves x as it is. No statistic enters, so samples are independent in training as well.

    Args:
        p: share of the entries that get noise, in [0, 1).
        alpha: strength of the noise, relative to the entry, >= 0.

    Shape:
        any; the output has the input's.

    Raises:
        ValueError: p or alpha out of range.

    Source: Srivastava et al., "Dropout", JMLR 15 (2014), section 10 (Gaussian multiplicative noise), with a mask.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.05) -> None:
        super().__init__()
        self.p = probability("p", p)
        self.alpha = non_negative("alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x + x * (self.alpha * _masked_noise(x, self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}, alpha={self.alpha}"


def _masked_noise(x: Tensor, p: float) -> Tensor:
    noise = torch.randn_like(x)
    return torch.where(torch.rand_like(x, dtype=torch.float32) < p, noise, 0.0)
