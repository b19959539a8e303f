"""Adapts a network trained on MNIST to shifted digits, a tenth of the training images, with every kind of adapter.

    python benchmarks/adapt.py RUN --data mnist.npz                     # results/adapt/mnist_rotated.json
    python benchmarks/adapt.py RUN --data mnist.npz --shift inverted --seeds 0

RUN is the folder of a run of `kanvolution train data=npz data.path=mnist.npz`. Every second test image validates. What
the file has already is not made again. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, cpu_name, git

RESULTS = ROOT / "benchmarks" / "results" / "adapt"
KINDS: dict[str, list[str]] = {
    "full": ["adapter=full"],
    "head": ["adapter=head"],
    "head, norms": ["adapter=head", "adapter.norms=true"],
    "functions [-1]": ["adapter=functions"],
    "functions [0,-1]": ["adapter=functions", "adapter.functions=[0,-1]"],
    "new_functions": ["adapter=new_functions"],
    "lora, rank 1": ["adapter=lora", "adapter.rank=1"],
    "lora, rank 8": ["adapter=lora", "adapter.rank=8"],
    "lora, rank 8, no norms": ["adapter=lora", "adapter.rank=8", "adapter.norms=false"],
}
SHIFTS = {"rotated": lambda images: np.rot90(images, axes=(1, 2)), "inverted": lambda images: 255 - images}
TRAINING = ["data=npz", "data.augment=shift", "trainer.epochs=2", "trainer.batch_size=64", "tracker=none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the base network")
    parser.add_argument("--data", required=True, help="MNIST as an .npz file: x_train, y_train, x_test, y_test")
    parser.add_argument("--shift", choices=SHIFTS, default="rotated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    file = RESULTS / f"mnist_{options.shift}.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    with tempfile.TemporaryDirectory() as temporary:
        shifted = Path(temporary) / f"mnist-{options.shift}.npz"
        record |= write_shifted(Path(options.data), shifted, options.shift)
        if "base" not in record:
            record["base"] = base_accuracy(options.run, shifted)
        for seed in options.seeds:
            for kind, keys in KINDS.items():
                if not any(run["kind"] == kind and run["seed"] == seed for run in record["runs"]):
                    record["runs"].append(one_run(options.run, shifted, kind, keys, seed))
                    store(file, record)
    print(table(record))


def write_shifted(source: Path, target: Path, shift: str) -> dict[str, int]:
    """A tenth of the training images of each class, and every second test image, shifted. Returns how many they are."""
    with np.load(source) as arrays:
        train, labels = arrays["x_train"], arrays["y_train"]
        test, test_labels = arrays["x_test"][::2], arrays["y_test"][::2]
    few = np.concatenate([np.flatnonzero(labels == c)[: round((labels == c).sum() / 10)] for c in range(10)])
    change = SHIFTS[shift]
    np.savez(
        target,
        x_train=change(train[few]),
        y_train=labels[few],
        x_test=change(test),
        y_test=test_labels,
        classes=np.array([str(c) for c in range(10)]),
    )
    return {"training_images": len(few), "validation_images": len(test)}


def base_accuracy(run: str, data: Path) -> dict[str, float]:
    """Top-1 of the base network on the images it was trained for, and on the shifted ones."""
    command = [*cli(), "eval", run, "--json", "--cpu", "data=npz", f"data.path={data}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread())
    known = json.loads((Path(run) / "result.json").read_text())
    return {
        "top1_before": known["metrics"]["top1"],
        "top1_shifted": json.loads(found.stdout)["metrics"]["top1"],
        "parameters": known["parameters"],
    }


def one_run(run: str, data: Path, kind: str, keys: list[str], seed: int) -> dict[str, Any]:
    keys = [*keys, *TRAINING, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        places = [f"data.path={data}", f"output_dir={out}"]
        subprocess.run([*cli(), "finetune", run, *keys, *places], check=True, env=one_thread())
        result = json.loads((out / "result.json").read_text())
        rate = float(re.search(r"^optim:.*?^  lr: (\S+)$", (out / "config.yaml").read_text(), re.M | re.S)[1])
        weights = out / "adapter" / "adapter.safetensors"
        size = weights.stat().st_size if weights.exists() else (out / "model.safetensors").stat().st_size
    return {
        "kind": kind,
        "seed": seed,
        "command": " ".join(["kanvolution finetune RUN", *keys, f"data.path={data.name}"]),
        "lr": rate,
        "trained": result["parameters"],
        "bytes": size,
        "top1": result["metrics"]["top1"],
        "seconds": result["seconds"],
    }


def store(file: Path, record: dict[str, Any]) -> None:
    import torch

    record["commit"], record["torch"] = git("rev-parse", "HEAD"), torch.__version__
    record["hardware"] = f"{cpu_name()}, 1 thread of {os.cpu_count()}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


def table(record: dict[str, Any]) -> str:
    """One row for each kind: trained parameters, size of what is saved, mean and deviation of top-1 over seeds."""
    base = record["base"]
    rows = [
        "| kind | trained | share | file | top-1 |",
        "|---|---:|---:|---:|---:|",
        f"| none | 0 | | | {100 * base['top1_shifted']:.2f} % |",
    ]
    for kind in KINDS:
        runs = [run for run in record["runs"] if run["kind"] == kind]
        if not runs:
            continue
        values = [100 * run["top1"] for run in runs]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        trained = runs[0]["trained"]
        share = 100 * trained / base["parameters"]
        size = f"{runs[0]['bytes'] / 1024:.0f} KiB"
        rows.append(f"| {kind} | {trained:,} | {share:.1f} % | {size} | {statistics.mean(values):.2f}{spread} % |")
    return "\n".join(rows)


def cli() -> list[str]:
    return [sys.executable, "-m", "kanvolution.cli"]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
