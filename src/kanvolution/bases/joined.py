"""The functions of several bases side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases.basis import Basis, create_basis, register_basis
from kanvolution.ops.convolution import Convolution

_DEFAULT = ({"basis": "chebyshev", "degree": 2}, {"basis": "spline", "grid_size": 3, "spline_order": 2})


@register_basis("joined")
class Joined(Basis):
    """The functions of several bases, beside the base function of the first: smooth and local ones, say.

    The layer is the sum of one layer for each part, so every basis can be one.

    Args:
        in_channels, out_channels, groups: of the layer; it passes them itself.
        parts: two or more dictionaries, each with the name of a basis, `basis`, and its options.
        base: base function b(x), None for none, or "auto" for that of the first part.

    Raises:
        ValueError: fewer than two parts, an unknown basis or option, or a part without functions.
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
        base = members[0].base if base == "auto" else base
        super().__init__(sum(member.num_functions for member in members), base=base)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.parts = [dict(part) for part in parts]
        self.members = nn.ModuleList(members)
        self.per_output = any(member.per_output for member in members)  # type: ignore[misc]
        self._share_base()

    def _share_base(self) -> list[Basis]:
        """The members, the first of which has the base function."""
        members = [member for member in self.members if isinstance(member, Basis)]
        for number, member in enumerate(members):
            member.base = None if number else self.base
        return members

    @property
    def linear_in_weight(self) -> bool:
        return all(member.linear_in_weight for member in self._share_base())

    def reset_parameters(self) -> None:
        for member in self._share_base():
            member.reset_parameters()

    def attach(self, **parts: nn.Module | None) -> None:
        for member in self._share_base():
            member.attach(**parts)

    def is_fused(self) -> bool:
        return all(member.is_fused() for member in self._share_base())

    def functions(self, x: Tensor, **options: Any) -> Tensor:
        base = options.pop("base", None)
        options.pop("input_map", None)  # every member has its own
        values = [
            member.functions(x, input_map=member.input_map, base=None if number else base, **options)
            for number, member in enumerate(self._share_base())
        ]
        return torch.cat(values, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([member(x) for member in self._share_base()], dim=2)

    def contract(self, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
        """The sum of the members' layers, each with the weights of its own functions."""
        members = self._share_base()
        blocks = weight.unflatten(1, (-1, self.size)).split([member.size for member in members], dim=2)
        first, *others = (
            member.contract(x, block.flatten(1, 2), None if number else bias, convolution)
            for number, (member, block) in enumerate(zip(members, blocks, strict=True))
        )
        return sum(others, first)

    def edge_values(self, x: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
        return torch.cat([member.edge_values(x, outputs, inputs) for member in self._share_base()], dim=1)

    def second_moments(self) -> Tensor:
        return torch.cat([member.second_moments() for member in self._share_base()])


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
        before, members = basis.parts, list(basis.members)
    else:
        before, members = [{"basis": basis.name, **basis.options()}], [basis]
    larger = Joined(*shape, parts=[*before, {"basis": name, **options}], base=basis.base)
    new = larger.members[-1]
    first = members[0]
    assert isinstance(new, Basis) and isinstance(first, Basis)
    new.backend = larger.backend = basis.backend
    new.attach(norm=first.norm, input_dropout=first.input_dropout, function_dropout=first.function_dropout)
    larger.members = nn.ModuleList([*members, new])
    return larger.train(basis.training)
