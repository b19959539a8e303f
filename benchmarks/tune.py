"""Searches from the default configuration with both back ends, and trains the best and the default one again.

    python benchmarks/tune.py

The first trial of a study is the configuration that it starts from. The best of several trials is lucky as well as
good, so both are trained again with other seeds, for as many epochs, and these trainings are compared. Each result is
benchmarks/results/tune/NAME-BACKEND.json; one that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, cpu_name, git

from kanvolution.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "tune"
SETTINGS = ["model.channels=[8,16,32,64]", "trainer.epochs=5", "trainer.cpu=true", "tracker=none"]
SEARCH = ["tune.space=short", "tune.samples=8"]
SEEDS = "seed=1,2,3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="digits", help="of the results")
    parser.add_argument("--backends", nargs="+", default=["optuna", "ray"])
    parser.add_argument("settings", nargs="*", default=SETTINGS, help="of every training")
    parser.add_argument("--search", nargs="+", default=SEARCH, help="of kanvolution tune")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for backend in options.backends:
        file = RESULTS / f"{options.name}-{backend}.json"
        if file.exists():
            print(f"{file.relative_to(ROOT)} is there already")
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_json(file, measure(backend, options.settings, options.search, Path(folder)))


def measure(backend: str, settings: list[str], search: list[str], folder: Path) -> dict[str, Any]:
    """A study, then trainings of the configuration that it started from and of the one that it found."""
    tuned = [text for text in settings if not text.startswith("tracker=")]
    command = ["tune", *tuned, *search, f"tune.backend={backend}"]
    load = os.getloadavg()[0]
    begun = time.perf_counter()
    kanvolution(*command, f"output_dir={folder / 'study'}")
    seconds = time.perf_counter() - begun
    found = json.loads((folder / "study" / "study.json").read_text(encoding="utf-8"))
    starts = {"default": settings, "best": [f"experiment={folder / 'study' / 'best.yaml'}", "tracker=none"]}
    again = {}
    for name, overrides in starts.items():
        kanvolution("train", "-m", *overrides, SEEDS, f"output_dir={folder / name}")
        runs = [
            json.loads(file.read_text(encoding="utf-8"))["metrics"]
            for file in sorted(folder.glob(f"{name}/*/result.json"))
        ]
        values = [metrics[found["metric"]] for metrics in runs]
        again[name] = {"values": values, "mean": statistics.fmean(values), "std": statistics.stdev(values)}
    return {
        "command": " ".join(["kanvolution", *command]),
        "commit": git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "torch": torch.__version__,
        "hardware": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_before": round(load, 1),
        "seconds": round(seconds, 1),
        "again": {"seeds": SEEDS, **again},
        **found,
    }


def kanvolution(*arguments: str) -> None:
    """The command in a process of its own, so that its time includes the start."""
    code = "import sys; from kanvolution.cli import main; raise SystemExit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


if __name__ == "__main__":
    main()
