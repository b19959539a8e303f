"""torch-conv-kan's published networks and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kanvolution.compat.torch_conv_kan.architectures import vgg_features
from kanvolution.compat.torch_conv_kan.checkpoints import Block, Reader
from kanvolution.compat.torch_conv_kan.layers import FAMILIES
from kanvolution.compat.torch_conv_kan.renaming import Renaming
from kanvolution.layers import KANConvNormAct
from kanvolution.models import VGG, create_model
from kanvolution.models.published import PUBLISHED
from kanvolution.models.weights import load_weights
from kanvolution.registry import unknown_name


def load_vgg(model: nn.Module, state: Mapping[str, Tensor], layers: str, source: str = "the weights") -> None:
    """Load a state dict of torch-conv-kan's VGG with a linear head into a `VGG` of the same plan.

    Args:
        model: the network.
        state: torch-conv-kan's entries.
        layers: its name of the convolutions, "KAGN" or "BottleNeckKAGN".
        source: what an error calls the weights.

    Raises:
        ValueError: entries are missing, left over or of another shape, or the network is no VGG.
    """
    if not isinstance(model, VGG):
        raise ValueError(f"{source} belong to a VGG, and the network is a {type(model).__name__}")
    renaming = Renaming({**vgg_features(model), "classifier.1.": "head."})
    entries = {renaming.ours(key): value for key, value in state.items()}
    missing: list[str] = []
    misshapen: list[str] = []
    for name, block in model.named_modules():
        if isinstance(block, KANConvNormAct):
            reader = Reader(entries, f"{name}.")
            converted = Block(FAMILIES[layers].weights)(reader, block)
            entries |= {f"{name}.{key}": value for key, value in converted.items()}
            missing += reader.missing
            misshapen += reader.misshapen
    problems = {"Missing": missing, "Of another shape": misshapen}
    if any(problems.values()):
        found = ((what, len(keys), renaming.theirs(keys[0])) for what, keys in problems.items() if keys)
        words = " ".join(f"{what}: {count} ({first}, ...)." for what, count, first in found)
        raise ValueError(f"{source} do not fit this network of torch-conv-kan. {words}")
    load_weights(model, entries, source=source)


def from_pretrained(repo: str, source: str | Path | None = None, **options: Any) -> nn.Module:
    """A published network of torch-conv-kan with its weights, in evaluation mode.

    It is `create_model(name, pretrained=True)` with the name of the weights that `PUBLISHED` has for the repository.

    Args:
        repo: "brivangl/vgg_kagn11_v2", "brivangl/vgg_kagn11_v4" or "brivangl/vgg_kagn_bn11_v4".
        source: a folder with the repository's file `model.safetensors`; None to fetch it from the Hugging Face Hub.
        **options: further arguments of `create_model`, such as num_classes for a new head.

    Raises:
        ValueError: another repository, weights that cannot be had (the message says what to download and where to put
            it) or do not fit.
    """
    names = {PUBLISHED[name].repo: name for name in PUBLISHED if not PUBLISHED[name].ships}
    if repo not in names:
        raise ValueError(unknown_name("repository of torch-conv-kan's networks", repo, names))
    return create_model(names[repo], pretrained=True if source is None else source, **options).eval()
