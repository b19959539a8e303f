"""Self-attention over feature maps with Kolmogorov-Arnold projections, in 1, 2 and 3 dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanvolution.checks import divisible, integer_at_least
from kanvolution.layers.parts import make_norm
from kanvolution.layers.spec import ConvFactory, resolve_conv
from kanvolution.layers.structures.structure import ConvArguments, plain_conv
from kanvolution.registry import unknown_name

GAINS = ("attention", "input")
ROTARY = ("axial", "mixed")


class RotaryPositions(nn.Module):
    """Turns pairs of channels by angles that grow with the position, so that q . k depends on relative positions only.

    At the pixel p = (p_1, ..., p_n), pair i of the channels, (x_{2i}, x_{2i+1}), is turned by sum_a f_{a,i} p_a.
    "axial": each pair turns with one axis; the pairs take the axes in turn, with frequencies base^{-j/m} for each axis,
    j = 0 ... m - 1. "mixed": the frequencies f are learned for each head; they start as the axial ones in randomly
    rotated axes. Angles come from the coordinates in each call, so that any size of image will do.

    Args:
        head_channels: channels of a head, even, at least 2 ndim.
        ndim: dimensions of space.
        num_heads: number of heads.
        kind: "axial" or "mixed".
        base: ratio of the highest to (almost) the lowest frequency, > 1.
        device, dtype: of the learned frequencies.

    Shape:
        input [N, num_heads, L, head_channels] with L the number of pixels of `space`; output the same.

    Raises:
        ValueError: an unknown kind, or too few or an odd number of channels.

    Source: Su et al., "RoFormer", arXiv 2104.09864, section 3.2; Heo et al., "Rotary Position Embedding for Vision
    Transformer", arXiv 2403.13298, section 3 (axial and mixed).
    """

    def __init__(
        self,
        head_channels: int,
        ndim: int = 2,
        num_heads: int = 1,
        kind: str = "axial",
        base: float = 100.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in ROTARY:
            raise ValueError(unknown_name("kind of rotary positions", kind, ROTARY))
        if head_channels % 2 or head_channels < 2 * ndim:
            raise ValueError(
                f"channels of a head (={head_channels}) must be even and >= {2 * ndim} for rotary positions in {ndim} "
                "dimensions; change the channels or num_heads"
            )
        if not base > 1:
            raise ValueError(f"base (={base}) must be > 1; 100 suits images of up to a few hundred pixels")
        self.pairs = head_channels // 2
        self.ndim = ndim
        self.num_heads = num_heads
        self.kind = kind
        self.base = base
        self.frequencies: nn.Parameter | None = None
        if kind == "mixed":
            self.frequencies = nn.Parameter(torch.empty(num_heads, ndim, self.pairs, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new rotated axes for each head."""
        if self.frequencies is None or self.frequencies.is_meta:
            return
        for head in self.frequencies:
            axes, _ = torch.linalg.qr(torch.randn(self.ndim, self.ndim, device=head.device))
            head.copy_(self._along(axes))

    def _along(self, axes: Tensor) -> Tensor:
        """The frequencies [ndim, pairs] of pairs that take the columns of `axes` in turn."""
        count = math.ceil(self.pairs / self.ndim)
        rates = self.base ** (-torch.arange(count, device=axes.device, dtype=axes.dtype) / count)
        return (rates[:, None] * axes[:, None, :]).flatten(1)[:, : self.pairs]

    def angles(self, space: Sequence[int], device: torch.device) -> Tensor:
        """The angles [num_heads or 1, L, pairs] for an image of size `space`, in float32."""
        frequencies = self.frequencies
        if frequencies is None:
            frequencies = self._along(torch.eye(self.ndim, device=device)).unsqueeze(0)
        lines = [torch.arange(size, device=device, dtype=torch.float32) for size in space]
        coordinates = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)
        # No matrix product: autocast would compute it in 16 bits, and positions need more.
        return sum(coordinates[:, axis, None] * frequencies.float()[:, None, axis] for axis in range(self.ndim))  # type: ignore[return-value]

    def forward(self, x: Tensor, space: Sequence[int]) -> Tensor:
        angles = self.angles(space, x.device)
        cos, sin = torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype)
        even, odd = x.unflatten(-1, (self.pairs, 2)).unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    def extra_repr(self) -> str:
        return f"{2 * self.pairs}, ndim={self.ndim}, num_heads={self.num_heads}, kind={self.kind!r}, base={self.base}"


class SelfAttention(nn.Module):
    """norm(x + gain A(x)): every pixel attends to all pixels, its query, key and value from any convolution.

    A = unsqueeze(softmax(scale q^T k) v) with q, k, v = query(z), key(z), value(z) and z = squeeze(x); squeeze and
    unsqueeze are plain 1x1 convolutions to inner_channels and back, where given. The gain is learned and starts at 0.

    Args:
        channels: channels of the input and the output.
        conv: conv factory of the projections, name of a basis, or a `ConvSpec`. A ConvSpec with norm=None, act=None
            gives projections that are Kolmogorov-Arnold layers alone.
        ndim: dimensions of space, 1, 2 or 3.
        kernel_size: of the projections; their padding is "same".
        num_heads: number of heads; divides inner_channels (or channels).
        inner_channels: channels that attention works with; None for all, without squeeze and unsqueeze.
        rotary: "axial" or "mixed" for rotary positions (see `RotaryPositions`), None for none.
        rotary_base: base of their frequencies.
        scale: factor of the scores; None for 1 / sqrt(channels of a head).
        gain_on: "attention", or "input" for norm(gain x + A(x)), as torch-conv-kan has it.
        norm: name of a norm, a module, or None.
        device, dtype: of the parameters. A norm passed as a module keeps its own.

    Shape:
        input [N, channels, *S]; output the same.

    Raises:
        ValueError: a value out of range, an unknown name, an input of other channels or dimensions, projections that
            change the image's size.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", arXiv 1805.08318, eq. 1-3; Vaswani et al.,
    arXiv 1706.03762, for scale and heads.

    Example:
        >>> import torch, kanvolution as kv
        >>> conv = kv.ConvSpec("gram", norm=None, act=None)
        >>> attention = kv.SelfAttention(32, conv, num_heads=4, rotary="axial")
        >>> attention(torch.randn(2, 32, 7, 9)).shape
        torch.Size([2, 32, 7, 9])
    """

    def __init__(
        self,
        channels: int,
        conv: str | Mapping[str, Any] | ConvFactory,
        ndim: int = 2,
        *,
        kernel_size: int | tuple[int, ...] = 1,
        num_heads: int = 1,
        inner_channels: int | None = None,
        rotary: str | None = None,
        rotary_base: float = 100.0,
        scale: float | None = None,
        gain_on: str = "attention",
        norm: str | nn.Module | None = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory = resolve_conv(conv, ndim)
        self.channels = integer_at_least("channels", channels, 1)
        self.ndim = ndim
        self.num_heads = integer_at_least("num_heads", num_heads, 1)
        width = channels if inner_channels is None else integer_at_least("inner_channels", inner_channels, 1)
        divisible("channels" if inner_channels is None else "inner_channels", width, "num_heads", num_heads)
        if gain_on not in GAINS:
            raise ValueError(unknown_name("gain_on", gain_on, GAINS))
        self.gain_on = gain_on
        self.scale = scale
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.squeeze = self.unsqueeze = None
        if inner_channels is not None:
            self.squeeze = plain_conv(ndim, ConvArguments(channels, width, 1, **where))
            self.unsqueeze = plain_conv(ndim, ConvArguments(width, channels, 1, **where))
        self.query = factory(width, width, kernel_size, padding="same", **where)
        self.key = factory(width, width, kernel_size, padding="same", **where)
        self.value = factory(width, width, kernel_size, padding="same", **where)
        self.rotary = None
        if rotary is not None:
            self.rotary = RotaryPositions(width // num_heads, ndim, num_heads, rotary, rotary_base, **where)
        self.gain = nn.Parameter(torch.zeros(1, **where))
        self.norm = make_norm(norm, ndim, channels).to(device, dtype) if isinstance(norm, str) else norm

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.ndim + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"input (shape {tuple(x.shape)}) must be [N, channels (={self.channels}), ...] with {self.ndim} "
                "dimensions of space; make the layer for this input"
            )
        inner = x if self.squeeze is None else self.squeeze(x)
        y = self.attend(self.query(inner), self.key(inner), self.value(inner))
        y = y if self.unsqueeze is None else self.unsqueeze(y)
        if y.shape != x.shape:
            raise ValueError(
                f"projections turned a size of {tuple(x.shape[2:])} into {tuple(y.shape[2:])}; use stride 1 and "
                "padding that keeps the size"
            )
        y = self.gain * x + y if self.gain_on == "input" else x + self.gain * y
        return y if self.norm is None else self.norm(y)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(scale q^T k) v over the pixels of [N, C, *S], head by head."""
        q, k, v = (t.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3) for t in (query, key, value))
        if self.rotary is not None:
            q, k = self.rotary(q, query.shape[2:]), self.rotary(k, key.shape[2:])
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return y.transpose(2, 3).reshape(value.shape)

    def extra_repr(self) -> str:
        return f"{self.channels}, ndim={self.ndim}, num_heads={self.num_heads}, gain_on={self.gain_on!r}"
