"""The penalty that torch-conv-kan puts on the weights of a network's layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from kanvolution.layers import (
    FocalModulation,
    HeldLosses,
    KANConvNormAct,
    MixtureOfExperts,
    SelfAttention,
    weight_penalty,
)
from kanvolution.models.network import Network


class Penalty(nn.Module):
    """A forward hook of a network: l1 sum |w| over all parameters of its convolutions, for `collect_losses`.

    Args:
        l1: strength.
        without: paths of modules whose convolutions are left out; those of attentions are, too.
    """

    def __init__(self, l1: float, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.l1 = l1
        self.without = without
        self.losses = HeldLosses()

    def attach(self, network: Network) -> None:
        """Make it a part of the network."""
        network.penalty = self
        network.register_forward_hook(_hold_penalty)


def _hold_penalty(network: nn.Module, *_: Any) -> None:
    penalty = network.penalty
    assert isinstance(penalty, Penalty)
    if network.training:
        convs = nn.ModuleList(_penalised(network, "", penalty.without))
        value = weight_penalty(convs, l1=penalty.l1, filter=lambda name, parameter: True)
        penalty.losses.hold({"l1": value}, True)


def _penalised(module: nn.Module, path: str, without: tuple[str, ...]) -> Iterator[nn.Module]:
    if path in without or isinstance(module, SelfAttention | FocalModulation):
        return
    if isinstance(module, KANConvNormAct | MixtureOfExperts):
        plain = isinstance(module, KANConvNormAct) and isinstance(module.conv, nn.Conv2d)
        yield module.conv if plain else module  # type: ignore[misc]
        return
    for name, child in module.named_children():
        yield from _penalised(child, f"{path}.{name}" if path else name, without)
