"""Quantises trained runs and stores what it cost and gained.

    python benchmarks/quantize.py runs/mnist_gram --name mnist_simple4_gram --threads 1     # all that write integers
    python benchmarks/quantize.py runs/a --name a --backend inductor --qat-steps 200 data.path=mnist.npz

The result is benchmarks/results/quantize/NAME-BACKEND.json; one that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from common import ROOT, cpu_name, git

from kanvolution.cli import main as kanvolution
from kanvolution.files import write_json
from kanvolution.models.pretrained import read_config

RESULTS = ROOT / "benchmarks" / "results" / "quantize"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--name", required=True, help="of the results")
    parser.add_argument("--backend", nargs="+", default=["inductor", "onnxruntime"])
    parser.add_argument("--qat-steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("overrides", nargs="*", help="other data than the run's: data.path=...")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for backend in options.backend:
        file = RESULTS / f"{options.name}-{backend}.json"
        if file.exists():
            print(f"{file.relative_to(ROOT)} is there already")
            continue
        keys = ["--backend", backend, *(["--qat-steps", str(options.qat_steps)] if options.qat_steps else [])]
        with tempfile.TemporaryDirectory() as folder:
            suffix = {"inductor": ".pt2", "onnxruntime": ".onnx", "storage": ".safetensors"}[backend]
            places = ["--output", f"{folder}/model{suffix}", "--report", f"{folder}/report.json"]
            if kanvolution(["quantize", options.run, *options.overrides, *keys, *places]):
                raise SystemExit(1)
            report = json.loads((Path(folder) / "report.json").read_text())
        write_json(
            file,
            {
                "command": " ".join(["kanvolution quantize RUN", *keys]),
                "model": read_config(Path(options.run)).model,
                "training": json.loads((Path(options.run) / "result.json").read_text())
                if (Path(options.run) / "result.json").is_file()
                else None,
                "commit": git("rev-parse", "HEAD"),
                "torch": torch.__version__,
                "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads",
                **report,
            },
        )


if __name__ == "__main__":
    main()
