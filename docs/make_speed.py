"""Writes speed.md and its pictures from the stored measurements: `python docs/make_speed.py`."""

from __future__ import annotations

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from kanvolution.benchmark import CASES, LayerCase, NetworkCase
from kanvolution.benchmark.parts import PARTS
from kanvolution.benchmark.report import by_basis, ratio, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed_cpu"
GPU_RESULTS = ROOT / "benchmarks" / "results" / "speed_cuda"
PAGE = Path(__file__).with_name("speed.md")
PICTURES = Path(__file__).with_name("pictures")

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
PEER_AIM, EDGE_AIM = 1.8, 5


def page() -> str:
    """The text of speed.md."""
    records = stored()
    lines = ["# Measured times and memory", ""]
    lines += text(
        "Made from the files in `benchmarks/results/speed_cpu` and `speed_cuda` by `python docs/make_speed.py`. How it "
        "was measured, and what bounds a layer, is in [memory and speed](performance.md). Times on a CPU are medians "
        "of processor time on a machine that others used: differences of 0.1 mean little. Those of a GPU come last."
    )
    for kind in kinds(records):
        lines += [f"![Training steps of {kind} in units of the roof's, cut at 2](pictures/speed_{kind}.png)", ""]
    lines += ["## Aims", ""]
    lines += text(
        "Bases within the aim, in units of the roof's time, and the one farthest from it; `wavelet_edge` has aims of "
        "its own. What the time above the roof goes to is below, by case."
    )
    lines += aims(records)
    lines += text(
        f"Training steps of torch-conv-kan's layers in units of ours with the same weights, geometric means over its "
        f"bases without `wavelet_edge`; the aim is {PEER_AIM}, and {EDGE_AIM} for `wavelet_edge`. The last column is "
        "what a layer would reach that takes exactly the roof's time: expansions that cost nothing. Freed memory is "
        "kept by the process, as in all tables here, or returned to the system as the C library likes, which is what "
        "happens where nobody asks for something else (`benchmarks/results/speed_cpu/returned`)."
    )
    lines += peers(records)
    for name, record in records.items():
        lines += [f"## {name}", "", *case(name, record)]
    lines += ["## Commands", "", *commands(records)]
    lines += ["## On a GPU", "", *on_gpu()]
    return "\n".join(lines).rstrip() + "\n"


def on_gpu() -> list[str]:
    """What was measured on a GPU: training steps by basis and case, and forwards and further cases from trials."""
    steps, trials = (
        json.loads((GPU_RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("steps", "trials")
    )
    machine, layers = steps["machine"], trials["layers"]
    lines = text(
        f"{machine['gpu']}, PyTorch {machine['torch']}, Triton {machine['triton']}; bfloat16, channels-last, batch 64. "
        "Training steps of layers with batch norm and SiLU in units of the roof's, both replayed as CUDA graphs: the "
        f"GPU's work without Python's. {steps['note']} `{steps['command']}` at {steps['commit']}; the kernels that add "
        "up sums for learned tensors (`gram`, `relu`, `wavelet`) were changed afterwards and not measured again."
    )
    cases = list(dict.fromkeys(row["case"] for row in steps["results"]))
    found = {(row["basis"], row["case"]): row for row in steps["results"]}
    bases = list(dict.fromkeys(row["basis"] for row in steps["results"]))

    def cell(basis: str, case: str, contestant: str) -> str:
        row = found.get((basis, case))
        return f"{row[contestant]:.2f}" if row else ""

    heads = ["basis", *cases, *(f"autograd, {case}" for case in cases)]
    body = [[b, *(cell(b, c, "triton") for c in cases), *(cell(b, c, "autograd") for c in cases)] for b in bases]
    lines += [*table(heads, body), ""]
    lines += text(f"From trials at {layers['commit']} ({layers['command']}):")
    heads = ["case", "basis", "roof forward (\u00b5s)", "roof step (\u00b5s)", "forward", "step"]
    rows = [
        [
            r["case"],
            r["basis"],
            str(r["roof_forward_us"]),
            str(r["roof_step_us"]),
            f"{r['forward']:.2f}",
            f"{r['step']:.2f}",
        ]
        for r in layers["results"]
    ]
    lines += [*table(heads, rows, left=2), ""]
    first = trials["first_layer"]
    lines += text(f"A first layer, at {first['commit']} ({first['command']}), microseconds:")
    rows = [[r["basis"], r["what"], str(r["forward_us"]), str(r["step_us"])] for r in first["results"]]
    return [*lines, *table(["basis", "how", "forward", "step"], rows, left=2), ""]


def stored(folder: Path = RESULTS) -> dict[str, Record]:
    """The stored measurements by case."""
    paths = {path.stem: path for path in folder.glob("*.json")}
    return {name: json.loads(paths[name].read_text(encoding="utf-8")) for name in CASES if name in paths}


def returned() -> dict[str, Record]:
    """The same of layers, with freed memory returned to the system as the C library likes."""
    return stored(RESULTS / "returned")


def kinds(records: dict[str, Record]) -> dict[str, dict[str, Record]]:
    """Layers and networks, as far as there are any."""
    parted = {
        kind: {name: record for name, record in records.items() if isinstance(CASES[name], one)}
        for kind, one in (("layers", LayerCase), ("networks", NetworkCase))
    }
    return {kind: some for kind, some in parted.items() if some}


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
            ratios = {
                basis: _ratio(found[contestant], found["roof"], kind)
                for basis, found in bases.items()
                if found[contestant]["correct"]
            }
            worst = max(ratios, key=lambda basis: ratios[basis])
            met = sum(round(value, 2) <= limit for value in ratios.values())
            cells.append(f"{met} of {len(ratios)}; {worst} {ratios[worst]:.2f}")
        body.append(cells)
    return [*table(["case", *(f"{what} <= {limit}" for what, _, _, limit in AIMS)], body), ""]


def peers(kept: dict[str, Record]) -> list[str]:
    """How ours compare with torch-conv-kan's layers."""
    body = []
    records = {("kept", name): record for name, record in kept.items()}
    records |= {("returned", name): record for name, record in returned().items()}
    for (memory, name), record in sorted(records.items(), key=lambda item: list(kept).index(item[0][1])):
        found = {b: f for b, f in by_basis(record["results"]).items() if "torch-conv-kan" in f}
        edge = found.pop("wavelet_edge", None)
        if not found:
            continue
        cells = [f"`{name}`", memory, str(len(found))]
        for contestant in ("compat eager", "compat compile"):
            cells.append(f"{_mean(found, contestant):.2f}")
            cells.append("" if edge is None else f"{_ratio(edge['torch-conv-kan'], edge[contestant], 'step'):.1f}")
        body.append([*cells, f"{_mean(found, 'roof'):.2f}"])
    ours = [head for name in ("eager", "compiled") for head in (name, f"wavelet_edge, {name}")]
    return [*table(["case", "memory", "bases", *ours, "at the roof"], body, left=2), ""]


def rounds(record: Record) -> str:
    """How often each contestant was timed; slow ones were timed once."""
    results, many = record["results"], record["options"]["rounds"]
    once = sum(result["rounds"] == 1 for result in results)
    return f"{many} rounds" + (f", {once} of the {len(results)} contestants in the first alone" if once else "")


def case(name: str, record: Record) -> list[str]:
    """What a case is, and its tables."""
    facts = record["cases"][name]
    layer = isinstance(CASES[name], LayerCase)
    if layer:
        lines = text(
            f"{facts['inputs']} to {facts['outputs']} channels, {facts['size']}x{facts['size']}, batch "
            f"{facts['batch']}; {rounds(record)}."
        )
    else:
        lines = text(
            f"`{facts['model']}` for {facts['num_classes']} classes, images of {facts['size']}x{facts['size']}, batch "
            f"{facts['batch']}; {rounds(record)}."
        )
    bases = by_basis(record["results"])
    lines += ["Training step in units of the roof's, forward in units of the roof's forward:", "", *times(bases)]
    unit = facts["input_bytes"] if layer else None
    what = "the input's" if layer else "the plain network's"
    lines += text(f"Bytes kept for backward in units of {what}, and peaks in units of the plain network's:")
    lines += memory(bases, unit)
    profiled = any(found["roof"]["parts"] for found in bases.values())
    if profiled:
        lines += text(
            "What is above the roof, in units of its step: each part less the roof's own. The rest is time between "
            "operators, and by how much steps are slower or faster when they are taken apart."
        )
        lines += differences(bases)
    return lines + misses(bases)


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
    assert set(PARTS) == {part for group in GROUPS.values() for part in group}
    body = []
    for basis, found in bases.items():
        for name in ("eager", "compile"):
            added = above(found[name], found["roof"])
            body.append(
                [basis, name, ratio(found[name], found["roof"], "step"), *(f"{v:+.2f}" for v in added.values())]
            )
    return [*table(["basis", "backend", "step", *GROUPS, "rest"], body, left=2), ""]


def misses(bases: dict[str, Found]) -> list[str]:
    """What the time of those goes to whose training step is above an aim: the three parts that add most."""
    lines = []
    for what, contestant, kind, limit in AIMS:
        for basis, found in bases.items():
            value = _ratio(found[contestant], found["roof"], kind)
            if kind == "step" and basis != "wavelet_edge" and round(value, 2) > limit:
                added = above(found[contestant], found["roof"])
                most = ", ".join(
                    f"{part} {added[part]:+.2f}" for part in sorted(added, key=lambda part: -added[part])[:3]
                )
                lines.append(f"- `{basis}`, {what}: {value:.2f} (aim {limit}); {most}")
    return ["Above the aims, and the parts that add most:", "", *lines, ""] if lines else []


def above(result: dict[str, Any], roof: dict[str, Any]) -> dict[str, float]:
    """The groups of parts less the roof's own, and the rest between operators, in units of the roof's step."""
    whole = roof["step"]["median"]
    added = {
        name: sum(result["parts"].get(p, 0.0) - roof["parts"].get(p, 0.0) for p in group) / whole
        for name, group in GROUPS.items()
    }
    return {**added, "rest": result["step"]["median"] / whole - 1 - sum(added.values())}


def draw(records: dict[str, Record], path: Path) -> None:
    """Bars of the training steps in units of the roof's, a row for each case."""
    from matplotlib.figure import Figure

    figure = Figure((9, 2.1 * len(records) + 0.5), layout="constrained")
    axes = figure.subplots(len(records), 1, squeeze=False)[:, 0]
    for ax, (name, record) in zip(axes, records.items(), strict=True):
        bases = by_basis(record["results"])
        for i, contestant in enumerate(("autograd", "eager", "compile")):
            heights = {
                j: _ratio(found[contestant], found["roof"], "step")
                for j, found in enumerate(bases.values())
                if found[contestant]["correct"]
            }
            ax.bar([j + 0.27 * (i - 1) for j in heights], list(heights.values()), 0.25, label=contestant)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xticks(range(len(bases)), list(bases), rotation=25, ha="right", fontsize=8)
        ax.set(title=name, ylabel="step / roof", ylim=(0, 2))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def commands(records: dict[str, Record]) -> list[str]:
    """Where and how each case was measured."""
    body = []
    for name, record in [*records.items(), *((f"returned/{name}", record) for name, record in returned().items())]:
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
    for kind, records in kinds(stored()).items():
        draw(records, PICTURES / f"speed_{kind}.png")
