"""The functions of several bases side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases.basis import Basis, create_basis, register_basis, set_backend
from kanvolution.ops.expansion import Member
from kanvolution.ops.joined import JoinedExpansion, joined_arguments, joined_families

_DEFAULT = ({"basis": "chebyshev", "degree": 2}, {"basis": "spline", "grid_size": 3, "spline_order": 2})


@register_basis("joined")
class Joined(Basis):
    """The functions of several bases, beside the base function of the first: smooth and local ones, say.

    One operator has the families of all parts, so a layer is one convolution.

    Args:
        in_channels, out_channels, groups: of the layer; it passes them itself.
        parts: two or more dictionaries, each with the name of a basis, `basis`, and its options.
        base: base function b(x), None for none, or "auto" for that of the first part.

    Raises:
        ValueError: fewer than two parts, an unknown basis or option, or a part without functions, with functions of
            its own for each output (`wavelet_edge`), or whose functions are not one call of an `Expansion`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        parts: Sequence[Mapping[str, Any]] = _DEFAULT,
        base: str | None = "auto",
    ) -> None:
        if isinstance(parts, str | Mapping) or len(parts) < 2:
            raise ValueError(f"parts (={parts!r}) must be two dictionaries or more, e.g. {list(_DEFAULT)}")
        members = []
        for part in parts:
            if not isinstance(part, Mapping) or not isinstance(part.get("basis"), str):
                raise ValueError(f"parts: {part!r} must be a dictionary with the name of a basis, e.g. {_DEFAULT[0]}")
            shape = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
            members.append(create_basis(part["basis"], **shape, **{k: v for k, v in part.items() if k != "basis"}))
            if not members[-1].num_functions:
                raise ValueError(f"parts: basis {part['basis']!r} has no function beside a base function; take another")
            if not members[-1].combines:
                raise ValueError(
                    f"parts: basis {part['basis']!r} has functions of its own for each output; take another"
                )
        base = members[0].base if base == "auto" else base
        super().__init__(sum(member.num_functions for member in members), base=base)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.parts = [dict(part) for part in parts]
        self.members = nn.ModuleList(members)
        self.family = self._joined_families()

    def reset_parameters(self) -> None:
        for member in self._members():
            member.reset_parameters()

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        found = [own for member in self._members() for own in _collected(member, x)]
        if tuple(own.family for own in found) != self.family.families:
            self.family = self._joined_families()
        options["input_map"] = "identity"  # each part has its own
        return self.family(x, *joined_arguments(found), **options)

    def _members(self) -> list[Basis]:
        return [member for member in self.members if isinstance(member, Basis)]

    @torch.no_grad()
    def _joined_families(self) -> JoinedExpansion:
        """The families of the parts as one.

        It is made before compilers and exporters follow the code, which may not make operators.

        Raises:
            ValueError: a part does something else than to call one expansion.
        """
        families = []
        x = torch.empty(1, self.in_channels, 1)
        for member in self._members():
            try:
                found = _collected(member, x)
            except TypeError as error:  # it knows some options alone
                raise _refusal(member) from error
            if sum(own.family.size(*own.tensors, *own.scalars) for own in found) != member.num_functions:
                raise _refusal(member)
            families += [own.family for own in found]
        return joined_families(*families)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "family"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.family = self._joined_families()


def _collected(member: Basis, x: Tensor) -> list[Member]:
    """What joined families have of this basis."""
    found: list[Member] = []
    if member.functions(x, input_map=member.input_map, base=None, collect=found) is not x:
        raise _refusal(member)
    return found


def _refusal(member: Basis) -> ValueError:
    return ValueError(
        f"parts: basis {member.name!r} cannot be joined with others: its `functions` must hand x and all options that "
        "it gets on to one call of an expansion, and return what that returns"
    )


def joined(basis: Basis, shape: tuple[int, int, int], name: str, options: Mapping[str, Any]) -> Joined:
    """A basis with the functions of another one after those of `basis`, which is its first member.

    Args:
        basis: the basis, or joined ones. What is attached to it is attached to the other one as well.
        shape: in_channels, out_channels and groups of the layer.
        name: of the other basis; its base function is left out.
        options: of the other basis.

    Raises:
        ValueError: an unknown name or option, or a basis that is not made by name (low rank).

    Example:
        >>> import kanvolution as kv
        >>> larger = kv.bases.joined(kv.create_basis("gram", degree=2), (1, 1, 1), "fourier", {"degree": 1})
        >>> larger.size, larger.parts[1]
        (6, {'basis': 'fourier', 'degree': 1})
    """
    if not basis.name:
        raise ValueError(f"a {type(basis).__name__} is not made by name, and cannot be joined with basis {name!r}")
    if isinstance(basis, Joined):
        before, members = basis.parts, basis._members()
    else:
        before, members = [{"basis": basis.name, **basis.options()}], [basis]
    larger = Joined(*shape, parts=[*before, {"basis": name, **options}], base=basis.base)
    larger.members = nn.ModuleList([*members, larger.members[-1]])
    larger.attach(norm=basis.norm, input_dropout=basis.input_dropout, function_dropout=basis.function_dropout)
    set_backend(larger, basis.backend)
    return larger.train(basis.training)
