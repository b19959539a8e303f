"""Writes speed.md from the stored measurements: `python docs/make_speed.py`."""

from __future__ import annotations

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from kanvolution.benchmark import CASES, LayerCase
from kanvolution.benchmark.parts import PARTS
from kanvolution.benchmark.report import by_basis, ratio, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed_cpu"
PAGE = Path(__file__).with_name("speed.md")

Record = dict[str, Any]
Found = dict[str, dict[str, Any]]

# What is summed up in the tables of differences.
GROUPS = {
    "convolution": ("convolution",),
    "data gradient": ("data gradient",),
    "weight gradient": ("weight gradient",),
    "functions": ("functions",),
    "functions backward": ("functions backward",),
    "layouts": ("layout", "operator"),
    "norm, SiLU, other": ("norm", "silu", "other"),
}
# Aims: what, and the contestant, kind of time and limit; in units of the roof's.
AIMS = (
    ("step, compiled", "compile", "step", 1.15),
    ("forward, compiled", "compile", "forward", 1.15),
    ("step, eager", "eager", "step", 1.6),
)
PEER_AIM = 1.8
KEPT_AIM = 4


def page() -> str:
    """The text of speed.md."""
    paths = {path.stem: path for path in RESULTS.glob("*.json")}
    records = {name: json.loads(paths[name].read_text(encoding="utf-8")) for name in CASES if name in paths}
    lines = ["# Measured times and memory", ""]
    lines += text(
        "Made from the files in `benchmarks/results/speed_cpu` by `python docs/make_speed.py`. How it was measured, "
        "and what bounds a layer, is in [memory and speed](performance.md). Times are medians of processor time on a "
        "machine that others used: differences of 0.1 mean little. Nothing was measured on a GPU."
    )
    lines += ["![Training steps of layers in units of the roof's](images/speed_layers.png)", ""]
    lines += ["## Aims", ""]
    lines += text(
        "Bases within the aim, in units of the roof's time; `wavelet_edge` has aims of its own. Misses have their "
        "reasons in the tables of differences below."
    )
    lines += aims(records)
    lines += text(
        f"Training steps of torch-conv-kan's layers in units of ours with the same weights, geometric means over its "
        f"bases without `wavelet_edge`; the aim is {PEER_AIM}, and {5} for `wavelet_edge`. The last column is what a "
        "layer would reach that takes exactly the roof's time: expansions that cost nothing."
    )
    lines += peers(records)
    for name, record in records.items():
        lines += [f"## {name}", "", *case(name, record)]
    lines += ["## Commands", "", *commands(records)]
    return "\n".join(lines).rstrip() + "\n"


def text(paragraph: str) -> list[str]:
    """A paragraph in lines of at most 130 characters."""
    return [*textwrap.wrap(paragraph, 130, break_on_hyphens=False, break_long_words=False), ""]


def aims(records: dict[str, Record]) -> list[str]:
    """How many bases are within each aim, and the one farthest from it."""
    body = []
    for name, record in records.items():
        bases = {b: f for b, f in by_basis(record["results"]).items() if b != "wavelet_edge"}
        cells = [f"`{name}`"]
        for _, contestant, kind, limit in AIMS:
            ratios = {basis: _ratio(found[contestant], found["roof"], kind) for basis, found in bases.items()}
            worst = max(ratios, key=lambda basis: ratios[basis])
            met = sum(round(value, 2) <= limit for value in ratios.values())
            cells.append(f"{met} of {len(ratios)}; {worst} {ratios[worst]:.2f}")
        body.append(cells)
    return [*table(["case", *(f"{what} <= {limit}" for what, _, _, limit in AIMS)], body), ""]


def peers(records: dict[str, Record]) -> list[str]:
    """How ours compare with torch-conv-kan's layers."""
    body = []
    for name, record in records.items():
        found = {b: f for b, f in by_basis(record["results"]).items() if "torch-conv-kan" in f}
        edge = found.pop("wavelet_edge", None)
        if not found:
            continue
        cells = [f"`{name}`", str(len(found))]
        for contestant in ("compat eager", "compat compile"):
            cells.append(f"{_mean(found, contestant):.2f}")
            cells.append("" if edge is None else f"{_ratio(edge['torch-conv-kan'], edge[contestant], 'step'):.1f}")
        body.append([*cells, f"{_mean(found, 'roof'):.2f}"])
    heads = ["case", "bases", "eager", "wavelet_edge, eager", "compiled", "wavelet_edge, compiled", "at the roof"]
    return [*table(heads, body), ""]


def case(name: str, record: Record) -> list[str]:
    """What a case is, and its tables."""
    facts = record["cases"][name]
    layer = isinstance(CASES[name], LayerCase)
    if layer:
        lines = text(
            f"{facts['inputs']} to {facts['outputs']} channels, {facts['size']}x{facts['size']}, batch "
            f"{facts['batch']}; {record['options']['rounds']} rounds."
        )
    else:
        lines = text(
            f"`{facts['model']}` for {facts['num_classes']} classes, images of {facts['size']}x{facts['size']}, batch "
            f"{facts['batch']}; {record['options']['rounds']} rounds."
        )
    bases = by_basis(record["results"])
    lines += ["Training step in units of the roof's, forward in units of the roof's forward:", "", *times(bases)]
    unit = facts["input_bytes"] if layer else None
    what = "the input's" if layer else "the plain network's"
    lines += text(f"Bytes kept for backward in units of {what}, and peaks in units of the plain network's:")
    lines += memory(bases, unit)
    if any(found["roof"]["parts"] for found in bases.values()):
        lines += text(
            "What is above the roof, in units of its step: each part less the roof's own. The rest is between "
            "operators."
        )
        lines += differences(bases)
    return lines


def times(bases: dict[str, Found]) -> list[str]:
    """Times in units of the roof's."""
    columns = {
        "plain": ("plain", "step"),
        "autograd": ("autograd", "step"),
        "eager": ("eager", "step"),
        "compile": ("compile", "step"),
        "forward, eager": ("eager", "forward"),
        "forward, compile": ("compile", "forward"),
        "torch-conv-kan": ("torch-conv-kan", "step"),
        "its layer here, eager": ("compat eager", "step"),
        "its layer here, compile": ("compat compile", "step"),
    }
    columns = {head: (c, kind) for head, (c, kind) in columns.items() if any(c in f for f in bases.values())}
    body = []
    for basis, found in bases.items():
        roof = found["roof"]
        cells = [basis, str(roof["functions"]), f"{1e3 * roof['step']['median']:.1f}"]
        body.append([*cells, *(ratio(found[c], roof, kind) if c in found else "" for c, kind in columns.values())])
    return [*table(["basis", "K", "roof (ms)", *columns], body), ""]


def memory(bases: dict[str, Found], unit: int | None) -> list[str]:
    """Bytes kept and peaks, and seconds of compilation."""
    names = ("plain", "autograd", "compile")
    cold = any(found["compile"]["compile_seconds"] for found in bases.values())
    body = []
    for basis, found in bases.items():
        one = unit or found["plain"]["kept"]
        cells = [basis, *(f"{found[name]['kept'] / one:.1f}" for name in names)]
        cells += [f"{found[name]['peak'] / found['plain']['peak']:.2f}" for name in names[1:]]
        cells.append(f"{found['compile']['parameters'] / found['plain']['peak']:.2f}")
        body.append([*cells, *([f"{found['compile']['compile_seconds']:.0f}"] if cold else [])])
    heads = ["basis", *(f"kept, {'ours' if n == 'compile' else n}" for n in names), "peak, autograd", "peak, ours"]
    return [*table([*heads, "its gradients of parameters", *(["compilation (s)"] if cold else [])], body), ""]


def differences(bases: dict[str, Found]) -> list[str]:
    """The parts of our steps less the roof's own, in units of the roof's step."""
    body = []
    for basis, found in bases.items():
        roof = found["roof"]
        whole = roof["step"]["median"]
        for name in ("eager", "compile"):
            cells = [basis, name, ratio(found[name], roof, "step")]
            known = 0.0
            for group in GROUPS.values():
                extra = sum(found[name]["parts"].get(p, 0) - roof["parts"].get(p, 0) for p in group) / whole
                known += extra
                cells.append(f"{extra:+.2f}")
            rest = (found[name]["step"]["median"] - whole) / whole - known
            body.append([*cells, f"{rest:+.2f}"])
    assert set(PARTS) == {part for group in GROUPS.values() for part in group}
    return [*table(["basis", "backend", "step", *GROUPS, "rest"], body, left=2), ""]


def commands(records: dict[str, Record]) -> list[str]:
    """Where and how each case was measured."""
    body = []
    for name, record in records.items():
        machine = record["machine"]
        what = f"{machine['cpu']} ({machine['capability']}), {machine['threads']} thread, PyTorch {machine['torch']}"
        body.append([f"`{name}`", what, f"`{record['commit'][:8]}`", f"`{record['command']}`"])
    return [*table(["case", "hardware", "commit", "command"], body, left=4), ""]


def _ratio(result: dict[str, Any], other: dict[str, Any], kind: str) -> float:
    return result[kind]["median"] / other[kind]["median"]


def _mean(bases: dict[str, Found], contestant: str) -> float:
    return statistics.geometric_mean(_ratio(f["torch-conv-kan"], f[contestant], "step") for f in bases.values())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
