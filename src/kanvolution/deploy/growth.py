"""Further functions for the layers of a network, which computes the same as before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kanvolution.bases import Basis
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.penalties import kan_layers
from kanvolution.models.pretrained import record_changes

Shape = tuple[int, int, int]
"""in_channels, out_channels and groups of a layer."""
Enlarge = Callable[[Basis, Shape], tuple[Basis, tuple[int, ...]]]
"""A basis, for a layer of a shape, to a larger one, and which of its functions those of the smaller one are."""


class Growth:
    """Larger bases for all layers of a network that have functions; the weights of new functions are zero.

    The network is changed in place: `basis` and `weight` of its layers are replaced, and `model.config`, if it has one,
    says so. A layer without functions beside a base function is left alone.

    Args:
        model: a network or a layer.
        enlarge: gives the larger basis; see `kanvolution.bases.extended`.

    Attributes:
        new: which functions of each layer, by its name, are new.

    Raises:
        ValueError: no layer has functions, or a basis cannot be enlarged. The network is then as it was.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy.growth import Growth
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1).eval()
        >>> x = torch.randn(2, 1, 28, 28)
        >>> before = model(x)
        >>> growth = Growth(model, lambda basis, shape: kv.bases.extended(basis, 1))
        >>> torch.allclose(model(x), before, atol=1e-5), growth.new["stages.0.conv"], model.stages[0].conv.basis.degree
        (True, (5,), 4)
    """

    def __init__(self, model: nn.Module, enlarge: Enlarge) -> None:
        self.model = model
        self.new: dict[str, tuple[int, ...]] = {}
        self._before: list[tuple[KANLayer, Basis, nn.Parameter]] = []
        self._config = getattr(model, "config", None)
        layers = [(n, m) for n, m in kan_layers(model) if isinstance(m, KANLayer) and m.basis.num_functions]
        if not layers:
            raise ValueError(f"{type(model).__name__} has no Kolmogorov-Arnold layer that functions can be added to")
        try:
            for name, layer in layers:
                self.new[name] = self._grow(layer, enlarge)
            record_changes(model)
        except ValueError:
            self.undo()
            raise

    @torch.no_grad()
    def _grow(self, layer: KANLayer, enlarge: Enlarge) -> tuple[int, ...]:
        basis, weight = layer.basis, layer.weight
        channels, groups = weight.shape[1] // basis.size, getattr(layer, "groups", 1)
        larger, kept = enlarge(basis, (channels * groups, len(weight), groups))
        self._before.append((layer, basis, weight))
        blocks = weight.unflatten(1, (-1, basis.size))
        wide = blocks.new_zeros((*blocks.shape[:2], larger.size, *blocks.shape[3:]))
        wide[:, :, list(kept)] = blocks
        layer.set_basis(larger, wide.flatten(1, 2))
        return tuple(k for k in range(larger.size) if k not in kept)

    def undo(self) -> None:
        """Put the bases, the weights and the config back that the network had."""
        for layer, basis, weight in self._before:
            layer.basis, layer.weight = basis, weight
        if self._config is not None:
            object.__setattr__(self.model, "config", self._config)
