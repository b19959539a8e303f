"""Optimisers by name, and which parameters they let decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from kanvolution.bases import Basis
from kanvolution.registry import Registry
from kanvolution.train.options import check_options, named_options

ParamGroups = list[dict[str, Any]]
MakeOptim = Callable[..., torch.optim.Optimizer]
OPTIMS: Registry[MakeOptim] = Registry("optimiser")


def register_optim(name: str) -> Callable[[MakeOptim], MakeOptim]:
    """Decorator: makes an optimiser available to every config as `optim=name`.

    The function takes `params`, a list of parameter groups (those that shall not decay say so), and options of its own
    as keywords, among them `lr`.
    """
    return OPTIMS.register(name)


def list_optims() -> list[str]:
    """The names of all registered optimisers, sorted."""
    return list(OPTIMS)


@register_optim("adamw")
def adamw(
    params: ParamGroups, lr: float = 2e-3, weight_decay: float = 0.05, beta1: float = 0.9, beta2: float = 0.999
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter, arXiv 1711.05101.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        beta1: averaging of the gradient.
        beta2: averaging of its square.
    """
    return torch.optim.AdamW(params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


@register_optim("sgd")
def sgd(
    params: ParamGroups, lr: float = 0.05, weight_decay: float = 5e-4, momentum: float = 0.9, nesterov: bool = True
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate at the top of the schedule.
        weight_decay: decay of the weights (not of norms, biases and parameters of a basis).
        momentum: in [0, 1); nesterov needs more than 0.
        nesterov: look ahead.
    """
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def decay_groups(model: nn.Module) -> ParamGroups:
    """The trainable parameters in two groups: weights, and those without decay.

    Parameters of one dimension (norms, biases) do not decay, nor do those of a basis: a scale or a knot that shrinks to
    zero is no simpler function.
    """
    of_bases = {id(p) for module in model.modules() if isinstance(module, Basis) for p in module.parameters()}
    groups: ParamGroups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim <= 1 or id(parameter) in of_bases]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def create_optim(choice: str | Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a model: "adamw" or {"name": "adamw", "lr": 0.01}.

    Raises:
        ValueError: unknown name or option (the nearest is named), a value out of range, or nothing to train.
    """
    name, options = named_options("optim", choice)
    make = OPTIMS[name]
    check_options(f"optimiser {name!r}", make, options, filled=["params"])
    groups = decay_groups(model)
    if not groups:
        raise ValueError("the model has no trainable parameter; set requires_grad on those to train")
    return make(groups, **options)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` cannot do without a closure that evaluates loss and gradients, as that of torch's LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
