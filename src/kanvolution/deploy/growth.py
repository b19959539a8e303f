"""Further functions for the layers of a network, which computes the same as before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kanvolution.bases import BASES, Basis, create_basis
from kanvolution.bases.basis import option_names
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.penalties import kan_layers
from kanvolution.models.pretrained import check_config

Shape = tuple[int, int, int]
"""in_channels, out_channels and groups of a layer."""
Enlarge = Callable[[Basis, Shape], tuple[Basis, tuple[int, ...]]]
"""A basis, for a layer of a shape, to a larger one, and which of its functions those of the smaller one are."""


class Growth:
    """Larger bases for all layers of a network that have functions; the weights of new functions are zero.

    The network is changed in place: `basis` and `weight` of its layers are replaced, and `model.config`, if it has one,
    makes the network with the larger bases. A layer without functions beside a base function is left alone.

    Args:
        model: a network or a layer.
        enlarge: gives the larger basis; see `kanvolution.bases.extended`.

    Attributes:
        new: which functions of each layer, by its name, are new.

    Raises:
        ValueError: no layer has functions, a basis cannot be enlarged, or the network's config cannot say that it was
            (its layers are of several kinds). The network is then as it was.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy.growth import Growth
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1).eval()
        >>> x = torch.randn(2, 1, 28, 28)
        >>> before = model(x)
        >>> growth = Growth(model, lambda basis, shape: kv.bases.extended(basis, 1))
        >>> torch.allclose(model(x), before, atol=1e-5), model.config["conv"]["options"]["degree"]
        (True, 4)
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
            if isinstance(self._config, Mapping):
                config = _grown(self._config, enlarge)
                object.__setattr__(model, "config", config)
                check_config(model, config)
        except ValueError:
            self.undo()
            raise

    @torch.no_grad()
    def _grow(self, layer: KANLayer, enlarge: Enlarge) -> tuple[int, ...]:
        basis, weight = layer.basis, layer.weight
        channels, groups = weight.shape[1] // basis.size, getattr(layer, "groups", 1)
        larger, kept = enlarge(basis, (channels * groups, len(weight), groups))
        larger.to(weight.device, weight.dtype)
        self._before.append((layer, basis, weight))
        blocks = weight.unflatten(1, (-1, basis.size))
        wide = blocks.new_zeros((*blocks.shape[:2], larger.size, *blocks.shape[3:]))
        wide[:, :, list(kept)] = blocks
        layer.basis, layer.weight = larger, nn.Parameter(wide.flatten(1, 2), weight.requires_grad)
        return tuple(k for k in range(larger.size) if k not in kept)

    def undo(self) -> None:
        """Put the bases, the weights and the config back that the network had."""
        for layer, basis, weight in self._before:
            layer.basis, layer.weight = basis, weight
        if self._config is not None:
            object.__setattr__(self.model, "config", self._config)


def _grown(config: Mapping[str, Any], enlarge: Enlarge) -> dict[str, Any]:
    """A config with larger bases in all its descriptions of convolutions."""
    if config.get("class") == "KAN":  # it has the options of its basis among its own
        names = option_names(type(create_basis(config["basis"])))
        rest = {key: value for key, value in config.items() if key not in names}
        part = {"basis": config["basis"], "act": config["act"], "options": {k: config[k] for k in names if k in config}}
        larger = _grown_part(part, enlarge)
        return {**rest, "basis": larger["basis"], "act": larger["act"], **larger["options"]}
    return {key: _grown_part(value, enlarge) for key, value in config.items()}


def _grown_part(value: Any, enlarge: Enlarge) -> Any:
    if isinstance(value, Mapping) and {"basis", "options"} <= value.keys():
        larger = _larger(value["basis"], value["options"], enlarge)
        if value.get("act") == "auto" and larger["basis"] != value["basis"]:
            larger["act"] = BASES[value["basis"]].activation  # that of the blocks that are there
        return {**value, **larger}
    if isinstance(value, list | tuple):
        return [_grown_part(part, enlarge) for part in value]
    return value


def _larger(name: str, options: Mapping[str, Any], enlarge: Enlarge) -> dict[str, Any]:
    basis = create_basis(name, **options)
    if not basis.num_functions:
        return {"basis": name, "options": dict(options)}
    larger, _ = enlarge(basis, (1, 1, 1))
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in larger.options().items()}
    return {"basis": larger.name, "options": values}
