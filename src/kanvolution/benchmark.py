"""Times layers against the plain convolution with as many channels as the expansion has, the "roof" of their speed.

A case is a basis and a shape. For each case the contestants do the same work: a convolution, batch norm and SiLU. Each
is first compared with the formula written in ordinary operators, in its output and all gradients; one that disagrees is
reported as wrong, and no time of it. Then all take turns, round by round, so that what else the machine does falls on
all of them alike. Times are medians over the rounds with the quartiles; ratios are of medians within a case.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from kanvolution.bases import list_bases, set_backend
from kanvolution.layers import ConvSpec
from kanvolution.registry import unknown_name


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution of stride 1 and padding 1 on [batch, inputs, size, size]."""

    inputs: int
    outputs: int
    size: int
    batch: int


SHAPES: dict[str, Shape] = {
    "first": Shape(3, 64, 112, 4),
    "stage1": Shape(64, 64, 56, 4),
    "stage2": Shape(128, 128, 28, 8),
    "stage3": Shape(256, 256, 14, 8),
    "stage4": Shape(512, 512, 7, 8),
    "small": Shape(32, 64, 14, 64),
}
"""The first layer and the stages of VGG and ResNet (at batches a CPU takes), and a layer of simple4 on 28x28 images."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""wall: elapsed time. cpu: the time processors worked on this process; on a shared machine the steadier one."""

# torch-conv-kan's layers by our basis, with the names of both in `kanvolution.compat.torch_conv_kan`. Its Bernstein
# layer computes other functions, and cannot be differentiated in the input in training.
PEERS: dict[str, str] = {
    "spline": "KANConv2DLayer",
    "rbf": "FastKANConv2DLayer",
    "legendre": "KALNConv2DLayer",
    "chebyshev": "KACNConv2DLayer",
    "gram": "KAGNConv2DLayer",
    "jacobi": "KAJNConv2DLayer",
    "relu": "ReLUKANConv2DLayer",
    "wavelet_edge": "WavKANConv2DLayer",
}

TOLERANCE = 2e-3
"""Largest difference from the formula, relative to the largest entry; float32 sums over thousands of terms."""


@dataclass
class Result:
    """What was measured of one contestant in one case. Times are in seconds."""

    basis: str
    shape: str
    contestant: str
    functions: int
    correct: bool
    error: float
    kept: float
    compile_seconds: float
    forward: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)


@dataclass
class _Contestant:
    module: nn.Module
    x: Tensor
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    expected: nn.Module | None = None  # compared with this module in place of the formula

    def forward(self) -> Tensor:
        with torch.no_grad(), self.context():
            return self.module(self.x)

    def step(self) -> list[Tensor]:
        with self.context():
            y = self.module(self.x)
        tensors = [self.x, *(p for p in self.module.parameters() if p.requires_grad)]
        return [y.detach(), *torch.autograd.grad(y, tensors, torch.ones_like(y) / y[0].numel())]


def run(
    bases: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    backends: Sequence[str] = ("eager", "compile"),
    *,
    rounds: int = 7,
    clock: str = "wall",
    threads: int | None = None,
    channels_last: bool = False,
    peer: str | Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure all cases on the CPU.

    Args:
        bases: names of bases; all by default.
        shapes: names of `SHAPES`; all by default.
        backends: the backends of our layer that take part (see `ops.BACKENDS`).
        rounds: how many times each contestant is timed.
        clock: a name of `CLOCKS`.
        threads: threads of PyTorch; as they are by default.
        channels_last: whether inputs are channels-last.
        peer: a checkout of torch-conv-kan, whose layers then take part beside ours with their weights.
        report: is called with a line for each case.

    Returns:
        A dictionary of JSON types: "machine", "options" and "results", a list of `Result` as dictionaries.

    Raises:
        ValueError: an unknown name, or a peer without its package.
    """
    bases, shapes = list(bases or list_bases()), list(shapes or SHAPES)
    for kind, names, known in (("basis", bases, list_bases()), ("shape", shapes, SHAPES), ("clock", [clock], CLOCKS)):
        for name in names:
            if name not in known:
                raise ValueError(unknown_name(kind, name, known))
    peers = None if peer is None else _import_peer(Path(peer))
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        results = []
        for shape in shapes:
            for basis in bases:
                torch._dynamo.reset()
                case = _case(basis, SHAPES[shape], backends, channels_last, peers)
                found = _measure(basis, shape, case, rounds, CLOCKS[clock])
                results += found
                report(_line(found))
        options = {"rounds": rounds, "clock": clock, "channels_last": channels_last, "dtype": "float32"}
        return {"machine": machine(), "options": options, "results": [asdict(r) for r in results]}
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """The processor, threads and versions that a measurement holds for."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def markdown(record: dict[str, Any]) -> str:
    """The results as Markdown: for each shape a table with a row for each basis."""
    text = [f"{key}: {value}" for key, value in {**record["machine"], **record["options"]}.items()]
    out = ["; ".join(text), ""]
    results = record["results"]
    names = list(dict.fromkeys(r["contestant"] for r in results if r["contestant"] != "roof"))
    for shape in dict.fromkeys(r["shape"] for r in results):
        out += [f"### {shape}: {SHAPES[shape]}", ""]
        heads = [f"{kind}, {name}" for kind in ("forward", "step") for name in names]
        out.append("| basis | K | roof forward (ms) | roof step (ms) | " + " | ".join(heads) + " | kept |")
        out.append("|---|" + "--:|" * (4 + len(heads)))
        rows = [r for r in results if r["shape"] == shape]
        for basis in dict.fromkeys(r["basis"] for r in rows):
            case = {r["contestant"]: r for r in rows if r["basis"] == basis}
            roof = case["roof"]
            cells = [basis, str(roof["functions"])]
            cells += [f"{1e3 * roof[kind]['median']:.1f}" for kind in ("forward", "step")]
            cells += [_ratio(case.get(name), roof, kind) for kind in ("forward", "step") for name in names]
            cells.append(", ".join(f"{name} {case[name]['kept']:.1f}" for name in names if name in case))
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    out.append("Times are in units of the roof's; kept: bytes kept for backward in units of the input's.")
    return "\n".join(out) + "\n"


def _ratio(result: dict[str, Any] | None, roof: dict[str, Any], kind: str) -> str:
    if result is None:
        return ""
    return f"{result[kind]['median'] / roof[kind]['median']:.2f}" if result["correct"] else "wrong"


def _line(results: list[Result]) -> str:
    roof = results[0]
    parts = [f"{roof.shape:7s} {roof.basis:13s} roof step {1e3 * roof.step['median']:8.1f} ms"]
    for r in results[1:]:
        value = f"{r.step['median'] / roof.step['median']:.2f}" if r.correct else f"wrong ({r.error:.0e})"
        parts.append(f"{r.contestant} {value}")
    return "  ".join(parts)


def _case(basis: str, shape: Shape, backends: Sequence[str], channels_last: bool, peers: Any) -> dict[str, _Contestant]:
    """The contestants of a case; the roof first."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    spec = ConvSpec(basis, act="silu")
    block = spec(shape.inputs, shape.outputs, 3, padding=1)
    size = (shape.batch, shape.inputs, shape.size, shape.size)
    x = torch.randn(size).contiguous(memory_format=layout).requires_grad_()
    conv: Any = block.conv
    channels = shape.inputs * conv.basis.size
    expanded = torch.randn(shape.batch, channels, *size[2:]).contiguous(memory_format=layout).requires_grad_()
    roof = nn.Sequential(
        nn.Conv2d(channels, shape.outputs, 3, padding=1, bias=False), nn.BatchNorm2d(shape.outputs), nn.SiLU()
    )
    case = {"roof": _Contestant(roof, expanded), "autograd": _Contestant(block, x, _formula)}
    for backend in backends:
        own = spec(shape.inputs, shape.outputs, 3, padding=1)
        own.load_state_dict(block.state_dict())
        case[backend] = _Contestant(set_backend(own, backend), x)
    if peers is not None and basis in PEERS:
        from kanvolution.compat import torch_conv_kan

        norm = {"norm_layer": nn.BatchNorm2d}
        theirs = getattr(peers, PEERS[basis])(shape.inputs, shape.outputs, 3, padding=1, **norm)
        case["torch-conv-kan"] = _Contestant(theirs, x)
        for backend in backends:
            ours = getattr(torch_conv_kan, PEERS[basis])(shape.inputs, shape.outputs, 3, padding=1, **norm)
            ours.load_state_dict(theirs.state_dict())
            case[f"compat {backend}"] = _Contestant(set_backend(ours, backend), x, expected=theirs)
    return case


@contextlib.contextmanager
def _formula() -> Iterator[None]:
    """Layers composed of ordinary operators, differentiated by autograd."""
    with (
        mock.patch("kanvolution.ops.expansion.is_transforming", lambda: True),
        mock.patch("kanvolution.ops.edge_wavelet.is_transforming", lambda: True),
    ):
        yield


def _measure(
    basis: str, shape: str, case: dict[str, _Contestant], rounds: int, clock: Callable[[], float]
) -> list[Result]:
    expected = case["autograd"].step()
    block: Any = case["autograd"].module
    functions = block.conv.basis.size
    results = []
    for name, contestant in case.items():
        start = time.perf_counter()
        found = contestant.step()
        first = time.perf_counter() - start
        start = time.perf_counter()
        contestant.step()
        seconds = max(0.0, first - (time.perf_counter() - start))
        error = 0.0
        if contestant.expected is not None:
            # Parameters are arranged differently there: outputs and gradients of x are compared.
            seed = torch.randn_like(found[0])
            pair = [_smooth_step(module, contestant.x, seed) for module in (contestant.module, contestant.expected)]
            error = _difference(*pair)
        elif name not in ("roof", "torch-conv-kan"):
            error = _difference(found, expected)
        kept = _kept(contestant) / case["autograd"].x.untyped_storage().nbytes()
        results.append(Result(basis, shape, name, functions, error <= TOLERANCE, error, kept, seconds))
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, contestant in case.items():
            for kind, call in (("forward", contestant.forward), ("step", contestant.step)):
                start = clock()
                call()
                times.setdefault((name, kind), []).append(clock() - start)
    for result in results:
        if result.correct:
            result.forward, result.step = (_summary(times[result.contestant, kind]) for kind in ("forward", "step"))
    return results


def _smooth_step(module: nn.Module, x: Tensor, seed: Tensor) -> list[Tensor]:
    """Output and gradient of x with every PReLU as the identity.

    Its slope jumps at zero. Of millions of outputs some are as near to zero as rounding, and two programs that differ
    by rounding alone then differ by the whole jump in a gradient.
    """
    from kanvolution.compat.torch_conv_kan.layers import GroupPReLU

    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, (nn.PReLU, GroupPReLU)):
            nn.init.ones_(part.weight)
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y, x, seed)]


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference relative to the largest entry of each tensor."""
    errors = [float((a - e).abs().max() / e.abs().max().clamp_min(1e-6)) for a, e in zip(found, expected, strict=True)]
    return max(errors)


def _kept(contestant: _Contestant) -> float:
    """Bytes of the distinct storages that a forward saves for backward, parameters and buffers left out."""
    module = contestant.module
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), contestant.context():
        y = module(contestant.x)
    del y
    return float(sum(saved.values()))


def _summary(times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": median, "low": low, "high": high}


def _import_peer(folder: Path) -> Any:
    if not (folder / "kan_convs" / "__init__.py").is_file():
        raise ValueError(
            f"peer (={str(folder)!r}) must be a checkout of torch-conv-kan, with the folder kan_convs in it"
        )
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("kan_convs")
    finally:
        sys.path.remove(str(folder))
