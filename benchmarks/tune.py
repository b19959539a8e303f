"""Searches from the default configuration and stores what each trial reached.

    python benchmarks/tune.py --name digits tune.samples=8 trainer.epochs=8 trainer.cpu=true

The first trial of a study is the configuration that it starts from, so the gain is the best one's distance to it. Each
is one training with one seed. The result is benchmarks/results/tune/NAME.json; one that is there already is not made
again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from common import ROOT, cpu_name, git

from kanvolution.cli import main as kanvolution
from kanvolution.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "tune"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("overrides", nargs="*", help="of kanvolution tune")
    options = parser.parse_args()
    file = RESULTS / f"{options.name}.json"
    if file.exists():
        print(f"{file.relative_to(ROOT)} is there already")
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    keys = options.overrides
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        if kanvolution(["tune", *keys, f"output_dir={folder}/study"]):
            raise SystemExit(1)
        seconds = time.perf_counter() - begun
        found = json.loads((Path(folder) / "study" / "study.json").read_text(encoding="utf-8"))
    first = found["trials"][0]
    write_json(
        file,
        {
            "command": " ".join(["kanvolution tune", *keys]),
            "commit": git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
            "torch": torch.__version__,
            "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads",
            "seconds": round(seconds, 1),
            "first": first["value"],
            "found": found["best"]["value"],
            **found,
        },
    )


if __name__ == "__main__":
    main()
