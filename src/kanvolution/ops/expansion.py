"""How a family of univariate functions becomes one differentiable operator.

A family is a Python function that yields its K functions, one plane at a time:

    @expansion
    def legendre(x: Tensor, degree: int) -> Planes: ...

and, for a backward in closed form, its derivatives (or, where tensors are learned, a vector-Jacobian product):

    @legendre.derivative
    def _(x: Tensor, degree: int) -> Slopes: ...

From these `Expansion` defines the operator `kanvolution::legendre`, which maps x [N, C, *S] to [N, C, K, *S], saves x
alone, and computes the whole pair (input map and base function included) again in backward; and the operator
`kanvolution::legendre_convolution`, the same with a convolution behind it, which saves x and the weight, and computes
the expansion again for the gradient of the weight. Without a derivative the family still works: it is composed of
ordinary torch operators. `kanvolution.ops.joined` makes one family of several.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kanvolution.ops.backends import resolve_backend
from kanvolution.ops.convolution import CONVOLUTION_SCHEMA, Contraction, Convolution, channels_first, functions_first
from kanvolution.ops.evaluation import (
    Call,
    Planes,
    TensorGradient,
    channelwise,
    conform,
    empty_expansion,
    evaluate,
    evaluate_gradients,
    gradients,
    inner_sizes,
    laid_out,
    memory_format,
    parts_of_batch,
    stack,
    sum_like,
    working_dtype,
)
from kanvolution.ops.flops import enter_operator
from kanvolution.ops.pointwise import POINTWISE
from kanvolution.registry import unknown_name
from kanvolution.tracing import is_batched, is_exporting, is_followed, is_transforming

__all__ = ["Expansion", "Planes", "Slopes", "TensorGradient", "channelwise", "expansion", "sum_like", "working_dtype"]

Slopes = Iterable[Tensor | None]
"""One tensor for each derivative; None stands for a derivative that is zero everywhere."""

_SCALARS = {int: "int", float: "float", bool: "bool", str: "str"}


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
        base_input: tensor of x's shape that the base function sees in place of x.
        backend: name of one of `ops.BACKENDS`: what evaluates the functions.
        keep: numbers k, in order, of those functions that the result has; all by default. Not together with `mix`.
        into: a `Contraction`: the result is then the convolution of E, and neither forward nor backward keep E.
        collect: a list: nothing is evaluated then. It gets the family with its arguments, as a `Member` to be joined
            with others, and x is returned.

    Returns:
        Tensor [N, C, K, *S], K counting the base function, or [N, C, R, *S] with `mix`; flattening dimensions 1 and 2
        is a view. With `into`: what its convolution gives, [N, O, *S'].

    Raises:
        TypeError: x is not floating point, the arguments do not match the family's, or the weight of `into` has
            another dtype than the expansion and autocast is off.
        ValueError: input_map, base or backend is unknown, or x has fewer than two dimensions.
    """

    def __init__(self, values: Callable[..., Planes], arguments: Mapping[str, Any] | None = None) -> None:
        """`arguments` are the types of the arguments after x by name; by default what the signature says."""
        self.values = values
        self.name = self.operator_name = self.__name__ = values.__name__
        self.__doc__ = values.__doc__
        self._defaults: dict[str, Any] = {}
        if arguments is None:
            arguments, self._defaults = _stated(values)
        self.arguments = dict(arguments)
        self.argument_names = tuple(arguments)
        kinds = list(arguments.items())
        self.num_tensors = sum(kind is Tensor for _, kind in kinds)
        self._scalars = kinds[self.num_tensors :]
        assert all(kind is not Tensor for _, kind in self._scalars), "tensors come before scalars"
        self._scalar_schema = "".join(f", {_SCALARS[kind]} {name}" for name, kind in self._scalars)
        self._count = functools.lru_cache(maxsize=None)(self._count_planes)
        self.gradient: Callable[..., tuple[Any, ...]] | None = None
        self._expand: _Operator | None = None
        self._convolve: _Operator | None = None

    # ------------------------------------------------------------------------------------------- definition

    def derivative(self, derivatives: Callable[..., Slopes]) -> Callable[..., Slopes]:
        """Decorator: `derivatives` yields dB_k/dx for each k (None where it is zero); defines the operators."""
        assert self.num_tensors == 0, "a family with tensor arguments gives a vjp"

        def vjp(x: Tensor, grads: list[Tensor], *args: Any) -> tuple[Tensor]:
            total = None
            for grad, slope in zip(grads, derivatives(x, *args), strict=True):
                if slope is not None:
                    total = grad * slope if total is None else torch.addcmul(total, grad, slope)
            return (torch.zeros_like(x) if total is None else total,)

        self._define(vjp)
        return derivatives

    def vjp(self, vjp: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        """Decorator: `vjp(x, grads, *args)` returns the gradients of x and of each tensor argument.

        Those of tensors may be functions without arguments, which are called where the gradient is wanted.
        """
        self._define(vjp)
        return vjp

    def _define(self, vjp: Callable[..., tuple[Any, ...]]) -> None:
        self.gradient = vjp
        name = self.operator_name = _operator_name(self.values)
        self._expand = _Operator(self, name, convolves=False)
        self._convolve = _Operator(self, f"{name}_convolution", convolves=True)

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(
        self,
        x: Tensor,
        *args: Any,
        input_map: str = "identity",
        base: str | None = None,
        dtype: torch.dtype | None = None,
        mix: Tensor | None = None,
        base_input: Tensor | None = None,
        backend: str = "auto",
        keep: tuple[int, ...] | None = None,
        into: Contraction | None = None,
        collect: list[Member] | None = None,
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
        tensors, scalars = args[: self.num_tensors], self._converted(args[self.num_tensors :])
        if collect is not None:
            collect += self._members(input_map, tensors, scalars)
            return x
        call = Call(
            x,
            None if base is None else base_input,
            mix,
            tensors,
            scalars,
            input_map,
            base,
            dtype or x.dtype,
            resolve_backend(backend, x.device),
            None if keep is None else tuple(keep),
        )
        if into is not None:
            _check_dtypes(into, call)
        # Exported programs are made of ATen operators alone, so that they run and translate without this package.
        if self._expand is None or self._convolve is None or is_exporting() or is_transforming():
            expanded = stack(self.values, call)
            return expanded if into is None else into(expanded.flatten(1, 2))
        return self._expand(call) if into is None else self._convolve(call, into)

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
        tensors, scalars = args[: self.num_tensors], args[self.num_tensors :]
        call = Call(x, None, mix, tensors, scalars, input_map, base, dtype or x.dtype, "eager")
        return stack(self.values, call)

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        missing = self.argument_names[len(args) :]
        kwargs = {**{name: value for name, value in self._defaults.items() if name in missing}, **kwargs}
        if len(args) > len(self.argument_names) or set(missing) != set(kwargs):
            signature = ", ".join(("x", *self.argument_names))
            raise TypeError(
                f"{self.name}({signature}) got {len(args)} arguments after x and the names {sorted(kwargs)}; "
                "give each argument once, and input_map, base, dtype, mix, base_input, backend, keep, into and collect "
                "by name"
            )
        return (*args, *(kwargs[name] for name in missing))

    def _converted(self, scalars: tuple[Any, ...]) -> tuple[Any, ...]:
        """The scalars in the types that the family's function states."""
        for (name, kind), value in zip(self._scalars, scalars, strict=True):
            if kind is int and isinstance(value, float):
                raise TypeError(f"{self.name}: {name} (={value!r}) must be an integer")
        typed = zip(self._scalars, scalars, strict=True)
        return tuple(float(value) if kind is float else value for (_, kind), value in typed)

    def _members(self, input_map: str, tensors: tuple[Tensor, ...], scalars: tuple[Any, ...]) -> list[Member]:
        """What joined families have of this one."""
        return [Member(self, input_map, tensors, scalars)]

    def size(self, *args: Any) -> int:
        """The number of functions for these arguments, base function not counted."""
        if self.num_tensors:
            # Learned tensors carry one value for each function in their last dimension.
            return args[0].shape[-1]
        # A compiler sees no cache.
        return self._count_planes(*args) if torch.compiler.is_compiling() else self._count(*args)

    def _count_planes(self, *scalars: Any) -> int:
        return sum(1 for _ in self.values(torch.empty((0, 1), device="cpu"), *scalars))

    def _result_size(self, call: Call) -> int:
        if call.mix is not None:
            return call.mix.shape[1]
        if call.keep is not None:
            return len(call.keep)
        return self.size(*call.tensors, *call.scalars) + int(call.base is not None)


class Member(NamedTuple):
    """A family among joined ones, with its arguments."""

    family: Expansion
    input_map: str
    tensors: tuple[Tensor, ...]
    scalars: tuple[Any, ...]


class _Operator:
    """A family as an operator of torch.library, alone or with a convolution behind it, and its backward as another.

    Forward saves the tensors it is given and nothing else. Backward computes the expansion again, for the gradient of
    the weight, and lets go of it.
    """

    def __init__(self, family: Expansion, name: str, convolves: bool) -> None:
        self.family = family
        self.convolves = convolves
        tensors = "".join(f", Tensor {name}" for name in family.argument_names[: family.num_tensors])
        weight = "Tensor weight, Tensor? bias, " if convolves else ""
        scalars = f"{family._scalar_schema}, str input_map, str? base, ScalarType dtype, str backend, int[]? keep"
        schema = f"{weight}Tensor x, Tensor? base_input, Tensor? mix{tensors}{scalars}"
        if convolves:
            schema += f", {CONVOLUTION_SCHEMA}"
        forward = torch.library.custom_op(
            f"kanvolution::{name}", self._forward, mutates_args=(), schema=f"({schema}) -> Tensor"
        )
        forward.register_fake(self._fake_forward)
        forward.register_autograd(self._autograd_backward, setup_context=self._setup_context)
        backward = torch.library.custom_op(
            f"kanvolution::{name}_backward",
            self._backward,
            mutates_args=(),
            schema=f"(Tensor grad, bool[] wanted, {schema}) -> Tensor[]",
        )
        backward.register_fake(self._fake_backward)
        self.forward, self.backward = forward, backward
        if convolves:
            enter_operator(name, weight=0, x=2)

    def __call__(self, call: Call, into: Contraction | None = None) -> Tensor:
        given = [*([] if into is None else [t for t in into[1:] if t is not None]), *call.differentiable()]
        if is_followed(given):
            return self.forward(*self.pack(call, into))
        if not torch.is_grad_enabled():
            return self.values(call, into)
        return _Function.apply(self, call, into, *given)

    def pack(self, call: Call, into: Contraction | None) -> tuple[Any, ...]:
        """The arguments of the operator."""
        options = (*call.scalars, call.input_map, call.base, call.dtype, call.backend, call.keep)
        arguments = (call.x, call.base_input, call.mix, *call.tensors, *options)
        if into is None:
            return arguments
        return (into.weight, into.bias, *arguments, *into.convolution.arguments())

    def unpack(self, arguments: tuple[Any, ...]) -> tuple[Call, Contraction | None]:
        """The inverse of `pack`."""
        into = None
        if self.convolves:
            weight, bias, *rest = arguments
            rest, layout = rest[:-7], rest[-7:]
            convolution = Convolution.from_arguments(layout)
            into = Contraction(convolution, weight, bias)
            arguments = tuple(rest)
        x, base_input, mix, *rest = arguments
        *rest, input_map, base, dtype, backend, keep = rest
        keep = None if keep is None else tuple(keep)
        tensors, scalars = tuple(rest[: self.family.num_tensors]), tuple(rest[self.family.num_tensors :])
        return Call(x, base_input, mix, tensors, scalars, input_map, base, dtype, backend, keep), into

    def _forward(self, *arguments: Any) -> Tensor:
        return self.values(*self.unpack(arguments))

    def values(self, call: Call, into: Contraction | None) -> Tensor:
        """The result; not to be differentiated."""
        if into is None:
            return evaluate(self.family.values, call, self.family._result_size(call))
        if call.backend == "triton":
            from kanvolution.ops.triton import implicit_gemm

            if implicit_gemm.takes("forward", self.family.values, call, into):
                own = _at(into, call.dtype)
                return implicit_gemm.convolve(self.family.values, call, own, self.family._result_size(call))
        inside, weight = self._inside(call, into)
        bias = None if into.bias is None else into.bias.to(call.dtype)
        pieces = [
            into.convolution(self._expand(part.of(inside)), weight, bias)
            for part in parts_of_batch(inside, self.family._result_size(call), weight)
        ]
        return _joined(pieces).contiguous(memory_format=memory_format(call.x))

    def _expand(self, call: Call) -> Tensor:
        values, size = self.family.values, self.family._result_size(call)
        if not call.zeros:
            return _flat(evaluate(values, call, size), call)
        from kanvolution.ops.triton import evaluate as evaluate_into

        channels = call.x.shape[1]
        whole = self._unfilled(call).zero_()
        evaluate_into(values, call, size, whole[:, : channels * size].unflatten(1, (channels, size)))
        return whole

    def _unfilled(self, call: Call) -> Tensor:
        """A tensor as `_expand` gives it, with anything inside."""
        size = self.family._result_size(call)
        if not call.zeros:
            return _flat(empty_expansion(call.x, size, call.dtype, call.groups), call)
        batch, channels, *space = call.x.shape
        shape = (batch, channels * size + call.zeros, *space)
        return torch.empty(shape, dtype=call.dtype, device=call.x.device, memory_format=memory_format(call.x))

    def _inside(self, call: Call, into: Contraction) -> tuple[Call, Tensor]:
        """The call and the weight, in the call's dtype, in the layout and order that are fastest on x's device.

        Where channels lie next to each other in memory, functions come before the channels of a group: kernels and
        loops over channels then write and read whole vectors. The order is seen nowhere else.
        """
        weight, groups = into.weight, into.convolution.groups
        values, size = self.family.values, self.family._result_size(call)
        call = _laid_out(call, size, weight)
        width = call.x.shape[1] // groups
        if call.backend == "triton":
            from kanvolution.ops import triton as kernels

            if kernels.writes_functions_first(values, call, groups):
                # For channels-last weights PyTorch's own copy was as fast, and in the backward faster.
                copy = kernels.reorder if weight.is_contiguous() else Tensor.copy_
                ordered = functions_first(weight, width, memory_format(call.x), call.dtype, copy)
                return call._replace(groups=groups), ordered
            zeros = kernels.zero_channels(values, call, size, groups)
            return call._replace(zeros=zeros), _with_zeros(weight, call.dtype, zeros)
        large = call.x.device.type == "cpu" and call.x.numel() * size >= weight.numel()
        neighbours = call.x.ndim == 2 or memory_format(call.x) != torch.contiguous_format
        if large and neighbours and width > 1:
            return call._replace(groups=groups), functions_first(weight, width, torch.contiguous_format, call.dtype)
        return call, weight.to(call.dtype)

    def _fake_forward(self, *arguments: Any) -> Tensor:
        call, into = self.unpack(arguments)
        expanded = empty_expansion(call.x, self.family._result_size(call), call.dtype)
        if into is None:
            return expanded
        y = _at(into, call.dtype)(expanded.flatten(1, 2))
        return torch.empty_like(y, memory_format=memory_format(call.x))

    def _setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        call, into = self.unpack(inputs)
        ctx.with_bias = into is not None and into.bias is not None
        ctx.save_for_backward(*([] if into is None else [into.weight]), *call.differentiable())
        # What is saved above is left out here; only whether it is there matters.
        ctx.present = [isinstance(value, Tensor) for value in inputs]
        ctx.options = [None if isinstance(value, Tensor) else value for value in inputs]

    def _autograd_backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = list(ctx.options)
        for i, present in enumerate(ctx.present):
            if present and not (self.convolves and i == 1):  # the bias
                arguments[i] = next(saved)
        wanted = [p and n for p, n in zip(ctx.present, ctx.needs_input_grad, strict=True)]
        # A graph of this backward may be asked for, or many backwards at once, and plain operators give them.
        if torch.is_grad_enabled() or is_batched(grad):
            call, into = self.unpack(tuple(arguments))
            found = self.plain_gradients(grad, call, into, *self._split(wanted, call))
        else:
            found = self.backward(grad, wanted, *arguments)
        rest = iter(found)
        return tuple(next(rest) if want else None for want in wanted)

    def _split(self, wanted: list[bool], call: Call) -> tuple[tuple[bool, bool], tuple[bool, ...]]:
        """Which gradients of weight and bias, and of `call.differentiable()`, are wanted."""
        flags = list(wanted)
        contraction = (flags.pop(0), flags.pop(0)) if self.convolves else (False, False)
        slots = (call.x, call.base_input, call.mix, *call.tensors)
        return contraction, tuple(f for f, t in zip(flags, slots, strict=False) if t is not None)

    def _backward(self, grad: Tensor, wanted: list[bool], *arguments: Any) -> list[Tensor]:
        call, into = self.unpack(arguments)
        return self.gradients(grad, call, into, *self._split(wanted, call))

    def gradients(
        self, grad: Tensor, call: Call, into: Contraction | None, outer: tuple[bool, bool], inner: tuple[bool, ...]
    ) -> list[Tensor]:
        """Those gradients of weight, bias (outer) and `call.differentiable()` (inner) that are wanted."""
        if torch.is_autocast_enabled(grad.device.type):  # all has its types already
            with torch.autocast(grad.device.type, enabled=False):
                return self.gradients(grad, call, into, outer, inner)
        values, vjp = self.family.values, self.family.gradient
        assert vjp is not None
        if into is None:
            return evaluate_gradients(values, vjp, call, grad, inner)
        if call.backend == "triton":
            from kanvolution.ops.triton import implicit_gemm

            if implicit_gemm.takes("backward", values, call, into):
                own = _at(into, call.dtype)
                size = self.family._result_size(call)
                found = implicit_gemm.gradients(values, call, own, size, grad, (*outer, *inner))
                results = [conform(found.pop(0), into.weight)] if outer[0] else []
                results += [found.pop(0).to(into.weight.dtype)] if outer[1] else []
                return results + found
        inside, weight = self._inside(call, into)
        # Sums over parts of the batch are made at working precision; those for learned tensors are rounded once.
        mix, *learned = (None if t is None else t.to(working_dtype(t.dtype)) for t in (inside.mix, *inside.tensors))
        inside = inside._replace(mix=mix, tensors=tuple(learned))
        grad = grad.contiguous(memory_format=memory_format(inside.x))
        targets = [t for t, want in zip(call.differentiable(), inner, strict=True) if want]
        # Gradients of the inputs belong to a part of the batch, those of parameters are summed over all parts.
        joined = [False] * sum(outer) + [t is call.x or t is call.base_input for t in targets]
        pieces: list[list[Tensor]] = [[] for _ in joined]
        own = Contraction(into.convolution, weight, None)
        for part in parts_of_batch(inside, self.family._result_size(call), weight):
            found = self._gradients(part.of(inside), own, part(grad), outer, inner)
            for those, value, join in zip(pieces, found, joined, strict=True):
                if join or not those:
                    those.append(value)
                else:
                    those[0] = those[0].to(working_dtype(value.dtype)) + value
        found = iter([_joined(those) for those in pieces])
        results = []
        if outer[0]:
            results.append(self._in_order(next(found), inside, into.weight))
        if outer[1]:
            results.append(next(found).to(into.weight.dtype))
        return results + [conform(value, target) for value, target in zip(found, targets, strict=True)]

    def _gradients(
        self, call: Call, into: Contraction, grad: Tensor, outer: tuple[bool, bool], inner: tuple[bool, ...]
    ) -> list[Tensor]:
        """Those gradients of weight, bias and `call.differentiable()` that are wanted, for a part of the batch."""
        values, vjp = self.family.values, self.family.gradient
        assert vjp is not None
        size = self.family._result_size(call)
        channels = call.x.shape[1] * size
        inner_shape = (call.x.shape[0], *inner_sizes(call.x, size, call.groups), *call.x.shape[2:])

        def of_expansion(grad_expanded: Tensor) -> Tensor:
            return (grad_expanded[:, :channels] if call.zeros else grad_expanded).view(inner_shape)

        if outer[0] and any(inner) and call.backend == "triton":
            from kanvolution.ops import triton as kernels

            if kernels.supports(values, call):
                # In the memory of its gradient, and by the kernel that reads that: there is one of both at a time.
                expanded = into.convolution.input_gradient(grad, into.weight, call.x.shape[2:])
                expanded = expanded.contiguous(memory_format=memory_format(call.x))
                found = kernels.evaluate_gradients(values, call, of_expansion(expanded), inner, overwrites=True)
                rest = into.convolution.gradients(grad, expanded, into.weight, (False, *outer))
                return [g for g in rest if g is not None] + found
        # Without a gradient of the weight, the sizes of the expansion alone are needed.
        expanded = self._expand(call) if outer[0] else self._unfilled(call)
        grad_expanded, *rest = into.convolution.gradients(grad, expanded, into.weight, (any(inner), *outer))
        del expanded
        results = [g for g in rest if g is not None]
        if grad_expanded is not None:
            results += evaluate_gradients(values, vjp, call, of_expansion(grad_expanded), inner)
        return results

    def _in_order(self, grad_weight: Tensor, call: Call, weight: Tensor) -> Tensor:
        """The gradient of the weight as `_inside` gives it, as that of the weight."""
        if call.groups is not None:
            return channels_first(grad_weight, call.x.shape[1] // call.groups, weight)
        return conform(grad_weight[:, : weight.shape[1]], weight)

    def _fake_backward(self, grad: Tensor, wanted: list[bool], *arguments: Any) -> list[Tensor]:
        call, into = self.unpack(arguments)
        outer, inner = self._split(wanted, call)
        results = []
        if into is not None:
            weight = into.weight
            results += [torch.empty_like(weight)] if outer[0] else []
            results += [weight.new_empty(weight.shape[:1])] if outer[1] else []
        return results + [torch.empty_like(t) for t, want in zip(call.differentiable(), inner, strict=True) if want]

    def plain_gradients(
        self, grad: Tensor, call: Call, into: Contraction | None, outer: tuple[bool, bool], inner: tuple[bool, ...]
    ) -> list[Tensor]:
        """The same by ordinary operators, which are differentiable themselves."""
        values, vjp = self.family.values, self.family.gradient
        assert vjp is not None
        results: list[Tensor] = []
        if into is not None:
            convolution, weight, _ = _at(into, call.dtype)
            expanded = stack(values, call)
            found = convolution.gradients(grad, expanded.flatten(1, 2), weight, (any(inner), *outer))
            results = [g.to(into.weight.dtype) for g in found[1:] if g is not None]
            if found[0] is None:
                return results
            grad = found[0].unflatten(1, expanded.shape[1:3])
        return results + gradients(values, vjp, call, grad, inner)


class _Function(torch.autograd.Function):
    """An operator where nothing follows it: `is_followed`. It saves and computes the same."""

    @staticmethod
    def forward(ctx: Any, operator: _Operator, call: Call, into: Contraction | None, *given: Tensor) -> Tensor:
        ctx.operator, ctx.convolution = operator, None if into is None else into.convolution
        ctx.with_bias = into is not None and into.bias is not None
        inner = call.differentiable()
        ctx.call = call.with_tensors([_SAVED] * len(inner))
        ctx.save_for_backward(*([] if into is None else [into.weight]), *inner)
        return operator.values(call, into)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted, tensors = list(ctx.needs_input_grad[3:]), ctx.saved_tensors
        into, outer = None, (False, False)
        if ctx.convolution is not None:
            weight, *tensors = tensors
            into = Contraction(ctx.convolution, weight, None)
            outer = (wanted.pop(0), ctx.with_bias and wanted.pop(0))
        # A graph of this backward may be asked for, or many backwards at once, and plain operators give them.
        plain = torch.is_grad_enabled() or is_batched(grads[0])
        compute = ctx.operator.plain_gradients if plain else ctx.operator.gradients
        found = iter(compute(grads[0], ctx.call.with_tensors(tensors), into, outer, tuple(wanted)))
        return (None, None, None, *(next(found) if want else None for want in ctx.needs_input_grad[3:]))


_SAVED: Any = object()
"""In place of tensors that autograd keeps."""


def _check_dtypes(into: Contraction, call: Call) -> None:
    if into.weight.dtype != call.dtype and not torch.is_autocast_enabled(call.x.device.type):
        raise TypeError(
            f"input ({call.dtype}) and weight ({into.weight.dtype}) must have the same dtype; "
            "convert the layer, e.g. layer.to(x.dtype), or the input"
        )


def _at(into: Contraction, dtype: torch.dtype) -> Contraction:
    bias = None if into.bias is None else into.bias.to(dtype)
    return Contraction(into.convolution, into.weight.to(dtype), bias)


def _with_zeros(weight: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """The weight [O, I, *kernel] in that dtype, with `count` input channels more that weigh nothing."""
    if not count:
        return weight.to(dtype)
    outputs, channels, *kernel = weight.shape
    whole = torch.zeros((outputs, channels + count, *kernel), dtype=dtype, device=weight.device)
    whole[:, :channels] = weight
    return whole.contiguous(memory_format=torch.channels_last)


def _laid_out(call: Call, size: int, weight: Tensor) -> Call:
    # First layers: with stride one, the output is larger than the expansion.
    if call.x.shape[1] * size < weight.shape[0]:
        return call
    base_input = None if call.base_input is None else laid_out(call.base_input, size, weight)
    return call._replace(x=laid_out(call.x, size, weight), base_input=base_input)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _flat(expanded: Tensor, call: Call) -> Tensor:
    batch, _, *space = call.x.shape
    return expanded.reshape(batch, math.prod(expanded.shape[1 : expanded.ndim - len(space)]), *space)


def _stated(values: Callable[..., Planes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types and the defaults that a family's function states for its arguments after x."""
    hints, parameters = typing.get_type_hints(values), list(inspect.signature(values).parameters.values())[1:]
    for parameter in parameters:
        kind = hints.get(parameter.name, "no annotation")
        if kind is not Tensor and kind not in _SCALARS:
            raise TypeError(
                f"{values.__name__}: argument {parameter.name!r} must be annotated as Tensor, int, float, bool or str, "
                f"got {kind}"
            )
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {p.name: hints[p.name] for p in parameters}, defaults


_operator_names: set[str] = set()


def _operator_name(function: Callable[..., Any]) -> str:
    """A name no other operator has: torch would replace an operator that is defined again under all who use it.

    The families of this package have their own names; others carry their module's, and a number where a notebook
    defines one twice.
    """
    own = function.__module__.startswith("kanvolution.ops.")
    stem = function.__name__ if own else f"{function.__module__}_{function.__name__}"
    stem = re.sub(r"\W", "_", stem).lstrip("_")  # compiled code has the name in a class, where __main__ is another
    name, count = stem, 1
    while not _operator_names.isdisjoint(_names_of(name)):
        count += 1
        name = f"{stem}_{count}"
    _operator_names.update(_names_of(name))
    return name


def _names_of(family: str) -> list[str]:
    return [family, *(f"{family}_{part}" for part in ("backward", "convolution", "convolution_backward"))]


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
