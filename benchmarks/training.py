"""Runs training jobs on real data through the command line and stores what they reached.

    python benchmarks/training.py mnist --data mnist.npz         # benchmarks/results/training/mnist_simple4_gram-seed0.json
    python benchmarks/training.py nuclei --data dsb2018          # .../dsb2018_unet-seed0.json

A result that is there already is not made again. Keys after `--` go to `kanvolution train`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, cpu_name, git

RESULTS = ROOT / "benchmarks" / "results" / "training"
JOBS: dict[str, tuple[str, list[str]]] = {
    # Three epochs of the four-layer network: at least 99.0 % top-1.
    "mnist": (
        "mnist_simple4_gram",
        [
            "model=simple4",
            "conv=gram",
            "data=npz",
            "data.augment=shift",
            "schedule=onecycle",
            "optim.lr=0.003",
            "trainer.epochs=3",
        ],
    ),
    # A fifth of the images held out: Dice of at least 0.85 within 15 minutes.
    "nuclei": ("dsb2018_unet", ["experiment=dsb2018_unet"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--data", required=True, help="file or folder of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("keys", nargs="*", help="further keys of kanvolution train, after --")
    options = parser.parse_args()
    name, keys = JOBS[options.job]
    file = RESULTS / f"{name}-seed{options.seed}.json"
    if file.exists():
        print(f"{file.relative_to(ROOT)} is there already")
        return
    command = [*keys, f"seed={options.seed}", *options.keys]
    commit = git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        places = [f"data.path={options.data}", f"output_dir={out}"]
        subprocess.run([sys.executable, "-m", "kanvolution.cli", "train", *command, *places], check=True)
        result = json.loads((out / "result.json").read_text())
        environment = json.loads((out / "environment.json").read_text())
        epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    record = {
        "command": " ".join(["kanvolution train", *command, f"data.path={Path(options.data).name}"]),
        "seed": options.seed,
        "metrics": result["metrics"],
        "parameters": result["parameters"],
        "seconds": result["seconds"],
        "epochs": epochs,
        "commit": commit,
        "torch": environment["torch"],
        "hardware": f"{cpu_name()}, {environment['threads']} threads of {os.cpu_count()}",
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
