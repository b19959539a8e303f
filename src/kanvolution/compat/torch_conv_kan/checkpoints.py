"""Reads the state dict of one of torch-conv-kan's layers into ours, key by key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.layers import KANConvNormAct, MixtureOfExperts
from kanvolution.layers.conv import KANConvNd
from kanvolution.layers.structures import BottleneckConv

# The peer's top-level entries of a layer; any of them marks a state dict as the peer's.
_ROOTS = (
    *("base_conv", "inner_proj", "out_proj"),
    *("poly_weights", "poly_conv", "spline_conv", "relukan_conv", "wavelet_conv"),
    *("w_gate", "w_noise"),
)

# Where our wavelets differ from the peer's by a constant factor, folded into the weights.
_WAVELET_SIGNS = {"mexican_hat": -1.0}


def gram_factors(degree: int) -> Tensor:
    """c_n with our recurrence coefficient beta_n = c_n * (the peer's beta_weights[n]); 1 where it is not used.

    The peer's beta(n, m) = (m + n)(m - n) n^2 / (m^2 / (4 n^2 - 1)) with m = n + 1.
    """
    factors = torch.ones(degree + 1, dtype=torch.float64)
    for n in range(1, degree):
        m = n + 1
        factors[n] = (m + n) * (m - n) * n**2 * (4 * n**2 - 1) / m**2
    return factors.float()


class Reader:
    """Takes entries out of a state dict below a prefix, and remembers which were missing or of another shape."""

    def __init__(self, state: dict[str, Any], prefix: str) -> None:
        self.state = state
        self.prefix = prefix
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def below(self, prefix: str) -> Reader:
        """A reader of the entries below a further prefix, which reports to the same lists."""
        reader = Reader(self.state, self.prefix + prefix)
        reader.missing, reader.misshapen = self.missing, self.misshapen
        return reader

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state

    def take(self, name: str, *shape: int) -> Tensor:
        """The entry `name`, which must have `shape`; zeros in its place if it does not."""
        value = self.state.pop(self.prefix + name, None)
        if value is None:
            self.missing.append(self.prefix + name)
        elif tuple(value.shape) != shape:
            self.misshapen.append(f"{self.prefix}{name}: {tuple(value.shape)} in the checkpoint, {shape} here")
        else:
            return value
        return torch.zeros(shape)

    def groups(self, pattern: str, groups: int, *shape: int) -> Tensor:
        """The entries of all groups, "{}" in `pattern` standing for the group's index, joined along dimension 0."""
        return torch.cat([self.take(pattern.format(group), *shape) for group in range(groups)])


@dataclass(frozen=True)
class _Shape:
    """Sizes of a layer, as its readers need them."""

    groups: int
    inputs: int  # of one group
    outputs: int  # of one group
    functions: int
    kernel: tuple[int, ...]

    @property
    def ones(self) -> tuple[int, ...]:
        return (1,) * len(self.kernel)


Layout = Callable[[Reader, nn.Module, _Shape], tuple[Tensor, dict[str, Tensor]]]
"""Reads the functions' weights as [O, I, K, *kernel], and the state of the basis."""


def _packed(by_channel: bool) -> Layout:
    """`poly_weights` [groups, O, I*K, *kernel], ordered function by function (or channel by channel)."""

    def read(reader: Reader, basis: nn.Module, s: _Shape) -> tuple[Tensor, dict[str, Tensor]]:
        weight = reader.take("poly_weights", s.groups, s.outputs, s.inputs * s.functions, *s.kernel).flatten(0, 1)
        if by_channel:
            weight = weight.unflatten(1, (s.inputs, s.functions))
        else:
            weight = weight.unflatten(1, (s.functions, s.inputs)).transpose(1, 2)
        extra: dict[str, Tensor] = {}
        if hasattr(basis, "beta"):
            beta = reader.take("beta_weights", s.functions)
            extra["beta"] = beta * gram_factors(s.functions - 1).to(beta)
        if hasattr(basis, "over_batch"):
            extra["over_batch"] = torch.tensor(True)
        return weight, extra

    return read


def _convolutions(name: str) -> Layout:
    """One convolution for each group, its channels ordered channel by channel; grids and phases beside it."""

    def read(reader: Reader, basis: nn.Module, s: _Shape) -> tuple[Tensor, dict[str, Tensor]]:
        weight = reader.groups(name + ".{}.weight", s.groups, s.outputs, s.inputs * s.functions, *s.kernel)
        extra: dict[str, Tensor] = {}
        if "rbf.grid" in reader:
            extra["grid"] = reader.take("rbf.grid", s.functions)
        if hasattr(basis, "low"):
            for ours, theirs in (("low", "phase_low"), ("high", "phase_high")):
                extra[ours] = reader.take(theirs, 1, s.inputs, s.functions, *s.ones).reshape(s.inputs, s.functions)
        if "arange" in reader:  # the peer's list of degrees
            reader.take("arange", 1, 1, s.functions, *s.ones)
        return weight.unflatten(1, (s.inputs, s.functions)), extra

    return read


def _wavelets(reader: Reader, basis: Any, s: _Shape) -> tuple[Tensor, dict[str, Tensor]]:
    """A wavelet for every edge, in any of the peer's three forms of its weights, and a 1x1 convolution after it."""
    weights = []
    for group in range(s.groups):
        root = f"wavelet_conv.{group}.wavelet_weights."
        if root + "0.weight" in reader:
            parts = [reader.take(f"{root}{o}.weight", 1, s.inputs, *s.kernel) for o in range(s.outputs)]
            weights.append(torch.cat(parts))
        elif (stored := reader.state.get(reader.prefix + root + "weight")) is not None and stored.ndim > 2 + len(
            s.ones
        ):
            weights.append(reader.take(root + "weight", s.outputs, 1, s.inputs, *s.kernel).squeeze(1))
        else:
            weights.append(reader.take(root + "weight", s.outputs, s.inputs, *s.kernel))
    weight = torch.cat(weights) * _WAVELET_SIGNS.get(basis.kind, 1.0)
    if basis.kind == "shannon":  # the peer multiplies by a window over the input channels of the group
        window = torch.hamming_window(s.inputs, periodic=False, dtype=weight.dtype, device=weight.device)
        weight = weight * window.view(1, -1, *s.ones)
    edges = (1, s.outputs, s.inputs, *s.ones)
    square = (s.outputs, s.outputs, *s.ones)
    extra = {
        name: reader.groups(f"wavelet_conv.{{}}.{name}", s.groups, *edges).reshape(-1, s.inputs)
        for name in ("scale", "translation")
    }
    mixing = reader.groups("wavelet_conv.{}.wavelet_out.weight", s.groups, *square)
    extra["mixing"] = mixing.reshape(s.groups, s.outputs, s.outputs)
    return weight.unsqueeze(2), extra


LAYOUTS: dict[str, Layout] = {
    "poly_weights": _packed(by_channel=False),
    "poly_weights_by_channel": _packed(by_channel=True),
    "poly_conv": _convolutions("poly_conv"),
    "spline_conv": _convolutions("spline_conv"),
    "relukan_conv": _convolutions("relukan_conv"),
    "wavelet_conv": _wavelets,
}
"""How each family of the peer keeps the weights of its functions."""


Part = Callable[[Reader, nn.Module], dict[str, Tensor]]
"""Makes the state dict of a module of ours from the peer's entries. Objects, not closures: layers are pickled."""


@dataclass(frozen=True)
class Functions:
    """A `KANConv`: the functions' weights by their layout, the base function's if it is one of ours, a norm inside."""

    layout: str

    def __call__(self, reader: Reader, conv: nn.Module) -> dict[str, Tensor]:
        assert isinstance(conv, KANConvNd)
        basis = conv.basis
        s = _Shape(
            conv.groups,
            conv.in_channels // conv.groups,
            conv.out_channels // conv.groups,
            basis.num_functions,
            conv.kernel_size,
        )
        weight, extra = LAYOUTS[self.layout](reader, basis, s)
        if basis.base is not None:
            base = reader.groups("base_conv.{}.weight", s.groups, s.outputs, s.inputs, *s.kernel)
            weight = torch.cat([base.unsqueeze(2), weight.to(base)], dim=2)
        entries = {f"basis.{key}": value for key, value in extra.items()}
        entries["weight"] = weight.flatten(1, 2)
        if basis.norm is not None:
            entries |= _prefixed("basis.norm.", _norm_entries(reader, basis.norm, s.groups))
        return entries


@dataclass(frozen=True)
class Bottlenecked:
    """A `BottleneckConv` around a part: three grouped convolutions, which the peer keeps as one for each group."""

    inner: Part

    def __call__(self, reader: Reader, conv: nn.Module) -> dict[str, Tensor]:
        assert isinstance(conv, BottleneckConv)
        entries = _prefixed("conv.", self.inner(reader, conv.conv))
        for ours, theirs in (("squeeze", "inner_proj"), ("unsqueeze", "out_proj"), ("base_conv", "base_conv")):
            plain = getattr(conv, ours)
            outputs, *shape = plain.weight.shape
            entries[f"{ours}.weight"] = reader.groups(
                theirs + ".{}.weight", plain.groups, outputs // plain.groups, *shape
            )
        return entries


@dataclass(frozen=True)
class Mixed:
    """A `MixtureOfExperts` of a part; `at` is where the peer keeps it inside its layer."""

    expert: Part
    at: str = ""

    def __call__(self, reader: Reader, mixture: nn.Module) -> dict[str, Tensor]:
        assert isinstance(mixture, MixtureOfExperts)
        gate = mixture.gate
        weights = ("w_gate", "w_noise")
        shape = (gate.in_channels, gate.num_experts)
        if self.at:  # the layer around it has a gate of its own, which it does not use
            for name in weights:
                reader.take(name, *shape)
        reader = reader.below(self.at)
        for constant in ("mean", "std"):
            reader.take(constant, 1)
        clean, noise = (reader.take(name, *shape).T for name in weights)
        entries = {"gate.weight": clean}
        if gate.noise_weight is not None:
            entries["gate.noise_weight"] = noise
        for i, expert in enumerate(mixture.experts):
            entries |= _prefixed(f"experts.{i}.", self.expert(reader.below(f"experts.{i}."), expert))
        return entries


@dataclass(frozen=True)
class Block:
    """A `KANConvNormAct` around a part."""

    conv: Part

    def __call__(self, reader: Reader, block: nn.Module) -> dict[str, Tensor]:
        assert isinstance(block, KANConvNormAct)
        entries = _prefixed("conv.", self.conv(reader, block.conv))
        groups = groups_of(block.conv)
        if block.norm is not None:
            entries |= _prefixed("norm.", _norm_entries(reader, block.norm, groups))
        if block.act is not None and list(block.act.parameters()):
            entries["act.weight"] = reader.groups("prelus.{}.weight", groups, 1)
        return entries


@dataclass(frozen=True)
class Child:
    """A part that is a child of ours, where the peer's is the layer itself."""

    name: str
    part: Part

    def __call__(self, reader: Reader, module: nn.Module) -> dict[str, Tensor]:
        return _prefixed(f"{self.name}.", self.part(reader, module.get_submodule(self.name)))


@dataclass(frozen=True)
class PeerLoader:
    """A load_state_dict pre-hook of a layer: rewrites the peer's entries into the layer's own, in place.

    A state dict without the peer's keys is left as it is. Missing entries are reported under the peer's names, entries
    of another shape as errors; entries that are not used stay and so count as unexpected.
    """

    part: Part

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
        if not any(key.startswith(prefix) and key[len(prefix) :].split(".")[0] in _ROOTS for key in state):
            return
        reader = Reader(state, prefix)
        converted = self.part(reader, layer)
        missing.extend(reader.missing)
        if reader.misshapen:
            errors.append("torch-conv-kan checkpoint does not fit this layer: " + "; ".join(reader.misshapen))
        if reader.missing or reader.misshapen:  # reported above; our own entries are not to be reported as well
            converted = layer.state_dict()
        state.update(_prefixed(prefix, converted))


def _prefixed(prefix: str, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in entries.items()}


def groups_of(conv: nn.Module) -> int:
    """The groups of the convolutions in `conv`; all of them have the same."""
    return next(m.groups for m in conv.modules() if isinstance(m, KANConvNd))


def _norm_entries(reader: Reader, norm: nn.Module, groups: int) -> dict[str, Tensor]:
    """The peer has one norm for each group; ours is one over all channels, or keeps them apart in `norms`."""
    entries: dict[str, Tensor] = {}
    for key, value in norm.state_dict().items():
        if key.startswith("norms."):
            entries[key] = reader.take("layer_norm." + key.removeprefix("norms."), *value.shape)
        elif value.ndim == 0:  # num_batches_tracked: the same for all groups
            counts = [reader.take(f"layer_norm.{group}.{key}") for group in range(groups)]
            entries[key] = counts[0]
        else:
            entries[key] = reader.groups(f"layer_norm.{{}}.{key}", groups, value.shape[0] // groups)
    return entries
