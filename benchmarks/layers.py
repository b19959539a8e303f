"""Times every basis in every shape of layer (see kanvolution.benchmark) and stores the results, or compares commits.

    python benchmarks/layers.py                              # -> benchmarks/results/layers_cpu/SHAPE.json, SHAPE.md
    python benchmarks/layers.py --shapes small --clock cpu --threads 1 --peer ~/torch-conv-kan
    python benchmarks/layers.py --shapes small --bases gram --against main~5    # this tree and another, in turns

The plot, speed.png, shows the training steps of all stored shapes in units of the roof's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, git

from kanvolution import benchmark, list_bases

RESULTS = ROOT / "benchmarks" / "results" / "layers_cpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=list_bases())
    parser.add_argument("--shapes", nargs="+", default=list(benchmark.SHAPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", default="wall", choices=benchmark.CLOCKS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer", metavar="DIR")
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = {"rounds": options.rounds, "clock": options.clock, "threads": options.threads}
    if options.against:
        return compare(options.against, options.bases, options.shapes, settings)
    options.folder.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        record = benchmark.run(options.bases, [shape], **settings, peer=options.peer, report=show)
        record["commit"], record["command"] = git("rev-parse", "HEAD"), " ".join(["python", *sys.argv])
        (options.folder / f"{shape}.json").write_text(json.dumps(record, indent=1) + "\n")
        (options.folder / f"{shape}.md").write_text(benchmark.markdown(record))
        draw(options.folder)
    return 0


def show(line: str) -> None:
    print(line, flush=True)


def compare(commit: str, bases: list[str], shapes: list[str], settings: dict[str, Any]) -> int:
    """Run single rounds of this tree and of another commit in turns; print the ratios of the medians."""
    rounds = settings["rounds"]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "tree"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(other), commit], check=True)
        try:
            for shape in shapes:
                for basis in bases:
                    times: dict[str, list[float]] = {"here": [], "there": []}
                    for _ in range(rounds):
                        for name, tree in (("here", ROOT), ("there", other)):
                            times[name].append(_one(tree, basis, shape, settings))
                    here, there = (statistics.median(values) for values in times.values())
                    ratio = f"{commit} takes {there / here:.2f} times as long"
                    show(f"{shape} {basis}: step {1e3 * here:.1f} ms; {ratio}")
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(other)], check=False)
    return 0


def _one(tree: Path, basis: str, shape: str, settings: dict[str, Any]) -> float:
    """The median time of a step of the eager layer of the package in `tree`, which has to be right first."""
    # This benchmark, with the other tree's package: the benchmark may be younger than the commit.
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('bench', sys.argv[1])\n"
        "bench = importlib.util.module_from_spec(spec)\n"
        "sys.modules['bench'] = bench; spec.loader.exec_module(bench)\n"
        "record = bench.run([sys.argv[2]], [sys.argv[3]], ['eager'], **json.loads(sys.argv[4]))\n"
        "print(json.dumps([r for r in record['results'] if r['contestant'] == 'eager'][0]))\n"
    )
    arguments = [
        str(ROOT / "src" / "kanvolution" / "benchmark.py"),
        basis,
        shape,
        json.dumps({**settings, "rounds": 3}),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the benchmark failed with the package in {tree}:\n{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    if not result["correct"]:
        raise RuntimeError(f"wrong by {result['error']:.1e} in {tree}: no time is reported")
    return result["step"]["median"]


def draw(folder: Path) -> None:
    from matplotlib.figure import Figure

    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    figure = Figure((9, 2.4 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), 1, squeeze=False)[:, 0]
    for ax, record in zip(axes, records, strict=True):
        results = record["results"]
        bases = list(dict.fromkeys(r["basis"] for r in results))
        roofs = {r["basis"]: r["step"]["median"] for r in results if r["contestant"] == "roof"}
        for i, name in enumerate(("autograd", "eager", "compile")):
            found = {r["basis"]: r for r in results if r["contestant"] == name and r["correct"]}
            places = [j + 0.27 * (i - 1) for j, basis in enumerate(bases) if basis in found]
            ax.bar(places, [found[b]["step"]["median"] / roofs[b] for b in bases if b in found], 0.25, label=name)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xticks(range(len(bases)), bases, rotation=25, ha="right", fontsize=8)
        ax.set(title=results[0]["shape"], ylabel="step / roof", ylim=(0, 4))
    axes[0].legend(ncols=3, fontsize=8)
    figure.savefig(folder / "speed.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
