"""A basis from what `Basis.describe` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanvolution.bases.basis import BASES, Basis, create_basis, option_names
from kanvolution.bases.mixed import MixedBasis
from kanvolution.registry import unknown_name

_MIXED = ("rank", "shared", "inner")


def basis_from_description(
    description: Mapping[str, Any], *, in_channels: int = 1, out_channels: int = 1, groups: int = 1
) -> Basis:
    """A new basis of the functions that `Basis.describe` described, for a layer of the given shape.

    Raises:
        ValueError: an unknown basis or option, or a value out of range.

    Example:
        >>> import kanvolution as kv
        >>> basis = kv.create_basis("spline", grid_size=4).kept([0, 2, 3])
        >>> kv.bases.basis_from_description(basis.describe()).size
        3
    """
    values = dict(description)
    shape = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    keep = values.pop("keep", None)
    if keep is not None:
        return basis_from_description(values, **shape).kept(keep)
    if "inner" in values:
        for key in values:
            if key not in _MIXED:
                raise ValueError(unknown_name("entry of learned functions", key, _MIXED))
        return MixedBasis(
            basis_from_description(values["inner"], **shape), values["rank"], in_channels, values["shared"]
        )
    if "name" not in values:
        raise ValueError(f"the description of a basis (={dict(description)!r}) needs its name")
    name = values.pop("name")
    options = {key: value for key, value in values.items() if key != "base" or key in option_names(BASES[name])}
    basis = create_basis(name, **shape, **options)
    # A structure may have taken the base function away where it is no option.
    basis.base = values.get("base", basis.base)
    return basis
