"""Focal modulation with Kolmogorov-Arnold projections and context, in 1, 2 and 3 dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import integer_at_least
from kanvolution.layers.parts import make_norm
from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.layers.structures.structure import ConvArguments, plain_conv


class FocalModulation(nn.Module):
    """project(q * modulate(sum_l g_l z_l)): each pixel modulated by its context at several levels.

    From x come, by one 1x1 convolution `split`, the queries q, the first context z_0 and the gates g_1 ... g_{L+1}.
    Then z_l = focal_l(z_{l-1}) for l = 1 ... L, depthwise convolutions of growing kernels window + step (l - 1), and
    z_{L+1} is the mean of z_L over space.

    Args:
        channels: channels of the input and the output.
        conv: conv factory of all parts, name of a basis, or a `ConvSpec`.
        ndim: dimensions of space, 1, 2 or 3.
        levels: L, number of focal convolutions, >= 1.
        window: kernel of the first, odd.
        step: by how much each kernel is larger than the one before, even, >= 0.
        focal_conv: conv factory of the focal convolutions where they differ from the others (they are depthwise).
        plain_projections: whether `split` and `modulate` are plain convolutions, as they are in the paper (there,
            `project` is as well).
        average: whether the sum over levels is divided by their number.
        norm: name of a norm, a module, or None; applied before `project`.
        device, dtype: of the parameters. A norm passed as a module keeps its own.

    Shape:
        input [N, channels, *S]; output the same.

    Raises:
        ValueError: a value out of range, an unknown name, an input of other channels or dimensions.

    Source: Yang et al., "Focal Modulation Networks", arXiv 2203.11926, section 3.

    Example:
        >>> import torch, kanvolution as kv
        >>> focal = kv.FocalModulation(16, kv.ConvSpec("gram", norm=None, act=None), levels=3)
        >>> focal(torch.randn(2, 16, 12, 10)).shape
        torch.Size([2, 16, 12, 10])
    """

    def __init__(
        self,
        channels: int,
        conv: str | Mapping[str, Any] | ConvFactory,
        ndim: int = 2,
        *,
        levels: int = 2,
        window: int = 3,
        step: int = 2,
        focal_conv: str | Mapping[str, Any] | ConvFactory | None = None,
        plain_projections: bool = False,
        average: bool = False,
        norm: str | nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory = resolve_conv(conv, ndim)
        focal_factory = factory if focal_conv is None else resolve_conv(focal_conv, ndim)
        self.channels = integer_at_least("channels", channels, 1)
        self.ndim = ndim
        self.levels = integer_at_least("levels", levels, 1)
        kernels = [
            integer_at_least("window", window, 1) + integer_at_least("step", step, 0) * level for level in range(levels)
        ]
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(
                f"window (={window}) and step (={step}) give kernels {kernels}, which must be odd; use an odd "
                "window and an even step"
            )
        self.average = average
        where: dict[str, Any] = {"device": device, "dtype": dtype}

        def projection(outputs: int) -> nn.Module:
            if plain_projections:
                return plain_conv(ndim, ConvArguments(channels, outputs, 1, **where))
            return factory(channels, outputs, 1, **where)

        self.split = projection(2 * channels + levels + 1)
        self.focal = nn.ModuleList(
            focal_factory(channels, channels, kernel, padding=kernel // 2, groups=channels, **where)
            for kernel in kernels
        )
        self.modulate = projection(channels)
        self.norm = make_norm(norm, ndim, channels).to(device, dtype) if isinstance(norm, str) else norm
        self.project = factory(channels, channels, 1, **where)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.ndim + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"input (shape {tuple(x.shape)}) must be [N, channels (={self.channels}), ...] with {self.ndim} "
                "dimensions of space; make the layer for this input"
            )
        query, context, gates = self.split(x).split([self.channels, self.channels, self.levels + 1], dim=1)
        gate = gates.unsqueeze(2).unbind(1)
        total = torch.zeros_like(context)
        for level, focal in enumerate(self.focal):
            context = focal(context)
            total = total + context * gate[level]
        total = total + context.mean(dim=tuple(range(2, x.ndim)), keepdim=True) * gate[self.levels]
        if self.average:
            total = total / (self.levels + 1)
        y = query * self.modulate(total)
        return self.project(y if self.norm is None else self.norm(y))

    def extra_repr(self) -> str:
        return f"{self.channels}, ndim={self.ndim}, levels={self.levels}"
