"""Structural pruning: a network with fewer channels, or fewer functions, which really is smaller and faster.

What is left out is chosen by what it contributes on data, were inputs, channels and taps independent. A channel c
reaches the layer behind it by its K functions alone, and gives its outputs the variance

    s_c = sum_k Var[B_k(x_c)] * sum_{o,t} W[o, c K + k, t]^2.

Functions D of a layer that are left out are made up for by the others, S, as far as least squares on the data can:
with G = E[B B^T], channel by channel, W'_S = W_S + G_SS^-1 G_SD W_D, and the mean square that is lost is

    l_D = sum_c tr((G_DD - G_DS G_SS^-1 G_SD) sum_{o,t} W_D W_D^T).

Both are taken as shares of the layer's sum, so they compare between layers, and the least go until the network has the
operations asked for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kanvolution.deploy.links import find_links, stage_channels
from kanvolution.deploy.moments import Moments, measure
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.penalties import kan_layers
from kanvolution.layers.select import select_channels
from kanvolution.models.network import Classifier
from kanvolution.models.pretrained import record_changes
from kanvolution.ops import flop_counter
from kanvolution.registry import unknown_name


class Units(ABC):
    """What is left out of a network: some of the parts of layers, by the layers' names.

    Attributes:
        least: how many each layer keeps by default.
    """

    least: int

    @abstractmethod
    def readers(self, model: nn.Module) -> list[str]:
        """Layers to measure. Raises ValueError for a network that has no such parts to leave out."""

    @abstractmethod
    def scores(self, model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """For each layer what its parts contribute, as shares of the layer's sum."""

    @abstractmethod
    def cut(self, model: nn.Module, keep: Mapping[str, Tensor], moments: Mapping[str, Moments]) -> nn.Module:
        """A copy of the network, in evaluation mode, with the parts named alone."""

    @abstractmethod
    def counts(self, model: nn.Module) -> dict[str, int]:
        """How many parts each layer has."""


class Channels(Units):
    """Output channels of layers that one other layer reads; see `find_links`."""

    least = 4

    def readers(self, model: nn.Module) -> list[str]:
        return [link.reader for link in find_links(model)]

    def scores(self, model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        found = {}
        for link in find_links(model):
            seen = moments[link.reader]
            score = (seen.variance * seen.weight.diagonal(dim1=1, dim2=2)).sum(1)
            found[link.maker] = (score / score.sum().clamp_min(1e-300)).cpu()
        return found

    def cut(self, model: nn.Module, keep: Mapping[str, Tensor], moments: Mapping[str, Moments]) -> nn.Module:
        result = copy.deepcopy(model).eval()
        links = {link.maker: link for link in find_links(result)}
        for name, channels in _checked("layer with channels to leave out", keep, self.counts(model)).items():
            link = links[name]
            select_channels(result.get_submodule(name), outputs=channels)
            for part in link.between:
                select_channels(result.get_submodule(part), outputs=channels)
            select_channels(result.get_submodule(link.reader), inputs=channels)
        if isinstance(result, Classifier):
            result.set_feature_channels(stage_channels(result))
        record_changes(result)
        return result

    def counts(self, model: nn.Module) -> dict[str, int]:
        makers = {link.maker: model.get_submodule(link.maker) for link in find_links(model)}
        return {name: getattr(m, "out_channels", getattr(m, "out_features", 0)) for name, m in makers.items()}


class Functions(Units):
    """Functions of the bases of layers. Those of `wavelet_edge`, which differ from output to output, stay."""

    least = 1

    def readers(self, model: nn.Module) -> list[str]:
        found = self.counts(model)
        if not any(count > 1 for count in found.values()):
            raise ValueError(
                f"this {type(model).__name__} has no layer with several functions that all outputs share, so none can "
                "be left out; prune channels"
            )
        return list(found)

    def scores(self, model: nn.Module, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        return {name: _losses(moments[name]).cpu() for name in self.readers(model)}

    @torch.no_grad()
    def cut(self, model: nn.Module, keep: Mapping[str, Tensor], moments: Mapping[str, Moments]) -> nn.Module:
        result = copy.deepcopy(model).eval()
        for name, functions in _checked("layer with functions to leave out", keep, self.counts(model)).items():
            layer = result.get_submodule(name)
            assert isinstance(layer, KANLayer)
            chosen = functions.tolist()
            others = [k for k in range(layer.basis.size) if k not in chosen]
            if not others:
                continue
            weight, groups = layer.weight.double().unflatten(1, (-1, layer.basis.size)), getattr(layer, "groups", 1)
            kept = weight[:, :, chosen]
            if name in moments:
                stand_in, _ = _replacement(moments[name].product, chosen, others)
                by_group = stand_in.unflatten(0, (groups, -1)).to(weight.device)
                lost = weight[:, :, others].unflatten(0, (groups, -1))
                kept = kept + torch.einsum("goid...,gids->gois...", lost, by_group).flatten(0, 1)
            layer.set_basis(layer.basis.kept(chosen), kept.flatten(1, 2))
        record_changes(result)
        return result

    def counts(self, model: nn.Module) -> dict[str, int]:
        layers = [(name, layer) for name, layer in kan_layers(model) if isinstance(layer, KANLayer)]
        return {name: layer.basis.size for name, layer in layers if layer.basis.combines}


UNITS: dict[str, Units] = {"channels": Channels(), "functions": Functions()}
"""What can be left out, by name."""


def contributions(model: nn.Module, batches: Iterable[Tensor], by: str = "channels") -> dict[str, Tensor]:
    """Measure what channels or functions of a network contribute.

    Args:
        model: a network.
        batches: images [N, C, H, W], normalised as in training; some hundreds are enough.
        by: "channels" or "functions".

    Returns:
        For each layer by its name a number for each of its output channels, the part of the variance of the layer that
        reads them; or for each of its functions, the part of the mean square of the layer's outputs that is lost when
        it goes after all functions with a smaller number.

    Raises:
        ValueError: a network without such channels or functions (the reason is named), or no images.
    """
    units = _units(by)
    return units.scores(model, measure(model, batches, units.readers(model)))


def prune_channels(model: nn.Module, keep: Mapping[str, Tensor | Sequence[int]]) -> nn.Module:
    """A copy of a network with some output channels of its layers.

    Args:
        model: a network of `create_model`, or another with channels that `find_links` finds.
        keep: for layers by their names the channels that stay, increasing.

    Returns:
        The copy in evaluation mode. Where the channels left out have no effect, its outputs are the same.

    Raises:
        ValueError: a network without such channels, a layer that has none, or channels that are not there.
    """
    return UNITS["channels"].cut(model, _tensors(keep), {})


def prune_functions(
    model: nn.Module, keep: Mapping[str, Tensor | Sequence[int]], batches: Iterable[Tensor] | None = None
) -> nn.Module:
    """A copy of a network with some functions of its layers.

    Args:
        model: a network or a layer.
        keep: for layers by their names the functions that stay, increasing; 0 is the base function, if there is one.
        batches: images on which the others are fitted to make up for those that go; None leaves their weights as they
            are.

    Raises:
        ValueError: a network without such functions, a layer that has none, or functions that are not there.
    """
    units = UNITS["functions"]
    return units.cut(model, _tensors(keep), {} if batches is None else measure(model, batches, list(keep)))


def prune_to(
    model: nn.Module, batches: Iterable[Tensor], share: float, *, by: str = "channels", least: int | None = None
) -> nn.Module:
    """A copy of a network with at most a share of the operations, without what contributes least.

    Args:
        model: a network of `create_model`, or another one.
        batches: images to measure on, see `contributions`.
        share: of the floating-point operations for one image, in (0, 1).
        by: "channels" or "functions": what is left out.
        least: channels or functions that every layer keeps, if it has them; None for 4 channels or 1 function.

    Raises:
        ValueError: a network that cannot be pruned, or a share that what stays exceeds.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import prune_to
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1, channels=[8, 16, 16, 16])
        >>> small = prune_to(model, [torch.randn(16, 1, 28, 28)], share=0.5)
        >>> sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        True
    """
    if not 0 < share < 1:
        raise ValueError(f"share (={share}) must be in (0, 1): the part of the operations that is kept")
    units = _units(by)
    least = units.least if least is None else least
    batches = list(batches)
    moments = measure(model, batches, units.readers(model))
    found = units.scores(model, moments)
    image = batches[0][:1]
    limit = share * operations(model, image)
    thresholds = torch.cat(list(found.values())).sort().values.tolist()

    def pruned(threshold: float) -> nn.Module:
        return units.cut(model, {name: _above(score, threshold, least) for name, score in found.items()}, moments)

    low, high = 0, len(thresholds) - 1  # the first threshold at which the network is small enough
    smallest = operations(pruned(thresholds[high]), image)
    if smallest > limit:
        raise ValueError(
            f"share (={share}) cannot be reached by leaving out {by} with least (={least}) in every layer: "
            f"{smallest / limit * share:.3f} is the smallest"
        )
    while low < high:
        middle = (low + high) // 2
        if operations(pruned(thresholds[middle]), image) > limit:
            low = middle + 1
        else:
            high = middle
    return pruned(thresholds[low])


def operations(model: nn.Module, image: Tensor) -> int:
    """Floating-point operations of a network in evaluation mode for images [N, C, H, W]."""
    was_training = model.training
    with flop_counter(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train(was_training)
    return int(counter.get_total_flops())


def _units(by: str) -> Units:
    if by not in UNITS:
        raise ValueError(unknown_name("by", by, UNITS))
    return UNITS[by]


def _above(score: Tensor, threshold: float, least: int) -> Tensor:
    """The numbers, in order, of the scores above the threshold, and of at least so many."""
    count = max(int((score > threshold).sum()), min(least, len(score)))
    return score.argsort(descending=True, stable=True)[:count].sort().values


def _tensors(keep: Mapping[str, Tensor | Sequence[int]]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(numbers, dtype=torch.long) for name, numbers in keep.items()}


def _checked(what: str, keep: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mapping[str, Tensor]:
    for name, numbers in keep.items():
        if name not in counts:
            raise ValueError(unknown_name(what, name, counts))
        chosen = numbers.tolist()
        if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= counts[name]:
            raise ValueError(f"keep of {name!r} (={chosen}) must be increasing numbers below {counts[name]}")
    return keep


def _replacement(product: Tensor, chosen: list[int], others: list[int]) -> tuple[Tensor, Tensor]:
    """B_others ~ T B_chosen: T [channels, others, chosen], and the mean products of what is left over."""
    across = product[:, chosen][:, :, others]
    inverse = torch.linalg.pinv(product[:, chosen][:, :, chosen], rtol=1e-8, hermitian=True)
    stand_in = (inverse @ across).mT
    return stand_in, product[:, others][:, :, others] - stand_in @ across


def _losses(moments: Moments) -> Tensor:
    """For each function the share of the outputs' mean square that is lost when it and all with smaller ones go, [K].

    The functions go one after the other, each time the one that then costs least. The last costs all.
    """
    size = moments.mean.shape[1]
    losses = torch.ones(size, dtype=torch.float64)
    whole = float((moments.product * moments.weight).sum())
    gone: list[int] = []
    while len(gone) < size - 1:
        costs = {}
        for k in set(range(size)) - set(gone):
            others = sorted([*gone, k])
            chosen = [j for j in range(size) if j not in others]
            _, left = _replacement(moments.product, chosen, others)
            costs[k] = float((left * moments.weight[:, others][:, :, others]).sum())
        least = min(costs, key=lambda k: costs[k])
        gone.append(least)
        before = float(losses[gone[-2]]) if len(gone) > 1 else 0.0
        losses[least] = max(costs[least] / max(whole, 1e-300), before)
    return losses
