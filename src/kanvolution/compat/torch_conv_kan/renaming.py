"""torch-conv-kan's entries of a network's state dict under our names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.compat.torch_conv_kan.checkpoints import groups_of
from kanvolution.layers import KANConvNormAct


@dataclass(frozen=True)
class Renaming:
    """Hooks of load_state_dict: torch-conv-kan's entries under our names, and missing ones reported under its own.

    Attributes:
        names: beginnings of its entries -> of ours.
        refused: a beginning of entries that do not carry over -> why; None for none.
        normed: our layers whose norm has a gain and a bias where its norm has none.
    """

    names: Mapping[str, str]
    refused: tuple[str, str] | None = None
    normed: tuple[str, ...] = ()

    def attach(self, network: nn.Module) -> None:
        """Register the hooks."""
        network.register_load_state_dict_pre_hook(self.before)
        network.register_load_state_dict_post_hook(self.after)

    def before(
        self,
        network: nn.Module,
        state: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        """Rename the entries, in place, where they are torch-conv-kan's."""
        theirs = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        theirs = {key: rest for key, rest in theirs.items() if _beginning(rest, self.names)}
        if self.refused is not None and any(rest.startswith(self.refused[0]) for rest in theirs.values()):
            errors.append(self.refused[1])
        for key, rest in theirs.items():
            state[prefix + self.ours(rest)] = state.pop(key)
        if theirs:
            for path in self.normed:
                for key, value in _identity_norm(network.get_submodule(path)):
                    state.setdefault(f"{prefix}{path}.{key}", value)

    def after(self, network: nn.Module, incompatible: Any) -> None:
        """Give back their names to the entries that were missing or left over, where they are torch-conv-kan's."""
        for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
            keys[:] = [self.theirs(key) for key in keys]

    def ours(self, key: str) -> str:
        """Our name of an entry; it stays as it is where there is none."""
        begin = _beginning(key, self.names)
        if not begin:
            return key
        # Layers with a penalty are wrapped, and its Matryoshka layer has a number.
        rest = key.removeprefix(begin).removeprefix("module.")
        return self.names[begin] + rest.replace("nesting_classifier_0.", "linear.")

    def theirs(self, key: str) -> str:
        """torch-conv-kan's name of an entry that is not one of ours."""
        names = {ours: theirs for theirs, ours in self.names.items()}
        begin = _beginning(key, names)
        return names[begin] + key.removeprefix(begin) if begin else key


def _beginning(key: str, names: Mapping[str, str]) -> str:
    """The longest of `names` that the key begins with, "" for none; names end with dots."""
    parts = key.split(".")
    for count in range(len(parts) - 1, 0, -1):
        begin = ".".join(parts[:count]) + "."
        if begin in names:
            return begin
    return ""


def _identity_norm(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The entries of torch-conv-kan's layer for an instance norm with gain 1 and bias 0."""
    assert isinstance(layer, KANConvNormAct)
    basis: Any = next(m.basis for m in layer.modules() if hasattr(m, "basis"))
    norm: Any = layer.norm if layer.norm is not None else basis.norm
    if isinstance(norm, nn.InstanceNorm2d) and norm.affine:
        groups = groups_of(layer.conv)
        for name, fill in (("weight", 1.0), ("bias", 0.0)):
            for group in range(groups):
                yield f"layer_norm.{group}.{name}", torch.full((norm.num_features // groups,), fill)
