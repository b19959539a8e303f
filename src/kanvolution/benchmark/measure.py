"""Comparing the contestants of a case, and measuring those that are right."""

from __future__ import annotations

import copy
import gc
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kanvolution.benchmark.contestants import Contestant, in_float32, layer_inputs
from kanvolution.benchmark.memory import kept, peak
from kanvolution.benchmark.parts import parts
from kanvolution.benchmark.settings import Settings
from kanvolution.layers.layer import KANLayer

TOLERANCES = {"float32": 2e-4, "bfloat16": 3e-2, "float16": 6e-3}
"""Largest difference from the formula in float32: the norm of the difference relative to that of the tensor.

A difference up to twice that of the formula in the type itself is right as well. Outputs and gradients of whole
networks are not compared: rounding grows from layer to layer, so that of two evaluations of the formula itself, in
float32 and in float64, no figure may be the same.
"""

PATIENCE = 1.0
"""Seconds of a training step beyond which a contestant is timed in the first round alone."""

IN_A_ROW = 0.05
"""Seconds that calls in a row take at most, where one does not take longer: a device is busy for long enough then."""


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
    starts = {name: _first_steps(part, settings) for name, part in case.items()}
    slow = {name for name, found in starts.items() if found[-1] > PATIENCE}
    errors = compare(case)
    allowed = max(TOLERANCES[settings.dtype], 2 * errors["autograd"])
    functions = next(m.basis.size for m in case["autograd"].module.modules() if isinstance(m, KANLayer))
    results = []
    for contestant, part in case.items():
        size = sum(p.nbytes for p in part.module.parameters())
        most = None if contestant == "roof" else peak(part)
        first, last = starts[contestant][0], starts[contestant][-1]
        compilation = max(0.0, first - last) if settings.cold and contestant in settings.backends else None
        facts = (functions, size, errors[contestant] <= allowed, errors[contestant], kept(part), most, compilation)
        results.append(Result(basis, name, contestant, *facts))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    right = [result.contestant for result in results if result.correct]
    for contestant in right if settings.profile else ():
        parts(case[contestant], settings.now)  # compiles once more, since the stopwatch is at work
    assert settings.repeats is not None
    repeats = {n: max(1, min(settings.repeats, int(IN_A_ROW / max(f[-1], 1e-9)))) for n, f in starts.items()}
    record = captured if settings.captured else lambda call: call
    if settings.captured:
        gc.collect()  # autograd's nodes remember the stream that they were made on; none may be left from before
    calls = {name: {"forward": record(case[name].forward), "step": record(case[name].step)} for name in right}
    for turn in range(settings.rounds):
        for contestant in right:
            if turn and contestant in slow:
                continue
            for kind, call in calls[contestant].items():
                times[contestant, kind].append(seconds(call, settings, repeats[contestant]))
            if settings.profile:
                taken[contestant].append(parts(case[contestant], settings.now))
    for result in results:
        if result.correct:
            result.forward, result.step = (_summary(times[result.contestant, kind]) for kind in ("forward", "step"))
            result.rounds = len(times[result.contestant, "step"])
            rounds = taken[result.contestant]
            result.parts = {k: statistics.median(r[k] for r in rounds) for k in (rounds[0] if rounds else ())}
    return results


def seconds(call: Callable[[], object], settings: Settings, repeats: int) -> float:
    """The mean time of calls in a row."""
    start = settings.now()
    for _ in range(repeats):
        call()
    return (settings.now() - start) / repeats


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """The replay of what a call makes a GPU do, recorded as a CUDA graph. It computes the same in the same memory."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # libraries choose and allocate at their first calls
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=beside):
        call()
    return graph.replay


def _first_steps(contestant: Contestant, settings: Settings) -> list[float]:
    """The seconds of the first training step, which may compile, and of the second."""
    found = []
    for _ in range(2):
        start = _with_compilers(settings)
        contestant.step()
        found.append(_with_compilers(settings) - start)
    return found


def _with_compilers(settings: Settings) -> float:
    """Seconds of the clock; compilers are processes of their own, whose time belongs to that of processors."""
    now, spent = settings.now(), os.times()
    return now + spent.children_user + spent.children_system if settings.clock == "cpu" else now


def compare(case: dict[str, Contestant]) -> dict[str, float]:
    """By how much the contestants of a case differ from what they must agree with; zero where that is nothing."""
    errors = dict.fromkeys(case, 0.0)
    formula = case["autograd"]
    for name, x in layer_inputs(formula).items():
        exact = in_float32(formula.of_layer(name, x))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            seed = torch.randn_like(exact.forward())
            standard = exact.step(seed)
        for contestant, part in case.items():
            if part.standard == "formula":
                found = part.of_layer(name, x).step(seed)
                errors[contestant] = max(errors[contestant], difference(found, standard))
    for contestant, part in case.items():
        if isinstance(part.standard, nn.Module):
            # Parameters are arranged differently there: outputs and gradients of x are compared.
            seed = torch.randn_like(part.forward())
            theirs = replace(part, module=part.standard)
            errors[contestant] = difference(_smooth_step(part, seed), _smooth_step(theirs, seed))
    return errors


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
    """The largest norm of a difference relative to that of the tensor; infinite where it is not a number."""
    pairs = zip(found, expected, strict=True)
    errors = [float((a.float() - e.float()).norm() / e.float().norm().clamp_min(1e-6)) for a, e in pairs]
    return max(math.inf if math.isnan(error) else error for error in errors)


def _summary(times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": median, "low": low, "high": high}
