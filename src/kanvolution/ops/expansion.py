"""How a family of univariate functions becomes one differentiable operator.

A family is a Python function that yields its K functions, one plane at a time:

    @expansion
    def legendre(x: Tensor, degree: int) -> Planes: ...

and, for a backward in closed form, its derivatives (or, where tensors are learned, a vector-Jacobian product):

    @legendre.derivative
    def _(x: Tensor, degree: int) -> Slopes: ...

From these `Expansion` defines the operator `kanvolution::legendre`, which maps x [N, C, *S] to [N, C, K, *S], saves x
alone, and computes the whole pair (input map and base function included) again in backward. Without a derivative the
family still works: it is composed of ordinary torch operators.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kanvolution.ops.pointwise import POINTWISE
from kanvolution.registry import unknown_name
from kanvolution.tracing import is_exporting, is_transforming

Planes = Iterable[Tensor]
"""One tensor of x's shape for each function."""

Slopes = Iterable[Tensor | None]
"""One tensor for each derivative; None stands for a derivative that is zero everywhere."""

_SCALARS = {int: "int", float: "float", bool: "bool", str: "str"}


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision functions are computed in: float32 for the 16-bit types, else the input's own."""
    return torch.promote_types(dtype, torch.float32)


def empty_expansion(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised [N, C, K, *S] tensor whose flattening to [N, C*K, *S] has the memory format of x."""
    batch, channels, *space = x.shape
    if _is_channels_last(x):
        last = x.ndim
        order = (0, last - 1, last, *range(1, last - 1))
        return torch.empty((batch, *space, channels, size), dtype=dtype, device=x.device).permute(order)
    return torch.empty((batch, channels, size, *space), dtype=dtype, device=x.device)


def _is_channels_last(x: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.ndim in formats and not x.is_contiguous() and x.is_contiguous(memory_format=formats[x.ndim])


def _laid_out_like(value: Tensor, x: Tensor) -> Tensor:
    """`value` with the dtype and strides that torch.empty_like(x) has, as the fake kernel promises."""
    like = torch.empty_like(x)
    if value.dtype == like.dtype and value.stride() == like.stride():
        return value
    # A differentiable backward must not write into `like`; strides matter to the compiled one only.
    return value.to(x.dtype) if torch.is_grad_enabled() else like.copy_(value)


class Expansion:
    """A family of functions as an operator; see the module's text. Made by the decorator `expansion`.

    Calling it computes, for x of shape [N, C, *S] (C may be absent from parameters that do not depend on it):

        E[n, c, 0] = base(x[n, c])                  if a base function is named
        E[n, c, k] = B_k(input_map(x[n, c]))        the family's functions, in order

    Args of the call:
        x: floating-point tensor of shape [N, C, *S].
        *args, **kwargs: what the family's function takes after x.
        input_map: name of the map applied before the functions ("identity", "tanh", "sigmoid", ...).
        base: name of the base function b(x), or None for no base function.
        dtype: dtype of the result; x's own by default (an autocast caller names the lower precision).
        mix: tensor [C, R, K] or [1, R, K] of learned combinations: the result is then
            sum_k mix[c, r, k] E[n, c, k], computed without ever holding E.

    Returns:
        Tensor [N, C, K, *S], K counting the base function, or [N, C, R, *S] with `mix`; flattening dimensions 1 and 2
        is a view.

    Raises:
        TypeError: x is not floating point, or the arguments do not match the family's.
        ValueError: input_map or base is unknown, or x has fewer than two dimensions.
    """

    def __init__(self, values: Callable[..., Planes]) -> None:
        self.values = values
        self.name = values.__name__
        self.__name__ = values.__name__
        self.__doc__ = values.__doc__
        hints = typing.get_type_hints(values)
        names = list(inspect.signature(values).parameters)[1:]
        for name in names:
            if hints.get(name) is not Tensor and hints.get(name) not in _SCALARS:
                raise TypeError(
                    f"{values.__name__}: argument {name!r} must be annotated as Tensor, int, float, bool or str, "
                    f"got {hints.get(name, 'no annotation')}"
                )
        self.argument_names = tuple(names)
        self.num_tensors = sum(hints[name] is Tensor for name in names)
        assert all(hints[name] is Tensor for name in names[: self.num_tensors]), "tensors come before scalars"
        kinds = ["Tensor" if hints[name] is Tensor else _SCALARS[hints[name]] for name in names]
        self._schema = "".join(f", {kind} {name}" for kind, name in zip(kinds, names, strict=True))
        self._defaults = {
            p.name: p.default for p in inspect.signature(values).parameters.values() if p.default is not p.empty
        }
        self._count = functools.lru_cache(maxsize=None)(self._count_planes)
        self._vjp: Callable[..., tuple[Tensor, ...]] | None = None
        self._op: Callable[..., Tensor] | None = None
        self._backward_op: Callable[..., list[Tensor]] | None = None

    # ------------------------------------------------------------------------------------------- definition

    def derivative(self, derivatives: Callable[..., Slopes]) -> Callable[..., Slopes]:
        """Decorator: `derivatives` yields dB_k/dx for each k (None where it is zero); defines the operator."""
        assert self.num_tensors == 0, "a family with tensor arguments gives a vjp"

        def vjp(x: Tensor, grads: list[Tensor], *args: Any) -> tuple[Tensor, ...]:
            total = torch.zeros_like(x)
            for grad, slope in zip(grads, derivatives(x, *args), strict=True):
                if slope is not None:
                    total = total + grad * slope
            return (total,)

        self._define(vjp)
        return derivatives

    def vjp(self, vjp: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        """Decorator: `vjp(x, grads, *args)` returns the gradients of x and of each tensor argument."""
        self._define(vjp)
        return vjp

    def _define(self, vjp: Callable[..., tuple[Tensor, ...]]) -> None:
        self._vjp = vjp
        name = _operator_name(self.values)
        schema = f"(Tensor x, Tensor? mix{self._schema}, str input_map, str? base, ScalarType dtype) -> Tensor"
        op = torch.library.custom_op(f"kanvolution::{name}", self._forward, mutates_args=(), schema=schema)
        op.register_fake(self._fake_forward)
        op.register_autograd(self._autograd_backward, setup_context=self._setup_context)
        schema = (
            f"(Tensor grad, Tensor x, Tensor? mix{self._schema}, str input_map, str? base, bool tensors) -> Tensor[]"
        )
        backward = torch.library.custom_op(
            f"kanvolution::{name}_backward", self._backward, mutates_args=(), schema=schema
        )
        backward.register_fake(self._fake_backward)
        self._op, self._backward_op = op, backward

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(
        self,
        x: Tensor,
        *args: Any,
        input_map: str = "identity",
        base: str | None = None,
        dtype: torch.dtype | None = None,
        mix: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"{self.name}: x must be floating point, got {x.dtype}; convert it with x.float()")
        if x.ndim < 2:
            raise ValueError(f"{self.name}: x must have shape [N, C, ...], got {tuple(x.shape)}")
        for kind, name in (("input map", input_map), ("base function", base)):
            if name is not None and name not in POINTWISE:
                raise ValueError(unknown_name(kind, name, POINTWISE))
        args = self._arguments(args, kwargs)
        # Exported programs are made of ATen operators alone, so that they run and translate without this package.
        if self._op is None or is_exporting() or is_transforming():
            return self.plain(x, *args, input_map=input_map, base=base, dtype=dtype, mix=mix)
        return self._op(x, mix, *args, input_map, base, dtype or x.dtype)

    def plain(
        self,
        x: Tensor,
        *args: Any,
        input_map: str = "identity",
        base: str | None = None,
        dtype: torch.dtype | None = None,
        mix: Tensor | None = None,
    ) -> Tensor:
        """The same result from ordinary torch operators: differentiable to any order, saving what autograd saves."""
        planes = list(self._planes(x, args, input_map, base))
        if mix is not None:
            planes = _combine(planes, mix.to(planes[0].dtype))
        if _is_channels_last(x):
            stacked = torch.stack([plane.movedim(1, -1) for plane in planes], dim=-1).movedim((-2, -1), (1, 2))
        else:
            stacked = torch.stack(planes, dim=2)
        return stacked.to(dtype or x.dtype)

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        missing = self.argument_names[len(args) :]
        kwargs = {**{name: value for name, value in self._defaults.items() if name in missing}, **kwargs}
        if len(args) > len(self.argument_names) or set(missing) != set(kwargs):
            signature = ", ".join(("x", *self.argument_names))
            raise TypeError(
                f"{self.name}({signature}) got {len(args)} arguments after x and the names {sorted(kwargs)}; "
                "give each argument once, and input_map, base, dtype and mix by name"
            )
        return (*args, *(kwargs[name] for name in missing))

    def _planes(self, x: Tensor, args: tuple[Any, ...], input_map: str, base: str | None) -> Iterator[Tensor]:
        work, args = self._at_working_precision(x, args)
        if base is not None:
            yield POINTWISE[base].value(work)
        yield from self.values(POINTWISE[input_map].value(work), *args)

    def _at_working_precision(self, x: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        dtype = working_dtype(x.dtype)
        tensors, scalars = args[: self.num_tensors], args[self.num_tensors :]
        return x.to(dtype), (*(t.to(dtype) for t in tensors), *scalars)

    # ------------------------------------------------------------------------- the operator and its backward

    def _forward(self, x: Tensor, mix: Tensor | None, *args: Any) -> Tensor:
        *family_args, input_map, base, dtype = args
        planes: Iterable[Tensor] = self._planes(x, tuple(family_args), input_map, base)
        if mix is not None:
            planes = _combine(planes, mix.to(working_dtype(x.dtype)))
        # One plane at a time: a family that yields never has all of them in memory beside the result.
        out = empty_expansion(x, self._result_size(mix, family_args, base), dtype)
        for k, plane in enumerate(planes):
            out[:, :, k] = plane
        return out

    def _fake_forward(self, x: Tensor, mix: Tensor | None, *args: Any) -> Tensor:
        *family_args, _, base, dtype = args
        return empty_expansion(x, self._result_size(mix, family_args, base), dtype)

    def _result_size(self, mix: Tensor | None, family_args: Sequence[Any], base: str | None) -> int:
        return self.size(*family_args) + int(base is not None) if mix is None else mix.shape[1]

    def size(self, *args: Any) -> int:
        """The number of functions for these arguments, base function not counted."""
        if self.num_tensors:
            # Learned tensors carry one value for each function in their last dimension.
            return args[0].shape[-1]
        return self._count(*args)

    def _count_planes(self, *scalars: Any) -> int:
        return sum(1 for _ in self.values(torch.empty((0, 1), device="cpu"), *scalars))

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mix, *args, input_map, base, _ = inputs
        ctx.save_for_backward(x, mix, *args[: self.num_tensors])
        ctx.options = (tuple(args[self.num_tensors :]), input_map, base)

    def _autograd_backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mix, *tensors = ctx.saved_tensors
        scalars, input_map, base = ctx.options
        wanted = any(ctx.needs_input_grad[2 : 2 + self.num_tensors])
        backward = self._backward
        if not torch.is_grad_enabled():  # else a graph of this backward is asked for, and plain operators give one
            assert self._backward_op is not None
            backward = self._backward_op
        grad_x, *rest = backward(grad, x, mix, *tensors, *scalars, input_map, base, wanted)
        grad_mix = None if mix is None else rest.pop(0)
        tensor_grads = rest if wanted else [None] * self.num_tensors
        return (grad_x, grad_mix, *tensor_grads, *(None for _ in scalars), None, None, None)

    def _backward(self, grad: Tensor, x: Tensor, mix: Tensor | None, *args: Any) -> list[Tensor]:
        """Gradients of x, of mix if there is one, and of the family's tensors if they are `wanted`."""
        *family_args, input_map, base, wanted = args
        assert self._vjp is not None
        tensors = family_args[: self.num_tensors]
        work, family_args = self._at_working_precision(x, tuple(family_args))
        grads = [plane.to(work.dtype) for plane in grad.unbind(2)]
        grad_mix: list[Tensor] = []
        if mix is not None:
            wide = mix.to(work.dtype)
            planes = self._planes(x, tuple(family_args), input_map, base)
            grad_mix.append(_combination_gradient(grads, planes, wide).to(mix.dtype))
            grads = _combine(grads, wide.transpose(1, 2))
        mapping = POINTWISE[input_map]
        mapped = mapping.value(work)
        base_grad = None if base is None else grads.pop(0)
        grad_mapped, *grad_tensors = self._vjp(mapped, grads, *family_args)
        total = grad_mapped if input_map == "identity" else grad_mapped * mapping.derivative(work, mapped)
        if base is not None and base_grad is not None:
            function = POINTWISE[base]
            total = total + base_grad * function.derivative(work, function.value(work))
        result = [_laid_out_like(total, x), *grad_mix]
        if wanted:
            result.extend(g.to(t.dtype) for g, t in zip(grad_tensors, tensors, strict=True))
        return result

    def _fake_backward(self, grad: Tensor, x: Tensor, mix: Tensor | None, *args: Any) -> list[Tensor]:
        wanted = args[-1]
        tensors = args[: self.num_tensors] if wanted else ()
        return [torch.empty_like(t) for t in (x, *(() if mix is None else (mix,)), *tensors)]


def _combine(planes: Iterable[Tensor], mix: Tensor) -> list[Tensor]:
    """The R planes sum_k mix[c, r, k] plane_k, one plane at a time."""
    totals: list[Tensor] = []
    for k, plane in enumerate(planes):
        columns = channelwise(mix[:, :, k], plane)
        if k == 0:
            totals = [plane * column for column in columns]
        else:
            totals = [torch.addcmul(total, plane, column) for total, column in zip(totals, columns, strict=True)]
    return totals


def _combination_gradient(grads: list[Tensor], planes: Iterable[Tensor], mix: Tensor) -> Tensor:
    """d/d mix[c, r, k] = sum over batch and space of grad_r plane_k (and over c, where all channels share mix)."""
    columns = [torch.stack([_channel_sums(grad * plane) for grad in grads], dim=1) for plane in planes]
    full = torch.stack(columns, dim=2)
    return full if mix.shape[0] == full.shape[0] else full.sum(dim=0, keepdim=True)


def _channel_sums(plane: Tensor) -> Tensor:
    return plane.sum(dim=(0, *range(2, plane.ndim)))


_operator_names: set[str] = set()


def _operator_name(function: Callable[..., Any]) -> str:
    """A name no other operator has: torch would replace an operator that is defined again under all who use it.

    The families of this package have their own names; others carry their module's, and a number where a notebook
    defines one twice.
    """
    own = function.__module__.startswith("kanvolution.ops.")
    stem = function.__name__ if own else f"{function.__module__}_{function.__name__}"
    stem = re.sub(r"\W", "_", stem)
    name, count = stem, 1
    while name in _operator_names:
        count += 1
        name = f"{stem}_{count}"
    _operator_names.update((name, f"{name}_backward"))
    return name


def expansion(values: Callable[..., Planes]) -> Expansion:
    """Decorator: turns a function (x, tensors..., scalars...) that yields K planes into an `Expansion`.

    Example:
        >>> import torch
        >>> from kanvolution.ops import expansion
        >>> @expansion
        ... def monomials(x: torch.Tensor, degree: int):
        ...     return [x**k for k in range(degree + 1)]
        >>> monomials(torch.randn(2, 3, 8), 4, input_map="tanh", base="silu").shape
        torch.Size([2, 3, 6, 8])
    """
    return Expansion(values)


def channelwise(parameter: Tensor, x: Tensor) -> list[Tensor]:
    """The K columns of a [K] or [C, K] parameter, each shaped to broadcast against x [N, C, *S]."""
    columns = parameter.unbind(-1)
    if parameter.ndim == 1:
        return list(columns)
    return [column.view(-1, *(1,) * (x.ndim - 2)) for column in columns]


def sum_like(columns: list[Tensor], parameter: Tensor) -> Tensor:
    """The gradient of a [K] or [C, K] parameter from K planes [N, C, *S]: summed over what was broadcast."""
    if parameter.ndim == 1:
        return torch.stack([plane.sum() for plane in columns])
    return torch.stack([_channel_sums(plane) for plane in columns], dim=-1)
