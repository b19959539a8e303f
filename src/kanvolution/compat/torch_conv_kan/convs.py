"""torch-conv-kan's layers as a conv factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kanvolution.checks import probability
from kanvolution.compat.torch_conv_kan.experts import EXPERT_LAYERS, PeerMixture
from kanvolution.compat.torch_conv_kan.layers import LAYERS
from kanvolution.layers import KANConvNormAct


def _plain(
    inputs: int, outputs: int, *, activation: Callable[[], nn.Module], dropout: float = 0.0, **placement: Any
) -> KANConvNormAct:
    return KANConvNormAct(
        nn.Conv2d(inputs, outputs, **placement),
        nn.BatchNorm2d(outputs),
        activation(),
        nn.Dropout(dropout) if probability("dropout", dropout) > 0 else None,
    )


_LAYERS: dict[str, Callable[..., nn.Module]] = {**LAYERS, **EXPERT_LAYERS, "Conv2d": _plain}


@dataclass(frozen=True)
class Convs:
    """A conv factory of torch-conv-kan's layers; of a mixture of experts it makes the block, whose losses are held.

    Attributes:
        layer: name of the layer; "Conv2d" for an ordinary convolution with batch norm and activation.
        arguments: its arguments; they go before those of the call.
        first: the factory of the layer that sees the image, see `kanvolution.models.factories.first_conv`.
        pointwise: the factory of 1x1 convolutions, None for this one.
    """

    layer: str
    arguments: Mapping[str, Any]
    first: Convs | None = None
    pointwise: Convs | None = None

    def __call__(self, inputs: int, outputs: int, kernel_size: int, **placement: Any) -> nn.Module:
        if self.pointwise is not None and kernel_size == 1:
            return self.pointwise(inputs, outputs, kernel_size, **placement)
        arguments = {"kernel_size": kernel_size, **placement, **self.arguments}
        made = _LAYERS[self.layer](inputs, outputs, **arguments)
        return made.block if isinstance(made, PeerMixture) else made
