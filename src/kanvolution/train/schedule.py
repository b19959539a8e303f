"""Schedules of the learning rate by name: the factor on `optim.lr` at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kanvolution.registry import Registry
from kanvolution.train.options import check_options, named_options

Schedule = Callable[[int], float]
MakeSchedule = Callable[..., Schedule]
SCHEDULES: Registry[MakeSchedule] = Registry("schedule")
_FILLED = ("steps", "epochs")


def register_schedule(name: str) -> Callable[[MakeSchedule], MakeSchedule]:
    """Decorator: makes a schedule available to every config as `schedule=name`.

    The function takes `steps` (of the whole run) and `epochs`, and options of its own as keywords; it returns a map
    from the number of steps done to a factor on the learning rate.
    """
    return SCHEDULES.register(name)


def list_schedules() -> list[str]:
    """The names of all registered schedules, sorted."""
    return list(SCHEDULES)


def _check(name: str, value: float, high: float = math.inf) -> float:
    if not 0 <= value <= high:
        raise ValueError(f"schedule.{name} (={value}) must be between 0 and {high}")
    return value


def _warm(step: int, warmup: float) -> float:
    # The first step already moves: 1/w, 2/w, ... 1.
    return min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0


@register_schedule("cosine")
def cosine(steps: int, epochs: int, warmup_epochs: float = 1.0, final: float = 0.01) -> Schedule:
    """Linear warm-up, then half a cosine down. Source: SGDR, arXiv 1608.03983, without restarts.

    Args:
        warmup_epochs: length of the warm-up; at most half of the run is used.
        final: factor at the end.
    """
    warmup = min(_check("warmup_epochs", warmup_epochs) * steps / epochs, steps / 2)
    _check("final", final, 1.0)

    def factor(step: int) -> float:
        if step < warmup:
            return _warm(step, warmup)
        done = min(1.0, (step - warmup) / max(1.0, steps - 1 - warmup))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


@register_schedule("onecycle")
def onecycle(steps: int, epochs: int, warmup_share: float = 0.3, start: float = 0.04, final: float = 1e-4) -> Schedule:
    """Half a cosine up, half a cosine down. Source: Smith and Topin, arXiv 1708.07120.

    Args:
        warmup_share: share of the run that goes up.
        start: factor at the start.
        final: factor at the end.
    """
    top = _check("warmup_share", warmup_share, 1.0) * (steps - 1)
    _check("start", start, 1.0)
    _check("final", final, 1.0)

    def factor(step: int) -> float:
        if step < top:
            return 1 + (start - 1) * 0.5 * (1 + math.cos(math.pi * step / top))
        done = min(1.0, (step - top) / max(1.0, steps - 1 - top))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


@register_schedule("constant")
def constant(steps: int, epochs: int, warmup_epochs: float = 0.0) -> Schedule:
    """The same learning rate throughout, after a linear warm-up.

    Args:
        warmup_epochs: length of the warm-up.
    """
    warmup = _check("warmup_epochs", warmup_epochs) * steps / epochs
    return lambda step: _warm(step, warmup)


def create_schedule(choice: str | Mapping[str, Any], steps: int, epochs: int) -> Schedule:
    """The schedule of a run of `steps` steps: "cosine" or {"name": "cosine", "final": 0.1}.

    Raises:
        ValueError: unknown name or option (the nearest is named), or a value out of range.
    """
    name, options = named_options("schedule", choice)
    make = SCHEDULES[name]
    check_options(f"schedule {name!r}", make, options, filled=_FILLED)
    return make(steps=steps, epochs=epochs, **options)
