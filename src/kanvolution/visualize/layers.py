"""The functions of a trained layer, edge by edge, and the inputs they really see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.bases.mixed import MixedBasis
from kanvolution.checks import integer_at_least
from kanvolution.layers.penalties import kan_layers
from kanvolution.registry import unknown_name

Data = Tensor | Iterable[Any]
"""Batches of inputs: one tensor, or an iterable of tensors or of (tensor, target) pairs."""


@dataclass(frozen=True)
class Edge:
    """One function phi of a layer: output channel, input channel (counted over all groups), and kernel tap."""

    output: int
    input: int
    tap: tuple[int, ...] = ()

    def __str__(self) -> str:
        tap = f", tap {'-'.join(map(str, self.tap))}" if self.tap else ""
        return f"{self.input} → {self.output}{tap}"


@dataclass(frozen=True)
class Curves:
    """Values of E functions at the same S places: phi = base + functions, each [E, S]; base is None where absent."""

    base: Tensor | None
    functions: Tensor

    @property
    def total(self) -> Tensor:
        """phi, [E, S]."""
        return self.functions if self.base is None else self.base + self.functions


class LayerView:
    """The functions phi_{o,c,t}(x) = sum_k W[o, c, k, t] B_k(x) of one layer, read and never changed.

    Where a norm acts on the input of the basis functions (`norm_site="functions"`), phi is no function of x alone: the
    view then shows the functions over the normalised input, without the base function (`normalised` is True).

    Args:
        layer: a `KANConv{n}d`, `KANConvTranspose{n}d` or `KANLinear`.
        name: its name in the model, for titles and messages.

    Raises:
        TypeError: not such a layer.
        ValueError: functions that the layer mixes over outputs (`wavelet_edge` with `mix`), so no edge has its own;
            or a norm before functions that are combined with the base function (a low-rank layer).
    """

    def __init__(self, layer: nn.Module, name: str = "layer") -> None:
        basis, weight = getattr(layer, "basis", None), getattr(layer, "weight", None)
        if not isinstance(basis, Basis) or not isinstance(weight, Tensor):
            raise TypeError(f"{name} (a {type(layer).__name__}) must be a KANConv, KANConvTranspose or KANLinear")
        if getattr(basis, "mix", False):
            raise ValueError(f"the outputs of {name} are mixtures of all edges (wavelet_edge with mix=True)")
        inner = basis.inner if isinstance(basis, MixedBasis) else basis
        self.normalised = inner.norm is not None
        if self.normalised and inner is not basis and inner.base is not None:
            raise ValueError(
                f"the functions of {name} combine b(x) with functions of a normalised input, so none is a function of "
                "x; use norm_site='output' to look at them"
            )
        self.layer, self.name, self.basis, self.source = layer, name, basis, inner
        self.groups = int(getattr(layer, "groups", 1))
        self.out_channels = weight.shape[0]
        self.inputs_per_group = weight.shape[1] // basis.size
        self.in_channels = self.inputs_per_group * self.groups
        self.kernel_size = tuple(weight.shape[2:])
        self.has_base = basis.base is not None and not self.normalised

    @property
    def weight(self) -> Tensor:
        """The weights as [out_channels, inputs of a group, K, taps] (a copy-free view, without gradient)."""
        weight: Any = self.layer.weight
        return weight.detach().reshape(self.out_channels, self.inputs_per_group, self.basis.size, -1)

    @property
    def function_names(self) -> list[str]:
        """A name for each of the K functions: b(x), B1, B2, ..."""
        count = self.basis.size - (self.basis.base is not None)
        base = [f"b(x) = {self.basis.base}"] if self.basis.base is not None else []
        return base + [f"B{k}" for k in range(1, count + 1)]

    @property
    def functions(self) -> slice:
        """Which of the K functions the curves show: all, or without the base function where the input is normalised."""
        return slice(1, None) if self.normalised and self.basis.base is not None else slice(None)

    def edge(self, output: int, input: int, tap: int | Sequence[int] = ()) -> Edge:
        """An edge by its channels and tap (an index for each dimension; one number counts through the kernel).

        Raises:
            ValueError: a channel or tap that is not there, or channels of two groups.
        """
        for what, value, count in (("output", output, self.out_channels), ("input", input, self.in_channels)):
            if not 0 <= value < count:
                raise ValueError(f"{what} (={value}) of {self.name} must be in 0..{count - 1}")
        group = output // (self.out_channels // self.groups)
        first = group * self.inputs_per_group
        if not first <= input < first + self.inputs_per_group:
            last = first + self.inputs_per_group - 1
            raise ValueError(
                f"input (={input}) must be in {first}..{last}, the group of output {output} of {self.name}"
            )
        if isinstance(tap, int):
            tap = unravel(tap, self.kernel_size)
        tap = tuple(tap) or (0,) * len(self.kernel_size)
        if len(tap) != len(self.kernel_size) or not all(0 <= t < k for t, k in zip(tap, self.kernel_size, strict=True)):
            raise ValueError(f"tap (={tap}) of {self.name} must be inside the kernel (={self.kernel_size})")
        return Edge(output, input, tap)

    def edge_at(self, index: int) -> Edge:
        """The edge at a position of the flattened [out_channels, inputs of a group, taps]."""
        taps = max(1, self.weight.shape[-1])
        output, rest = divmod(index, self.inputs_per_group * taps)
        input, tap = divmod(rest, taps)
        group = output // (self.out_channels // self.groups)
        return Edge(output, input + group * self.inputs_per_group, unravel(tap, self.kernel_size))

    @torch.no_grad()
    def curves(self, edges: Sequence[Edge], x: Tensor) -> Curves:
        """The functions of some edges at x ([S], or [in_channels, S] with places of each input channel)."""
        like: Any = self.layer.weight
        x = x.to(like.device, torch.float32)
        outputs = torch.tensor([edge.output for edge in edges], dtype=torch.long, device=like.device)
        inputs = torch.tensor([edge.input for edge in edges], dtype=torch.long, device=like.device)
        taps = torch.tensor([ravel(edge.tap, self.kernel_size) for edge in edges], dtype=torch.long, device=like.device)
        values = self.basis.edge_values(x, outputs, inputs).float()
        weight = self.weight[outputs, inputs % self.inputs_per_group, :, taps].float().unsqueeze(-1)
        terms = (weight * values).cpu()
        if not self.has_base:
            return Curves(None, terms[:, self.functions].sum(1))
        return Curves(terms[:, 0], terms[:, 1:].sum(1))


def ravel(tap: Sequence[int], kernel_size: Sequence[int]) -> int:
    """The position of a tap in the flattened kernel."""
    position = 0
    for index, size in zip(tap, kernel_size, strict=True):
        position = position * size + index
    return position


def unravel(position: int, kernel_size: Sequence[int]) -> tuple[int, ...]:
    """The tap at a position of the flattened kernel."""
    tap = []
    for size in reversed(kernel_size):
        position, index = divmod(position, size)
        tap.append(index)
    return tuple(reversed(tap))


def layer_view(model: nn.Module, name: str | None = None) -> LayerView:
    """The view of a layer of a model, by its name (None: the first).

    Raises:
        ValueError: no such layer (the nearest is named), or a model without Kolmogorov-Arnold layers.
    """
    layers = {_shown_name(model, name): layer for name, layer in kan_layers(model)}
    if not layers:
        raise ValueError(f"the model (a {type(model).__name__}) has no Kolmogorov-Arnold layers to look at")
    if name is None:
        name = next(iter(layers))
    if name not in layers:
        raise ValueError(unknown_name("layer", name, layers))
    return LayerView(layers[name], name)


def _shown_name(model: nn.Module, name: str) -> str:
    return name or type(model).__name__  # a model that is a layer itself


def layer_views(model: nn.Module) -> list[LayerView]:
    """The views of all layers of a model whose functions can be shown, in order."""
    views = []
    for name, layer in kan_layers(model):
        try:
            views.append(LayerView(layer, _shown_name(model, name)))
        except ValueError:
            continue
    return views


def layer_inputs(
    model: nn.Module,
    data: Data,
    names: Sequence[str] | None = None,
    *,
    samples: int = 2048,
    batches: int = 8,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Values that the functions of each layer see when the model, in evaluation mode, runs on data.

    A random sample of places and images is kept for each channel; nothing stays hooked, and the model's mode is
    restored, after an error as well.

    Args:
        model: the network.
        data: inputs; one tensor [N, ...], or an iterable of tensors or of (tensor, target) pairs.
        names: of the layers; None for all that can be shown.
        samples: values kept for each channel.
        batches: batches of an iterable that are used.
        seed: of the sample.

    Returns:
        For each layer [in_channels, M], M <= samples, on the CPU in float32. A layer that did not run is absent.

    Raises:
        ValueError: no data, or a layer that is not there.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.visualize import layer_inputs
        >>> model = kv.create_model("simple4", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
        >>> {name: tuple(x.shape) for name, x in layer_inputs(model, torch.randn(4, 1, 16, 16), samples=64).items()}
        {'stages.0.conv': (1, 64), 'stages.1.conv': (2, 64), 'stages.2.conv': (2, 64), 'stages.3.conv': (2, 64)}
    """
    integer_at_least("samples", samples, 1)
    integer_at_least("batches", batches, 1)
    views = layer_views(model) if names is None else [layer_view(model, name) for name in names]
    chosen = [data] if isinstance(data, Tensor) else _first(data, batches)
    if not chosen or not all(len(batch) for batch in chosen):
        raise ValueError("data has no images; pass a tensor of inputs or an iterable of batches")
    generator = torch.Generator().manual_seed(seed)
    share = -(-samples // len(chosen))
    kept: dict[str, list[Tensor]] = {view.name: [] for view in views}

    def keep(view: LayerView, x: Tensor) -> None:
        space = len(view.kernel_size)
        # [N, C, *S], [C, *S] or, in a linear layer, [..., C] -> [C, values].
        channels_last = x.movedim(-1 - space, -1) if space else x
        rows = channels_last.detach().reshape(-1, channels_last.shape[-1])
        places = torch.randint(len(rows), (min(share, len(rows)),), generator=generator)
        kept[view.name].append(rows[places.to(rows.device)].T.float().cpu())

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _hooked(views, keep), in_eval(model), torch.no_grad():
        for batch in chosen:
            model(batch.to(device))
    return {name: torch.cat(parts, dim=1)[:, :samples] for name, parts in kept.items() if parts}


def layer_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What the functions of each convolution see of some images, [N, in_channels, *S] for each layer that runs.

    Args:
        model: the network; its mode is kept, and nothing stays hooked.
        images: [N, ...], as the network takes them.
    """
    views = [view for view in layer_views(model) if view.kernel_size]
    found: dict[str, Tensor] = {}

    def keep(view: LayerView, x: Tensor) -> None:
        found[view.name] = x.detach()

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _hooked(views, keep), in_eval(model), torch.no_grad():
        model(images.to(device))
    return found


@contextmanager
def _hooked(views: Sequence[LayerView], keep: Any) -> Iterator[None]:
    handles = []
    try:
        for view in views:
            if view.source.norm is not None:
                hook = lambda _module, _args, output, view=view: keep(view, output)  # noqa: E731
                handles.append(view.source.norm.register_forward_hook(hook))
            else:
                # After the layer, which refuses inputs that do not fit with a message of its own.
                hook = lambda _module, args, _output, view=view: keep(view, args[0])  # noqa: E731
                handles.append(view.layer.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every module gets its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _first(data: Iterable[Any], count: int) -> list[Tensor]:
    found = []
    for batch in data:
        found.append(batch if isinstance(batch, Tensor) else batch[0])
        if len(found) == count:
            break
    return found
