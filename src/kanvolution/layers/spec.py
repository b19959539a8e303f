"""ConvSpec: the serialisable conv factory that models, configs and checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from kanvolution.bases import BASES, Basis, check_basis, create_basis
from kanvolution.checks import integer_at_least, probability
from kanvolution.layers.block import DROPOUT_SITES, NORM_SITES, KANConvNormAct
from kanvolution.layers.conv import KAN_CONVOLUTIONS
from kanvolution.layers.parts import ACTIVATIONS, DROPOUTS, NORMS, make_activation, make_dropout, make_norm
from kanvolution.layers.structures import ConvArguments, Structure, build_conv, structure_from_dict
from kanvolution.registry import unknown_name

ConvFactory = Callable[..., nn.Module]
"""Any callable with nn.Conv's arguments that returns a module; blocks and models take one."""


@dataclass(frozen=True, init=False, eq=True)
class ConvSpec:
    """Which convolution, norm, activation and dropout a network is made of. Calling it makes a `KANConvNormAct`.

    Args:
        basis: name of a registered basis.
        ndim: 1, 2 or 3, the dimension of the convolutions it makes.
        norm: "batch", "instance", "layer", "group", or None.
        norm_options: keyword arguments of the norm.
        norm_site: see `KANConvNormAct`.
        act: name of an activation, None for none, or "auto" for the basis' own (`Basis.activation`).
        dropout: probability in [0, 1).
        dropout_site: see `KANConvNormAct`.
        dropout_kind: "dropout" (of whole channels), "noise" (`NoiseInjection`) or "multiplicative_noise"
            (`MultiplicativeNoise`), all with the probability `dropout`.
        structure: a `Structure` (bottleneck, low rank, ...), its dictionary, or None for the plain layer.
        options, **basis_options: options of the basis (`degree`, `grid_size`, ...), as a dictionary or by name.

    Raises:
        TypeError: a structure that is none.
        ValueError: an unknown name or option (the nearest is named), or a value out of range.

    Example:
        >>> import kanvolution as kv
        >>> spec = kv.ConvSpec("gram", degree=2, norm="instance")
        >>> block = spec(3, 16, kernel_size=3, padding=1)
        >>> kv.ConvSpec.from_dict(spec.to_dict()) == spec
        True
    """

    basis: str = "gram"
    ndim: int = 2
    norm: str | None = "batch"
    norm_options: Mapping[str, Any] = field(default_factory=dict)
    norm_site: str = "output"
    act: str | None = "auto"
    dropout: float = 0.0
    dropout_site: str = "full"
    dropout_kind: str = "dropout"
    structure: Structure | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        basis: str = "gram",
        *,
        ndim: int = 2,
        norm: str | None = "batch",
        norm_options: Mapping[str, Any] | None = None,
        norm_site: str = "output",
        act: str | None = "auto",
        dropout: float = 0.0,
        dropout_site: str = "full",
        dropout_kind: str = "dropout",
        structure: Structure | Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **basis_options: Any,
    ) -> None:
        merged = {**(options or {}), **basis_options}
        check_basis(basis, merged)
        create_basis(basis, **merged)  # for its checks of the values
        if integer_at_least("ndim", ndim, 1) not in KAN_CONVOLUTIONS:
            raise ValueError(f"ndim (={ndim}) must be 1, 2 or 3")
        for kind, value, known in (
            ("norm", norm, NORMS),
            ("activation", None if act == "auto" else act, ACTIVATIONS),
            ("norm_site", norm_site, NORM_SITES),
            ("dropout_site", dropout_site, DROPOUT_SITES),
            ("dropout_kind", dropout_kind, DROPOUTS),
        ):
            if value is not None and value not in known:
                raise ValueError(unknown_name(kind, value, known))
        values = {
            "basis": basis,
            "ndim": ndim,
            "norm": norm,
            "norm_options": dict(norm_options or {}),
            "norm_site": norm_site,
            "act": act,
            "dropout": probability("dropout", dropout),
            "dropout_site": dropout_site,
            "dropout_kind": dropout_kind,
            "structure": structure_from_dict(structure) if isinstance(structure, Mapping) else structure,
            "options": {key: _plain(value) for key, value in merged.items()},
        }
        if not isinstance(values["structure"], Structure | None):
            raise TypeError(f"structure (={structure!r}) must be a Structure, e.g. LowRank(2), or its dictionary")
        _check_norm(norm, ndim, values["norm_options"], norm_site)
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KANConvNormAct:
        """Make a block with nn.Conv's arguments. `bias=None` adds one only where no norm follows to replace it."""
        norm_follows = self.norm is not None and self.norm_site == "output"
        arguments = ConvArguments(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            not norm_follows if bias is None else bias,
            padding_mode,
            device,
            dtype,
        )
        conv = build_conv(self.ndim, self.make_basis, arguments, self.structure)
        return self.around(conv, in_channels, out_channels, device, dtype)

    def around(
        self,
        conv: nn.Module,
        in_channels: int,
        out_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KANConvNormAct:
        """The block of a convolution and this spec's norm, activation and dropout."""
        norm = None
        if self.norm is not None:
            channels = out_channels if self.norm_site == "output" else in_channels
            norm = make_norm(self.norm, self.ndim, channels, **self.norm_options).to(device, dtype)
        act = self.make_activation()
        return KANConvNormAct(
            conv,
            norm,
            None if isinstance(act, nn.Identity) else act.to(device, dtype),
            make_dropout(self.ndim, self.dropout, self.dropout_kind) if self.dropout > 0 else None,
            norm_site=self.norm_site,
            dropout_site=self.dropout_site,
        )

    def make_activation(self) -> nn.Module:
        """A new activation of the blocks; an identity where they have none."""
        act = BASES[self.basis].activation if self.act == "auto" else self.act
        return nn.Identity() if act is None else make_activation(act)

    def make_basis(self, in_channels: int, out_channels: int, groups: int) -> Basis:
        """A new basis for a layer of the given shape."""
        return create_basis(
            self.basis, in_channels=in_channels, out_channels=out_channels, groups=groups, **self.options
        )

    def __hash__(self) -> int:
        return hash(repr(sorted(self.to_dict().items())))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types; `from_dict` makes an equal spec."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["structure"] = None if self.structure is None else self.structure.to_dict()
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConvSpec:
        """The spec of a `to_dict` dictionary; missing entries take their defaults. Raises ValueError as the class."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(unknown_name("entry of a ConvSpec", key, known))
        return cls(**values)


def resolve_conv(conv: str | Mapping[str, Any] | ConvFactory, ndim: int | None = None) -> ConvFactory:
    """A conv factory from the name of a basis, a `ConvSpec` dictionary, or a factory itself.

    `ndim`, where given, is the dimension of the convolutions it must make.

    Raises:
        TypeError: none of these.
        ValueError: an unknown name or option, or a `ConvSpec` of another dimension than `ndim`.
    """
    if isinstance(conv, str):
        conv = ConvSpec(conv, ndim=ndim or 2)
    elif isinstance(conv, Mapping):
        conv = ConvSpec.from_dict(conv)
    if isinstance(conv, ConvSpec) and ndim not in (None, conv.ndim):
        raise ValueError(
            f"conv (a ConvSpec of ndim={conv.ndim}) must have ndim={ndim}; pass ConvSpec(..., ndim={ndim})"
        )
    if callable(conv):
        return conv
    raise TypeError(f"conv (={conv!r}) must be the name of a basis, a ConvSpec, or a callable with nn.Conv's arguments")


def _check_norm(norm: str | None, ndim: int, options: Mapping[str, Any], site: str) -> None:
    """Raises ValueError for options the norm does not take, or that have no norm to act on."""
    if norm is None:
        if options or site != "output":
            raise ValueError(
                f"norm_options (={dict(options)}) and norm_site (={site!r}) need a norm; name one, e.g. norm='batch'"
            )
        return
    try:
        make_norm(norm, ndim, options.get("num_groups", 8), **options)
    except TypeError as error:
        raise ValueError(f"norm_options (={dict(options)}) do not fit norm {norm!r}: {error}") from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
