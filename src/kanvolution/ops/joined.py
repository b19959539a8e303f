"""Several families as one: the functions of each in order, after an input map of its own, by one operator."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from kanvolution.ops.evaluation import Call, Planes
from kanvolution.ops.expansion import Expansion, Member
from kanvolution.ops.pointwise import POINTWISE


class Share(NamedTuple):
    """What one family has of a call of joined ones."""

    values: Callable[..., Planes]
    call: Call
    planes: slice
    """Which of the functions that the result has, or that are combined, are its own."""
    places: tuple[int, ...]
    """Of each of its `call.differentiable()`, the place among those of the joined families."""


class JoinedValues:
    """The functions of joined families and their vector-Jacobian product, as a family of one's own states them.

    Arguments are the tensors of all families, and then the input map and the numbers of each.
    """

    def __init__(self, families: tuple[Expansion, ...]) -> None:
        self.families = families
        self.__name__ = "_".join(("joined", *(family.operator_name for family in families)))
        self.__doc__ = f"The functions of {', '.join(family.name for family in families)}."
        self._tensors = _slices(family.num_tensors for family in families)
        self._scalars = _slices(1 + len(family.argument_names) - family.num_tensors for family in families)
        self._num_tensors = self._tensors[-1].stop

    def arguments(self) -> dict[str, type]:
        """The types of the arguments by name."""
        tensors: dict[str, type] = {}
        scalars: dict[str, type] = {}
        for i, family in enumerate(self.families):
            scalars[f"input_map_{i}"] = str
            for name, kind in family.arguments.items():
                (tensors if kind is Tensor else scalars)[f"{name}_{i}"] = kind
        return {**tensors, **scalars}

    def members(self, tensors: Sequence[Tensor], scalars: Sequence[Any]) -> list[Member]:
        """The families with the arguments of each; the inverse of `joined_arguments`."""
        found = []
        for family, own_tensors, own_scalars in zip(self.families, self._tensors, self._scalars, strict=True):
            input_map, *rest = scalars[own_scalars]
            found.append(Member(family, input_map, tuple(tensors[own_tensors]), tuple(rest)))
        return found

    def input_maps(self, scalars: Sequence[Any]) -> list[str]:
        """The input map of each family."""
        return [scalars[own.start] for own in self._scalars]

    def __call__(self, x: Tensor, *arguments: Any) -> Planes:
        for member, mapped in self._mapped(x, arguments):
            yield from member.family.values(mapped, *member.tensors, *member.scalars)

    def gradient(self, x: Tensor, grads: list[Tensor], *arguments: Any) -> tuple[Any, ...]:
        """The gradients of x and of each tensor: see `Expansion.vjp`."""
        total, of_tensors, first = None, [], 0
        for member, mapped in self._mapped(x, arguments):
            family, own = member.family, (*member.tensors, *member.scalars)
            assert family.gradient is not None
            last = first + family.size(*own)
            grad, *rest = family.gradient(mapped, grads[first:last], *own)
            if member.input_map != "identity":
                grad = grad * POINTWISE[member.input_map].derivative(x, mapped)
            total = grad if total is None else total + grad
            of_tensors += rest
            first = last
        return (total, *of_tensors)

    def _mapped(self, x: Tensor, arguments: Sequence[Any]) -> Iterator[tuple[Member, Tensor]]:
        """The families with what each sees of x."""
        maps: dict[str, Tensor] = {}
        for member in self.members(arguments[: self._num_tensors], arguments[self._num_tensors :]):
            if member.input_map not in maps:
                maps[member.input_map] = POINTWISE[member.input_map].value(x)
            yield member, maps[member.input_map]

    def shares(self, call: Call) -> list[Share]:
        """The call as one of each family. The base function belongs to the first."""
        found: list[Share] = []
        inputs = 1 + (call.base_input is not None)
        learned = inputs + (call.mix is not None)
        first = column = 0
        for member, tensors in zip(self.members(call.tensors, call.scalars), self._tensors, strict=True):
            base, base_input = (None, None) if found else (call.base, call.base_input)
            count = member.family.size(*member.tensors, *member.scalars) + (base is not None)
            keep = None if call.keep is None else tuple(k - first for k in call.keep if first <= k < first + count)
            planes = slice(column, column + (count if keep is None else len(keep)))
            own = call._replace(
                base_input=base_input,
                mix=None if call.mix is None else call.mix[:, :, planes],
                tensors=member.tensors,
                scalars=member.scalars,
                input_map=member.input_map,
                base=base,
                keep=keep,
            )
            places = (*range(1 if found else inputs), *range(inputs, learned))
            places += tuple(range(learned + tensors.start, learned + tensors.stop))
            found.append(Share(member.family.values, own, planes, places))
            first, column = first + count, planes.stop
        return found


class JoinedExpansion(Expansion):
    """The functions of several families as one operator, or of ordinary ones if a family has no derivative.

    `joined_families` makes it, and `joined_arguments` the arguments of a call. Its own input map comes before those of
    the families.
    """

    values: JoinedValues

    def __init__(self, families: tuple[Expansion, ...]) -> None:
        self.families = families
        values = JoinedValues(families)
        super().__init__(values, values.arguments())
        if all(family.gradient is not None for family in families):
            self._define(values.gradient)

    def _members(self, input_map: str, tensors: tuple[Tensor, ...], scalars: tuple[Any, ...]) -> list[Member]:
        # Joined once more, they are families like the others.
        alone = input_map == "identity"
        return self.values.members(tensors, scalars) if alone else super()._members(input_map, tensors, scalars)

    def size(self, *args: Any) -> int:
        members = self.values.members(args[: self.num_tensors], args[self.num_tensors :])
        return sum(member.family.size(*member.tensors, *member.scalars) for member in members)


@functools.cache
def joined_families(*families: Expansion) -> JoinedExpansion:
    """The families as one; made once, since an operator of torch.library is made once."""
    return JoinedExpansion(families)


def joined_arguments(members: Iterable[Member]) -> tuple[Any, ...]:
    """The arguments after x of the joined families of these members."""
    tensors: list[Tensor] = []
    scalars: list[Any] = []
    for member in members:
        tensors += member.tensors
        scalars += (member.input_map, *member.scalars)
    return (*tensors, *scalars)


def _slices(counts: Iterable[int]) -> list[slice]:
    ends = [0, *itertools.accumulate(counts)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]
