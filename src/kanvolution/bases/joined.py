"""The functions of several bases side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases.basis import Basis, create_basis, register_basis, set_backend
from kanvolution.ops.convolution import Contraction

_DEFAULT = ({"basis": "chebyshev", "degree": 2}, {"basis": "spline", "grid_size": 3, "spline_order": 2})


@register_basis("joined")
class Joined(Basis):
    """The functions of several bases, beside the base function of the first: smooth and local ones, say.

    The layer is the sum of one layer for each part, so every basis can be one whose functions all outputs share.

    Args:
        in_channels, out_channels, groups: of the layer; it passes them itself.
        parts: two or more dictionaries, each with the name of a basis, `basis`, and its options.
        base: base function b(x), None for none, or "auto" for that of the first part.

    Raises:
        ValueError: fewer than two parts, an unknown basis or option, or a part without functions, or with
            functions of its own for each output (`wavelet_edge`).
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

    def reset_parameters(self) -> None:
        for member in self._members():
            member.reset_parameters()

    def functions(
        self,
        x: Tensor,
        *,
        base: str | None = None,
        base_input: Tensor | None = None,
        keep: Sequence[int] | None = None,
        mix: Tensor | None = None,
        into: Contraction | None = None,
        **options: Any,
    ) -> Tensor:
        if mix is not None and into is not None:  # one convolution of the combinations
            given = {**options, "base": base, "base_input": base_input, "keep": keep, "mix": mix}
            return into(self.functions(x, **given).flatten(1, 2))
        members = self._members()
        sizes = [member.num_functions for member in members]
        sizes[0] += base is not None
        chosen = range(sum(sizes)) if keep is None else keep
        results: list[Tensor] = []
        first = column = 0
        for number, (member, size) in enumerate(zip(members, sizes, strict=True)):
            own = tuple(k - first for k in chosen if first <= k < first + size)
            first += size
            if not own:
                continue
            columns = slice(column, column + len(own))
            column += len(own)
            given: dict[str, Any] = {**options, "input_map": member.input_map, "base": None if number else base}
            if base_input is not None and not number:
                given["base_input"] = base_input
            if keep is not None:
                given["keep"] = own
            if mix is not None:
                given["mix"] = mix[..., columns].contiguous()
            if into is not None:
                weight = into.weight.unflatten(1, (-1, len(chosen)))[:, :, columns].flatten(1, 2)
                given["into"] = into._replace(weight=weight, bias=None if results else into.bias)
            results.append(member.functions(x, **given))
        # Combinations and layers are sums over functions.
        return torch.cat(results, dim=2) if mix is None and into is None else sum(results[1:], results[0])

    def _members(self) -> list[Basis]:
        return [member for member in self.members if isinstance(member, Basis)]


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
