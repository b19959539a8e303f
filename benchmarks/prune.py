"""Prunes trained runs and stores what every step cost and gained.

    python benchmarks/prune.py runs/mnist_gram --name mnist_simple4_gram -- --epochs 1 --steps 2

What follows -- goes to `kanvolution prune`. The result is benchmarks/results/prune/NAME.json; one that is there already
is not made again. The runs of the steps stay in RUN_pruned; where that is finished already, its numbers are stored.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from common import ROOT, cpu_name, git

from kanvolution.cli import main as kanvolution
from kanvolution.deploy.prune_run import REPORT
from kanvolution.files import write_json
from kanvolution.models.pretrained import read_config

RESULTS = ROOT / "benchmarks" / "results" / "prune"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--name", required=True, help="of the result")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options, arguments = parser.parse_args(given[:end]), given[end + 1 :]
    file = RESULTS / f"{options.name}.json"
    if file.exists():
        print(f"{file.relative_to(ROOT)} is there already")
        return
    pruned = options.run.with_name(f"{options.run.name}_pruned")
    if not (pruned / REPORT).is_file() and kanvolution(["prune", str(options.run), *arguments]):
        raise SystemExit(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    last = sorted(pruned.glob("step*"))[-1]
    environment = json.loads((last / "environment.json").read_text())
    write_json(
        file,
        {
            "command": " ".join(["kanvolution prune RUN", *arguments]),
            "model": read_config(options.run).model,
            **json.loads((pruned / REPORT).read_text()),
            "environment": {key: value for key, value in environment.items() if key != "command"},
            "commit": git("rev-parse", "HEAD"),
            "torch": torch.__version__,
            "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads",
        },
    )


if __name__ == "__main__":
    main()
