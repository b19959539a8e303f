"""`AutoKAN` and `TinyAutoKAGN`: networks of torch-conv-kan chosen by an argument."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from kanvolution.compat.torch_conv_kan.models import MODELS
from kanvolution.registry import unknown_name

_SAME = (
    "fast_ukanet_18",
    *(
        f"{stem}{size}"
        for stem in ("u2kanet", "fast_u2kanet", "u2kagnet", "u2kalnet", "u2kacnet")
        for size in ("", "_small")
    ),
    *("densekanet121", "fast_densekanet121", "densekacnet121"),
    *(f"{stem}{depth}" for stem in ("densekagnet", "densekalnet") for depth in (121, 161, 169, 201)),
    *("vggkan", "fast_vggkan", "vgg_wav_kan", "vggkaln", "vggkacn", "vggkagn"),
    *(f"reskagnet{depth}" for depth in (18, 50, 101, 152)),
)
# AutoKAN's name -> that of the function
_CHOICES = {
    **{f"{stem}18": f"{stem}_18" for stem in ("ukanet", "ukalnet", "ukagnet", "ukacnet")},
    **{name: name for name in _SAME},
}
# Where AutoKAN has other defaults than the functions that it calls.
_DEFAULTS = {
    "affine": True,
    "dropout": 0.0,
    "dropout_linear": 0.0,
    "spline_order": 1,
    "grid_size": 1,
    "grid_range": (-1, 1),
    "growth_rate": 32,
}
_NAMED: dict[str, dict[str, Any]] = {
    "base_activation": {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU},
    "norm_layer": {"instance2d": nn.InstanceNorm2d, "batchnorm2d": nn.BatchNorm2d},
}


def AutoKAN(*, model_name: str, input_channels: int, num_classes: int, **options: Any) -> nn.Module:  # noqa: N802
    """torch-conv-kan's network of a name, as its AutoKAN makes it; the object there wraps it, here it is the network.

    Args:
        model_name: "ukanet18", "u2kagnet_small", "densekagnet121", "vggkan", "reskagnet50", ...
        input_channels, num_classes: of the network.
        **options: further arguments of its function. base_activation is "gelu", "silu" or "relu", norm_layer
            "instance2d" or "batchnorm2d". As there, splines have order 1 and a grid of 1 unless given.

    Raises:
        ValueError: an unknown model, activation or norm.
        TypeError: an unknown option.
    """
    if model_name not in _CHOICES:
        raise ValueError(unknown_name("model_name", model_name, _CHOICES))
    make = MODELS[_CHOICES[model_name]]
    known = inspect.signature(make).parameters
    arguments = {**{key: value for key, value in _DEFAULTS.items() if key in known}, **options}
    for key, choices in _NAMED.items():
        if key in known:
            value = arguments.get(key, next(iter(choices)))
            if value not in choices:
                raise ValueError(unknown_name(key, value, choices))
            arguments[key] = choices[value]
    return make(input_channels, num_classes, **arguments)


def TinyAutoKAGN(  # noqa: N802
    input_channels: int,
    num_classes: int,
    model_type: str,
    is_moe: bool = False,
    groups: int = 1,
    degree: int = 3,
    dropout: float = 0.0,
    l1_decay: float = 0.0,
    dropout_linear: float = 0.25,
    width_scale: int = 1,
    norm_layer: type[nn.Module] = nn.BatchNorm2d,
    affine: bool = True,
    num_experts: int = 8,
    noisy_gating: bool = True,
    k: int = 2,
    **kwargs: Any,
) -> nn.Module:
    """torch-conv-kan's VGG or dense network of bottlenecks for small images.

    The VGG without experts takes `norm_layer`, which there has no effect on it: its checkpoints need
    norm_layer=nn.InstanceNorm2d.

    Args:
        input_channels, num_classes: of the network.
        model_type: "VGG" (`vggkagn_bn`, `moe_vggkagn_bn`) or "DenseNet" (`tiny_densekagnet_bn`,
            `tiny_densekagnet_moebn`); width_scale is for the first alone.
        is_moe: whether the layers are mixtures of experts; num_experts, noisy_gating and k are for them.
        groups, degree, dropout, l1_decay, dropout_linear, norm_layer, affine: of the network.
        **kwargs: further arguments of its function.

    Raises:
        ValueError: another model_type; there, "ResNet" makes no network.
        TypeError: an unknown argument.
    """
    names = {
        "VGG": ("vggkagn_bn", "moe_vggkagn_bn"),
        "DenseNet": ("tiny_densekagnet_bn", "tiny_densekagnet_moebn"),
    }
    if model_type not in names:
        raise ValueError(unknown_name("model_type", model_type, names))
    arguments = {
        "groups": groups,
        "degree": degree,
        "dropout": dropout,
        "l1_decay": l1_decay,
        "dropout_linear": dropout_linear,
        "norm_layer": norm_layer,
        "affine": affine,
    }
    if model_type == "VGG":
        arguments |= {"width_scale": width_scale, "expected_feature_shape": (1, 1)}
    if is_moe:
        arguments |= {"num_experts": num_experts, "noisy_gating": noisy_gating, "k": k}
    return MODELS[names[model_type][is_moe]](input_channels, num_classes, **{**arguments, **kwargs})
