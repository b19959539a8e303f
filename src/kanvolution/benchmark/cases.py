"""What is measured: layers and networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kanvolution.layers import ConvSpec
from kanvolution.models import create_model


@dataclass(frozen=True)
class LayerCase:
    """A 3x3 convolution of stride 1 and padding 1 with norm and activation, on [batch, inputs, size, size].

    The gradient of the input belongs to its training step: there is a layer before it.
    """

    inputs: int
    outputs: int
    size: int
    batch: int

    learns_input = True

    def make(self, spec: ConvSpec) -> nn.Module:
        """The layer of these convolutions."""
        return spec(self.inputs, self.outputs, 3, padding=1)


@dataclass(frozen=True)
class NetworkCase:
    """A registered model on images [batch, inputs, size, size]."""

    model: str
    size: int
    batch: int
    inputs: int = 3
    num_classes: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)

    learns_input = False

    def make(self, spec: ConvSpec) -> nn.Module:
        """The network of these convolutions."""
        return create_model(self.model, spec, num_classes=self.num_classes, in_chans=self.inputs, **self.options)


Case = LayerCase | NetworkCase

CASES: dict[str, Case] = {
    "first": LayerCase(3, 64, 112, 4),
    "stage1": LayerCase(64, 64, 56, 4),
    "stage2": LayerCase(128, 128, 28, 8),
    "stage3": LayerCase(256, 256, 14, 8),
    "stage4": LayerCase(512, 512, 7, 8),
    "small": LayerCase(32, 64, 14, 64),
    "simple8": NetworkCase("simple8", size=32, batch=16),
    # Blocks that begin as their shortcuts have gradients of zero, which compare nothing.
    "resnet18": NetworkCase("resnet18", size=64, batch=8, options={"zero_init_last": False}),
    "vgg11v4": NetworkCase("vgg11v4", size=64, batch=16),
}
"""The first layer and the stages of VGG and ResNet (at batches a CPU takes), a layer of simple4 on 28x28 images, and
whole networks."""
