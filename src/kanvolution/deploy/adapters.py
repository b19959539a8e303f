"""Kinds of adapters by name: what of a network is trained when it is fine-tuned, and what that starts from."""

from __future__ import annotations

import fnmatch
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from torch import nn

from kanvolution.bases import Basis, create_basis, extended, joined
from kanvolution.checks import integer_at_least
from kanvolution.deploy.deltas import FunctionsDelta, LowRankDelta, largest_rank
from kanvolution.deploy.growth import Growth, Shape
from kanvolution.layers.layer import KANLayer
from kanvolution.registry import Registry, unknown_name


class AdapterKind(ABC):
    """What of a network is trained, as data: a frozen dataclass whose fields are its options.

    Attributes:
        learning_rate: that of AdamW which `kanvolution finetune` takes by default.
        whole: whether every parameter is trained, so that there is nothing to save beside the network.
        norms: whether norms are trained, with their running statistics; otherwise these stay as they are.
        head: whether the classifier's head is trained.
        bases: whether parameters of bases are trained.
    """

    name: ClassVar[str]
    learning_rate: ClassVar[float] = 5e-3
    whole: bool = False
    norms: bool = False
    head: bool = True
    bases: bool = False

    def grow(self, model: nn.Module) -> Growth | None:
        """Give the network further functions, which change nothing; None where the kind adds none."""
        return None

    def deltas(self, layers: Mapping[str, KANLayer], growth: Growth | None) -> dict[str, nn.Module]:
        """What is added to the weights of which layers, by their names.

        Args:
            layers: the layers outside of a head that is trained as a whole.
            growth: what `grow` did.
        """
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The name and the options, in JSON types; `adapter_kind` makes an equal object."""
        options = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}  # pyright: ignore[reportArgumentType]
        return {"name": self.name, **options}


T = TypeVar("T", bound=type[AdapterKind])
ADAPTERS: Registry[type[AdapterKind]] = Registry("adapter")


def register_adapter(name: str) -> Callable[[T], T]:
    """Class decorator: makes a kind of adapter available to `adapt` and to `kanvolution finetune` as `adapter=name`."""
    return ADAPTERS.adding(name, as_name=True)


def list_adapters() -> list[str]:
    """The names of all registered kinds of adapters, sorted."""
    return list(ADAPTERS)


def adapter_kind(kind: str | Mapping[str, Any] | AdapterKind, **options: Any) -> AdapterKind:
    """The kind of adapter of a name and options, of a dictionary with both, or the kind itself.

    Raises:
        TypeError: none of these.
        ValueError: an unknown name or option (the nearest is named), or a value out of range.
    """
    if isinstance(kind, AdapterKind):
        return kind
    if isinstance(kind, Mapping):
        options = {**kind, **options}
        kind = options.pop("name", None)
    if not isinstance(kind, str):
        raise TypeError(f"adapter (={kind!r}) must be a name, a dictionary with 'name' and options, or an AdapterKind")
    cls = ADAPTERS[kind]
    known = list(getattr(cls, "__dataclass_fields__", {}))
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of adapter {kind!r}", option, known or ["(none)"]))
    return cls(**options)


@register_adapter("full")
@dataclass(frozen=True)
class Full(AdapterKind):
    """All parameters are trained: ordinary fine-tuning, to compare with."""

    learning_rate = 2e-3
    whole = norms = bases = True


@register_adapter("head")
@dataclass(frozen=True)
class Head(AdapterKind):
    """The classifier's head alone is trained, and the norms on request.

    Args:
        norms: train the norms too, with their running statistics.
    """

    norms: bool = False


@dataclass(frozen=True, kw_only=True)
class Deltas(AdapterKind):
    """A kind that adds something to the weights of layers.

    Args:
        layers: patterns of names of the layers that are adapted, e.g. [stages.*]; `*` stands for anything.
        norms: train the norms too, with their running statistics; otherwise these stay as they are.
        head: train the classifier's head as a whole, where the network has one.
        bases: train the parameters of bases (coefficients of Gram polynomials, scales of wavelets, ...).
    """

    layers: Sequence[str] = ("*",)
    norms: bool = True
    head: bool = True
    bases: bool = False

    def deltas(self, layers: Mapping[str, KANLayer], growth: Growth | None) -> dict[str, nn.Module]:
        if not layers:
            raise ValueError(
                f"adapter {self.name!r} finds no Kolmogorov-Arnold layer (beside the head) in this network; "
                "use adapter 'head' or 'full'"
            )
        chosen: set[str] = set()
        for pattern in self.layers:
            found = fnmatch.filter(layers, pattern)
            if not found:
                raise ValueError(unknown_name("pattern of adapter.layers", pattern, layers))
            chosen.update(found)
        found = {name: self.delta(name, layer, growth) for name, layer in layers.items() if name in chosen}
        return {name: delta for name, delta in found.items() if delta is not None}

    @abstractmethod
    def delta(self, name: str, layer: KANLayer, growth: Growth | None) -> nn.Module | None:
        """What is added to the weight of one layer, a module that maps the weight to the sum; None for nothing."""


@register_adapter("functions")
@dataclass(frozen=True)
class Functions(Deltas):
    """Some of the functions are trained in every layer: single degrees of a polynomial, say.

    Args:
        functions: their numbers in each layer's basis; 0 is its base function, if it has one, and -1 the last function.
    """

    functions: Sequence[int] = (-1,)

    def __post_init__(self) -> None:
        if isinstance(self.functions, str) or not len(self.functions):
            raise ValueError(f"adapter.functions (={self.functions!r}) must name at least one function, e.g. [0,-1]")
        for number in self.functions:
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"adapter.functions (={list(self.functions)}) must be whole numbers, e.g. [0,-1]")

    def delta(self, name: str, layer: KANLayer, growth: Growth | None) -> nn.Module | None:
        size = layer.basis.size
        for number in self.functions:
            if not -size <= number < size:
                raise ValueError(
                    f"adapter.functions (={list(self.functions)}): {number} must be between {-size} and {size - 1}, "
                    f"since layer {name!r} has {size} functions; choose others, or leave it out by adapter.layers"
                )
        return FunctionsDelta(layer, sorted({number % size for number in self.functions}))


@register_adapter("new_functions")
@dataclass(frozen=True)
class NewFunctions(Deltas):
    """New functions are added to every layer and trained; they begin with weight zero, so nothing changes at first.

    Args:
        count: degrees, frequencies or wavelets more; of a basis with a grid, functions more at either end of the grid.
        basis: name of another basis whose functions are added in their place; null for more of the network's own.
        basis_options: options of that basis.
    """

    count: int = 1
    basis: str | None = None
    basis_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        integer_at_least("adapter.count", self.count, 1)
        if self.basis is None:
            if self.basis_options:
                raise ValueError(f"adapter.basis_options (={dict(self.basis_options)}) need adapter.basis, a name")
            return
        if self.count != 1:
            raise ValueError(
                f"adapter.count (={self.count}) is for the network's own basis; the size of basis {self.basis!r} is "
                "among adapter.basis_options"
            )
        create_basis(self.basis, **(self.basis_options or {}))  # for its checks

    def grow(self, model: nn.Module) -> Growth | None:
        return Growth(model, self._enlarged)

    def _enlarged(self, basis: Basis, shape: Shape) -> tuple[Basis, tuple[int, ...]]:
        if self.basis is None:
            return extended(basis, self.count)
        return joined(basis, shape, self.basis, self.basis_options or {}), tuple(range(basis.size))

    def delta(self, name: str, layer: KANLayer, growth: Growth | None) -> nn.Module | None:
        new = growth.new.get(name, ()) if growth is not None else ()
        return FunctionsDelta(layer, new) if new else None


@register_adapter("lora")
@dataclass(frozen=True)
class LoRA(Deltas):
    """A matrix of low rank is added to the weight of every layer. Source: LoRA, arXiv 2106.09685.

    Args:
        rank: of the matrix, >= 1.
        alpha: the matrix is multiplied by alpha / rank.
    """

    rank: int = 8
    alpha: float = 8.0

    def __post_init__(self) -> None:
        integer_at_least("adapter.rank", self.rank, 1)
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"adapter.alpha (={self.alpha}) must be positive and finite; pass e.g. {self.rank}")

    def delta(self, name: str, layer: KANLayer, growth: Growth | None) -> nn.Module | None:
        limit = largest_rank(layer)
        if self.rank > limit:
            raise ValueError(
                f"adapter.rank (={self.rank}) must be <= {limit}, the largest rank that the weight of layer {name!r} "
                f"can have (shape {list(layer.weight.shape)}); lower it, or leave the layer out by adapter.layers"
            )
        return LowRankDelta(layer, self.rank, self.alpha / self.rank)
