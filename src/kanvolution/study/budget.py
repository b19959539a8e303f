"""Networks of equal size: the width that gives a point as many parameters, or as long a step, as its reference."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kanvolution.configs import ConfigError, compose
from kanvolution.data import DataSets, create_data
from kanvolution.deploy.timing import in_turns
from kanvolution.layers import ConvSpec
from kanvolution.models import create_model
from kanvolution.study.definition import Budget, Point
from kanvolution.train import TrainerConfig
from kanvolution.train.objective import Objective
from kanvolution.train.optim import create_optim, needs_closure
from kanvolution.train.options import named_options
from kanvolution.train.tasks import create_task
from kanvolution.train.with_loss import ModelWithLoss

Config = Mapping[str, Any]

_NARROWEST, _WIDEST = 2.0**-10, 2.0**10
_TURNS, _FINAL_TURNS = 9, 31


class BudgetError(ValueError):
    """A point that no width brings to the size of its reference."""


@dataclass(frozen=True)
class Fitted:
    """What keeps a point to its budget.

    Args:
        value: of the budget's key.
        share: the size that it gives, as a share of the reference's.
    """

    value: float
    share: float


@dataclass(frozen=True)
class Candidate:
    """A network of a certain size: the config of its training, and the data."""

    config: Config
    data: DataSets

    def network(self) -> nn.Module:
        """The network, untrained."""
        name, options = named_options("model", self.config["model"])
        info, spec = self.data.info, ConvSpec(**self.config["conv"])
        return create_model(name, spec, num_classes=info.num_classes, in_chans=info.in_chans, **options)


Share = Callable[[Candidate, bool], float]
"""The size of a network as a share of a reference's; with True measured with more care."""


@dataclass(frozen=True)
class Size:
    """A size of networks.

    Args:
        against: a reference to the `Share` of it.
        tolerance: widths that differ by less than this share are not told apart.
    """

    against: Callable[[Candidate], Share]
    tolerance: float


def _parameters(reference: Candidate) -> Share:
    """Numbers of parameters. The networks are made on the meta device, in no memory."""

    def count(candidate: Candidate) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in candidate.network().parameters())

    target = count(reference)
    return lambda candidate, final: count(candidate) / target


def _step_time(reference: Candidate) -> Share:
    """Times of a training step: forward, loss, backward and optimiser, with a batch that is there already.

    Both networks take turns, so that what else the machine does slows both; the share is the median over the turns.
    """
    other = _training_step(reference)

    def share(candidate: Candidate, final: bool) -> float:
        times = in_turns(
            {"candidate": _training_step(candidate), "reference": other}, _FINAL_TURNS if final else _TURNS
        )
        return statistics.median(a / b for a, b in zip(times["candidate"], times["reference"], strict=True))

    return share


SIZES: dict[str, Size] = {"parameters": Size(_parameters, 1e-3), "time": Size(_step_time, 0.02)}


def _training_step(candidate: Candidate) -> Callable[[], None]:
    """A step as the engine makes it, of one process and without accumulation."""
    config = candidate.config
    trainer = TrainerConfig(**config["trainer"])
    device = None if trainer.cpu else torch.accelerator.current_accelerator(check_available=True)
    device = device or torch.device("cpu")
    layout = {"memory_format": torch.channels_last} if trainer.channels_last else {}
    model: Any = candidate.network()
    model.to(device, **layout)
    if trainer.grad_checkpointing:  # the engine refuses it for a model without
        getattr(model, "set_grad_checkpointing", bool)(True)
    optimizer: Any = create_optim(config["optim"], model)
    task = create_task(config["task"], candidate.data.info)
    objective = Objective(task, model)
    with_loss = ModelWithLoss(model, objective, trainer.compile)
    inputs, target = next(iter(DataLoader(candidate.data.train, trainer.batch_size)))
    inputs, target = inputs.to(device, **layout), target.to(device)
    autocast = torch.autocast(device.type, torch.float16 if trainer.mixed_precision == "fp16" else torch.bfloat16)

    def closure() -> Tensor:
        optimizer.zero_grad()
        with autocast if trainer.mixed_precision != "no" else contextlib.nullcontext():
            loss = with_loss(*task.transform_batch(inputs, target))
        loss.backward()
        if trainer.grad_clip > 0 and not needs_closure(optimizer):
            nn.utils.clip_grad_norm_(model.parameters(), trainer.grad_clip)
        return loss

    def step() -> None:
        with objective:
            optimizer.step(closure)

    return step


class BudgetFitter:
    """Fits points to a budget, one by one.

    Args:
        budget: what is held, and the key that is fitted.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._data: tuple[Any, DataSets] | None = None

    def __call__(self, point: Point, hold: str) -> Fitted:
        """The value of the budget's key that gives a point the size of its reference.

        Args:
            point: with the overrides of its reference.
            hold: a name of `SIZES`.

        Raises:
            BudgetError: the smallest network is larger than the reference, or the largest one smaller; or a network of
                a width that is tried cannot be made.
            ConfigError: overrides that cannot be used, or a model without that key.
        """
        config = compose(point.overrides).values
        _replaced(config, self.budget.key, 1.0)
        try:
            share = SIZES[hold].against(self._candidate(compose(point.reference).values))
        except ValueError as error:
            raise BudgetError(f"the reference of point {point.name} cannot be made: {error}") from error

        def share_of(value: float, final: bool = False) -> float:
            try:
                return share(self._candidate(_replaced(config, self.budget.key, value)), final)
            except ValueError as error:
                raise BudgetError(f"point {point.name} with {self.budget.key}={value:g}: {error}") from error

        return _search(share_of, hold, f"point {point.name}", self.budget.key)

    def _candidate(self, config: Config) -> Candidate:
        if self._data is None or self._data[0] != config["data"]:
            name, options = named_options("data", config["data"])
            self._data = (config["data"], create_data(name, **options))
        return Candidate(config, self._data[1])


def _search(share: Callable[..., float], hold: str, name: str, key: str) -> Fitted:
    """Bisection in the logarithm of the value, which share grows with."""
    low = high = 1.0
    at_low = at_high = share(1.0)
    while at_low > 1:
        high, at_high, low = low, at_low, low / 2
        if low < _NARROWEST:
            raise BudgetError(
                f"{name} has {at_high:.3g} times the {hold} of its reference at the smallest, {key}={high}; leave "
                "it out, or give the reference more"
            )
        at_low = share(low)
    while at_high < 1:
        low, at_low, high = high, at_high, high * 2
        if high > _WIDEST:
            raise BudgetError(
                f"{name} has {at_low:.3g} of the {hold} of its reference at the largest, {key}={low}; leave it "
                "out, or give the reference less"
            )
        at_high = share(high)
    while high / low > 1 + SIZES[hold].tolerance and at_low < at_high:
        middle = _rounded(math.sqrt(low * high))
        if middle in (low, high):
            break
        found = share(middle)
        low, at_low, high, at_high = (middle, found, high, at_high) if found < 1 else (low, at_low, middle, found)
    value = low if 1 / at_low < at_high else high
    return Fitted(value, share(value, True))


def _rounded(value: float) -> float:
    """As many digits as are written into a config."""
    return float(f"{value:.4g}")


def _replaced(config: Config, key: str, value: float) -> dict[str, Any]:
    """The config with another value of a key. Raises ConfigError where it has no such key."""
    group, _, name = key.partition(".")
    if not isinstance(config.get(group), Mapping) or name not in config[group]:
        raise ConfigError(f"budget.key (={key!r}) is no key of this configuration; name the width of the network")
    return {**config, group: {**config[group], name: value}}
