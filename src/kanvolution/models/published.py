"""Published weights: which networks they belong to, where they are, and how well they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kanvolution.layers.spec import ConvSpec
from kanvolution.layers.structures import Bottleneck
from kanvolution.models.hub import fetch
from kanvolution.models.weights import WEIGHTS, read_weights
from kanvolution.registry import Registry


@dataclass(frozen=True)
class Published:
    """Weights of torch-conv-kan in a repository of the Hugging Face Hub.

    Attributes:
        repo: id of the repository.
        architecture: name of the model.
        conv: its convolutions.
        layers: torch-conv-kan's name of them.
        options: options of the model.
        num_classes: number of classes it was trained on.
        top1, top5: accuracy on the validation images in percent, as its authors state it.
    """

    repo: str
    architecture: str
    conv: ConvSpec
    layers: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    top1: float | None = None
    top5: float | None = None

    def load(self, model: nn.Module, source: str | Path | None = None) -> None:
        """Load the weights into `model`.

        Args:
            model: the network of this entry.
            source: a folder with the repository's file `model.safetensors`, or a file of weights; None for the hub.

        Raises:
            ValueError: there are no such weights (the message says what to download and where to put it), or they do
                not fit.
        """
        # What torch-conv-kan calls its entries is known to the floor above.
        from kanvolution.compat.torch_conv_kan.published import load_vgg

        path = None if source is None else Path(source).expanduser()
        if path is None or not path.is_file():
            path = fetch(path or self.repo, (WEIGHTS,)) / WEIGHTS
        load_vgg(model, read_weights(path)[0], self.layers, source=repr(str(path)))


PUBLISHED: Registry[Published] = Registry("published weights")
"""Published weights by name: the network, a dot, the data."""

_GRAM = {"norm": "instance", "degree": 5, "dropout_site": "poly", "points": 7}

for _name, _weights in {
    "vgg11v2_gram.imagenet1k": Published(
        repo="brivangl/vgg_kagn11_v2",
        architecture="vgg11v2",
        conv=ConvSpec("gram", **_GRAM),
        layers="KAGN",
        options={"width_scale": 2},
        top1=59.1,
        top5=82.29,
    ),
    "vgg11v4_gram.imagenet1k": Published(
        repo="brivangl/vgg_kagn11_v4",
        architecture="vgg11v4",
        conv=ConvSpec("gram", **_GRAM),
        layers="KAGN",
        options={"width_scale": 2},
        top1=61.17,
        top5=83.26,
    ),
    "vgg11v4_gram_bottleneck.imagenet1k": Published(
        repo="brivangl/vgg_kagn_bn11_v4",
        architecture="vgg11v4",
        conv=ConvSpec("gram", degree=5, points=7, structure=Bottleneck(8, 16), dropout_kind="noise"),
        layers="BottleNeckKAGN",
        options={"width_scale": 2},
        top1=68.5,
        top5=88.46,
    ),
}.items():
    PUBLISHED.register(_name)(_weights)
