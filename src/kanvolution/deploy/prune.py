"""Structural pruning: a network with fewer channels, which really is smaller and faster.

What a channel contributes is measured on data. Channel c reaches the next layer by its K functions alone, so its share
of what that layer computes is

    s_c = sum_k Var[B_k(x_c)] * sum_{o,t} W[o, c K + k, t]^2,

the variance that it would give each output were inputs independent. Divided by the layer's sum it compares with the
channels of other layers, and channels are taken away from the least on until the network has the operations asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.layers import KANConvNormAct
from kanvolution.layers.conv import KANConvNd
from kanvolution.models import create_model
from kanvolution.models.simple import SimpleNet
from kanvolution.ops import flop_counter


@dataclass(frozen=True)
class ChannelScores:
    """What the channels of each stage contribute to the layer behind it.

    Args:
        scores: a tensor [channels] for each stage, whose sum is 1.
    """

    scores: tuple[Tensor, ...]

    def keep(self, threshold: float, least: int) -> tuple[Tensor, ...]:
        """For each stage the channels, in order, whose score is above the threshold, and at least so many."""
        kept = []
        for score in self.scores:
            count = max(int((score > threshold).sum()), min(least, len(score)))
            kept.append(score.argsort(descending=True, stable=True)[:count].sort().values)
        return tuple(kept)


def channel_scores(model: nn.Module, batches: Iterable[Tensor]) -> ChannelScores:
    """Measure what each channel of a simple network contributes.

    Args:
        model: a network of `create_model` of the family "simple" with plain layers and a linear head.
        batches: images [N, C, H, W], normalised as in training; some hundreds are enough.

    Raises:
        ValueError: a network that cannot be pruned (the part is named), or no images.
    """
    stages, head = _chain(model)
    sums = [_Moments() for _ in range(len(stages))]
    hooks = [
        # The input of stage i + 1 is the output of stage i.
        stage.conv.register_forward_pre_hook(_recorder(sums[i], stage.conv.basis))
        for i, stage in enumerate(stages[1:])
    ]
    hooks.append(head.register_forward_pre_hook(_recorder(sums[-1], None)))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not sums[0].count:
        raise ValueError("there are no images to measure channels on; give some batches of them")
    weights = [stage.conv.weight for stage in stages[1:]] + [head.weight]
    found = []
    for moments, weight in zip(sums, weights, strict=True):
        variance = moments.variance()  # [channels, K]
        energy = weight.detach().double().square().sum((0, *range(2, weight.ndim)))  # [channels * K]
        score = (variance * energy.view(variance.shape)).sum(1)
        found.append((score / score.sum().clamp_min(1e-300)).cpu())
    return ChannelScores(tuple(found))


def prune_channels(model: nn.Module, keep: Sequence[Tensor]) -> nn.Module:
    """A new network with some channels of a simple network.

    Args:
        model: see `channel_scores`; it is not changed.
        keep: for each stage the channels that stay, in order.

    Returns:
        A network of `create_model` in evaluation mode. Where the channels left out are zero, its outputs are the same.

    Raises:
        ValueError: a network that cannot be pruned, or another number of stages or channels that do not exist.
    """
    stages, _ = _chain(model)
    if len(keep) != len(stages):
        raise ValueError(f"keep has {len(keep)} entries; the network has {len(stages)} stages")
    for i, (channels, stage) in enumerate(zip(keep, stages, strict=True)):
        if not len(channels) or int(channels.min()) < 0 or int(channels.max()) >= stage.conv.out_channels:
            raise ValueError(f"keep[{i}] (={channels.tolist()}) must be channels below {stage.conv.out_channels}")
    config: Any = model.config
    widths = [len(channels) for channels in keep]
    pruned = create_model(**{**config, "channels": widths, "width_scale": 1.0}).to(next(model.parameters()).dtype)
    old, new = model.state_dict(), pruned.state_dict()
    inputs = [torch.arange(stages[0].conv.in_channels), *keep]
    for name in new:
        new[name] = _kept(name, old[name], new[name].shape, inputs, stages)
    pruned.load_state_dict(new)
    return pruned.eval()


def prune_to(model: nn.Module, batches: Iterable[Tensor], share: float, *, least: int = 4) -> nn.Module:
    """A new network with at most a share of the operations, without the channels that contribute least.

    Args:
        model: a network of `create_model` of the family "simple" with plain layers and a linear head.
        batches: images to measure on, see `channel_scores`.
        share: of the floating-point operations for one image, in (0, 1).
        least: channels that every stage keeps, if it has them.

    Raises:
        ValueError: a network that cannot be pruned, or a share that `least` channels exceed.

    Example:
        >>> import torch, kanvolution as kv
        >>> from kanvolution.deploy import prune_to
        >>> model = kv.create_model("simple4", conv="gram", num_classes=10, in_chans=1, channels=[8, 16, 16, 16])
        >>> small = prune_to(model, [torch.randn(16, 1, 28, 28)], share=0.5)
        >>> sum(small.config["channels"]) < sum(model.config["channels"])
        True
    """
    if not 0 < share < 1:
        raise ValueError(f"share (={share}) must be in (0, 1): the part of the operations that is kept")
    batches = list(batches)
    scores = channel_scores(model, batches)
    image = batches[0][:1]
    limit = share * operations(model, image)
    thresholds = torch.cat(scores.scores).sort().values.tolist()
    low, high = 0, len(thresholds) - 1  # the first threshold at which the network is small enough
    if operations(prune_channels(model, scores.keep(thresholds[high], least)), image) > limit:
        raise ValueError(f"share (={share}) cannot be reached with {least} channels in every stage; lower least")
    while low < high:
        middle = (low + high) // 2
        if operations(prune_channels(model, scores.keep(thresholds[middle], least)), image) > limit:
            low = middle + 1
        else:
            high = middle
    return prune_channels(model, scores.keep(thresholds[low], least))


def operations(model: nn.Module, image: Tensor) -> int:
    """Floating-point operations of a network in evaluation mode for images [N, C, H, W]."""
    was_training = model.training
    with flop_counter(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train(was_training)
    return int(counter.get_total_flops())


class _Moments:
    """Sums of values and of their squares for each of [channels, K]."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Tensor = torch.zeros(())
        self.second: Tensor = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Values [N, channels, K, *S]."""
        flat = values.double().flatten(3) if values.ndim > 3 else values.double().unsqueeze(-1)
        self.count += flat.shape[0] * flat.shape[3]
        self.first = self.first + flat.sum((0, 3))
        self.second = self.second + flat.square().sum((0, 3))

    def variance(self) -> Tensor:
        return (self.second / self.count - (self.first / self.count).square()).clamp_min(0)


def _recorder(moments: _Moments, basis: nn.Module | None) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(inputs[0].unsqueeze(2) if basis is None else basis(inputs[0]))

    return record


def _chain(model: nn.Module) -> tuple[list[Any], nn.Linear]:
    """The stages and the head of a network that is a chain; ValueError names what is in the way."""
    if not isinstance(model, SimpleNet):
        raise ValueError(f"channels of a {type(model).__name__} cannot be pruned; those of the family 'simple' can")
    stages: list[Any] = list(model.stages)
    for i, stage in enumerate(stages):
        plain = isinstance(stage, KANConvNormAct) and isinstance(stage.conv, KANConvNd)
        conv: Any = stage.conv if plain else None
        if not plain or conv.groups != 1 or not conv.basis.linear_in_weight:
            raise ValueError(
                f"stages.{i} cannot be pruned: it needs a plain Kolmogorov-Arnold convolution with groups=1 "
                "(no structure but low rank) and another basis than wavelet_edge"
            )
    head = model.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the head is a {type(head).__name__}; pruning needs a linear one (head='linear')")
    return stages, head


def _kept(name: str, value: Tensor, shape: torch.Size, inputs: Sequence[Tensor], stages: Sequence[Any]) -> Tensor:
    """The part of an entry of the state dict that the smaller network has."""
    parts = name.split(".")
    if parts[0] != "stages":
        return value[:, inputs[-1]] if value.ndim == 2 else value
    i = int(parts[1])
    seen, made = inputs[i], inputs[i + 1]
    if parts[2:] == ["conv", "weight"]:
        size = stages[i].conv.basis.size
        columns = (seen[:, None] * size + torch.arange(size)).flatten()
        return value[made][:, columns]
    if value.shape == shape:
        return value
    return value[seen if parts[2:4] == ["conv", "basis"] else made]
