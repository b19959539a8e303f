"""The networks `KAN, FastKAN, KALN, KACN, KAGN, BottleNeckKAGN, WavKAN, KAJN, KABN, ReLUKAN` of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis, Gram, create_basis
from kanvolution.checks import integer_at_least, non_negative, probability
from kanvolution.compat.torch_conv_kan.checkpoints import Reader, gram_factors
from kanvolution.compat.torch_conv_kan.layers import BatchRangeLegendre, base_function_name
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED, named
from kanvolution.layers import Bottleneck, KANLinear, weight_penalty
from kanvolution.layers.structures import BottleneckConv


class Network(nn.Module):
    """Layers of torch-conv-kan one after another, with its dropouts between them.

    Attributes:
        layers: the layers and dropouts, in the peer's order and so under the peer's indices.
        l1_decay: strength of the penalty on the weights of all layers but the last.
    """

    def __init__(self, layers: Sequence[nn.Module], layers_hidden: Sequence[int], l1_decay: float) -> None:
        super().__init__()
        self.layers_hidden = list(layers_hidden)
        self.l1_decay = non_negative("l1_decay", l1_decay)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def penalty(self) -> Tensor:
        """l1_decay sum |w| over all parameters of all layers but the last, to be added to the loss.

        The peer has the gradient of this term added by a hook in backward.
        """
        hidden = [layer for layer in self.layers if not isinstance(layer, nn.Dropout)][:-1]
        return weight_penalty(nn.ModuleList(hidden), l1=self.l1_decay, filter=lambda name, parameter: True)


@dataclass(frozen=True)
class _Shape:
    """Sizes of a layer, as its readers need them."""

    inputs: int
    outputs: int
    functions: int


# ------------------------------------------------------------------- the functions' weights, read as [O, I, K]


def _by_output(name: str) -> Callable[[Reader, _Shape], Tensor]:
    return lambda reader, s: reader.take(name, s.outputs, s.inputs, s.functions)


def _by_input(name: str) -> Callable[[Reader, _Shape], Tensor]:
    return lambda reader, s: reader.take(name, s.inputs, s.outputs, s.functions).transpose(0, 1)


def _flat(name: str) -> Callable[[Reader, _Shape], Tensor]:
    def read(reader: Reader, s: _Shape) -> Tensor:
        return reader.take(name, s.outputs, s.inputs * s.functions).unflatten(1, (s.inputs, s.functions))

    return read


def _relu_weight(reader: Reader, s: _Shape) -> Tensor:
    # A kernel of K x I over an image of I x K read as K x I: both are I * K values in the same order.
    return reader.take("equal_size_conv.weight", s.outputs, 1, s.functions, s.inputs).reshape(
        s.outputs, s.inputs, s.functions
    )


def _wavelet_weight(kind: str) -> Callable[[Reader, _Shape], Tensor]:
    def read(reader: Reader, s: _Shape) -> Tensor:
        weight = reader.take("wavelet_weights", s.outputs, s.inputs)
        if kind == "mexican_hat":  # the peer's has the other sign
            weight = -weight
        if kind == "shannon":  # the peer multiplies by a window over the inputs
            weight = weight * torch.hamming_window(s.inputs, periodic=False, dtype=weight.dtype, device=weight.device)
        return weight.unsqueeze(2)

    return read


# ------------------------------------------------------------------------------------ the state of the basis


def _no_state(reader: Reader, s: _Shape) -> dict[str, Tensor]:
    return {}


def _beta(reader: Reader, s: _Shape) -> dict[str, Tensor]:
    beta = reader.take("beta_weights", s.functions)
    return {"beta": beta * gram_factors(s.functions - 1).to(beta)}


def _degrees(reader: Reader, s: _Shape) -> dict[str, Tensor]:
    reader.take("arange", s.functions)
    return {}


def _edges(reader: Reader, s: _Shape) -> dict[str, Tensor]:
    return {ours: reader.take(f"phase_{ours}", s.inputs, s.functions) for ours in ("low", "high")}


def _scales(reader: Reader, s: _Shape) -> dict[str, Tensor]:
    return {name: reader.take(name, s.outputs, s.inputs) for name in ("scale", "translation")}


@dataclass(frozen=True)
class Layer:
    """One of the peer's layers, for given arguments of its network.

    Attributes:
        basis: (inputs, outputs) -> the basis.
        weight: reads the functions' weights as [O, I, K].
        base: the peer's name of the base function's weights, None for none.
        bias: the peer's name of the bias, None for none.
        state: reads the entries of the basis.
        norm: (peer's name, its class), None for none.
        norm_site: "output", or "functions" for a norm on the input of the functions.
        act: class of the activation, None for none.
        init_std: standard deviation of the functions' weights at the start; None keeps the variance.
    """

    basis: Callable[[int, int], Basis]
    weight: Callable[[Reader, _Shape], Tensor]
    base: str | None = None
    bias: str | None = None
    state: Callable[[Reader, _Shape], dict[str, Tensor]] = _no_state
    norm: tuple[str, Callable[[int], nn.Module]] | None = None
    norm_site: str = "output"
    act: Callable[[], nn.Module] | None = None
    init_std: float | None = None

    def make(self, inputs: int, outputs: int) -> nn.Module:
        """The layer: `linear`, `norm` and `act` one after another."""
        linear = KANLinear(inputs, outputs, self.bias is not None, basis=self.basis(inputs, outputs))
        if self.init_std is not None:
            size, functions = linear.basis.size, linear.basis.num_functions
            weight = linear.weight.detach().unflatten(1, (inputs, size))
            nn.init.trunc_normal_(weight[..., size - functions :], std=self.init_std)
        layer = nn.Sequential()
        layer.add_module("linear", linear)
        if self.norm is not None and self.norm_site == "output":
            layer.add_module("norm", self.norm[1](outputs))
        elif self.norm is not None:
            linear.basis.attach(norm=self.norm[1](inputs))
        if self.act is not None:
            layer.add_module("act", self.act())
        return layer

    def read(self, reader: Reader, layer: Any) -> dict[str, Tensor]:
        """Our entries from the peer's."""
        linear = layer.linear
        s = _Shape(linear.in_features, linear.out_features, linear.basis.num_functions)
        weight = self.weight(reader, s)
        if self.base is not None:
            weight = torch.cat([reader.take(self.base, s.outputs, s.inputs).unsqueeze(2), weight], dim=2)
        entries = {"linear.weight": weight.flatten(1)}
        if self.bias is not None:
            entries["linear.bias"] = reader.take(self.bias, s.outputs)
        entries.update({f"linear.basis.{key}": value for key, value in self.state(reader, s).items()})
        if self.norm is not None:
            ours = "norm" if self.norm_site == "output" else "linear.basis.norm"
            for key, value in layer.get_submodule(ours).state_dict().items():
                entries[f"{ours}.{key}"] = reader.take(f"{self.norm[0]}.{key}", *value.shape)
        if self.act is nn.PReLU:
            entries["act.weight"] = reader.take("prelu.weight", 1)
        return entries


@dataclass(frozen=True)
class BottleneckLayer:
    """`BottleNeckGRAMLayer`: Gram polynomials between two linear maps with biases, beside a linear map of silu(x).

    Attributes:
        basis: inputs -> the basis.
        width: (inputs, outputs) -> features between the two.
    """

    basis: Callable[[int], Gram]
    width: Callable[[int, int], int]

    def make(self, inputs: int, outputs: int) -> nn.Module:
        """The layer: `linear`, `norm` and `act` one after another."""
        width = self.width(inputs, outputs)
        basis = self.basis(inputs)
        basis.drop_base()
        layer = nn.Sequential()
        layer.add_module(
            "linear",
            BottleneckConv(
                squeeze=nn.Linear(inputs, width),
                conv=KANLinear(width, width, False, basis=basis),
                unsqueeze=nn.Linear(width, outputs),
                base="silu",
                base_conv=nn.Linear(inputs, outputs, bias=False),
            ),
        )
        layer.add_module("norm", nn.LayerNorm(outputs))
        layer.add_module("act", nn.SiLU())
        return layer

    def read(self, reader: Reader, layer: Any) -> dict[str, Tensor]:
        """Our entries from the peer's."""
        functions = layer.linear.conv
        s = _Shape(functions.in_features, functions.out_features, functions.basis.num_functions)
        entries = {"linear.conv.weight": _by_input("grams_basis_weights")(reader, s).flatten(1)}
        entries.update({f"linear.conv.basis.{key}": value for key, value in _beta(reader, s).items()})
        entries["linear.base_conv.weight"] = reader.take("base_weights", *layer.linear.base_conv.weight.shape)
        names = {"linear.squeeze": "inner_proj", "linear.unsqueeze": "outer_proj", "norm": "norm"}
        for ours, theirs in names.items():
            for key, value in layer.get_submodule(ours).state_dict().items():
                entries[f"{ours}.{key}"] = reader.take(f"{theirs}.{key}", *value.shape)
        return entries


@dataclass(frozen=True)
class _Loader:
    """A load_state_dict pre-hook of a layer: rewrites the peer's entries into the layer's own, in place."""

    family: str  # and not its Layer, whose functions cannot be pickled
    parameters: Mapping[str, Any]

    def __call__(
        self,
        layer: nn.Module,
        state: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        keys = [key for key in state if key.startswith(prefix)]
        if not keys or any(key.startswith(prefix + "linear.") for key in keys):
            return
        # Where the peer penalises weights it wraps the layer.
        wrapped = any(key.startswith(prefix + "module.") for key in keys)
        reader = Reader(state, prefix + "module." if wrapped else prefix)
        converted = NETWORK_FAMILIES[self.family].layer(self.parameters).read(reader, layer)
        missing.extend(reader.missing)
        if reader.misshapen:
            errors.append("torch-conv-kan checkpoint does not fit this network: " + "; ".join(reader.misshapen))
        if reader.missing or reader.misshapen:  # reported above; our own entries are not to be reported as well
            converted = layer.state_dict()
        for key, value in converted.items():
            state[prefix + key] = value


# ------------------------------------------------------------------------------------------------- the table


def _spline(p: Mapping[str, Any]) -> Layer:
    options = {name: p[name] for name in ("grid_size", "spline_order", "grid_range")}
    return Layer(
        lambda i, o: create_basis("spline", base=base_function_name(p["base_activation"]), **options),
        _by_output("spline_weight"),
        base="base_weight",
        norm=("layer_norm", nn.LayerNorm),
        act=nn.PReLU,
    )


def _rbf(p: Mapping[str, Any]) -> Layer:
    base = base_function_name(p["base_activation"]) if p["use_base_update"] else None
    return Layer(
        lambda i, o: create_basis("rbf", grid_size=p["grid_size"], grid_range=p["grid_range"], base=base),
        _flat("spline_linear.weight"),
        base=base and "base_linear.weight",
        bias=base and "base_linear.bias",
        state=lambda reader, s: {"grid": reader.take("rbf.grid", s.functions)},
        norm=("layernorm", nn.LayerNorm),
        norm_site="functions",
        init_std=p["spline_weight_init_scale"],
    )


def _legendre(p: Mapping[str, Any]) -> Layer:
    def basis(inputs: int, outputs: int) -> Basis:
        made = BatchRangeLegendre(inputs, degree=p["degree"])
        made.base = base_function_name(p["base_activation"])
        made.attach(norm=nn.Identity())  # keeps base function and functions apart
        return made

    return Layer(
        basis,
        _flat("poly_weight"),
        base="base_weight",
        state=lambda reader, s: {"over_batch": torch.tensor(True)},
        norm=("layer_norm", nn.LayerNorm),
        act=p["base_activation"],
    )


def _chebyshev(p: Mapping[str, Any]) -> Layer:
    return Layer(lambda i, o: create_basis("chebyshev", degree=p["degree"]), _by_input("cheby_coeffs"), state=_degrees)


def _gram_basis(p: Mapping[str, Any], inputs: int) -> Gram:
    if p["base_activation"] is not nn.SiLU:
        raise ValueError(
            f"base_activation (={p['base_activation']!r}) of Gram polynomials must be torch.nn.SiLU, which they pass "
            "through; choose another network for another activation"
        )
    basis = Gram(degree=p["degree"], points=p["degree"] + 2)
    with torch.no_grad():  # the peer starts next to monomials
        basis.beta.normal_(std=1 / (inputs * (p["degree"] + 1))).mul_(gram_factors(p["degree"]))
    return basis


def _gram(p: Mapping[str, Any]) -> Layer:
    return Layer(
        lambda inputs, outputs: _gram_basis(p, inputs),
        _by_input("grams_basis_weights"),
        base="base_weights",
        state=_beta,
        norm=("norm", nn.LayerNorm),
        act=nn.SiLU,
    )


def _bottleneck_gram(p: Mapping[str, Any]) -> BottleneckLayer:
    return BottleneckLayer(partial(_gram_basis, p), Bottleneck(p["dim_reduction"], p["min_internal"]).width)


def _coefficients(name: str, *more: str) -> Callable[[Mapping[str, Any]], Layer]:
    def make(p: Mapping[str, Any]) -> Layer:
        options = {key: p[key] for key in ("degree", *more)}
        return Layer(
            lambda i, o: create_basis(name, base=base_function_name(p["base_activation"]), **options),
            _by_input(f"{name}_coeffs"),
            base="base_weights",
            norm=("norm", nn.LayerNorm),
            act=p["base_activation"],
        )

    return make


def _wavelet(p: Mapping[str, Any]) -> Layer:
    kind = p["wavelet_type"]
    return Layer(
        lambda i, o: create_basis("wavelet_edge", in_channels=i, out_channels=o, kind=kind),
        _wavelet_weight(kind),
        base="weight1",
        state=_scales,
        norm=("bn", nn.BatchNorm1d),
    )


def _relu(p: Mapping[str, Any]) -> Layer:
    options = {"grid_size": p["g"], "overlap": p["k"], "learnable": p["train_ab"], "base": None}
    return Layer(
        lambda i, o: create_basis("relu", in_channels=i, **options),
        _relu_weight,
        bias="equal_size_conv.bias",
        state=_edges,
    )


@dataclass(frozen=True)
class NetworkFamily:
    """One of the peer's networks: its parameters after `layers_hidden` with their defaults, and its layers."""

    parameters: Mapping[str, Any]
    layer: Callable[[Mapping[str, Any]], Layer | BottleneckLayer]


_FIRST = {"dropout": 0.0, "l1_decay": 0.0}
_DEGREE = {**_FIRST, "degree": 3, "base_activation": nn.SiLU, "first_dropout": True}

NETWORK_FAMILIES: dict[str, NetworkFamily] = {
    "KAN": NetworkFamily(
        {
            "dropout": 0.0,
            "grid_size": 5,
            "spline_order": 3,
            "base_activation": nn.GELU,
            "grid_range": (-1, 1),
            "l1_decay": 0.0,
            "first_dropout": True,
        },
        _spline,
    ),
    "KALN": NetworkFamily(_DEGREE, _legendre),
    "FastKAN": NetworkFamily(
        {
            **_FIRST,
            "grid_range": (-2, 2),
            "grid_size": 8,
            "use_base_update": True,
            "base_activation": nn.SiLU,
            "spline_weight_init_scale": None,
            "first_dropout": True,
        },
        _rbf,
    ),
    "KACN": NetworkFamily({**_FIRST, "degree": 3, "first_dropout": True}, _chebyshev),
    "KAGN": NetworkFamily(_DEGREE, _gram),
    "BottleNeckKAGN": NetworkFamily({**_DEGREE, "dim_reduction": 8, "min_internal": 16}, _bottleneck_gram),
    "KABN": NetworkFamily(_DEGREE, _coefficients("bernstein")),
    "KAJN": NetworkFamily(
        {**_FIRST, "degree": 3, "a": 1.0, "b": 1.0, "base_activation": nn.SiLU, "first_dropout": True},
        _coefficients("jacobi", "a", "b"),
    ),
    "WavKAN": NetworkFamily({**_FIRST, "first_dropout": True, "wavelet_type": "mexican_hat"}, _wavelet),
    "ReLUKAN": NetworkFamily({**_FIRST, "g": 1, "k": 1, "train_ab": True, "first_dropout": True}, _relu),
}

_NOTES = {
    "KABN": "The functions are Bernstein polynomials, where the peer's are all 1 (its recursion starts from ones), so "
    "that a network with its weights computes something else for every degree above 0.",
    "KACN": "Gradients stay finite where tanh(x) rounds to 1, where the peer's arccos has none.",
    "KAGN": "`base_activation` must be SiLU.",
    "BottleNeckKAGN": "`base_activation` must be SiLU.",
    "KALN": "The input is mapped by tanh until a state dict of the peer is loaded; from then on it is scaled by the "
    "smallest and largest value of the whole batch, as the peer does (see `BatchRangeLegendre`).",
    "FastKAN": "`spline_weight_init_scale` None starts variance-preserving; a number is the standard deviation of the "
    "functions' weights, as in the peer, whose default is 0.1.",
}


def make_network(name: str, layers_hidden: Sequence[int], **given: Any) -> Network:
    """The peer's network of that name; `given` are its parameters.

    Raises:
        TypeError, ValueError: a value out of range, an unknown activation or wavelet, fewer than two sizes.
    """
    family = NETWORK_FAMILIES[name]
    p = {**family.parameters, **given}
    sizes = [integer_at_least("layers_hidden", size, 1) for size in layers_hidden]
    if len(sizes) < 2:
        raise ValueError(f"layers_hidden (={sizes}) must name at least input and output, e.g. [784, 64, 10]")
    dropout = probability("dropout", p["dropout"])
    layer = family.layer(p)
    modules: list[nn.Module] = [nn.Dropout(dropout)] if dropout > 0 and p["first_dropout"] else []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        made = layer.make(inputs, outputs)
        made.register_load_state_dict_pre_hook(_Loader(name, p))
        modules.append(made)
        if dropout > 0 and i < len(sizes) - 2:
            modules.append(nn.Dropout(dropout))
    return Network(modules, sizes, p["l1_decay"])


def _factory(name: str, family: NetworkFamily) -> Callable[..., Network]:
    text = (
        f"torch-conv-kan's {name}: a network of linear layers of the same function, which loads its state dict.\n\n"
        f"{_NOTES.get(name, '')}\n\nArgs are the peer's; `l1_decay` is the strength of `penalty()`, a term to be added "
        "to the loss. Raises TypeError or ValueError for values out of range."
    )
    return named(name, {"layers_hidden": REQUIRED, **family.parameters}, partial(make_network, name), Network, text)


NETWORKS: dict[str, Callable[..., Network]] = {
    name: _factory(name, family) for name, family in NETWORK_FAMILIES.items()
}
"""The factories by the peer's names."""
