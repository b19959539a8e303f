"""Times the GPU kernels: expansion and cuDNN's convolution, the implicit product, the roof; stores the results.

    python benchmarks/kernels.py                    # -> benchmarks/results/kernels_gpu/kernels.{json,md}
    python benchmarks/kernels.py --shapes first --bases gram --dtypes bfloat16 --rounds 50
    python benchmarks/kernels.py --shapes stem stage1 --bases wavelet_edge gram_rank2

Contestants, for each basis and shape of layer (3x3, padding 1):

    roof       cuDNN's convolution of an expansion that is there already
    eager      ordinary operators for the functions, then cuDNN
    expand     the fused expansion kernel, then cuDNN; for per-edge wavelets, their own kernels
    implicit   expansion and convolution in one kernel; not for per-edge wavelets and learned combinations

Output and gradients of each are first compared with ordinary operators in float64; no time is reported of one that is
wrong. Then they take turns. Times are of CUDA events, medians with quartiles. The thresholds between `expand` and
`implicit` are in kanvolution.ops.triton.implicit_gemm.THRESHOLDS; what this measures is what they should say.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import ROOT, git
from torch import Tensor

import kanvolution as kv
from kanvolution import benchmark

RESULTS = ROOT / "benchmarks" / "results" / "kernels_gpu"

SHAPES = {
    "first": benchmark.LayerCase(3, 64, 224, 32),
    "first_small": benchmark.LayerCase(3, 64, 32, 256),
    "gray": benchmark.LayerCase(1, 32, 28, 512),
    "narrow": benchmark.LayerCase(8, 32, 112, 32),
    "stem": benchmark.LayerCase(16, 16, 112, 32),
    "stage1": benchmark.LayerCase(64, 64, 56, 64),
    "stage2": benchmark.LayerCase(128, 128, 28, 64),
    "stage3": benchmark.LayerCase(256, 256, 14, 64),
    "stage4": benchmark.LayerCase(512, 512, 7, 64),
}

# Layers of low rank over functions: the basis, and how many combinations are learned for each channel.
RANKS = {"gram_rank2": ("gram", 2), "spline_rank1": ("spline", 1)}

# Relative to the largest entry, beside float64: products of float32 are made of tf32 where cuDNN does so.
TOLERANCES = {"float32": 3e-3, "bfloat16": 3e-2, "float16": 6e-3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bases", nargs="+", default=["gram", "spline", "chebyshev", "rbf", "wavelet", "wavelet_edge", *RANKS]
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=TOLERANCES)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--contiguous", action="store_true", help="contiguous inputs, not channels-last")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/kernels.py times GPU kernels, and PyTorch finds no CUDA device here", file=sys.stderr)
        return 2
    layout = torch.contiguous_format if options.contiguous else torch.channels_last
    results: list[dict[str, Any]] = []
    for shape in options.shapes:
        for basis in options.bases:
            for dtype in options.dtypes:
                found = measure(basis, SHAPES[shape], dtype, layout, options.rounds, torch.device("cuda"))
                results += [{"basis": basis, "shape": shape, "dtype": dtype, **result} for result in found]
                print(line(results[-len(found) :]), flush=True)
    record = {
        "machine": {**benchmark.machine(), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
        "commit": git("rev-parse", "HEAD"),
        "command": " ".join(["python", *sys.argv]),
        "layout": str(layout),
        "results": results,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "kernels.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.folder / "kernels.md").write_text(markdown(record))
    return 0


def measure(
    basis: str, shape: benchmark.LayerCase, dtype: str, layout: torch.memory_format, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """The contestants' times in one case, in seconds; the roof first."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    layer = make(basis, shape).to(device, kind)
    exact = kv.set_backend(make(basis, shape), "eager").double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(shape.batch, shape.inputs, shape.size, shape.size, device=device, dtype=kind)
    x = x.contiguous(memory_format=layout).requires_grad_()
    expanded = torch.randn(shape.batch, layer.weight.shape[1], *x.shape[2:], device=device, dtype=kind)
    expanded = expanded.contiguous(memory_format=layout).requires_grad_()

    def convolve() -> Tensor:
        return torch.nn.functional.conv2d(expanded, layer.weight, layer.bias, padding=1)

    def own(backend: str, implicit: bool) -> Callable[[], Tensor]:
        def call() -> Tensor:
            kv.set_backend(layer, backend)
            with choose(implicit):
                return layer(x)

        return call

    weights = list(layer.parameters())
    contestants = {
        "roof": (convolve, [expanded, layer.weight], False),
        "eager": (own("eager", False), [x, *weights], False),
        "expand": (own("triton", False), [x, *weights], False),
    }
    if layer.basis.combines and not isinstance(layer.basis, kv.bases.MixedBasis):
        contestants["implicit"] = (own("triton", True), [x, *weights], True)
    seed = torch.randn_like(convolve())

    def step(name: str) -> list[Tensor]:
        call, tensors, implicit = contestants[name]
        y = call()
        with choose(implicit):
            return [y.detach(), *torch.autograd.grad(y, tensors, seed)]

    part = min(shape.batch, 2)  # float64 on a processor is slow: the first samples stand for all
    errors = {
        name: error(name, contestants[name], layer, exact, x[:part], seed[:part]) for name in list(contestants)[1:]
    }
    results = [{"contestant": "roof", "correct": True, "error": 0.0}]
    results += [{"contestant": n, "correct": e <= TOLERANCES[dtype], "error": e} for n, e in errors.items()]
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 3):  # the first three compile and warm up
        for result in results:
            name = str(result["contestant"])
            for kind_of_time, run in (("forward", contestants[name][0]), ("step", lambda name=name: step(name))):
                seconds = timed(run, device, grad=kind_of_time == "step")
                if turn >= 3:
                    times.setdefault((name, kind_of_time), []).append(seconds)
    for result in results:
        if result["correct"]:
            for kind_of_time in ("forward", "step"):
                found = times[str(result["contestant"]), kind_of_time]
                low, median, high = statistics.quantiles(found, n=4, method="inclusive") if rounds > 1 else found * 3
                result[kind_of_time] = {"low": low, "median": median, "high": high}
    return results


def make(name: str, shape: benchmark.LayerCase) -> kv.KANConv2d:
    """The layer of a basis, or of one of `RANKS`."""
    basis: str | kv.Basis = name
    if name in RANKS:
        inner, rank = RANKS[name]
        basis = kv.bases.MixedBasis(kv.create_basis(inner), rank, shape.inputs)
    return kv.KANConv2d(shape.inputs, shape.outputs, 3, padding=1, basis=basis)


def choose(implicit: bool) -> Any:
    """A context in which the implicit product is taken always or never."""
    from kanvolution.ops.triton.implicit_gemm import THRESHOLDS, Threshold

    limit = Threshold(2**31, 0, 0) if implicit else Threshold(0, 0)
    return mock.patch.dict(THRESHOLDS, dict.fromkeys(THRESHOLDS, limit))


def error(name: str, contestant: Any, layer: Any, exact: Any, x: Tensor, seed: Tensor) -> float:
    """The largest difference from float64, of output and all gradients, relative to their largest entries."""
    kv.set_backend(layer, "eager" if name == "eager" else "triton")
    part = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    exact_part = part.detach().cpu().double().requires_grad_()
    with choose(contestant[2]):
        y = layer(part)
        found = [y.detach(), *torch.autograd.grad(y, [part, *layer.parameters()], seed)]
    wanted = exact(exact_part)
    expected = [wanted.detach(), *torch.autograd.grad(wanted, [exact_part, *exact.parameters()], seed.cpu().double())]
    errors = [
        float((f.cpu().double() - e).abs().max() / e.abs().max().clamp_min(1e-30))
        for f, e in zip(found, expected, strict=True)
    ]
    return max(math.inf if math.isnan(error) else error for error in errors)


def timed(run: Callable[[], Any], device: torch.device, grad: bool) -> float:
    """Seconds of a call, by events on a GPU."""
    with torch.set_grad_enabled(grad):
        if device.type != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def ratio(result: dict[str, Any], roof: dict[str, Any], kind: str) -> str:
    if not result["correct"]:
        return f"wrong ({result['error']:.0e})"
    return f"{result[kind]['median'] / roof[kind]['median']:.2f}"


def line(results: list[dict[str, Any]]) -> str:
    roof = results[0]
    head = f"{roof['shape']:11s} {roof['basis']:10s} {roof['dtype']:8s} roof step {1e3 * roof['step']['median']:.3f} ms"
    return "  ".join([head, *(f"{r['contestant']} {ratio(r, roof, 'step')}" for r in results[1:])])


def markdown(record: dict[str, Any]) -> str:
    machine = "; ".join(f"{key}: {value}" for key, value in record["machine"].items())
    names = ["eager", "expand", "implicit"]
    heads = [f"{kind}, {name}" for kind in ("forward", "step") for name in names]
    out = [machine, "", "Times in units of the roof's.", ""]
    out.append("| shape | basis | dtype | roof forward (ms) | roof step (ms) | " + " | ".join(heads) + " |")
    out.append("|---|---|---|" + "--:|" * (2 + len(heads)))
    cases: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in record["results"]:
        cases.setdefault((result["shape"], result["basis"], result["dtype"]), {})[result["contestant"]] = result
    for case, results in cases.items():
        roof = results["roof"]
        cells = [*case, *(f"{1e3 * roof[kind]['median']:.3f}" for kind in ("forward", "step"))]
        for kind in ("forward", "step"):
            cells += [ratio(results[name], roof, kind) if name in results else "" for name in names]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(main())
