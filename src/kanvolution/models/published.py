"""Published weights: which networks they belong to, where they are, and how well they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kanvolution.layers.spec import ConvSpec
from kanvolution.layers.structures import Bottleneck
from kanvolution.models.hub import SHIPPED, fetch, shipped_names
from kanvolution.models.weights import WEIGHTS, load_weights, read_weights
from kanvolution.registry import Registry


@dataclass(frozen=True)
class Published:
    """Weights inside of the package, or of torch-conv-kan in a repository of the Hugging Face Hub.

    Attributes:
        repo: id of the repository, or the name of the network inside of the package.
        architecture: name of the model.
        conv: its convolutions.
        layers: torch-conv-kan's name of them; None for weights of our own.
        options: options of the model.
        num_classes: number of classes it was trained on.
        top1, top5: accuracy on the validation images in percent; of torch-conv-kan's, as its authors state it.
        in_chans: channels of its images.
        image_size: side of its images in pixels; None for any.
    """

    repo: str
    architecture: str
    conv: ConvSpec
    layers: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    top1: float | None = None
    top5: float | None = None
    in_chans: int = 3
    image_size: int | None = None

    @property
    def ships(self) -> bool:
        """Whether the weights are inside of the package, as a saved model."""
        return self.layers is None

    def load(self, model: nn.Module, source: str | Path | None = None) -> None:
        """Load the weights into `model`.

        Args:
            model: the network of this entry.
            source: a folder with the repository's file `model.safetensors`, or a file of weights; None for those of the
                package or the hub.

        Raises:
            ValueError: there are no such weights (the message says what to download and where to put it), or they do
                not fit.
        """
        path = None if source is None else Path(source).expanduser()
        if path is None or not path.is_file():
            path = fetch(path or self.repo, (WEIGHTS,)) / WEIGHTS
        if self.layers is None:
            load_weights(model, path)
            return
        # What torch-conv-kan calls its entries is known to the floor above.
        from kanvolution.compat.torch_conv_kan.published import load_vgg

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


def _shipped(name: str) -> Published:
    """The entry of a network inside of the package, as its folder describes it."""
    described = json.loads((SHIPPED / name / "config.json").read_text(encoding="utf-8"))
    options = dict(described["model"])
    return Published(
        repo=name,
        architecture=options.pop("name"),
        conv=ConvSpec.from_dict(options.pop("conv")),
        layers=None,
        num_classes=options.pop("num_classes"),
        in_chans=options.pop("in_chans"),
        options=options,
        top1=100 * described["metrics"]["top1"],
        top5=100 * described["metrics"]["top5"],
        image_size=described["data"]["image_size"][0],
    )


for _name in shipped_names():
    PUBLISHED.register(_name)(_shipped(_name))
