"""torch-conv-kan's `kan_peft` by its names: chosen degrees of Gram layers, and new ones, on top of frozen weights.

What is trained is what the peer trains: norms, the coefficients of the polynomials, the degrees that are named, those
that are new, with `finetune_base` the weights of the base function, and the classifier of a network. Other than the
peer's, these work for every convolution with a polynomial basis, and grouped ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kanvolution.bases import Basis, extended
from kanvolution.checks import integer_at_least
from kanvolution.deploy.adapt import Adapter, adapt
from kanvolution.deploy.adapters import Deltas
from kanvolution.deploy.deltas import FunctionsDelta
from kanvolution.deploy.growth import Growth, Shape
from kanvolution.layers.layer import KANLayer


@dataclass(frozen=True)
class Degrees(Deltas):
    """Chosen degrees of polynomials, and new ones.

    Args:
        degrees: those of the trained layers that move.
        extra: number of degrees that are added.
        base_function: whether the weights of the base function move too.
    """

    degrees: Sequence[int] = ()
    extra: int = 0
    base_function: bool = False
    bases: bool = True
    name = "degrees"

    def __post_init__(self) -> None:
        integer_at_least("extra_degrees", self.extra, 0)

    def grow(self, model: nn.Module) -> Growth | None:
        return Growth(model, self._enlarged) if self.extra else None

    def _enlarged(self, basis: Basis, shape: Shape) -> tuple[Basis, tuple[int, ...]]:
        return extended(basis, self.extra)

    def delta(self, name: str, layer: KANLayer, growth: Growth | None) -> nn.Module | None:
        basis = layer.basis
        first = int(basis.base is not None)
        highest = basis.num_functions - 1 - self.extra
        for degree in self.degrees:
            if not 0 <= degree <= highest:
                raise ValueError(
                    f"trainable_degrees (={list(self.degrees)}): {degree} must be between 0 and {highest}, the degree "
                    "of the layer; extra_degrees adds further ones"
                )
        chosen = {first + degree for degree in self.degrees} | set(growth.new[name] if growth is not None else ())
        if self.base_function and first:
            chosen.add(0)
        return FunctionsDelta(layer, sorted(chosen)) if chosen else None


class _Adapted(nn.Module):
    """A copy of a module with an adapter of degrees on it."""

    def __init__(
        self, module: nn.Module, trainable_degrees: Sequence[int] | None, extra_degrees: int, finetune_base: bool
    ) -> None:
        super().__init__()
        self.adapted = copy.deepcopy(module)
        kind = Degrees(degrees=trainable_degrees or (), extra=extra_degrees, base_function=finetune_base)
        self.adapter: Adapter = adapt(self.adapted, kind)

    def forward(self, x: Tensor) -> Any:
        return self.adapted(x)

    def _fused(self) -> nn.Module:
        """A copy with the deltas in its weights; this module goes on as it is."""
        merged = copy.deepcopy(self.adapter.merge())
        self.adapter.unmerge()
        return merged


class PEFTKAGNConvNDLayer(_Adapted):
    """A layer whose chosen degrees, and new ones, are trained. Made by `wrap_layer`.

    Example:
        >>> import torch
        >>> from kanvolution.compat.torch_conv_kan import KAGNConv2DLayer
        >>> from kanvolution.deploy.kan_peft import PEFTKAGNConvNDLayer
        >>> layer, x = KAGNConv2DLayer(4, 8, 3, degree=3, padding=1), torch.randn(2, 4, 8, 8)
        >>> wrapped = PEFTKAGNConvNDLayer.wrap_layer(layer, trainable_degrees=[2], extra_degrees=1)
        >>> torch.allclose(wrapped(x), layer(x), atol=1e-5)
        True
        >>> wrapped.fuse_layer().conv.basis.degree
        4
    """

    @staticmethod
    def wrap_layer(
        layer: nn.Module,
        trainable_degrees: Sequence[int] | None = None,
        extra_degrees: int = 1,
        finetune_base: bool = False,
    ) -> PEFTKAGNConvNDLayer:
        """An adapted copy of a layer.

        Args:
            layer: a layer of Gram polynomials, or any with a polynomial basis.
            trainable_degrees: degrees that are trained; None for none.
            extra_degrees: number of degrees that are added; they begin at zero.
            finetune_base: whether the weights of the base function are trained.

        Raises:
            ValueError: a degree that the layer does not have, or a layer whose basis has no higher degrees.
        """
        return PEFTKAGNConvNDLayer(layer, trainable_degrees, extra_degrees, finetune_base)

    def fuse_layer(self) -> nn.Module:
        """The layer with the deltas in its weights, of the higher degree."""
        return self._fused()


class PEFTVGGKAGN(_Adapted):
    """A network, `vggkagn` for one, whose layers are adapted as by `PEFTKAGNConvNDLayer`, beside its classifier.

    Args:
        pretrained_vgg: the network; it is copied.
        trainable_degrees, extra_degrees, finetune_base: see `PEFTKAGNConvNDLayer.wrap_layer`.

    Raises:
        ValueError: as there.
    """

    def __init__(
        self,
        pretrained_vgg: nn.Module,
        trainable_degrees: Sequence[int] | None = None,
        extra_degrees: int = 1,
        finetune_base: bool = False,
    ) -> None:
        super().__init__(pretrained_vgg, trainable_degrees, extra_degrees, finetune_base)

    def merge(self) -> nn.Module:
        """The network with the deltas in its weights."""
        return self._fused()
