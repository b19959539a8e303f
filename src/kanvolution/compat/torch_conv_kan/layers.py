"""The layer factories `{KAN,FastKAN,KALN,KACN,KAGN,KAJN,KABN,ReLUKAN,WavKAN,BottleNeck...}Conv{1,2,3}DLayer`.

They come from one table; those of the mixtures of experts are in `experts`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.bases import Basis, Gram, create_basis
from kanvolution.checks import divisible, integer_at_least, probability
from kanvolution.compat.torch_conv_kan.checkpoints import (
    Block,
    Bottlenecked,
    Functions,
    Part,
    PeerLoader,
    gram_factors,
)
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED
from kanvolution.layers import Bottleneck, KANConvNormAct, Structure
from kanvolution.layers.parts import make_dropout
from kanvolution.layers.structures import ConvArguments, build_conv
from kanvolution.registry import unknown_name

_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_SEPARABLE_NORMS = (*_INSTANCE.values(), *_BATCH.values())
_BASE_FUNCTIONS = {
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}
_WAV_VERSIONS = ("base", "fast", "fast_plus_one")
_CONV = {"groups": 1, "padding": 0, "stride": 1, "dilation": 1}
_DROPOUT = {"dropout": 0.0}


class BatchRangeLegendre(Basis):
    """Legendre polynomials as torch-conv-kan's KALN layers have them, for its checkpoints.

    Until such a checkpoint is loaded: P_0 ... P_degree of tanh(x), beside x. From then on (`over_batch` is set, and
    kept in the state dict): of x scaled to [-1, 1] by the smallest and largest value *of the whole batch*, for each
    group. One sample then changes another's output; this is the only place in the package where that happens.

    Args:
        in_channels, groups: of the layer; it passes them itself.
        degree: highest degree, >= 0.
    """

    over_batch: Tensor

    def __init__(self, in_channels: int, groups: int = 1, degree: int = 3) -> None:
        integer_at_least("degree", degree, 0)
        super().__init__(degree + 1, input_map="tanh", base="identity")
        self.in_channels = in_channels
        self.groups = groups
        self.degree = degree
        self.register_buffer("over_batch", torch.tensor(False))
        self.register_load_state_dict_post_hook(_adopt_range)

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        if self.input_map == "tanh":
            return ops.legendre(x, self.degree, **options)
        grouped = x.unflatten(1, (self.groups, -1))
        dims = tuple(d for d in range(grouped.ndim) if d != 1)
        low, high = grouped.amin(dims, keepdim=True), grouped.amax(dims, keepdim=True)
        span = (high - low).clamp_min(torch.finfo(x.dtype).eps)
        scaled = (2 * (grouped - low) / span - 1).flatten(1, 2)
        return ops.legendre(scaled, self.degree, **{"base_input": x, **options})


def _adopt_range(module: nn.Module, _: Any) -> None:
    # A Python value, so that forward neither waits for the device nor breaks a compiled graph.
    assert isinstance(module, BatchRangeLegendre)
    if not module.over_batch.is_meta:
        module.input_map = "identity" if bool(module.over_batch) else "tanh"


class GroupPReLU(nn.Module):
    """One PReLU slope for each group of channels: weight [groups]."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.full((groups,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.prelu(x.unflatten(1, (self.groups, -1)), self.weight).flatten(1, 2)


class GroupwiseNorm(nn.Module):
    """A norm of its own for each group of channels, for norms that are not channel by channel anyway."""

    def __init__(self, norms: list[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.norms), dim=1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=1)


@dataclass(frozen=True)
class Family:
    """One of the peer's layer families.

    Attributes:
        parameters: the peer's parameters after `kernel_size`, in its order, with their defaults ("norm_layer": None
            stands for the default norm).
        basis: (parameters, in_channels, out_channels, groups) -> the basis.
        weights: reads the peer's weights of the convolution.
        dropout_site, norm_site: see `KANConvNormAct`.
        act: groups -> activation, or None.
        norm: the default norms by dimension.
        keywords: further parameters, which the peer takes by keyword only, with their defaults.
        structure: parameters -> the structure of the convolution, or None.
        dropout_kind: what the peer means by `dropout`; see `ConvSpec`.
    """

    parameters: Mapping[str, Any]
    basis: Callable[[Mapping[str, Any], dict[str, int]], Basis]
    weights: Part
    dropout_site: str
    act: Callable[[int], nn.Module] | None = None
    norm_site: str = "output"
    norm: Mapping[int, type[nn.Module]] | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    structure: Callable[[Mapping[str, Any]], Structure] | None = None
    dropout_kind: str = "dropout"


def _silu(_: int) -> nn.Module:
    return nn.SiLU()


def _polynomial(name: str) -> Callable[[Mapping[str, Any], dict[str, int]], Basis]:
    return lambda p, shape: create_basis(name, **shape, degree=p["degree"])


def base_function_name(activation: Any) -> str:
    """Our name of a base function that the peer takes as a class of torch.nn. Raises ValueError for others."""
    if activation not in _BASE_FUNCTIONS:
        known = ", ".join(cls.__name__ for cls in _BASE_FUNCTIONS)
        raise ValueError(f"base_activation (={activation!r}) must be one of torch.nn's {known}")
    return _BASE_FUNCTIONS[activation]


def _grid(name: str) -> Callable[[Mapping[str, Any], dict[str, int]], Basis]:
    def make(p: Mapping[str, Any], shape: dict[str, int]) -> Basis:
        order = {"spline_order": p["spline_order"]} if "spline_order" in p else {}
        base = base_function_name(p["base_activation"])
        return create_basis(name, **shape, grid_size=p["grid_size"], grid_range=p["grid_range"], base=base, **order)

    return make


def _gram(p: Mapping[str, Any], shape: dict[str, int]) -> Basis:
    basis = Gram(degree=p["degree"], points=p["degree"] + 2)
    with torch.no_grad():  # the peer starts next to monomials
        std = 1 / (p["_taps"] * shape["in_channels"] * (p["degree"] + 1))
        basis.beta.normal_(std=std).mul_(gram_factors(p["degree"]))
    return basis


def _wavelet(p: Mapping[str, Any], shape: dict[str, int]) -> Basis:
    if p["wav_version"] not in _WAV_VERSIONS:
        raise ValueError(unknown_name("wav_version", p["wav_version"], _WAV_VERSIONS))
    return create_basis("wavelet_edge", **shape, kind=p["wavelet_type"], mix=True)


_DEGREE = {"degree": 3, **_CONV, **_DROPOUT, "norm_layer": None}

FAMILIES: dict[str, Family] = {
    "KAN": Family(
        {
            "spline_order": 3,
            **_CONV,
            "grid_size": 5,
            "base_activation": nn.GELU,
            "grid_range": (-1, 1),
            **_DROPOUT,
            "norm_layer": None,
        },
        _grid("spline"),
        weights=Functions("spline_conv"),
        dropout_site="output",
        act=GroupPReLU,
    ),
    "FastKAN": Family(
        {
            **_CONV,
            "grid_size": 8,
            "base_activation": nn.SiLU,
            "grid_range": (-2, 2),
            **_DROPOUT,
            "norm_layer": None,
        },
        _grid("rbf"),
        weights=Functions("spline_conv"),
        dropout_site="poly",
        norm_site="functions",
    ),
    "KALN": Family(
        _DEGREE,
        lambda p, shape: BatchRangeLegendre(shape["in_channels"], shape["groups"], p["degree"]),
        weights=Functions("poly_weights"),
        dropout_site="poly",
        act=_silu,
    ),
    "KACN": Family(_DEGREE, _polynomial("chebyshev"), weights=Functions("poly_conv"), dropout_site="output"),
    "KAGN": Family(_DEGREE, _gram, weights=Functions("poly_weights"), dropout_site="poly", act=_silu),
    "KAJN": Family(
        {**_DEGREE, "a": 1.0, "b": 1.0},
        lambda p, shape: create_basis("jacobi", **shape, degree=p["degree"], a=p["a"], b=p["b"]),
        weights=Functions("poly_weights"),
        dropout_site="degree",
        act=_silu,
    ),
    "KABN": Family(
        _DEGREE, _polynomial("bernstein"), weights=Functions("poly_weights_by_channel"), dropout_site="poly", act=_silu
    ),
    "ReLUKAN": Family(
        {"g": 5, "k": 3, "train_ab": True, **_CONV, **_DROPOUT, "norm_layer": None},
        lambda p, shape: create_basis("relu", **shape, grid_size=p["g"], overlap=p["k"], learnable=p["train_ab"]),
        weights=Functions("relukan_conv"),
        dropout_site="full",
        act=_silu,
    ),
    "WavKAN": Family(
        {**_CONV, **_DROPOUT, "wavelet_type": "mexican_hat", "norm_layer": None, "wav_version": "fast"},
        _wavelet,
        weights=Functions("wavelet_conv"),
        dropout_site="poly",
        norm=_BATCH,
    ),
}


def _bottleneck(p: Mapping[str, Any]) -> Structure:
    return Bottleneck(p["dim_reduction"], p["min_internal"])


def bottleneck_family(plain: Family, **changes: Any) -> Family:
    """The family of the bottlenecks around a plain one."""
    common = {"structure": _bottleneck, "weights": Bottlenecked(plain.weights), "dropout_site": "full"}
    return replace(plain, **{**common, **changes})


FAMILIES["BottleNeckKAGN"] = bottleneck_family(
    FAMILIES["KAGN"],
    parameters={**_DEGREE, "dim_reduction": 4.0},
    keywords={"min_internal": 16},
    dropout_kind="noise",
)
FAMILIES["BottleNeckReLUKAN"] = bottleneck_family(
    FAMILIES["ReLUKAN"], keywords={"dim_reduction": 4.0, "min_internal": 16}
)


def make_layer(
    family: Family, ndim: int, input_dim: int, output_dim: int, kernel_size: int | tuple[int, ...], **given: Any
) -> KANConvNormAct:
    """The peer's layer of a family and dimension; `given` are its parameters, and those of the norm.

    Raises:
        TypeError, ValueError: as `KANConv2d`; also an unknown base activation, wavelet or wavelet version.
    """
    known = {**family.parameters, **family.keywords}
    p = {**known, **{name: given.pop(name) for name in list(given) if name in known}}
    groups = integer_at_least("groups", p["groups"], 1)
    divisible("input_dim", integer_at_least("input_dim", input_dim, 1), "groups", groups)
    divisible("output_dim", integer_at_least("output_dim", output_dim, 1), "groups", groups)
    p["_taps"] = kernel_size**ndim if isinstance(kernel_size, int) else torch.Size(kernel_size).numel()

    def make_basis(in_channels: int, out_channels: int, groups: int) -> Basis:
        return family.basis(p, {"in_channels": in_channels, "out_channels": out_channels, "groups": groups})

    arguments = ConvArguments(
        input_dim, output_dim, kernel_size, p["stride"], p["padding"], p["dilation"], groups, bias=False
    )
    norm_class = p["norm_layer"] or (family.norm or _INSTANCE)[ndim]
    layer = KANConvNormAct(
        build_conv(ndim, make_basis, arguments, None if family.structure is None else family.structure(p)),
        _make_norm(norm_class, output_dim if family.norm_site == "output" else input_dim, groups, given),
        None if family.act is None else family.act(groups),
        make_dropout(ndim, p["dropout"], family.dropout_kind) if probability("dropout", p["dropout"]) > 0 else None,
        norm_site=family.norm_site,
        dropout_site=family.dropout_site,
    )
    layer.register_load_state_dict_pre_hook(PeerLoader(Block(family.weights)))
    return layer


def _make_norm(norm_class: Callable[..., nn.Module], channels: int, groups: int, options: dict[str, Any]) -> nn.Module:
    if groups == 1 or norm_class in _SEPARABLE_NORMS:
        return norm_class(channels, **options)
    return GroupwiseNorm([norm_class(channels // groups, **options) for _ in range(groups)])


def peer_factory(
    name: str, parameters: Mapping[str, Any], rest: str, make: Callable[..., nn.Module], result: type[nn.Module]
) -> Callable[..., Any]:
    """`make` by the peer's name and signature.

    Args:
        name: of the peer's class.
        parameters: the peer's, in its order, with their defaults (`REQUIRED` for none).
        rest: the name of its further keyword arguments.
        make: takes all of them by keyword.
        result: what it returns.
    """
    required = [key for key, default in parameters.items() if default is REQUIRED]

    def factory(*args: Any, **kwargs: Any) -> nn.Module:
        # Early versions of the peer had kernel_size after the family's own parameter, and its README still calls them
        # so: where a required kernel_size comes by keyword, the positional arguments are the ones behind it.
        order = [key for key in parameters if key != "kernel_size" or key not in required or key not in kwargs]
        if len(args) > len(order):
            raise TypeError(f"{name} takes at most {len(order)} positional arguments, got {len(args)}")
        for key, value in zip(order, args, strict=False):
            if key in kwargs:
                raise TypeError(f"{name} got two values for {key!r}")
            kwargs[key] = value
        for key in required:
            if key not in kwargs:
                raise TypeError(f"{name} needs {key}, e.g. {key}=3")
        return make(**kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter(key, kind, default=default) for key, default in parameters.items()]
    signature.append(inspect.Parameter(rest, inspect.Parameter.VAR_KEYWORD))
    factory.__signature__ = inspect.Signature(signature, return_annotation=result)  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = "kanvolution.compat.torch_conv_kan"
    factory.__doc__ = (
        f"torch-conv-kan's {name}: a `{result.__name__}` of the same function, which loads its state dict.\n\n"
        "Args are the peer's; `norm_layer(channels, **norm_kwargs)` makes the norm. Raises ValueError or TypeError for "
        "values out of range, as `KANConv2d` does."
    )
    return factory


def layer_parameters(family: Family, ndim: int) -> dict[str, Any]:
    """The parameters of a family's layer of a dimension, for `peer_factory`."""
    parameters = {"input_dim": REQUIRED, "output_dim": REQUIRED, "kernel_size": REQUIRED, **family.parameters}
    return {**parameters, "norm_layer": (family.norm or _INSTANCE)[ndim]}


def _layer_factory(name: str, family: Family, ndim: int) -> Callable[..., KANConvNormAct]:
    make = partial(make_layer, family, ndim)
    return peer_factory(name, layer_parameters(family, ndim), "norm_kwargs", make, KANConvNormAct)


LAYERS: dict[str, Callable[..., KANConvNormAct]] = {
    f"{stem}Conv{ndim}DLayer": _layer_factory(f"{stem}Conv{ndim}DLayer", family, ndim)
    for stem, family in FAMILIES.items()
    for ndim in (1, 2, 3)
}
"""The factories by the peer's names."""
