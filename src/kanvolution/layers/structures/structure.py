"""What a structure is: a way to make one convolution out of others, for any basis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from kanvolution.bases import Basis
from kanvolution.layers.conv import KAN_CONVOLUTIONS
from kanvolution.registry import Registry, unknown_name

MakeBasis = Callable[[int, int, int], Basis]
"""(in_channels, out_channels, groups) -> a new basis for a layer of that shape."""


@dataclass(frozen=True)
class ConvArguments:
    """nn.Conv's arguments, by its names."""

    in_channels: int
    out_channels: int
    kernel_size: int | tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: str | int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def to_dict(self) -> dict[str, Any]:
        """The arguments as keywords."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def but(self, **changes: Any) -> ConvArguments:
        """These arguments with some changed."""
        return replace(self, **changes)

    def pointwise(self, in_channels: int, out_channels: int, *, bias: bool = False) -> ConvArguments:
        """The arguments of a 1x1 convolution beside this one, of the same groups, device and dtype."""
        return ConvArguments(
            in_channels, out_channels, 1, groups=self.groups, bias=bias, device=self.device, dtype=self.dtype
        )


class Structure(ABC):
    """A frozen dataclass that builds one convolution from others; see `build`.

    Structures nest: `inner` is the structure of the convolution inside, None for a plain one. They are data: `to_dict`
    and `structure_from_dict` carry them through configs and checkpoints.
    """

    name: ClassVar[str] = ""
    inner: Structure | None

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Structure | None):
            raise TypeError(f"inner (={self.inner!r}) must be a Structure, e.g. LowRank(2), or None")

    @abstractmethod
    def build(self, ndim: int, make_basis: MakeBasis, arguments: ConvArguments) -> nn.Module:
        """A module [N, in_channels, *S] -> [N, out_channels, *S'] of the given arguments.

        Raises ValueError for a value that the structure or the basis cannot have, before anything is made.
        """

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types; `structure_from_dict` makes an equal structure."""
        values: dict[str, Any] = {"name": self.name}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            values[f.name] = value.to_dict() if isinstance(value, Structure) else value
        return values


STRUCTURES: Registry[type[Structure]] = Registry("structure")


S = TypeVar("S", bound=type[Structure])


def register_structure(name: str) -> Callable[[S], S]:
    """Class decorator: makes a `Structure` available to `ConvSpec` dictionaries and configs by name."""
    return STRUCTURES.adding(name, as_name=True)


def structure_from_dict(values: Mapping[str, Any]) -> Structure:
    """The structure of a `to_dict` dictionary. Raises ValueError for an unknown name or entry, naming the nearest."""
    if "name" not in values:
        raise ValueError(f"a structure (={dict(values)!r}) needs a name: one of {', '.join(STRUCTURES)}")
    cls = STRUCTURES[values["name"]]
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    rest = {key: value for key, value in values.items() if key != "name"}
    for key, value in rest.items():
        if key not in known:
            raise ValueError(unknown_name(f"option of structure {values['name']!r}", key, known))
        if isinstance(value, Mapping):
            rest[key] = structure_from_dict(value)
    return cls(**rest)


def build_conv(
    ndim: int, make_basis: MakeBasis, arguments: ConvArguments, structure: Structure | None = None
) -> nn.Module:
    """A convolution of the given basis, arguments and structure."""
    if structure is not None:
        return structure.build(ndim, make_basis, arguments)
    basis = make_basis(arguments.in_channels, arguments.out_channels, arguments.groups)
    return KAN_CONVOLUTIONS[ndim](**arguments.to_dict(), basis=basis)


PLAIN_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def plain_conv(ndim: int, arguments: ConvArguments, second_moment: float = 1.0) -> nn.Module:
    """torch's own convolution, its weights scaled so that input of that second moment gives output of variance one."""
    conv = PLAIN_CONVOLUTIONS[ndim](**arguments.to_dict())
    if not conv.weight.is_meta:
        nn.init.normal_(conv.weight, std=(conv.weight[0].numel() * second_moment) ** -0.5)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return conv
