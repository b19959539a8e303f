"""What a network is made of: its layers with output shapes, parameters and floating-point operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.layers import FocalModulation, KANConvNormAct, KANLinear, MixtureOfExperts, SelfAttention
from kanvolution.layers.layer import KANImageLayer
from kanvolution.ops import flop_counter

# A row each, whatever they are made of.
_UNITS = (KANConvNormAct, KANImageLayer, KANLinear, MixtureOfExperts, SelfAttention, FocalModulation)


@dataclass(frozen=True)
class LayerSummary:
    """A layer of a network.

    Attributes:
        name: where it stands in the network.
        kind: what it is, in words.
        shape: of its output, the first one where there are several.
        parameters: number of its parameters.
        flops: floating-point operations of a forward pass; a multiplication and an addition are two.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """The layers of a network in the order of their calls, and the sums over the whole network."""

    layers: tuple[LayerSummary, ...]
    parameters: int
    flops: int


def summarize(model: nn.Module, input_shape: Sequence[int]) -> Summary:
    """Layers, parameters and floating-point operations of a forward pass in evaluation mode.

    Nothing is computed: a copy of the network on the meta device sees an input that has a shape and no values.
    Convolutions and matrix products count, functions, norms and activations do not.

    Args:
        model: the network, on any device; one on the meta device will do.
        input_shape: of the input, the batch included: (1, 3, 224, 224), say.

    Raises:
        ValueError: an input that the network refuses.

    Example:
        >>> import kanvolution as kv
        >>> from kanvolution.models import summarize
        >>> model = kv.create_model("simple4", conv="identity", num_classes=10, in_chans=1)
        >>> found = summarize(model, (1, 1, 28, 28))
        >>> found.parameters, found.layers[1].name, found.layers[1].shape, found.layers[1].flops
        (390890, 'stages.1', (1, 64, 14, 14), 7225344)
    """
    network = copy.deepcopy(model).to("meta").eval()
    return _summary(network, input_shape)


def describe(create: Callable[[], nn.Module], input_shape: Sequence[int]) -> Summary:
    """`summarize` of a network that `create` makes on the meta device, in no memory."""
    with torch.device("meta"):
        network = create().eval()
    return _summary(network, input_shape)


def _summary(network: nn.Module, input_shape: Sequence[int]) -> Summary:
    counter = flop_counter(display=False)
    shapes: dict[str, tuple[int, ...]] = {}
    started: dict[str, int] = {}
    flops: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def before(*_: Any) -> None:
            started[name] = counter.get_total_flops()

        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            flops[name] = flops.get(name, 0) + counter.get_total_flops() - started[name]
            shapes[name] = _shape(output)

        handles.extend([module.register_forward_pre_hook(before), module.register_forward_hook(after)])

    units = dict(_units("", network))
    for name, module in units.items():
        watch(name, module)
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    with torch.no_grad(), counter:
        network(torch.empty(tuple(input_shape), device="meta", dtype=dtype))
    layers = (
        LayerSummary(name, _kind(units[name]), shape, _parameters(units[name]), flops[name])
        for name, shape in shapes.items()
    )
    return Summary(tuple(layers), _parameters(network), counter.get_total_flops())


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _units(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that get a row."""
    children = list(module.named_children())
    if isinstance(module, _UNITS) or not children:
        if not isinstance(module, nn.Identity | nn.Dropout):
            yield name, module
        return
    for child, inner in children:
        yield from _units(f"{name}.{child}" if name else child, inner)


def _shape(output: Any) -> tuple[int, ...]:
    while not isinstance(output, Tensor):
        output = output[0]
    return tuple(output.shape)


def _kind(module: nn.Module) -> str:
    if isinstance(module, KANConvNormAct):
        return ", ".join(_kind(part) for part in (module.conv, module.norm, module.act) if part is not None)
    if isinstance(module, KANImageLayer):
        stride = "" if set(module.stride) == {1} else f" /{_sizes(module.stride)}"
        return f"{type(module).__name__} {module.basis.name} {_sizes(module.kernel_size)}{stride}"
    if isinstance(module, KANLinear):
        return f"KANLinear {module.basis.name}"
    return type(module).__name__


def _sizes(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))
