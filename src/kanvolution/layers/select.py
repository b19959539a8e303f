"""Some channels of a layer: what a network is made of, with fewer inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.layers.layer import KANImageLayer, KANLayer, check_unparametrized
from kanvolution.layers.linear import KANLinear


@dataclass(frozen=True)
class Channels:
    """Where a kind of layer keeps its channels.

    Attributes:
        inputs, outputs: attributes with their numbers; the same for a layer that maps channel by channel.
        tensors: what the dimensions of its tensors count, "inputs" or "outputs".
    """

    inputs: str
    outputs: str
    tensors: Mapping[str, tuple[str, ...]]

    @property
    def by_channel(self) -> bool:
        """Whether each output is made of the input of the same number."""
        return self.inputs == self.outputs


_MAP = {"weight": ("outputs", "inputs"), "bias": ("outputs",)}
_EACH = ("outputs",)
_NORM = {"weight": _EACH, "bias": _EACH, "running_mean": _EACH, "running_var": _EACH}
_IMAGE = Channels("in_channels", "out_channels", _MAP)
_LINEAR = Channels("in_features", "out_features", _MAP)
_TRANSPOSED = Channels("in_channels", "out_channels", {"weight": ("inputs", "outputs"), "bias": ("outputs",)})
_FEATURES = Channels("num_features", "num_features", _NORM)

CHANNELS: dict[type[nn.Module], Channels] = {
    KANImageLayer: _IMAGE,
    KANLinear: _LINEAR,
    nn.Linear: _LINEAR,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _IMAGE),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _TRANSPOSED),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _FEATURES),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _FEATURES),
    nn.GroupNorm: Channels("num_channels", "num_channels", _NORM),
    nn.PReLU: Channels("num_parameters", "num_parameters", {"weight": _EACH}),
}
"""The kinds of layers that have channels, subclasses of KANImageLayer included."""


def channels_of(module: nn.Module) -> Channels | None:
    """Where a module keeps its channels; None for one that is no layer with channels."""
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return None
    return next((found for kind, found in CHANNELS.items() if isinstance(module, kind)), None)


def fixed_because(module: nn.Module) -> str | None:
    """Why channels of a layer cannot be left out; None where they can."""
    groups = getattr(module, "groups", 1)
    if groups > 1 and not is_depthwise(module):
        return f"has groups (={groups})"
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        return f"is a norm of groups of channels (num_groups={module.num_groups})"
    if isinstance(module, KANLayer) and not module.basis.linear_in_weight:
        return "mixes its outputs (wavelet_edge with mix=True)"
    return None


def is_depthwise(module: Any) -> bool:
    """Whether a convolution makes each channel of the same one."""
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == module.in_channels == module.out_channels


@torch.no_grad()
def select_channels(module: nn.Module, *, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
    """Keep some channels of a layer, in place.

    Args:
        module: a layer of a kind in `CHANNELS`.
        inputs, outputs: the channels kept, in order, as integers; None for all. Those of a layer that maps channel by
            channel (a norm, a depthwise convolution) are the same.

    Raises:
        TypeError: no such layer.
        ValueError: channels that are not there, a layer whose channels belong together, or one with an adapter.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.layers.select import select_channels
        >>> conv = kv.KANConv2d(8, 4, 3, basis="gram", degree=2)
        >>> select_channels(conv, inputs=torch.tensor([0, 2, 5]))
        >>> conv.in_channels, tuple(conv.weight.shape)
        (3, (4, 12, 3, 3))
    """
    layout = channels_of(module)
    if layout is None:
        raise TypeError(f"a {type(module).__name__} is no layer with channels to choose from")
    check_unparametrized(module)
    reason = fixed_because(module)
    if reason is not None:
        raise ValueError(f"the channels of a {type(module).__name__} belong together: it {reason}")
    depthwise = is_depthwise(module)
    if depthwise or layout.by_channel:
        given = [index for index in (inputs, outputs) if index is not None]
        inputs = outputs = given[0] if given else None
        if len(given) == 2 and not torch.equal(given[0], given[1]):
            raise ValueError(f"a {type(module).__name__} maps channel by channel; inputs and outputs must be the same")
    _check("inputs", inputs, getattr(module, layout.inputs))
    _check("outputs", outputs, getattr(module, layout.outputs))
    chosen = {"inputs": None if depthwise else inputs, "outputs": outputs}
    for name, dimensions in layout.tensors.items():
        value = getattr(module, name, None)
        if not isinstance(value, Tensor):
            continue
        data = value.detach()
        for dim, what in enumerate(dimensions):
            index = chosen[what]
            if index is None:
                continue
            if what == "inputs" and isinstance(module, KANLayer):
                size = module.basis.size
                index = (index[:, None] * size + torch.arange(size, device=index.device)).flatten()
            data = data.index_select(dim, index.to(data.device))
        setattr(module, name, nn.Parameter(data, value.requires_grad) if isinstance(value, nn.Parameter) else data)
    if isinstance(module, KANLayer):
        module.basis.select_channels(inputs, outputs, depthwise=depthwise)
        for part in module.basis.modules():
            if isinstance(part, Basis) and part.norm is not None:
                select_channels(part.norm, inputs=inputs)
    for name, index in ((layout.inputs, inputs), (layout.outputs, outputs)):
        if index is not None:
            setattr(module, name, len(index))
    if depthwise and outputs is not None:
        module.groups = len(outputs)  # type: ignore[assignment]


def _check(name: str, index: Tensor | None, count: int) -> None:
    if index is None:
        return
    if not len(index) or int(index.min()) < 0 or int(index.max()) >= count:
        raise ValueError(f"{name} (={index.tolist()}) must be channels below {count}, at least one")
