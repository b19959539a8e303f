"""The attention and focal modulation layers of torch-conv-kan by name, from two tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from kanvolution.compat.torch_conv_kan.layers import LAYERS, peer_factory
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED
from kanvolution.layers import FocalModulation, SelfAttention

_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONV = {"groups": 1, "padding": 0, "stride": 1, "dilation": 1, "dropout": 0.0}
_ROPE = {"rope_theta": 10.0, "rope_mixed": True}
_DEGREE = {"degree": 3}
_BUMPS = {"g": 5, "k": 3, "train_ab": True}

# name -> (the layer of its projections, the peer's parameters after kernel_size)
_ATTENTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "SelfKAGNtention": ("KAGN", {**_DEGREE, **_CONV}),
    "BottleNeckSelfKAGNtention": ("BottleNeckKAGN", {**_DEGREE, **_CONV}),
    "RoPEBottleNeckSelfKAGNtention": ("BottleNeckKAGN", {**_DEGREE, **_CONV, **_ROPE}),
    "SelfReLUKANtention": ("ReLUKAN", {**_BUMPS, **_CONV}),
    "BottleNeckSelfReLUKANtention": ("BottleNeckReLUKAN", {**_BUMPS, **_CONV}),
}
_FOCAL_MODULATIONS = {"KAGNFocalModulation": "KAGN", "BottleNeckKAGNFocalModulation": "BottleNeckKAGN"}
_FOCAL_PARAMETERS = {
    "input_dim": REQUIRED,
    "focal_window": 3,
    "focal_level": 2,
    "focal_factor": 2,
    "use_postln_in_modulation": True,
    "normalize_modulator": True,
    "full_kan": True,
    "degree": 3,
    "dropout": 0.0,
}

_PEER_NAMES = {
    "gamma": "gain",
    "proj_q.": "query.",
    "proj_k.": "key.",
    "proj_v.": "value.",
    "inner_proj.": "squeeze.",
    "outer_proj.": "unsqueeze.",
    "norm_layer.": "norm.",
}


def make_attention(name: str, ndim: int, **given: Any) -> SelfAttention:
    """The peer's attention of a name of the table and a dimension; `given` are its arguments.

    Scores are not divided by the root of the channels, and the learned gain is on the input, as in the peer.
    """
    stem, own = _ATTENTIONS[name]
    p = {"inner_projection": None, "kernel_size": 3, **own, "norm_layer": _BATCH[ndim], **given}
    input_dim, inner, kernel_size = p.pop("input_dim"), p.pop("inner_projection"), p.pop("kernel_size")
    rotary = None
    if "rope_mixed" in p:
        rotary = "mixed" if p.pop("rope_mixed") else "axial"
    theta = p.pop("rope_theta", 10.0)
    layer = LAYERS[f"{stem}Conv{ndim}DLayer"]

    def conv(in_channels: int, out_channels: int, kernel_size: int, **_: Any) -> nn.Module:
        return layer(in_channels, out_channels, kernel_size, **p)

    attention = SelfAttention(
        input_dim,
        conv,
        ndim,
        kernel_size=kernel_size,
        inner_channels=inner,
        rotary=rotary,
        rotary_base=theta,
        scale=1.0,
        gain_on="input",
        norm=p["norm_layer"](input_dim, affine=p.get("affine", True)),
    )
    attention.register_load_state_dict_pre_hook(_rename)
    return attention


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A load_state_dict pre-hook: the peer's entries under our names; the projections read their own."""
    for key in list(state):
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        for theirs, ours in _PEER_NAMES.items():
            if rest.startswith(theirs):
                state[prefix + ours + rest[len(theirs) :]] = state.pop(key)
                break


def make_focal_modulation(name: str, ndim: int, **given: Any) -> FocalModulation:
    """The peer's focal modulation of a name of the table and a dimension; `given` are its arguments."""
    p = {**_FOCAL_PARAMETERS, "norm_layer": _BATCH[ndim], **given}
    channels, window, levels, step, post_norm, average, full = (p.pop(key) for key in list(_FOCAL_PARAMETERS)[:7])
    norm = {key: value for key, value in p.items() if key not in ("degree", "dropout", "norm_layer")}

    def conv(stem: str, *arguments: Any, **options: Any) -> nn.Module:
        taken = {key: options[key] for key in ("padding", "groups") if key in options}
        return LAYERS[f"{stem}Conv{ndim}DLayer"](*arguments, **taken, **p)

    return FocalModulation(
        channels,
        partial(conv, _FOCAL_MODULATIONS[name]),
        ndim,
        levels=levels,
        window=window,
        step=step,
        focal_conv=partial(conv, "KAGN"),
        plain_projections=not full,
        average=average,
        norm=p["norm_layer"](channels, **norm) if post_norm else None,
    )


def _documented(factory: Callable[..., nn.Module], text: str) -> Callable[..., nn.Module]:
    factory.__doc__ = f"torch-conv-kan's {factory.__name__}: {text}"
    return factory


_ATTENTION_DOC = """a `SelfAttention` of the same function, which loads its state dict.

Args are the peer's. `padding` must keep the image's size (kernel_size // 2 for odd kernels). Raises as `SelfAttention`.
"""
_ROPE_DOC = """a `SelfAttention` with rotary positions.

Args are the peer's. Do not load a state dict of the peer: one of mixed positions does not fit, and one of axial
positions (`rope_mixed=False`) fits but computes something else. There, in any dimension, rows are as long as the root
of the number of pixels less one, and the first pixel has no position. Here positions are the coordinates of any image
in 1, 2 or 3 dimensions. Raises as `SelfAttention`.
"""
_FOCAL_DOC = """a `FocalModulation`.

Args are the peer's. It loads no state dict of the peer: there, the depthwise layers mix functions of different
channels, and the last level is the mean of the gated sum. Here each channel has its own functions and the last level is
the mean of the one before, as in the paper. Raises as `FocalModulation`.
"""


def _attention_factories() -> dict[str, Callable[..., nn.Module]]:
    factories: dict[str, Callable[..., nn.Module]] = {}
    for ndim in (1, 2, 3):
        last = {"norm_layer": _BATCH[ndim]}
        for stem, (_, own) in _ATTENTIONS.items():
            name = f"{stem}{ndim}D"
            parameters = {"input_dim": REQUIRED, "inner_projection": None, "kernel_size": 3, **own, **last}
            make = partial(make_attention, stem, ndim)
            factory = peer_factory(name, parameters, "norm_kwargs", make, SelfAttention)
            factories[name] = _documented(factory, _ROPE_DOC if "rope_theta" in own else _ATTENTION_DOC)
        for stem in _FOCAL_MODULATIONS:
            name = f"{stem}{ndim}D"
            make = partial(make_focal_modulation, stem, ndim)
            factory = peer_factory(name, {**_FOCAL_PARAMETERS, **last}, "norm_kwargs", make, FocalModulation)
            factories[name] = _documented(factory, _FOCAL_DOC)
    return factories


ATTENTIONS = _attention_factories()
"""The factories by the peer's names."""
