"""Schedules of the learning rate by name: the factor on `optim.lr` at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kanvolution.checks import non_negative
from kanvolution.registry import Registry
from kanvolution.train.options import check_options, named_options

Schedule = Callable[[int], float]
MakeSchedule = Callable[..., Schedule]
SCHEDULES: Registry[MakeSchedule] = Registry("schedule")
_FILLED = ("steps", "epochs")


def register_schedule(name: str) -> Callable[[MakeSchedule], MakeSchedule]:
    """Decorator: makes a schedule available to every config as `schedule=name`.

    The function takes `steps` (of the whole run) and `epochs`, and options of its own as keywords; it returns a map
    from the number of steps done to a factor on the learning rate. `warmed_up` puts a warm-up in front.
    """
    return SCHEDULES.register(name)


def list_schedules() -> list[str]:
    """The names of all registered schedules, sorted."""
    return list(SCHEDULES)


def warmed_up(steps: int, epochs: int, warmup_epochs: float, make: Callable[[int], Schedule]) -> Schedule:
    """A linear warm-up 1/w, 2/w, ..., 1 over w steps, and then a schedule of the steps that are left.

    Args:
        steps: of the whole run.
        epochs: of the whole run.
        warmup_epochs: length of the warm-up; at most half of the run is used.
        make: from the number of steps left to their schedule, which begins anew at 0.
    """
    warmup = math.floor(min(non_negative("schedule.warmup_epochs", warmup_epochs) * steps / epochs, steps / 2))
    after = make(steps - warmup)
    return lambda step: (step + 1) / warmup if step < warmup else after(step - warmup)


def _down(steps: int, final: float, shape: Callable[[float], float]) -> Schedule:
    """From 1 to `final`, which is the factor of the last step, by a shape that goes from 1 at 0 to 0 at 1."""
    _share("final", final)
    return lambda step: final + (1 - final) * shape(min(1.0, step / max(1, steps - 1)))


def _half_cosine(t: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * t))


@register_schedule("constant")
def constant(steps: int, epochs: int, warmup_epochs: float = 0.0) -> Schedule:
    """The same learning rate throughout, after a linear warm-up.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
    """
    return warmed_up(steps, epochs, warmup_epochs, lambda left: lambda step: 1.0)


@register_schedule("cosine")
def cosine(steps: int, epochs: int, warmup_epochs: float = 1.0, final: float = 0.01) -> Schedule:
    """Linear warm-up, then half a cosine down. Source: SGDR, arXiv 1608.03983, without restarts.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
        final: factor at the end.
    """
    return warmed_up(steps, epochs, warmup_epochs, lambda left: _down(left, final, _half_cosine))


@register_schedule("polynomial")
def polynomial(
    steps: int, epochs: int, warmup_epochs: float = 1.0, power: float = 1.0, final: float = 0.01
) -> Schedule:
    """Linear warm-up, then down as (1 - t)^power.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
        power: 1 is a straight line; larger powers fall faster at first.
        final: factor at the end.
    """
    if not 0 < power < math.inf:
        raise ValueError(f"schedule.power (={power}) must be positive and finite; 1 is a straight line")
    return warmed_up(steps, epochs, warmup_epochs, lambda left: _down(left, final, lambda t: (1 - t) ** power))


@register_schedule("exponential")
def exponential(steps: int, epochs: int, warmup_epochs: float = 1.0, gamma: float = 0.9) -> Schedule:
    """Linear warm-up, then by the same factor in every epoch, a little in every step.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
        gamma: factor of an epoch, in (0, 1].
    """
    _positive_share("gamma", gamma)
    return warmed_up(steps, epochs, warmup_epochs, lambda left: lambda step: gamma ** (step * epochs / steps))


@register_schedule("step")
def step(
    steps: int, epochs: int, warmup_epochs: float = 0.0, step_epochs: float = 30.0, gamma: float = 0.1
) -> Schedule:
    """Linear warm-up, then constant but for a drop every few epochs, counted from the end of the warm-up.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
        step_epochs: epochs from one drop to the next.
        gamma: factor of a drop, in (0, 1].
    """
    _positive_share("gamma", gamma)
    if not 0 < step_epochs < math.inf:
        raise ValueError(f"schedule.step_epochs (={step_epochs}) must be positive and finite")
    length = max(1, round(step_epochs * steps / epochs))
    return warmed_up(steps, epochs, warmup_epochs, lambda left: lambda step: gamma ** (step // length))


@register_schedule("onecycle")
def onecycle(steps: int, epochs: int, warmup_share: float = 0.3, start: float = 0.04, final: float = 1e-4) -> Schedule:
    """Half a cosine up, half a cosine down. Source: Smith and Topin, arXiv 1708.07120.

    Args:
        warmup_share: share of the run that goes up.
        start: factor at the start.
        final: factor at the end.
    """
    top = max(0.0, _share("warmup_share", warmup_share) * steps - 1)
    _share("start", start)
    _share("final", final)

    def factor(step: int) -> float:
        if step < top:
            return 1 + (start - 1) * _half_cosine(step / top)
        done = min(1.0, (step - top) / max(1.0, steps - 1 - top))
        return final + (1 - final) * _half_cosine(done)

    return factor


def create_schedule(choice: str | Mapping[str, Any], steps: int, epochs: int) -> Schedule:
    """The schedule of a run of `steps` steps: "cosine" or {"name": "cosine", "final": 0.1}.

    Raises:
        ValueError: unknown name or option (the nearest is named), or a value out of range.
    """
    name, options = named_options("schedule", choice)
    make = SCHEDULES[name]
    check_options(f"schedule {name!r}", make, options, filled=_FILLED)
    return make(steps=steps, epochs=epochs, **options)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"schedule.{name} (={value}) must be between 0 and 1")
    return value


def _positive_share(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"schedule.{name} (={value}) must be above 0 and at most 1; 1 changes nothing")
    return value
