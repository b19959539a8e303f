"""What the functions of layers are like on data: their means and mean products, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanvolution.layers.layer import KANLayer
from kanvolution.layers.select import channels_of
from kanvolution.visualize.layers import in_eval

_AT_ONCE = 8  # images expanded at once: the functions of a batch need K times the memory of its maps


@dataclass
class Moments:
    """What a layer reads, K functions of each channel or x itself (K = 1), as means over images and places.

    Attributes:
        weight: what they meet: sum_{o,t} W[o, c, k, t] W[o, c, l, t], [channels, K, K].
        mean: E[B_k(x_c)], [channels, K].
        product: E[B_k(x_c) B_l(x_c)], [channels, K, K].
        count: values of each function seen so far.
    """

    weight: Tensor
    mean: Tensor
    product: Tensor
    count: int = 0

    @property
    def variance(self) -> Tensor:
        """Var[B_k(x_c)], [channels, K]."""
        return (self.product.diagonal(dim1=1, dim2=2) - self.mean.square()).clamp_min(0)

    def add(self, values: Tensor) -> None:
        """Take values [N, channels, K, *S] into the means."""
        flat = values.double().flatten(3) if values.ndim > 3 else values.double().unsqueeze(-1)
        self.count += flat.shape[0] * flat.shape[3]
        share = flat.shape[0] * flat.shape[3] / self.count
        flat = flat.permute(1, 2, 0, 3).flatten(2)  # [channels, K, places]
        self.mean = self.mean.lerp(flat.mean(2), share)
        self.product = self.product.lerp(flat @ flat.mT / flat.shape[2], share)


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[Tensor], names: Sequence[str]) -> dict[str, Moments]:
    """Moments of what layers read while a network, in evaluation mode, runs on images.

    Args:
        model: the network; its mode is restored.
        batches: images [N, C, *S], normalised as in training; some hundreds are enough.
        names: of the layers: with a basis whose functions all outputs share, or plain ones without groups.

    Raises:
        ValueError: no images, or a layer that did not run.
    """
    found: dict[str, Moments] = {}
    hooks = []
    for name in names:
        layer = model.get_submodule(name)
        found[name] = _nothing(layer)
        hooks.append(layer.register_forward_pre_hook(_recorder(found[name], layer)))
    empty = True
    try:
        with in_eval(model):
            for batch in batches:
                model(batch)
                empty = False
    finally:
        for hook in hooks:
            hook.remove()
    if empty:
        raise ValueError("there are no images to measure on; give some batches of them")
    for name, moments in found.items():
        if not moments.count:
            raise ValueError(f"layer {name!r} did not run on the images, so nothing is known of it")
    return found


def _nothing(layer: nn.Module) -> Moments:
    layout = channels_of(layer)
    assert layout is not None
    weight = layer.get_parameter("weight").detach().double()
    size, groups = layer.basis.size if isinstance(layer, KANLayer) else 1, getattr(layer, "groups", 1)
    if layout.tensors["weight"][0] == "inputs":
        weight = weight.transpose(0, 1)
    blocks = weight.reshape(*weight.shape[:2], -1).unflatten(0, (groups, -1)).unflatten(2, (-1, size))
    # [groups, outputs, inputs, K, taps] -> [channels, K, outputs * taps]
    rows = blocks.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)
    return Moments(rows @ rows.mT, rows.new_zeros(rows.shape[:2]), rows.new_zeros(*rows.shape[:2], size))


def _recorder(moments: Moments, layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if layer.get_parameter("weight").ndim == 2:  # a linear layer, over the last dimension
            x = x.reshape(-1, x.shape[-1])
        for part in x.split(_AT_ONCE if x.ndim > 2 else len(x)):
            moments.add(layer.basis(part) if isinstance(layer, KANLayer) else part.unsqueeze(2))

    return record
