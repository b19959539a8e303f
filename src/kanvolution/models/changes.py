"""What was changed in a network after it was made, as data: channels and bases of single layers.

The description of a layer says what a layer of its kind is after pruning or refining, and a network's changes are the
entries in which its layers differ from those that its config makes. `apply_changes` brings a new network to them; the
weights come from its state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from kanvolution.bases import basis_from_description
from kanvolution.checks import integer_at_least
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.select import channels_of, select_channels
from kanvolution.models.network import Network
from kanvolution.registry import unknown_name

_FEATURES = "feature_channels"


def described_parts(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of a network that a description can be given of, by name: layers with channels, and networks."""
    return dict(_parts("", network))


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    layer = channels_of(module) is not None
    if layer or isinstance(module, Network):
        yield name, module
    if not layer:  # what is inside a layer follows it
        for child, inner in module.named_children():
            yield from _parts(f"{name}.{child}" if name else child, inner)


def describe_part(module: nn.Module) -> dict[str, Any]:
    """Channels of a layer and its basis, or the channels of a network's feature maps, in JSON types."""
    if isinstance(module, Network):
        return {_FEATURES: [info.channels for info in module.feature_info]}
    layout = channels_of(module)
    assert layout is not None
    values: dict[str, Any] = {name: getattr(module, name) for name in (layout.inputs, layout.outputs)}
    if isinstance(module, KANLayer):
        values["basis"] = module.basis.describe()
    return values


def changes_between(network: nn.Module, original: nn.Module | None) -> dict[str, dict[str, Any]]:
    """The entries of descriptions in which the layers of a network differ from those of the original, by name.

    Args:
        network: the changed network.
        original: as it was made; None where it cannot be made here: all entries are given then.
    """
    before = {} if original is None else {n: describe_part(m) for n, m in described_parts(original).items()}
    changes = {}
    for name, module in described_parts(network).items():
        own = {key: value for key, value in describe_part(module).items() if before.get(name, {}).get(key) != value}
        if own:
            changes[name] = own
    return changes


def apply_changes(network: nn.Module, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring the layers of a new network to the channels and bases of `changes_between`; weights are then arbitrary.

    Raises:
        ValueError: a layer or an entry that is not there, or more channels than the network has.
    """
    parts = described_parts(network)
    for name, wanted in changes.items():
        if name not in parts:
            raise ValueError(unknown_name("layer in changes", name, parts))
        module = parts[name]
        known = describe_part(module)
        for key in wanted:
            if key not in known:
                raise ValueError(unknown_name(f"entry of {name!r} in changes", key, known))
        if isinstance(module, Network):
            module.set_feature_channels(wanted[_FEATURES])
        else:
            _change_layer(name, module, {**known, **wanted}, "basis" in wanted)


def _change_layer(name: str, module: nn.Module, wanted: Mapping[str, Any], other_basis: bool) -> None:
    layout = channels_of(module)
    assert layout is not None
    first = {}
    for side, attribute in (("inputs", layout.inputs), ("outputs", layout.outputs)):
        count, there = integer_at_least(f"{name}.{attribute}", wanted[attribute], 1), getattr(module, attribute)
        if count > there:
            raise ValueError(f"{name}.{attribute} (={count}) in changes must be at most {there}, what the network has")
        if count < there:
            first[side] = torch.arange(count)
    if first:
        select_channels(module, **first)
    if other_basis and isinstance(module, KANLayer):
        groups = getattr(module, "groups", 1)
        inputs, outputs = getattr(module, layout.inputs), getattr(module, layout.outputs)
        basis = basis_from_description(wanted["basis"], in_channels=inputs, out_channels=outputs, groups=groups)
        shape = (outputs, inputs // groups * basis.size, *module.weight.shape[2:])
        module.set_basis(basis, module.weight.new_zeros(shape))
