"""Times layers and networks of every basis (see kanvolution.benchmark) and stores the results, or compares commits.

    python benchmarks/speed.py                              # -> benchmarks/results/speed_cpu/CASE.json, CASE.md
    python benchmarks/speed.py --cases small --clock cpu --threads 1 --profile --peer ~/torch-conv-kan
    python benchmarks/speed.py --device cuda --dtype bfloat16 --channels-last --batch 64 --profile   # -> speed_cuda
    python benchmarks/speed.py --cases small --bases gram --against main~5    # this tree and another, in turns

`python docs/make_speed.py` makes a page and pictures of the results in speed_cpu.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import against
from common import ROOT, git

from kanvolution import benchmark, list_bases
from kanvolution.cli import bench
from kanvolution.cli.command import FAILED

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
        if options.peer or options.profile or options.cold or options.folder:
            parser.error("--against prints ratios of times alone; leave out --peer, --profile, --cold and --folder")
        for line in against.compare(options.against, options.bases, options.cases, settings):
            show(line)
        return 0
    folder = options.folder or RESULTS / f"speed_{options.device}"
    commit = git("rev-parse", "HEAD")  # before others can commit more
    correct = True
    for case in options.cases:
        results: list[dict[str, Any]] = []
        for basis in options.bases:  # stored one by one: a stop loses what is not
            record = benchmark.run([basis], [case], settings, report=show)
            results += record["results"]
            record |= {"results": results, "commit": commit, "command": " ".join(["python", *sys.argv])}
            bench.write(record, folder / case)
        correct = correct and all(result["correct"] for result in results)
    return 0 if correct else FAILED


def show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
