"""Checkpoints of torch-conv-kan's simple networks (`SimpleConvKAGN`, `EightSimpleConvKAN`, ...) as models of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanvolution.compat.torch_conv_kan.checkpoints import Block, Reader
from kanvolution.compat.torch_conv_kan.layers import FAMILIES
from kanvolution.layers import ConvSpec
from kanvolution.models import SimpleNet, create_model, load_weights, read_weights
from kanvolution.registry import unknown_name

_LAYER = re.compile(r"layers\.(\d+)\.")
# A layer whose weights torch-conv-kan penalises is wrapped; so is a network in data-parallel training.
_WRAPPED_LAYER = re.compile(r"^(layers\.\d+)\.module\.")
_WRAPPED_NETWORK = re.compile(r"^(module|_orig_mod)\.")


@dataclass(frozen=True)
class _Layer:
    """The first layer of a checkpoint: channels and groups, functions, and its entries without prefix."""

    entries: Mapping[str, Tensor]
    inputs: int
    functions: int


@dataclass(frozen=True)
class _Network:
    """What one of the peer's layers is as a `ConvSpec`.

    Attributes:
        mark: beginnings of entries that tell the layer; the first network of the table with all of them is it.
        spec: arguments of the `ConvSpec`.
        weights: entry of the functions' weights.
        options: (layer, options given) -> options of the basis that the shapes tell.
    """

    mark: tuple[str, ...]
    spec: Mapping[str, Any]
    weights: str
    options: Callable[[_Layer, Mapping[str, Any]], dict[str, Any]] = field(default=lambda layer, given: {})


def _degree(layer: _Layer, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"degree": layer.functions - 1}


def _spline(layer: _Layer, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"grid_size": layer.functions - given.get("spline_order", 3), "grid_range": (-1, 1), "base": "gelu"}


def _grid(layer: _Layer, given: Mapping[str, Any]) -> dict[str, Any]:
    grid = layer.entries["rbf.grid"]
    return {"grid_size": len(grid), "grid_range": (float(grid[0]), float(grid[-1]))}


def _bumps(layer: _Layer, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"grid_size": layer.functions - given.get("overlap", 3)}


def _wavelet(layer: _Layer, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"mix": True}


_BOTTLENECK = {"name": "bottleneck"}
_NETWORKS: dict[str, _Network] = {
    "BottleNeckKAGN": _Network(
        ("inner_proj", "beta_weights"),
        {"basis": "gram", "structure": _BOTTLENECK, "dropout_kind": "noise"},
        "poly_weights",
        _degree,
    ),
    "BottleNeckReLUKAN": _Network(
        ("inner_proj", "relukan_conv"), {"basis": "relu", "structure": _BOTTLENECK}, "relukan_conv.0.weight", _bumps
    ),
    "KAGN": _Network(("beta_weights",), {"basis": "gram", "dropout_site": "poly"}, "poly_weights", _degree),
    "FastKAN": _Network(
        ("rbf.grid",),
        {"basis": "rbf", "norm_site": "functions", "act": None, "dropout_site": "poly"},
        "spline_conv.0.weight",
        _grid,
    ),
    "KAN": _Network(
        ("spline_conv",),
        {"basis": "spline", "act": "prelu", "dropout_site": "output"},
        "spline_conv.0.weight",
        _spline,
    ),
    "KACN": _Network(
        ("poly_conv",), {"basis": "chebyshev", "act": None, "dropout_site": "output"}, "poly_conv.0.weight", _degree
    ),
    "ReLUKAN": _Network(("relukan_conv",), {"basis": "relu"}, "relukan_conv.0.weight", _bumps),
    "WavKAN": _Network(
        ("wavelet_conv",),
        {"basis": "wavelet_edge", "act": None, "dropout_site": "poly"},
        "wavelet_conv.0.wavelet_out.weight",
        _wavelet,
    ),
    "KAJN": _Network(("poly_weights",), {"basis": "jacobi", "dropout_site": "degree"}, "poly_weights", _degree),
}
_REFUSED = {
    "KALN": "they scale by the smallest and largest value of a batch, which no basis here does",
    "KABN": "what they compute are not Bernstein polynomials",
}


def convert_simple(
    weights: str | Path | Mapping[str, Tensor],
    *,
    layers: str | None = None,
    model: str | None = None,
    **conv_options: Any,
) -> SimpleNet:
    """A model of ours from a checkpoint of one of torch-conv-kan's simple networks, in evaluation mode.

    Layers, channels, groups, degrees or grids, norm and head are read from the entries and their shapes. What no entry
    tells (the kind of a wavelet, the order and range of a spline's grid, a and b of Jacobi polynomials) is
    torch-conv-kan's default, unless given.

    Args:
        weights: a file (safetensors, or of torch.save with tensors alone), or a state dict.
        layers: name of the family of layers, "KAGN" say; needed for "KAJN" alone, whose entries are those of others.
        model: name of the model; by default the simple network with as many layers.
        **conv_options: options of the basis that the entries do not tell.

    Raises:
        ValueError: no such checkpoint; layers that have no counterpart; entries that are missing or left over; an
            unknown name.
    """
    source = "the checkpoint" if isinstance(weights, Mapping) else repr(str(weights))
    state = dict(weights) if isinstance(weights, Mapping) else read_weights(weights)[0]
    state = {_WRAPPED_LAYER.sub(r"\1.", _WRAPPED_NETWORK.sub("", key)): value for key, value in state.items()}
    numbers = sorted({int(found[1]) for key in state if (found := _LAYER.match(key))})
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(
            f"{source} is not of one of torch-conv-kan's simple networks; their entries begin with layers.0., layers.1."
        )
    first = _entries(state, "layers.0.")
    family = _family(first, layers, source)
    network = _NETWORKS[family]
    channels, groups = _channels(state, numbers, network, source)
    if family == "KAN" and groups > 1:
        raise ValueError(f"{source} has a PReLU slope for each of {groups} groups, which no activation here has")
    layer = _Layer(first, channels[0], _functions(first, network, channels[0]))
    options = {**network.options(layer, conv_options), **conv_options}
    spec = ConvSpec(**network.spec, **_norm(first), options=options)
    head = _head(state, source)
    name = model or f"simple{len(numbers)}"
    made = create_model(
        name, spec, num_classes=len(head["head.bias"]), in_chans=channels[0], channels=channels[1:], groups=groups
    )
    assert isinstance(made, SimpleNet)  # the constructor refuses another number of channels than of layers
    loaded = dict(head)
    reader = Reader(state, "")
    part = Block(FAMILIES[family].weights)
    for i, stage in enumerate(made.stages):
        entries = part(reader.below(f"layers.{i}."), stage)
        if "conv.bias" in stage.state_dict():  # torch-conv-kan has none
            entries["conv.bias"] = torch.zeros(channels[i + 1])
        loaded.update({f"stages.{i}.{key}": value for key, value in entries.items()})
    problems = {"missing": reader.missing, "of another shape": reader.misshapen, "left over": list(state)}
    if any(problems.values()):
        words = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in problems.items() if names)
        raise ValueError(f"{source} does not fit {name} of {family} layers. {words}")
    load_weights(made, loaded, source)
    return made.eval()


def _entries(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _family(entries: Mapping[str, Tensor], given: str | None, source: str) -> str:
    """The name of the family that a layer is of."""
    if given in _REFUSED:
        raise ValueError(f"{given} layers cannot be converted: {_REFUSED[given]}; see compat.torch_conv_kan")
    if given is not None and given not in _NETWORKS:
        raise ValueError(unknown_name("family of layers", given, _NETWORKS))
    if any(key.startswith(("experts", "w_gate")) for key in entries):
        raise ValueError(
            f"{source} has mixtures of experts, whose k is not among the entries; load it by the old names of "
            "kanvolution.compat.torch_conv_kan"
        )
    if given is not None:
        return given
    for name, network in _NETWORKS.items():
        if all(any(key.startswith(mark) for key in entries) for mark in network.mark):
            if name == "KAJN":
                refused = "; ".join(f"{other} cannot be converted: {why}" for other, why in _REFUSED.items())
                raise ValueError(
                    f"the layers of {source} can be KAJN, KALN or KABN; their entries are alike. Name them: KAJN. "
                    f"({refused})"
                )
            return name
    raise ValueError(f"{source} has layers of no known kind: {', '.join(list(entries)[:5])}")


def _channels(state: Mapping[str, Tensor], numbers: list[int], network: _Network, source: str) -> tuple[list[int], int]:
    """Input channels of the network and output channels of each layer; the groups of all but the first layer."""
    channels: list[int] = []
    groups = 1
    for number in numbers:
        entries = _entries(state, f"layers.{number}.")
        groups = sum(re.fullmatch(r"(base|poly)_conv\.\d+\.weight", key) is not None for key in entries)
        name = next((name for name in ("base_conv.0.weight", "poly_conv.0.weight") if name in entries), None)
        if name is None:
            raise ValueError(f"{source} lacks layers.{number}.base_conv.0.weight")
        outputs, inputs = entries[name].shape[:2]
        if name.startswith("poly"):
            inputs //= _functions(entries, network, inputs)
        channels += [inputs * groups] if number == 0 else []
        channels.append(outputs * groups)
    return channels, groups


def _functions(entries: Mapping[str, Tensor], network: _Network, inputs: int) -> int:
    """The number of functions, without the base function."""
    if "arange" in entries:
        return entries["arange"].numel()
    weight = entries.get(network.weights)
    if weight is None:
        raise ValueError(f"the layers lack {network.weights}; they are of another family")
    width = entries["inner_proj.0.weight"].shape[0] if "inner_proj.0.weight" in entries else inputs
    return weight.shape[2 if network.weights == "poly_weights" else 1] // width


def _norm(entries: Mapping[str, Tensor]) -> dict[str, Any]:
    """The norm that the entries show: torch-conv-kan's instance norms without parameters have none."""
    batch = "layer_norm.0.running_mean" in entries
    affine = "layer_norm.0.weight" in entries
    return {"norm": "batch" if batch else "instance", "norm_options": {"affine": affine}}


def _head(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Takes the linear head out of the state dict."""
    weight = next((key for key in ("output.1.weight", "output.weight") if key in state), None)
    bias = None if weight is None else weight.replace("weight", "bias")
    if (
        weight is None
        or bias is None
        or bias not in state
        or len([key for key in state if key.startswith("output")]) > 2
    ):
        raise ValueError(
            f"the head of {source} is no linear layer but a Kolmogorov-Arnold network with a norm, as degree_out >= 2 "
            "makes it; load it by the old names of kanvolution.compat.torch_conv_kan"
        )
    return {"head.weight": state.pop(weight), "head.bias": state.pop(bias)}
