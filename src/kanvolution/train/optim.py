"""Optimisers by name, and which parameters they let decay."""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.bases import Basis
from kanvolution.checks import integer_at_least, non_negative, probability
from kanvolution.registry import Registry, unknown_name
from kanvolution.train.options import check_options, named_options

ParamGroups = list[dict[str, Any]]
MakeOptim = Callable[..., torch.optim.Optimizer]
OPTIMS: Registry[MakeOptim] = Registry("optimiser")
_FILLED = ("params",)


def register_optim(name: str) -> Callable[[MakeOptim], MakeOptim]:
    """Decorator: makes an optimiser available to every config as `optim=name`.

    The function takes `params`, a list of parameter groups (those that shall not decay say so), and options of its own
    as keywords, among them `lr`. An optimiser whose `step` has a `closure` without a default, as torch's LBFGS, is
    given one by the training loop.
    """
    return OPTIMS.register(name)


def list_optims() -> list[str]:
    """The names of all registered optimisers, sorted."""
    return list(OPTIMS)


@register_optim("adamw")
def adamw(
    params: ParamGroups,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter, arXiv 1711.05101.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        beta1: averaging of the gradient, in [0, 1).
        beta2: averaging of its square, in [0, 1).
        eps: added to the root of the averaged square.
    """
    decay = _decay(weight_decay)
    return torch.optim.AdamW(params, lr=_rate(lr), betas=_betas(beta1, beta2), eps=eps, weight_decay=decay)


@register_optim("sgd")
def sgd(
    params: ParamGroups, lr: float = 0.05, weight_decay: float = 5e-4, momentum: float = 0.9, nesterov: bool = True
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum. Source: Sutskever et al., ICML 2013.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        momentum: in [0, 1); nesterov needs more than 0.
        nesterov: look ahead.
    """
    momentum = probability("optim.momentum", momentum)
    if nesterov and momentum == 0:
        raise ValueError("optim.nesterov (=True) needs optim.momentum (=0) > 0; set optim.nesterov=false")
    return torch.optim.SGD(
        params, lr=_rate(lr), momentum=momentum, weight_decay=_decay(weight_decay), nesterov=nesterov
    )


@register_optim("lion")
def lion(
    params: ParamGroups,
    lr: float = 2e-4,
    weight_decay: float = 0.5,
    beta1: float = 0.9,
    beta2: float = 0.99,
    caution: bool = False,
) -> torch.optim.Optimizer:
    """Steps of one size, along the sign of the averaged gradient. Source: Chen et al., arXiv 2302.06675, Algorithm 2.

    The paper advises a learning rate 3 to 10 times smaller, and a decay as many times larger, than those of adamw.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        beta1: weight of the average against the present gradient in the direction of the step, in [0, 1).
        beta2: averaging of the gradient, in [0, 1).
        caution: leave out the entries whose step goes against the present gradient (arXiv 2411.16085).
    """
    from timm.optim.lion import Lion

    return Lion(
        params, lr=_rate(lr), betas=_betas(beta1, beta2), weight_decay=_decay(weight_decay), caution=bool(caution)
    )


MUON_SCALES = ("match_rms_adamw", "original", "rms_to_rms")


@register_optim("muon")
def muon(
    params: ParamGroups,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    momentum: float = 0.95,
    nesterov: bool = True,
    steps: int = 5,
    scale: str = "match_rms_adamw",
    beta1: float = 0.9,
    beta2: float = 0.95,
) -> torch.optim.Optimizer:
    """Momentum made orthogonal by Newton-Schulz iterations. Source: Jordan et al., kellerjordan.github.io/posts/muon.

    A weight of a convolution is one matrix, [out, in * taps] with the functions of the basis among the columns. What is
    no matrix of at least 4 x 4, and what does not decay (norms, biases, parameters of a basis), is trained by AdamW, or
    by NAdamW with `nesterov`, with the same learning rate.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        momentum: averaging of the gradient of matrices, in [0, 1).
        nesterov: look ahead.
        steps: Newton-Schulz iterations.
        scale: size of a matrix' step by its shape: match_rms_adamw (that of AdamW), original, or rms_to_rms.
        beta1: averaging of the gradient of everything else, in [0, 1).
        beta2: averaging of its square, in [0, 1).
    """
    from timm.optim.muon import Muon

    if scale not in MUON_SCALES:
        raise ValueError(unknown_name("optim.scale", scale, MUON_SCALES))
    return Muon(
        [part for group in params for part in _matrices_apart(group)],
        lr=_rate(lr),
        weight_decay=_decay(weight_decay),
        momentum=probability("optim.momentum", momentum),
        nesterov=nesterov,
        ns_steps=integer_at_least("optim.steps", steps, 1),
        adjust_lr_fn=scale,
        betas=_betas(beta1, beta2),
    )


def _matrices_apart(group: dict[str, Any]) -> ParamGroups:
    """A parameter group in two: what Muon makes orthogonal, and what its AdamW trains."""

    # Not by timm's own rule: that one refuses matrices more than 128 times as wide as high, and a basis makes every
    # convolution K times as wide.
    def is_matrix(p: Tensor) -> bool:
        return "weight_decay" not in group and p.ndim >= 2 and min(len(p), p[0].numel()) >= 4

    parts: ParamGroups = [
        {**group, "params": [p for p in group["params"] if is_matrix(p) == use_muon], "use_muon": use_muon}
        for use_muon in (True, False)
    ]
    return [part for part in parts if part["params"]]


@register_optim("lbfgs")
def lbfgs(
    params: ParamGroups,
    lr: float = 1.0,
    max_iter: int = 4,
    history_size: int = 10,
    line_search: bool = True,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
) -> torch.optim.Optimizer:
    """L-BFGS, a quasi-Newton method. Source: Liu and Nocedal, Math. Programming 45 (1989); line search: strong Wolfe.

    The loss of a batch is evaluated several times in a step, so batches should be large. It has no weight decay: what
    is to be minimised is the loss, and a penalty (`task.penalties.weight_l2`) is part of it.

    Args:
        lr: length of the first step that is tried, times the schedule.
        max_iter: iterations in a step.
        history_size: number of past steps that the curvature is estimated from.
        line_search: search for a length that meets the strong Wolfe conditions; else every step has length lr.
        tolerance_grad: a step ends when no entry of the gradient is larger.
        tolerance_change: a step ends when the weights or the loss change by less.
    """
    return torch.optim.LBFGS(
        [p for group in params for p in group["params"]],
        lr=_rate(lr),
        max_iter=integer_at_least("optim.max_iter", max_iter, 1),
        history_size=integer_at_least("optim.history_size", history_size, 1),
        line_search_fn="strong_wolfe" if line_search else None,
        tolerance_grad=non_negative("optim.tolerance_grad", tolerance_grad),
        tolerance_change=non_negative("optim.tolerance_change", tolerance_change),
    )


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` has to be given a function that computes the loss and its gradients anew."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def decay_groups(model: nn.Module, no_decay: Sequence[str] = ()) -> ParamGroups:
    """The trainable parameters in two groups: weights, and those without decay.

    Parameters of one dimension (norms, biases) do not decay, nor do those of a basis: a scale or a knot that shrinks to
    zero is no simpler function.

    Args:
        model: any module.
        no_decay: patterns ("head.*") of further parameters that shall not decay, matched with the names of
            `model.named_parameters()`: `*` stands for anything, `?` for one character.

    Raises:
        ValueError: a pattern that matches no trainable parameter.
    """
    of_bases = {id(p) for module in model.modules() if isinstance(module, Basis) for p in module.parameters()}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen: set[str] = set()
    for pattern in no_decay:
        found = fnmatch.filter(trainable, pattern)
        if trainable and not found:
            raise ValueError(unknown_name("pattern of optim.no_decay", pattern, trainable))
        chosen.update(found)
    groups: ParamGroups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in trainable.items():
        groups[parameter.ndim <= 1 or id(parameter) in of_bases or name in chosen]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def create_optim(choice: str | Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a model: "adamw" or {"name": "adamw", "lr": 0.01}.

    Every optimiser takes the option `no_decay`, see `decay_groups`, beside its own.

    Raises:
        ValueError: unknown name or option (the nearest is named), a value out of range, or nothing to train.
    """
    name, options = named_options("optim", choice)
    make = OPTIMS[name]
    no_decay = options.pop("no_decay", ())
    check_options(f"optimiser {name!r}", make, options, filled=_FILLED, also=["no_decay"])
    groups = decay_groups(model, no_decay)
    if not groups:
        raise ValueError("the model has no trainable parameter; set requires_grad on those to train")
    return make(groups, **options)


def _rate(lr: float) -> float:
    if not 0 < lr < math.inf:
        raise ValueError(f"optim.lr (={lr}) must be positive and finite; pass e.g. 1e-3")
    return float(lr)


def _decay(weight_decay: float) -> float:
    return non_negative("optim.weight_decay", weight_decay)


def _betas(beta1: float, beta2: float) -> tuple[float, float]:
    return probability("optim.beta1", beta1), probability("optim.beta2", beta2)
