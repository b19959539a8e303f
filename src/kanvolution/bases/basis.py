"""What a basis is: K univariate functions B_k, their input map, and how they meet the weights of a layer."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kanvolution.ops.backends import check_backend
from kanvolution.ops.convolution import Contraction, Convolution
from kanvolution.ops.pointwise import POINTWISE
from kanvolution.registry import Registry, unknown_name

# The context a layer offers to the constructor of a basis; a basis names the ones it needs.
CONTEXT = ("in_channels", "out_channels", "groups")


@dataclass(frozen=True)
class Extension:
    """A larger basis of the same kind, which has the functions of a smaller one among its own.

    Attributes:
        options: options of the larger basis.
        before: how many of its new functions come before the old ones; the base function stays the first.
    """

    options: dict[str, Any]
    before: int = 0


class Basis(nn.Module, ABC):
    """K functions B_k of one variable, applied to every channel of the input.

    Function 0 is the base function b(x), if there is one; the others see the mapped (and, where a norm or a dropout is
    attached, normalised or dropped) input. A subclass states its functions and nothing else:

        >>> import kanvolution as kv
        >>> from torch import Tensor
        >>> @kv.ops.expansion
        ... def powers(x: Tensor, degree: int):
        ...     return [x**k for k in range(1, degree + 1)]
        >>> @kv.register_basis("powers")
        ... class Powers(kv.Basis):
        ...     def __init__(self, degree: int = 3) -> None:
        ...         super().__init__(degree, input_map="tanh", base="silu")
        ...         self.degree = degree
        ...     def functions(self, x, **options):
        ...         return powers(x, self.degree, **options)
        >>> kv.KANConv2d(3, 8, 3, basis="powers", degree=2).weight.shape
        torch.Size([8, 9, 3, 3])
        >>> kv.bases.BASES.unregister("powers")

    Every option of the constructor is also an attribute of the same name. A constructor may further ask the layer for
    `in_channels`, `out_channels` or `groups` by naming them (for parameters per channel, say).

    Args:
        num_functions: number of functions without the base function.
        input_map: name of the map applied before the functions ("identity", "tanh", "sigmoid", ...).
        base: name of the base function b(x) ("silu", "gelu", "identity", ...), or None for none.

    Raises:
        ValueError: an unknown input map or base function, or no function at all.
    """

    name: ClassVar[str] = ""
    per_output: ClassVar[bool] = False
    """Whether the functions differ from output to output, so that they belong to edges and not to input channels."""

    per_channel: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Which dimensions of parameters count channels: "inputs", "outputs" or "group_inputs" of the layer, for each."""

    activation: ClassVar[str | None] = "silu"
    """The activation a block puts after this basis' layer and norm when told "auto"."""

    def __init__(self, num_functions: int, *, input_map: str = "identity", base: str | None = "silu") -> None:
        super().__init__()
        for kind, value in (("input_map", input_map), ("base", base)):
            if value is not None and value not in POINTWISE:
                raise ValueError(unknown_name(kind, value, POINTWISE))
        if num_functions + (base is not None) < 1:
            raise ValueError("a basis needs at least one function; raise its degree or size, or name a base function")
        self.num_functions = num_functions
        self.input_map = input_map
        self.base = base
        self.backend = "auto"
        self.norm: nn.Module | None = None
        self.input_dropout: nn.Module | None = None
        self.function_dropout: nn.Module | None = None

    @property
    def size(self) -> int:
        """K: the number of functions, the base function included."""
        return self.num_functions + (self.base is not None)

    @property
    def linear_in_weight(self) -> bool:
        """Whether a factor on all weights of one output is a factor on that output (its bias aside)."""
        return True

    @property
    def combines(self) -> bool:
        """Whether the functions are the same for all outputs, so that combinations of them can be learned."""
        return type(self).contract is Basis.contract or self.num_functions == 0

    @abstractmethod
    def functions(self, x: Tensor, **options: Any) -> Tensor:
        """The functions of x [N, C, *S] as [N, C, K, *S]; `options` are those of an `Expansion`, to be passed on."""

    def attach(
        self,
        *,
        norm: nn.Module | None = None,
        input_dropout: nn.Module | None = None,
        function_dropout: nn.Module | None = None,
    ) -> None:
        """Put a norm or a dropout on the input of the functions, or a dropout on the functions; None changes nothing.

        The base function always sees the input as it is. Dropouts act in training only.
        """
        self.norm = self.norm if norm is None else norm
        self.input_dropout = self.input_dropout if input_dropout is None else input_dropout
        self.function_dropout = self.function_dropout if function_dropout is None else function_dropout

    def is_fused(self) -> bool:
        """Whether one operator computes all functions now; a dropout on single functions has to have them apart."""
        return not (self.training and self.function_dropout is not None)

    def functions_input(self, x: Tensor) -> Tensor:
        """What the functions see of x: dropped out (in training) and normalised, where attached."""
        if self.training and self.input_dropout is not None:
            x = self.input_dropout(x)
        return x if self.norm is None else self.norm(x)

    def drop_functions(self, expanded: Tensor) -> Tensor:
        """The dropout on [N, C, ...] function values, in training and where attached."""
        if self.training and self.function_dropout is not None:
            return self.function_dropout(expanded)
        return expanded

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, *S] -> [N, C, K, *S], in the autocast dtype where autocast is on."""
        if self.is_fused():
            return self._evaluate(x)
        dtype = compute_dtype(x)
        options = {"input_map": self.input_map, "dtype": dtype, "backend": self.backend}
        expanded = self.functions(self.functions_input(x), base=None, **options)
        expanded = self.drop_functions(expanded.flatten(1, 2)).unflatten(1, expanded.shape[1:3])
        if self.base is None:
            return expanded
        return torch.cat([POINTWISE[self.base].value(x).to(dtype).unsqueeze(2), expanded], dim=2)

    def contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
        """sum_{c,k} W[o, c*K + k] * B_k(x[c]): expand, then one ordinary grouped convolution, as one operator."""
        if self.is_fused():
            return self._evaluate(x, into=Contraction(convolution, weight, bias))
        return convolution(self(x).flatten(1, 2), weight, bias)

    def _evaluate(self, x: Tensor, **options: Any) -> Tensor:
        seen = self.functions_input(x)
        if seen is not x:
            options["base_input"] = x
        dtype = compute_dtype(x)
        return self.functions(
            seen, input_map=self.input_map, base=self.base, dtype=dtype, backend=self.backend, **options
        )

    @torch.no_grad()
    def edge_values(self, x: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        """The K functions on single edges of the layer, without what is attached.

        Args:
            x: values of the input, [S], or [in_channels, S] with values of each channel.
            outputs, inputs: channels of the E edges, integer tensors [E]; the input channel counts over all groups.

        Returns:
            Tensor [E, K, S].
        """
        if x.ndim == 1 and not hasattr(self, "in_channels"):  # all channels have the same functions
            x, inputs = x.unsqueeze(0), torch.zeros_like(inputs)
        channels = getattr(self, "in_channels", x.shape[0])
        values = self.functions(x.expand(channels, -1).unsqueeze(0), input_map=self.input_map, base=self.base)
        return values[0, inputs]

    def reset_parameters(self) -> None:
        """Put learned parameters of the functions back to their initial values."""

    def extension(self, count: int) -> Extension:
        """A larger basis with the same functions and further ones; `extended` makes it.

        A subclass that can grow gives its options with `count` degrees or frequencies more, or with `count` functions
        more at either end of its grid.

        Raises:
            ValueError: there is no such basis.
        """
        raise ValueError(
            f"basis {self.name!r} has no larger one (count={count}) with the same functions among its own; add the "
            "functions of another basis"
        )

    def division(self, parts: int) -> dict[str, Any]:
        """The options of the basis whose combinations have these functions, each interval of the grid in equal parts.

        Raises:
            ValueError: the functions are none of intervals.
        """
        raise ValueError(f"basis {self.name!r} has no intervals to divide (parts={parts}); spline has")

    def drop_base(self) -> None:
        """Do without the base function."""
        self.base = None

    def kept(self, keep: Sequence[int]) -> Basis:
        """A basis with some of these functions alone, which takes over what they have learned and what is attached.

        Args:
            keep: numbers of the functions kept, increasing; 0 is the base function, if there is one.

        Raises:
            ValueError: no number, numbers that do not increase, one that is not there, or functions that belong
                together.

        Example:
            >>> import kanvolution as kv
            >>> kv.create_basis("gram", degree=3).kept([0, 2, 3]).size
            3
        """
        from kanvolution.bases.kept import KeptFunctions  # it is a Basis itself

        return KeptFunctions(self, keep)

    @torch.no_grad()
    def select_channels(self, inputs: Tensor | None, outputs: Tensor | None, *, depthwise: bool = False) -> None:
        """Keep some channels of the parameters that belong to channels of the layer, as `per_channel` says.

        Args:
            inputs, outputs: the channels kept, in order; None for all. Layers with groups have `depthwise` alone.
            depthwise: whether each group has one channel.

        Raises:
            ValueError: parameters of which it is not known what their dimensions count.
        """
        for part in self.modules():
            if isinstance(part, Basis):
                part._select_own({"inputs": inputs, "outputs": outputs}, depthwise)

    def _select_own(self, chosen: Mapping[str, Tensor | None], depthwise: bool) -> None:
        sized = [name for name in CONTEXT if hasattr(self, name)]
        own = dict(self.named_parameters(recurse=False))
        if sized and own.keys() - self.per_channel.keys():
            raise ValueError(
                f"basis {self.name or type(self).__name__!r} does not say which channels its parameters "
                f"({', '.join(own)}) belong to; state it in `per_channel`"
            )
        inputs = chosen["inputs"]
        chosen = {**chosen, "group_inputs": None if depthwise else inputs}
        for name, dimensions in self.per_channel.items():
            value = own.get(name)
            if value is None:
                continue
            data = value.data
            for dim, what in enumerate(dimensions):
                index = chosen[what]
                if index is not None and data.shape[dim] > 1:  # one row is that of all channels
                    data = data.index_select(dim, index.to(data.device))
            setattr(self, name, nn.Parameter(data.contiguous(), value.requires_grad))
        counts = {"in_channels": inputs, "out_channels": chosen["outputs"], "groups": inputs if depthwise else None}
        for name, index in counts.items():
            if name in sized and index is not None:
                setattr(self, name, len(index))

    def make_first_identity(self) -> None:
        """Make function 0 x itself, which a layer needs to begin as an ordinary one.

        Raises:
            ValueError: the base function, which is function 0, is another.
        """
        if self.base != "identity":
            raise ValueError(
                f"the base function of basis {self.name!r} is {self.base!r}, and must be the identity: base='identity'"
            )

    @torch.no_grad()
    def second_moments(self) -> Tensor:
        """E[B_k(x)^2] for standard-normal x, [K] in float64, by the trapezoidal rule on [-9, 9]."""
        if any(t.device.type != "cpu" for t in (*self.parameters(), *self.buffers())):
            return copy.deepcopy(self).cpu().second_moments()  # not every device has float64
        x = torch.linspace(-9, 9, 721, dtype=torch.float64, device="cpu")
        density = torch.exp(-0.5 * x * x)
        density = density / density.sum()
        channels = getattr(self, "in_channels", 1)
        values = self.functions(
            x.expand(1, channels, -1), input_map=self.input_map, base=self.base, dtype=torch.float64
        )
        return (values.square() @ density).mean(dim=(0, 1))

    def initial_std(self, fan_in: float) -> Tensor:
        """Standard deviations [K] for the weights of each function, so that a layer keeps unit variance.

        With `fan_in` terms (input channels of a group times kernel taps) for each function and standard-normal input,
        sum_k fan_in std_k^2 E[B_k^2] = 1. All functions get an equal share, but for those that are almost always zero:
        their share is capped, since their weights would otherwise be huge.
        """
        moments = self.second_moments()
        std = moments.clamp_min(0.1 * float(moments.mean())).rsqrt()
        return std / (fan_in * (std.square() * moments).sum()).sqrt()

    def options(self) -> dict[str, Any]:
        """The constructor's options with their values; `create_basis(self.name, **options)` makes an equal basis."""
        return {name: getattr(self, name) for name in option_names(type(self))}

    def describe(self) -> dict[str, Any]:
        """What makes a basis of the same functions, in JSON types; `basis_from_description` reads it.

        Raises:
            ValueError: the basis is not registered.
        """
        if not self.name:
            raise ValueError(
                f"a {type(self).__name__} is not registered; use register_basis, so that a file can name it"
            )
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options().items()}
        return {"name": self.name, **options, "base": self.base}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())


def check_keep(keep: Sequence[int], size: int) -> None:
    """Raises ValueError unless `keep` has numbers of functions, increasing and below `size`."""
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= size:
        raise ValueError(f"keep (={list(keep)}) must be increasing numbers of functions from 0 to {size - 1}")


def compute_dtype(x: Tensor) -> torch.dtype:
    """x's dtype, or that of autocast where it is on."""
    kind = x.device.type
    if x.is_meta or x.dtype == torch.float64:  # autocast knows no meta device, and leaves float64 alone
        return x.dtype
    lowered = torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lowered else x.dtype


B = TypeVar("B", bound=type[Basis])
BASES: Registry[type[Basis]] = Registry("basis")


def register_basis(name: str) -> Callable[[B], B]:
    """Class decorator: makes a `Basis` available to every layer, model and config as `basis=name`."""
    return BASES.adding(name, as_name=True)


def list_bases() -> list[str]:
    """The names of all registered bases, sorted."""
    return list(BASES)


def set_backend(module: nn.Module, backend: str) -> nn.Module:
    """Choose what evaluates the functions of all bases in `module`; returns the module.

    It is an attribute of each basis (`Basis.backend`, "auto" at first); no state dict has it.

    Args:
        module: a layer, a model, or a basis.
        backend: a name of `ops.BACKENDS`: "auto", "eager", "compile" or "triton".

    Raises:
        ValueError: there is no such backend.

    Example:
        >>> import kanvolution as kv
        >>> model = kv.set_backend(kv.create_model("simple4", conv="gram", num_classes=10), "eager")
    """
    check_backend(backend)
    for part in module.modules():
        if isinstance(part, Basis):
            part.backend = backend
    return module


def option_names(cls: type[Basis]) -> list[str]:
    """The options a basis' constructor takes (what it asks of the layer left out)."""
    return [name for name in inspect.signature(cls).parameters if name not in CONTEXT]


def check_basis(name: str, options: dict[str, Any]) -> type[Basis]:
    """The class registered as `name`. Raises ValueError for an unknown name or option, naming the nearest."""
    cls = BASES[name]
    known = option_names(cls)
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of basis {name!r}", option, known or ["(none)"]))
    return cls


def create_basis(name: str, *, in_channels: int = 1, out_channels: int = 1, groups: int = 1, **options: Any) -> Basis:
    """Make the basis registered as `name` for a layer of the given shape.

    Raises:
        ValueError: unknown name or option (the nearest is named), or a value out of range.
    """
    cls = check_basis(name, options)
    offered = dict(zip(CONTEXT, (in_channels, out_channels, groups), strict=True))
    wanted = inspect.signature(cls).parameters
    return cls(**{key: value for key, value in offered.items() if key in wanted}, **options)


def resolve_basis(
    basis: str | Basis, options: dict[str, Any], in_channels: int, out_channels: int, groups: int
) -> Basis:
    """The basis of a layer: made by name with `options`, or an instance checked against the layer's shape.

    Raises:
        TypeError: neither a name nor a Basis.
        ValueError: unknown name or option, options beside an instance, or an instance made for another shape.
    """
    if isinstance(basis, str):
        return create_basis(basis, in_channels=in_channels, out_channels=out_channels, groups=groups, **options)
    if not isinstance(basis, Basis):
        raise TypeError(f"basis (={basis!r}) must be the name of a basis or a Basis, e.g. basis='gram'")
    if options:
        raise ValueError(f"options {sorted(options)} go to the constructor of the basis when an instance is passed")
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        made_for = getattr(basis, name, value)
        if made_for != value:
            raise ValueError(f"basis was made for {name} (={made_for}), but the layer has {name} (={value})")
    return basis
