"""torch-conv-kan's networks by name, from one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from kanvolution.checks import non_negative
from kanvolution.compat.torch_conv_kan.architectures import (
    Built,
    densenet,
    plain_simple,
    resnet,
    simple,
    u2net,
    ukagnet,
    ukanet,
    vgg,
)
from kanvolution.compat.torch_conv_kan.experts import PeerMixture
from kanvolution.compat.torch_conv_kan.penalty import Penalty
from kanvolution.compat.torch_conv_kan.renaming import Renaming
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED, named
from kanvolution.models.network import FeatureMaps
from kanvolution.registry import unknown_name

_INSTANCE, _BATCH = nn.InstanceNorm2d, nn.BatchNorm2d

# The usual default of every parameter.
_DEFAULTS: dict[str, Any] = {
    "input_channels": REQUIRED,
    "num_classes": REQUIRED,
    "groups": 1,
    "spline_order": 3,
    "grid_size": 5,
    "base_activation": nn.GELU,
    "grid_range": (-1, 1),
    "degree": 3,
    "wavelet_type": "mexican_hat",
    "wav_version": "fast",
    "dropout": 0.0,
    "l1_decay": 0.0,
    "dropout_linear": 0.25,
    "vgg_type": "VGG11",
    "head_type": "Linear",
    "expected_feature_shape": (7, 7),
    "width_scale": 1,
    "affine": True,
    "norm_layer": _INSTANCE,
    "last_attention": False,
    "sa_inner_projection": None,
    "num_experts": 8,
    "noisy_gating": True,
    "k": 2,
    "hidden_layer_dim": None,
    "growth_rate": 32,
    "num_init_features": 64,
    "use_first_maxpool": True,
    "dim_reduction": 8,
    "layer_sizes": REQUIRED,
    "degree_out": 3,
    "l1_penalty": 0.0,
}


def _parameters(names: str, **defaults: Any) -> dict[str, Any]:
    """The parameters in that order; those named in `defaults` have another default than usual."""
    return {name: defaults.get(name, _DEFAULTS[name]) for name in names.split()}


_IO = "input_channels num_classes groups "
_EXPERTS = "num_experts noisy_gating k "
# stem of the layer -> the parameters of its functions
_FUNCTIONS = {
    "KAN": "spline_order grid_size base_activation grid_range ",
    "FastKAN": "grid_size base_activation grid_range ",
    "WavKAN": "wavelet_type wav_version ",
}
_DEGREE = "degree "


def _functions(stem: str) -> str:
    return _FUNCTIONS.get(stem, _DEGREE)


Row = tuple[Callable[[Mapping[str, Any]], Built], dict[str, Any]]
"""What makes a network of its arguments, and the parameters with their defaults."""


def _vggs() -> dict[str, Row]:
    def row(stem: str, last: str) -> Row:
        names = f"{_IO}{_functions(stem)}dropout l1_decay dropout_linear vgg_type head_type expected_feature_shape "
        return partial(vgg, stem=stem), _parameters(f"{names}width_scale {last}", affine=False)

    norm, attention = "affine norm_layer ", "last_attention sa_inner_projection "
    return {
        "vggkan": row("KAN", norm),
        "fast_vggkan": row("FastKAN", norm),
        "vggkaln": row("KALN", norm),
        "vggkacn": row("KACN", norm),
        "vggkagn": row("KAGN", norm + attention),
        "vggkagn_bn": row("BottleNeckKAGN", norm + attention),
        "vgg_wav_kan": row("WavKAN", "norm_layer affine"),
        "moe_vggkagn": row("MoEKAGN", f"{_EXPERTS}affine"),
        "moe_vggkagn_bn": row("MoEBottleNeckKAGN", norm + attention + _EXPERTS),
        "VGGKAN": row("KAN", norm),
        "FastVGGKAN": row("FastKAN", norm),
        "VGGKALN": row("KALN", norm),
        "VGGKACN": row("KACN", norm),
        "VGGKAGN": row("KAGN", norm + attention),
        "VGGKAGN_BN": row("BottleNeckKAGN", norm + attention),
        "WavVVGKAN": row("WavKAN", "norm_layer affine"),
        "MoEVGGKAGN": row("MoEKAGN", f"affine {_EXPERTS}"),
        "MoE_VGGKAGN_BN": row("MoEBottleNeckKAGN", norm + _EXPERTS + attention),
    }


_LAYERS_OF_RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnets() -> dict[str, Row]:
    def row(stem: str, depth: int, image: str, names: str, **defaults: Any) -> Row:
        make = partial(
            resnet,
            stem=stem,
            layers=_LAYERS_OF_RESNETS[depth],
            block="light" if depth < 50 else "bottleneck",
            kernel=7 if image == "large" else 3,
            stride=2 if image == "large" else 1,
            pool=image != "32p",
        )
        return make, _parameters(_IO + _functions(stem) + names, **{"affine": False, **defaults})

    rates, deep = "dropout l1_decay dropout_linear affine ", "dropout dropout_linear l1_decay "
    light = f"hidden_layer_dim {rates}"
    scaled = f"width_scale {light}"
    first = f"width_scale {deep}hidden_layer_dim affine "
    last = f"width_scale hidden_layer_dim {deep}affine "
    experts = f"width_scale {_EXPERTS}hidden_layer_dim "
    rows = {
        "reskanet_18x32p": row("KAN", 18, "32p", light),
        "fast_reskanet_18x32p": row("FastKAN", 18, "32p", light),
        "reskacnet_18x32p": row("KACN", 18, "32p", light),
        "reskalnet_18x32p": row("KALN", 18, "32p", scaled),
        "reskalnet_18x64p": row("KALN", 18, "64p", scaled),
        "reskagnet_18x32p": row("KAGN", 18, "32p", scaled),
        "reskagnet_34x32p": row("KAGN", 34, "32p", scaled),
        "reskagnetbn_18x32p": row("BottleNeckKAGN", 18, "32p", scaled),
        "reskagnetbn_34x32p": row("BottleNeckKAGN", 34, "32p", scaled),
        "reskagnetbn_moe_18x32p": row("MoEBottleNeckKAGN", 18, "32p", scaled + _EXPERTS),
        "reskagnetbn_moe_34x32p": row("MoEBottleNeckKAGN", 34, "32p", scaled + _EXPERTS),
        "reskagnet18": row("KAGN", 18, "large", f"{scaled}norm_layer"),
        "reskalnet_50x64p": row("KALN", 50, "64p", first, dropout=0.15),
        "reskagnet_101x64p": row("KAGN", 101, "64p", last, dropout=0.15),
        "reskagnet_bn50": row("BottleNeckKAGN", 50, "large", f"{first}norm_layer", dropout=0.15, affine=True),
        "moe_reskalnet_18x64p": row("MoEKALN", 18, "64p", experts + rates),
    }
    for depth in (50, 101, 152):
        rows[f"reskagnet{depth}"] = row("KAGN", depth, "large", f"{first}norm_layer", dropout=0.15, affine=True)
        rows[f"moe_reskalnet_{depth}x64p"] = row("MoEKALN", depth, "64p", f"{experts}{deep}affine", dropout=0.15)
    for depth in (101, 152):
        for image in ("32p", "64p"):
            rows[f"reskalnet_{depth}x{image}"] = row("KALN", depth, image, last, dropout=0.15)
    return rows


_LAYERS_OF_DENSENETS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def _densenets() -> dict[str, Row]:
    names = "dropout l1_decay use_first_maxpool growth_rate num_init_features affine norm_layer "

    def row(stem: str, depth: int) -> Row:
        bottleneck = "BottleNeck" in stem
        own = names.replace("dropout ", "dropout dropout_linear ") if bottleneck else names
        own += _EXPERTS if stem.startswith("MoE") else ""
        make = partial(densenet, stem=stem, layers=_LAYERS_OF_DENSENETS.get(depth, (5, 5, 5)), tiny=depth == 0)
        own = own if depth else own.replace("use_first_maxpool ", "")
        return make, _parameters(
            _IO + _functions(stem) + own,
            dropout_linear=0.0,
            growth_rate=48 if depth == 161 else 32,
            norm_layer=_BATCH if bottleneck else _INSTANCE,
        )

    rows = {
        "tiny_densekanet": row("KAN", 0),
        "tiny_fast_densekanet": row("FastKAN", 0),
        "tiny_densekalnet": row("KALN", 0),
        "tiny_densekacnet": row("KACN", 0),
        "tiny_densekagnet": row("KAGN", 0),
        "tiny_densekagnet_bn": row("BottleNeckKAGN", 0),
        "tiny_densekagnet_moebn": row("MoEBottleNeckKAGN", 0),
        "densekanet121": row("KAN", 121),
        "fast_densekanet121": row("FastKAN", 121),
        "densekacnet121": row("KACN", 121),
    }
    for depth in _LAYERS_OF_DENSENETS:
        rows[f"densekalnet{depth}"] = row("KALN", depth)
        rows[f"densekagnet{depth}"] = row("KAGN", depth)
        rows[f"densekagnet{depth}bn"] = row("BottleNeckKAGN", depth)
        rows[f"densekagnet{depth}moebn"] = row("MoEBottleNeckKAGN", depth)
    return rows


_U2NETS = {
    "": ((16, 32, 64, 128, 128, 128), (8, 8, 16, 32, 64, 64)),
    "_small": ((16,) * 6, (4,) * 6),
}


def _segmenters() -> dict[str, Row]:
    def unet(stem: str, names: str) -> Row:
        return partial(ukanet, stem=stem), _parameters(_IO + _functions(stem) + names)

    rates, norm = "dropout l1_decay ", "affine norm_layer "
    rows = {
        "ukanet_18": unet("KAN", f"width_scale {rates}{norm}"),
        "fast_ukanet_18": unet("FastKAN", f"width_scale {rates}{norm}"),
        "ukacnet_18": unet("KACN", f"width_scale {rates}{norm}"),
        "ukalnet_18": unet("KALN", f"width_scale {norm}{rates}"),
        "ukagnet_18": unet("KAGN", f"width_scale affine {rates}norm_layer"),
        "ukagnetnb_18": unet("BottleNeckKAGN", f"width_scale affine {rates}norm_layer"),
    }
    after, before = f"{rates}width_scale {norm}", f"width_scale {rates}{norm}"
    for small, (channels, mid_channels) in _U2NETS.items():
        plan = {"channels": channels, "mid_channels": mid_channels}
        reduction = "" if small else "dim_reduction "
        silu = {"base_activation": nn.SiLU, "grid_range": (-2, 2)}
        rows |= {
            f"u2kanet{small}": (partial(u2net, stem="KAN", **plan), _parameters(_IO + _functions("KAN") + after)),
            f"fast_u2kanet{small}": (
                partial(u2net, stem="FastKAN", **plan),
                _parameters(_IO + _functions("FastKAN") + after, **silu),
            ),
            f"u2kalnet{small}": (partial(u2net, stem="KALN", **plan), _parameters(_IO + _DEGREE + before)),
            f"u2kacnet{small}": (partial(u2net, stem="KACN", **plan), _parameters(_IO + _DEGREE + before)),
            f"u2kagnet{small}": (partial(u2net, stem="KAGN", **plan), _parameters(_IO + _DEGREE + before)),
            f"u2kagnet_bn{small}": (
                partial(u2net, stem="BottleNeckKAGN", **plan),
                _parameters(f"{_IO}{_DEGREE}width_scale {rates}affine {reduction}norm_layer"),
            ),
            f"u2net{small}": (partial(u2net, stem=None, **plan), _parameters(f"{_IO}width_scale {rates}")),
        }
    rows["UKAGNet"] = (
        ukagnet,
        {
            "input_channels": 3,
            "num_classes": 1,
            "unet_depth": 4,
            "unet_layers": 2,
            "groups": 1,
            "width_scale": 1,
            "use_bottleneck": True,
            "mixer_type": "conv",
            "degree": 3,
            "affine": True,
            "dropout": 0.0,
            "norm_layer": _BATCH,
            "inner_projection_attention": None,
            "focal_window": 3,
            "focal_level": 2,
            "focal_factor": 2,
            "use_postln_in_modulation": True,
            "normalize_modulator": True,
            "full_kan": True,
        },
    )
    return rows


def _simples() -> dict[str, Row]:
    names = "layer_sizes num_classes input_channels {}degree_out groups dropout dropout_linear l1_penalty {}"
    norm = "affine norm_layer "
    changes = {"num_classes": 10, "input_channels": 1, "dropout_linear": 0.0, "norm_layer": _BATCH}
    # name after "Simple" -> (stem, the parameters of the functions, of norm and experts, other defaults)
    kinds: dict[str, tuple[str, str, str, dict[str, Any]]] = {
        "ConvKAN": ("KAN", "spline_order ", norm, {}),
        "FastConvKAN": ("FastKAN", "grid_size ", norm, {"grid_size": 8, "degree_out": 2}),
        "ConvKALN": ("KALN", _DEGREE, norm, {}),
        "ConvKACN": ("KACN", _DEGREE, norm, {}),
        "ConvKAGN": ("KAGN", _DEGREE, norm, {}),
        "ConvWavKAN": ("WavKAN", "wavelet_type ", "", {}),
        "MoEConvKAGNBN": ("MoEBottleNeckKAGN", _DEGREE, norm + _EXPERTS, {"num_experts": 16, "k": 4}),
    }
    rows: dict[str, Row] = {}
    for kind, (stem, functions, rest, own) in kinds.items():
        parameters = _parameters(names.format(functions, rest), **changes, **own)
        rows[f"EightSimple{kind}"] = (partial(simple, stem=stem, depth=8), parameters)
        small = {**parameters, "degree_out": 2} if kind == "ConvKAN" else parameters
        rows[f"Simple{kind}"] = (partial(simple, stem=stem, depth=4), small)
    plain = _parameters("layer_sizes num_classes input_channels groups", **changes)
    rows["SimpleConv"] = (partial(plain_simple, depth=4), plain)
    rows["EightSimpleConv"] = (partial(plain_simple, depth=8), plain)
    return rows


TABLE: dict[str, Row] = {**_vggs(), **_resnets(), **_densenets(), **_segmenters(), **_simples()}
"""The networks by torch-conv-kan's names."""


def make_model(name: str, **given: Any) -> nn.Module:
    """torch-conv-kan's network of that name; `given` are its arguments.

    Raises:
        TypeError, ValueError: a value out of range, an unknown name among the arguments.
    """
    build, parameters = TABLE[name]
    p = {**parameters, **given}
    l1 = non_negative("l1_decay", p.get("l1_decay", p.get("l1_penalty", 0.0)))
    built = build(p)
    network: nn.Module = built.network
    if l1 > 0:
        Penalty(l1, built.unpenalised).attach(built.network)
    names = built.names
    if "num_experts" in parameters:
        network = PeerMixture(network, built.share)
        names = {theirs: f"block.{ours}" for theirs, ours in names.items()}
    Renaming(names, built.refused, built.normed).attach(network)
    config = _config(name, p)
    if config is not None:
        object.__setattr__(network, "config", config)
    return network


_CLASSES = ("base_activation", "norm_layer")


def _config(name: str, p: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `from_config` makes the network from; None where a class among the arguments is not of torch.nn."""
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in p.items()}
    for key in set(_CLASSES) & set(p):
        name_of_class = getattr(p[key], "__name__", "")
        if getattr(nn, name_of_class, None) is not p[key]:
            return None
        arguments[key] = name_of_class
    return {"class": "torch_conv_kan", "name": name, "in_chans": arguments.pop("input_channels"), **arguments}


def from_config(
    name: str, in_chans: int, features_only: bool = False, out_indices: Sequence[int] | None = None, **arguments: Any
) -> nn.Module:
    """The network of the config of a saved one, or its feature maps.

    Raises:
        TypeError, ValueError: as the function of that name; an unknown name.
    """
    if name not in TABLE:
        raise ValueError(unknown_name("network of torch-conv-kan", name, TABLE))
    for key in set(_CLASSES) & set(arguments):
        arguments[key] = getattr(nn, arguments[key])
    network = MODELS[name](input_channels=in_chans, **arguments)
    return FeatureMaps(network, out_indices) if features_only else network


_TEXT = """torch-conv-kan's {name}: a network of the same function, which loads its state dict.

Args are the peer's. {more}Raises TypeError or ValueError for values out of range.
"""
_NOTES = {
    vgg: "A Matryoshka head returns one tensor of logits (see `Matryoshka`), where the peer's returns a tuple. ",
    resnet: "`hidden_layer_dim` must be None. ",
    ukanet: "All blocks take the arguments; the peer's later blocks of each stage take none of them. ",
    u2net: "In training the output is a list, the prediction and then side outputs; in evaluation the prediction. ",
}


def _factory(name: str) -> Callable[..., Any]:
    build, parameters = TABLE[name]
    make = build.func if isinstance(build, partial) else build
    more = _NOTES.get(make, "")
    if "num_experts" in parameters:
        more += "It returns (output, loss of the experts), see `PeerMixture`. "
    if "l1_decay" in parameters or "l1_penalty" in parameters:
        more += "The penalty on weights is collected by `collect_losses`. "
    text = _TEXT.format(name=name, more=more)
    return named(name, parameters, partial(make_model, name), nn.Module, text)


MODELS: dict[str, Callable[..., Any]] = {name: _factory(name) for name in TABLE}
"""The factories by the peer's names."""
