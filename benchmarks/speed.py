"""Times layers and networks of every basis (see kanvolution.benchmark) and stores the results, or compares commits.

    python benchmarks/speed.py                              # -> benchmarks/results/speed_cpu/CASE.json, CASE.md
    python benchmarks/speed.py --cases small --clock cpu --threads 1 --profile --peer ~/torch-conv-kan
    python benchmarks/speed.py --device cuda --dtype bfloat16 --channels-last --batch 64 --profile   # -> speed_cuda
    python benchmarks/speed.py --cases small --bases gram --against main~5    # this tree and another, in turns

The plots, layers.png and networks.png, show the training steps of all stored cases in units of the roof's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import against
from common import ROOT, git

from kanvolution import benchmark, list_bases
from kanvolution.cli import bench

RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=list_bases())
    parser.add_argument("--cases", nargs="+", default=list(benchmark.CASES), choices=benchmark.CASES)
    bench.add_settings(parser)
    parser.add_argument("--against", metavar="COMMIT", help="compare with the package of another commit")
    parser.add_argument("--folder", type=Path, help="where results go (benchmarks/results/speed_DEVICE)")
    options = parser.parse_args()
    settings = bench.settings(options)
    if options.against:
        for line in against.compare(options.against, options.bases, options.cases, settings):
            show(line)
        return 0
    folder = options.folder or RESULTS / f"speed_{options.device}"
    commit = git("rev-parse", "HEAD")  # before others can commit more
    for case in options.cases:
        record = benchmark.run(options.bases, [case], settings, report=show)
        record["commit"], record["command"] = commit, " ".join(["python", *sys.argv])
        bench.write(record, folder / case)
    draw(folder)
    return 0


def show(line: str) -> None:
    print(line, flush=True)


def draw(folder: Path) -> None:
    """Draw layers.png and networks.png from the results in `folder`."""
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    kinds = {"layers": benchmark.LayerCase, "networks": benchmark.NetworkCase}
    for name, kind in kinds.items():
        chosen = {case: records[case] for case in benchmark.CASES if case in records}
        chosen = {case: record for case, record in chosen.items() if isinstance(benchmark.CASES[case], kind)}
        if chosen:
            _draw(chosen, folder / f"{name}.png")


def _draw(records: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 2.1 * len(records) + 0.6), layout="constrained")
    axes = figure.subplots(len(records), 1, squeeze=False)[:, 0]
    for ax, (case, record) in zip(axes, records.items(), strict=True):
        results = record["results"]
        bases = list(dict.fromkeys(r["basis"] for r in results))
        roofs = {r["basis"]: r["step"]["median"] for r in results if r["contestant"] == "roof"}
        for i, name in enumerate(("autograd", "eager", "compile")):
            found = {r["basis"]: r for r in results if r["contestant"] == name and r["correct"]}
            places = [j + 0.27 * (i - 1) for j, basis in enumerate(bases) if basis in found]
            ax.bar(places, [found[b]["step"]["median"] / roofs[b] for b in bases if b in found], 0.25, label=name)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xticks(range(len(bases)), bases, rotation=25, ha="right", fontsize=8)
        ax.set(title=case, ylabel="step / roof", ylim=(0, 3))
    axes[0].legend(ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
