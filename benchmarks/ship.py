"""Puts a trained network into the package, and measures it as it is there: with weights rounded to bfloat16.

    python benchmarks/ship.py RUN small_gram.mnist --data mnist.npz --sample tests/data/samples/mnist.npz

The folder `src/kanvolution/models/shipped/NAME` is what `create_model(NAME, pretrained=True)` reads;
`results/shipped/NAME.json` says what it does on all test images, and on the few that the tests have. RUN is the folder
of a run of `kanvolution train`. What was shipped by that name is replaced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, cpu_name, git
from training import record

import kanvolution as kv
from kanvolution.data import create_data
from kanvolution.models.hub import SHIPPED
from kanvolution.train import Run, evaluate, load_run

RESULTS = ROOT / "benchmarks" / "results" / "shipped"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="network, a dot, data")
    parser.add_argument("--data", required=True, help="an .npz file with all test images")
    parser.add_argument("--sample", type=Path, required=True, help="an .npz file with those of the tests")
    parser.add_argument("--licence", default="mit", help="licence of the weights (mit)")
    options = parser.parse_args()
    data_name = options.name.rpartition(".")[2]
    run = load_run(options.run)
    info = replace(run.info, name=data_name)
    with tempfile.TemporaryDirectory() as folder:
        saved = kv.save_pretrained(run.model, folder, data=info, weights_dtype=torch.bfloat16)
        metrics = evaluate(saved, create_data("npz", path=options.data)).metrics
        correct, images = classified(load_run(saved), options.sample)
    shared = {key: round(metrics[key], 6) for key in ("top1", "top5")}
    target = SHIPPED / options.name
    if target.exists():
        shutil.rmtree(target)
    kv.save_pretrained(
        run.model,
        target,
        data=info,
        metrics=shared,
        weights_dtype=torch.bfloat16,
        repo_id=options.name,
        metadata={"license": options.licence, "datasets": [data_name]},
    )
    trained: dict[str, Any] = record(options.run)
    result = {
        "command": f"python benchmarks/ship.py {options.run.name} {options.name} --data {Path(options.data).name} "
        f"--sample {options.sample.as_posix()}",
        "training": {key: trained[key] for key in ("command", "seed", "seconds", "commit", "hardware")},
        "metrics": metrics,
        "parameters": trained["parameters"],
        "bytes": sum(file.stat().st_size for file in target.iterdir()),
        "sample": {"file": options.sample.name, "images": images, "correct": correct},
        "commit": git("rev-parse", "HEAD"),
        "torch": torch.__version__,
        "hardware": cpu_name(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.name}: top-1 {100 * metrics['top1']:.2f} %, {correct} of {images} of the sample")


def classified(run: Run, sample: Path) -> tuple[int, int]:
    """How many images of a sample (`images`, uint8, and `labels`) the network classifies correctly, and of how many."""
    with np.load(sample, allow_pickle=False) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    with torch.no_grad():
        found = run.model(run.info.normalise(images / 255)).argmax(1)
    return int((found == labels).sum()), len(labels)


if __name__ == "__main__":
    main()
