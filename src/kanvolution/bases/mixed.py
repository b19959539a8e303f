"""A basis of learned functions: combinations of another basis' functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanvolution.bases.basis import Basis, check_keep
from kanvolution.checks import integer_at_least


class MixedBasis(Basis):
    """`rank` learned functions for each channel, phi_{c,r} = sum_k U[c, r, k] B_k, of any basis B.

    A layer with it convolves in_channels * rank channels, and the expansion in the functions B_k is never held in
    memory. With rank K it can represent every layer of the inner basis.

    Args:
        inner: the basis B.
        rank: functions for each channel, 1 <= rank <= K.
        in_channels: channels of the layer.
        shared: whether all channels share one set of functions.

    Raises:
        ValueError: rank out of range, or functions that differ from output to output (`wavelet_edge`).
    """

    per_channel: ClassVar[Mapping[str, tuple[str, ...]]] = {"mixing": ("inputs",)}

    def __init__(self, inner: Basis, rank: int, in_channels: int, shared: bool = False) -> None:
        integer_at_least("rank", rank, 1)
        if rank > inner.size:
            raise ValueError(f"rank (={rank}) must be <= the number of functions (={inner.size}); choose a lower rank")
        if not inner.combines:
            raise ValueError(
                f"basis {inner.name!r} has functions of its own for each output, which cannot be shared; "
                "choose another, e.g. 'wavelet'"
            )
        super().__init__(rank, base=None)
        self.inner = inner
        self.rank = rank
        self.in_channels = in_channels
        self.shared = shared
        self.mixing = nn.Parameter(torch.empty(1 if shared else in_channels, rank, inner.size))
        self.activation = inner.activation  # type: ignore[misc]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random combinations; the first starts near the base function, if there is one.

        Second moments are about one on average for standard-normal input. A little of the other functions is in the
        first one too, so that their own parameters have gradients from the beginning.
        """
        self.inner.reset_parameters()
        if self.mixing.is_meta:
            return
        with torch.no_grad():
            self.mixing.normal_().mul_(self.inner.initial_std(1).to(self.mixing))
            if self.inner.base is not None:
                self.mixing[:, 0] *= 0.1
                self.mixing[:, 0, 0] += float(self.inner.second_moments()[0]) ** -0.5

    @torch.no_grad()
    def make_first_identity(self) -> None:
        self.inner.make_first_identity()
        self.mixing[:, 0] = 0
        self.mixing[:, 0, 0] = 1

    def attach(self, **parts: nn.Module | None) -> None:
        self.inner.attach(**parts)

    def is_fused(self) -> bool:
        return self.inner.is_fused()

    def functions_input(self, x: Tensor) -> Tensor:
        return self.inner.functions_input(x)

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        options.update(input_map=self.inner.input_map, base=self.inner.base)
        return self.inner.functions(x, mix=self.mixing, **options)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fused():
            return super().forward(x)
        # What acts on the single functions needs them one by one.
        expanded = self.inner(x)
        mixing = self.mixing.to(expanded.dtype).expand(x.shape[1], -1, -1)
        return torch.einsum("nck...,crk->ncr...", expanded, mixing)

    def kept(self, keep: Sequence[int]) -> Basis:
        check_keep(keep, self.rank)
        with torch.no_grad():
            smaller = MixedBasis(copy.deepcopy(self.inner), len(keep), self.in_channels, self.shared)
            smaller.mixing = nn.Parameter(self.mixing[:, list(keep)].clone(), self.mixing.requires_grad)
        smaller.inner = self.inner
        smaller.backend = self.backend
        return smaller.train(self.training)

    def describe(self) -> dict[str, Any]:
        return {"rank": self.rank, "shared": self.shared, "inner": self.inner.describe()}

    def options(self) -> dict[str, Any]:
        return {"rank": self.rank, "shared": self.shared}
