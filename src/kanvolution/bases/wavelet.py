"""Bases of wavelets: a bank shared by the outputs (the default), and one wavelet for every edge as in Wav-KAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.bases.basis import Basis, Extension, check_keep, compute_dtype, register_basis
from kanvolution.checks import integer_at_least, interval
from kanvolution.ops.convolution import Convolution
from kanvolution.registry import unknown_name

_SMALLEST_SCALE = 1e-3


def _check_kind(kind: str) -> str:
    if kind not in ops.WAVELETS:
        raise ValueError(unknown_name("wavelet", kind, ops.WAVELETS))
    return kind


def _away_from_zero(scale: Tensor) -> Tensor:
    """Scales with those a training step brought (almost) to zero held at the smallest one, by sign."""
    smallest = torch.where(scale < 0, -_SMALLEST_SCALE, _SMALLEST_SCALE).to(scale.dtype)
    return torch.where(scale.abs() < _SMALLEST_SCALE, smallest, scale)


@register_basis("wavelet")
class Wavelet(Basis):
    """num_wavelets functions psi((x - t_{c,k}) / s_{c,k}) for each input channel, beside silu(x).

    Scales and translations are learned; they start as an even cover of `grid_range`. All outputs of a layer share the
    bank, so the layer costs what any other basis costs. Source of the wavelets: Wav-KAN, arXiv 2405.12832, table 1.

    Args:
        in_channels: of the layer; it passes it itself.
        kind: "mexican_hat", "morlet", "dog" (derivative of Gaussian), "meyer" or "shannon".
        num_wavelets: functions for each channel, >= 1.
        grid_range: (low, high), first and last translation at the start.
        input_map: map applied before the wavelets.
        base: base function b(x), or None.
    """

    per_channel: ClassVar[Mapping[str, tuple[str, ...]]] = {"scale": ("inputs",), "translation": ("inputs",)}

    def __init__(
        self,
        in_channels: int,
        kind: str = "mexican_hat",
        num_wavelets: int = 4,
        grid_range: Sequence[float] = (-1.5, 1.5),
        input_map: str = "identity",
        base: str | None = "silu",
    ) -> None:
        integer_at_least("num_wavelets", num_wavelets, 1)
        super().__init__(num_wavelets, input_map=input_map, base=base)
        self.in_channels = in_channels
        self.kind = _check_kind(kind)
        self.num_wavelets = num_wavelets
        self.grid_range = interval("grid_range", grid_range)
        self.scale = nn.Parameter(torch.empty(in_channels, num_wavelets))
        self.translation = nn.Parameter(torch.empty(in_channels, num_wavelets))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        low, high = self.grid_range
        centers = torch.linspace(low, high, self.num_wavelets) if self.num_wavelets > 1 else torch.zeros(1)
        with torch.no_grad():
            self.scale.fill_((high - low) / max(self.num_wavelets - 1, 1))
            self.translation.copy_(centers.expand_as(self.translation))

    def extension(self, count: int) -> Extension:
        return Extension({**self.options(), "num_wavelets": self.num_wavelets + count})

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        return ops.wavelet(x, _away_from_zero(self.scale), self.translation, self.kind, **options)


@register_basis("wavelet_edge")
class EdgeWavelet(Basis):
    """One wavelet for every edge: psi((x_c - t_{o,c}) / s_{o,c}), beside silu(x). Source: Wav-KAN, arXiv 2405.12832.

    Scale and translation sit inside the non-linearity for every (output, input) pair, so there are
    out_channels * in_channels functions of the input to compute, and time grows accordingly. They are computed for one
    output at a time and not kept. Prefer `wavelet` for new networks.

    Args:
        in_channels, out_channels, groups: of the layer; it passes them itself.
        kind: "mexican_hat", "morlet", "dog" (derivative of Gaussian), "meyer" or "shannon".
        mix: whether a learned out_channels x out_channels matrix (in each group) mixes the wavelet part of the outputs.
        base: base function b(x), or None.
    """

    per_output = True
    per_channel: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "scale": ("outputs", "group_inputs"),
        "translation": ("outputs", "group_inputs"),
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        kind: str = "mexican_hat",
        mix: bool = False,
        base: str | None = "silu",
    ) -> None:
        super().__init__(1, base=base)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.kind = _check_kind(kind)
        self.mix = mix
        self.scale = nn.Parameter(torch.empty(out_channels, in_channels // groups))
        self.translation = nn.Parameter(torch.empty(out_channels, in_channels // groups))
        width = out_channels // groups
        self.mixing = nn.Parameter(torch.empty(groups, width, width)) if mix else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.translation)
        if self.mixing is not None:
            nn.init.normal_(self.mixing, std=self.mixing.shape[-1] ** -0.5)

    @property
    def linear_in_weight(self) -> bool:
        return self.mixing is None

    def kept(self, keep: Sequence[int]) -> Basis:
        check_keep(keep, self.size)
        if self.size - 1 not in keep:
            raise ValueError("basis 'wavelet_edge' has one function beside the base function, which has to stay")
        options = {**self.options(), "base": self.base if 0 in keep and self.size > 1 else None}
        kept = EdgeWavelet(self.in_channels, self.out_channels, self.groups, **options)
        kept.scale, kept.translation, kept.mixing = self.scale, self.translation, self.mixing
        kept.attach(norm=self.norm, input_dropout=self.input_dropout, function_dropout=self.function_dropout)
        kept.backend = self.backend
        return kept.train(self.training)

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        """x [N, C, *S] -> the wavelets of all edges [N, out_channels * C / groups, K, *S]; see `Basis.functions`."""
        scale = _away_from_zero(self.scale)
        return ops.edge_wavelets(x, scale, self.translation, self.kind, self.groups, **options)

    @torch.no_grad()
    def edge_values(self, x: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        rows = (x.expand(self.in_channels, -1) if x.ndim == 1 else x)[inputs]
        edge = (outputs, inputs % self.scale.shape[1])
        options: dict[str, Any] = {"input_map": self.input_map, "base": self.base}
        scale = _away_from_zero(self.scale)[edge].unsqueeze(1)
        return ops.wavelet(rows.unsqueeze(0), scale, self.translation[edge].unsqueeze(1), self.kind, **options)[0]

    def contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
        """The layer, by `ops.edge_wavelet_convolution` where no dropout acts on single functions."""
        size = self.size
        dtype = compute_dtype(x)
        own, seen = weight[:, size - 1 :: size], self.functions_input(x)
        if self.is_fused():
            scale = _away_from_zero(self.scale)
            options = {"dtype": dtype, "backend": self.backend}
            y = ops.edge_wavelet_convolution(seen, own, scale, self.translation, self.kind, convolution, **options)
        else:
            edges = self.functions(seen, input_map=self.input_map, base=None, dtype=dtype, backend=self.backend)
            y = replace(convolution, groups=self.out_channels)(self.drop_functions(edges.squeeze(2)), own, None)
        if self.mixing is not None:
            grouped = y.unflatten(1, (self.groups, self.mixing.shape[-1])).flatten(3)
            y = torch.einsum("goi,ngis->ngos", self.mixing.to(y.dtype), grouped).reshape(y.shape)
        if self.base is not None:
            into = ops.Contraction(convolution, weight[:, ::size], bias)
            return y + ops.no_functions(x, base=self.base, dtype=dtype, backend=self.backend, into=into)
        return y if bias is None else y + bias.view(-1, *(1,) * (y.ndim - 2))
