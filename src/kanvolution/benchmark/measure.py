"""Comparing the contestants of a case, and measuring those that are right."""

from __future__ import annotations

import copy
import os
import statistics
from collections import defaultdict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kanvolution.benchmark.contestants import Contestant, reference
from kanvolution.benchmark.memory import kept, peak
from kanvolution.benchmark.parts import parts
from kanvolution.benchmark.settings import Settings
from kanvolution.layers.layer import KANLayer

TOLERANCES = {"float32": 2e-3, "bfloat16": 3e-2, "float16": 6e-3}
"""Largest difference from the formula in float32: the norm of the difference relative to that of the tensor.

A difference up to twice that of the formula computed in the same type is right as well: rounding in 16 bits adds up
over the layers of a network.
"""

PATIENCE = 1.0
"""Seconds of a training step beyond which a contestant is timed in the first round alone."""


@dataclass
class Result:
    """What was measured of one contestant in one case. Times are in seconds, memory in bytes.

    Args:
        basis, case, contestant: names.
        functions: K of the basis.
        parameters: bytes of parameters.
        correct: whether it agrees with the formula; nothing is timed otherwise.
        error: by how much it does not, see `TOLERANCES`.
        kept: bytes kept for backward, parameters left out.
        peak: the most bytes a training step adds to what there is before it; None for the roof, whose expansions are
            there before.
        compile_seconds: how much longer the first training step takes, with empty caches and one compiler at a time;
            None if they were not empty.
        rounds: how many times it was timed.
        forward, step: median and quartiles of the times.
        parts: medians of the parts of a training step, see `benchmark.parts`.
    """

    basis: str
    case: str
    contestant: str
    functions: int
    parameters: int
    correct: bool
    error: float
    kept: int
    peak: int | None
    compile_seconds: float | None
    rounds: int = 0
    forward: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)


def measure(basis: str, name: str, case: dict[str, Contestant], settings: Settings) -> list[Result]:
    """Compare the contestants of a case with the formula, measure memory, and time them in turns."""
    standard = reference(case).step()
    allowed = TOLERANCES[settings.dtype]
    module = case["autograd"].module
    functions = next(layer.basis.size for layer in module.modules() if isinstance(layer, KANLayer))
    results, slow = [], set()
    for contestant, part in case.items():
        first, found = _timed_step(part, settings)
        second, _ = _timed_step(part, settings) if settings.cold else (first, None)
        error = _error(part, found, standard)
        del found
        if contestant == "autograd":
            allowed = max(allowed, 2 * error)
        if second > PATIENCE:
            slow.add(contestant)
        size = sum(p.nbytes for p in part.module.parameters())
        most = None if contestant == "roof" else peak(part)
        seconds = max(0.0, first - second) if settings.cold and contestant in settings.backends else None
        facts = (functions, size, error <= allowed, error, kept(part), most, seconds)
        results.append(Result(basis, name, contestant, *facts))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    right = [result.contestant for result in results if result.correct]
    for contestant in right if settings.profile else ():
        parts(case[contestant], settings.now)  # compiles once more, since the stopwatch is at work
    for turn in range(settings.rounds):
        for contestant in right:
            if turn and contestant in slow:
                continue
            part = case[contestant]
            for kind, call in (("forward", part.forward), ("step", part.step)):
                start = settings.now()
                call()
                times[contestant, kind].append(settings.now() - start)
            if settings.profile:
                taken[contestant].append(parts(part, settings.now))
    for result in results:
        if result.correct:
            result.forward, result.step = (_summary(times[result.contestant, kind]) for kind in ("forward", "step"))
            result.rounds = len(times[result.contestant, "step"])
            rounds = taken[result.contestant]
            result.parts = {k: statistics.median(r[k] for r in rounds) for k in (rounds[0] if rounds else ())}
    return results


def _timed_step(contestant: Contestant, settings: Settings) -> tuple[float, list[Tensor]]:
    start = _with_compilers(settings)
    found = contestant.step()
    return _with_compilers(settings) - start, found


def _with_compilers(settings: Settings) -> float:
    """Seconds of the clock; compilers are processes of their own, whose time belongs to that of processors."""
    now, spent = settings.now(), os.times()
    return now + spent.children_user + spent.children_system if settings.clock == "cpu" else now


def _error(contestant: Contestant, found: list[Tensor], standard: list[Tensor]) -> float:
    if contestant.standard is None:
        return 0.0
    if isinstance(contestant.standard, nn.Module):
        # Parameters are arranged differently there: outputs and gradients of x are compared.
        seed = torch.randn_like(found[0])
        theirs = replace(contestant, module=contestant.standard)
        return difference(_smooth_step(contestant, seed), [t.float() for t in _smooth_step(theirs, seed)])
    return difference(found, standard)


def _smooth_step(contestant: Contestant, seed: Tensor) -> list[Tensor]:
    """Output and gradient of x with every PReLU as the identity.

    Its slope jumps at zero. Of millions of outputs some are as near to zero as rounding, and two programs that differ
    by rounding alone then differ by the whole jump in a gradient.
    """
    from kanvolution.compat.torch_conv_kan.layers import GroupPReLU

    module = copy.deepcopy(contestant.module)
    for part in module.modules():
        if isinstance(part, (nn.PReLU, GroupPReLU)):
            nn.init.ones_(part.weight)
    with contestant.context():
        y = module(contestant.x)
    return [y.detach(), *torch.autograd.grad(y, contestant.x, seed)]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest norm of a difference relative to that of the tensor."""
    pairs = zip(found, expected, strict=True)
    return max(float((a.float() - e).norm() / e.norm().clamp_min(1e-6)) for a, e in pairs)


def _summary(times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": median, "low": low, "high": high}
