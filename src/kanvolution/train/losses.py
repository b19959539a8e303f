"""Losses by name, for classes of images and of pixels alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kanvolution.checks import non_negative
from kanvolution.registry import Registry
from kanvolution.train.options import check_options, named_options

Loss = Callable[[Tensor, Tensor], Tensor]
MakeLoss = Callable[..., Loss]
LOSSES: Registry[MakeLoss] = Registry("loss")
_FILLED = ("weight",)


def register_loss(name: str) -> Callable[[MakeLoss], MakeLoss]:
    """Decorator: makes a loss available to every task as `task.loss=name`.

    The function takes `weight`, a tensor of a positive weight for each class or None, and options of its own as
    keywords. It returns a map from logits and target to a scalar. Logits are [N, C, *S] in float32, with S empty for
    classes of images; C is the number of classes, or 1 for two classes, where the logit is that of class 1. The target
    is [N, *S] of class indices, or [N, C, *S] of the classes' shares, floating point (MixUp, label smoothing). Samples
    whose shares are all 0 are to be left out: pixels that belong to no class, see `DataInfo.ignore_index`.
    """
    return LOSSES.register(name)


def list_losses() -> list[str]:
    """The names of all registered losses, sorted."""
    return list(LOSSES)


def create_loss(choice: str | Mapping[str, Any], class_weights: Sequence[float] | None = None) -> Loss:
    """A loss: "focal" or {"name": "focal", "gamma": 1.5}.

    Args:
        choice: a name, or a dictionary with `name` and options.
        class_weights: a positive weight for each class; means over classes or samples are weighted by it.

    Raises:
        ValueError: an unknown name or option (the nearest is named), or a value out of range.

    Example:
        >>> import torch
        >>> loss = create_loss({"name": "focal", "gamma": 0})
        >>> logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        >>> torch.testing.assert_close(loss(logits, target), torch.nn.functional.cross_entropy(logits, target))
    """
    name, options = named_options("task.loss", choice)
    make = LOSSES[name]
    check_options(f"loss {name!r}", make, options, filled=_FILLED)
    weight = None
    if class_weights is not None:
        if not all(0 < value < math.inf for value in class_weights):
            raise ValueError(f"task.class_weights (={list(class_weights)}) must be positive and finite")
        weight = torch.tensor([float(value) for value in class_weights])
    return make(weight=weight, **options)


def class_shares(
    target: Tensor, channels: int, dtype: torch.dtype = torch.float32, ignore_index: int | None = None
) -> Tensor:
    """A target as shares of the classes [N, channels, *S]: one-hot for indices; of class 1 alone for one channel.

    The shares of a sample with index `ignore_index` are all 0.
    """
    if target.is_floating_point():
        return target[:, 1:] if channels == 1 and target.shape[1] == 2 else target
    if channels == 1:
        return (target == 1).unsqueeze(1).to(dtype)
    if ignore_index is None:
        return F.one_hot(target, channels).movedim(-1, 1).to(dtype)
    counted = target != ignore_index
    return F.one_hot(target * counted, channels).movedim(-1, 1).to(dtype) * counted.unsqueeze(1)


def _counted(target: Tensor) -> Tensor | None:
    """Which samples count, [N, 1, *S] of 0 and 1; None for all."""
    return (target.sum(1, keepdim=True) > 0).to(target) if target.is_floating_point() else None


def probabilities(output: Tensor) -> Tensor:
    """Probabilities [N, C, *S] of logits: softmax, or the sigmoid of a single one."""
    return output.sigmoid() if output.shape[1] == 1 else output.softmax(1)


def _two_classes(output: Tensor) -> Tensor:
    """Logits of at least two classes: a single logit z is the difference of (0, z)."""
    return torch.cat([torch.zeros_like(output), output], 1) if output.shape[1] == 1 else output


def _along_classes(weight: Tensor, like: Tensor) -> Tensor:
    return weight.to(like).view(-1, *[1] * (like.ndim - 2))


def _mean_over_samples(terms: Tensor, shares: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of the classes' terms [N, C, *S] with their shares; weighted by class where there are weights."""
    return _weighted_mean(terms, shares if weight is None else shares * _along_classes(weight, shares))


def _weighted_mean(terms: Tensor, weights: Tensor) -> Tensor:
    """The mean of terms with weights of the same shape; 0 where all weights are."""
    return (weights * terms).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


@register_loss("cross_entropy")
def cross_entropy(weight: Tensor | None = None) -> Loss:
    """-log p of the true class, averaged over samples."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        output = _two_classes(output)
        if target.is_floating_point():
            return _mean_over_samples(-output.log_softmax(1), target, weight)
        return F.cross_entropy(output, target, None if weight is None else weight.to(output))

    return loss


@register_loss("focal")
def focal(weight: Tensor | None = None, gamma: float = 2.0) -> Loss:
    """-(1 - p)^gamma log p of the true class, averaged over samples. Source: Lin et al., arXiv 1708.02002, equation 4.

    Args:
        gamma: how much samples that are right already are passed over; 0 is cross-entropy.
    """
    gamma = non_negative("task.loss.gamma", gamma)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        log_p = _two_classes(output).log_softmax(1)
        # 1 - p without cancellation, and away from 0, where a power below 1 has no derivative.
        wrong = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny ** 0.5)
        return _mean_over_samples(-(wrong**gamma) * log_p, class_shares(target, log_p.shape[1], log_p.dtype), weight)

    return loss


@register_loss("bce")
def bce(weight: Tensor | None = None) -> Loss:
    """Binary cross-entropy of every class against the rest, averaged over classes and samples."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        shares = class_shares(target, output.shape[1], output.dtype)
        terms = F.binary_cross_entropy_with_logits(output, shares, reduction="none")
        if weight is None:
            weights = torch.ones_like(terms)
        elif output.shape[1] == 1:
            weights = weight[0] * (1 - shares) + weight[1] * shares
        else:
            weights = _along_classes(weight, terms).expand_as(terms)
        counted = _counted(target)
        return _weighted_mean(terms, weights if counted is None else weights * counted)

    return loss


def _region_loss(
    score: Callable[[Tensor, Tensor, Tensor], Tensor], weight: Tensor | None, background: bool, batch: bool
) -> Loss:
    """A loss of overlaps: of the true positives, false positives and false negatives of each class.

    Args:
        score: from their three (soft) numbers, each [N, C], or [1, C] with `batch`, to the loss of each.
        weight: of the classes.
        background: count class 0; a single logit has none.
        batch: add the numbers of all images of a batch.
    """

    def loss(output: Tensor, target: Tensor) -> Tensor:
        p, counted = probabilities(output), _counted(target)
        p = p if counted is None else p * counted
        p = p.flatten(2) if output.ndim > 2 else p.unsqueeze(2)
        t = class_shares(target, output.shape[1], output.dtype).reshape(p.shape)
        first = 0 if background or p.shape[1] == 1 else 1
        p, t = p[:, first:], t[:, first:]
        over = (0, 2) if batch else (2,)
        true, predicted, actual = (x.sum(over).reshape(-1, p.shape[1]) for x in (p * t, p, t))
        losses = score(true, predicted - true, actual - true)
        if weight is None or p.shape[1] == 1:
            return losses.mean()
        return _weighted_mean(losses, weight[first:].to(losses).expand_as(losses))

    return loss


@register_loss("dice")
def dice(weight: Tensor | None = None, smooth: float = 1.0, background: bool = False, batch: bool = False) -> Loss:
    """1 - (2 TP + s) / (2 TP + FP + FN + s) of probabilities, averaged over classes and images.

    Source: Milletari et al., arXiv 1606.04797, without squares.

    Args:
        smooth: s; keeps classes that an image does not have from counting fully wrong.
        background: count class 0.
        batch: add up the pixels of a batch before the ratio, instead of those of an image.
    """
    s = non_negative("task.loss.smooth", smooth)
    return _region_loss(
        lambda tp, fp, fn: 1 - (2 * tp + s) / (2 * tp + fp + fn + s).clamp_min(1e-12), weight, background, batch
    )


@register_loss("focal_tversky")
def focal_tversky(
    weight: Tensor | None = None,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 0.75,
    smooth: float = 1.0,
    background: bool = False,
    batch: bool = False,
) -> Loss:
    """(1 - T)^gamma with T = (TP + s) / (TP + alpha FN + beta FP + s), averaged over classes and images.

    Source: Abraham and Khan, arXiv 1810.07842, equations 3 and 4; gamma is their 1 / gamma.

    Args:
        alpha: weight of false negatives.
        beta: weight of false positives.
        gamma: below 1, classes and images that are nearly right keep a large gradient; 1 is the Tversky loss.
        smooth: s; keeps classes that an image does not have from counting fully wrong.
        background: count class 0.
        batch: add up the pixels of a batch before the ratio, instead of those of an image.
    """
    alpha, beta = non_negative("task.loss.alpha", alpha), non_negative("task.loss.beta", beta)
    s = non_negative("task.loss.smooth", smooth)
    if not 0 < gamma < math.inf:
        raise ValueError(f"task.loss.gamma (={gamma}) must be positive and finite; 1 is the Tversky loss")

    def score(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
        wrong = 1 - (tp + s) / (tp + alpha * fn + beta * fp + s).clamp_min(1e-12)
        # A power below 1 has no derivative at 0.
        return wrong.clamp_min(1e-7) ** gamma

    return _region_loss(score, weight, background, batch)


def _sum(first: Loss, second: Loss, share: float) -> Loss:
    share = non_negative("task.loss.dice_weight", share)
    return lambda output, target: share * first(output, target) + second(output, target)


@register_loss("dice_bce")
def dice_bce(
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
    smooth: float = 1.0,
    background: bool = False,
    batch: bool = False,
) -> Loss:
    """`bce` plus `dice`.

    Args:
        dice_weight: weight of `dice`.
        smooth: of `dice`.
        background: of `dice`.
        batch: of `dice`.
    """
    return _sum(dice(weight, smooth, background, batch), bce(weight), dice_weight)


@register_loss("dice_cross_entropy")
def dice_cross_entropy(
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
    smooth: float = 1.0,
    background: bool = False,
    batch: bool = False,
) -> Loss:
    """`cross_entropy` plus `dice`. Source: nnU-Net, arXiv 1809.10486.

    Args:
        dice_weight: weight of `dice`.
        smooth: of `dice`.
        background: of `dice`.
        batch: of `dice`.
    """
    return _sum(dice(weight, smooth, background, batch), cross_entropy(weight), dice_weight)
