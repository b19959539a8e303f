"""Runs the default job, `kanvolution train`, for several seeds and stores what it reached.

python benchmarks/digits.py            # seeds 0, 1, 2 -> benchmarks/results/digits.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, cpu_name, git

RESULT = ROOT / "benchmarks" / "results" / "digits.json"
SEEDS = (0, 1, 2)


def main() -> None:
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = ["kanvolution", "train", f"seed={seed}"]
            subprocess.run([sys.executable, "-m", "kanvolution.cli", *command[1:], f"output_dir={out}"], check=True)
            result = json.loads((out / "result.json").read_text())
            environment = json.loads((out / "environment.json").read_text())
        runs.append(
            {
                "command": " ".join(command),
                "seed": seed,
                "top1": result["metrics"]["top1"],
                "macro_auc": result["metrics"]["macro_auc"],
                "parameters": result["parameters"],
                "seconds": result["seconds"],
                "device": environment["device"],
            }
        )
    record = {
        "top1_mean": statistics.mean(r["top1"] for r in runs),
        "top1_std": statistics.stdev(r["top1"] for r in runs),
        "runs": runs,
        "commit": git("rev-parse", "HEAD"),
        "torch": environment["torch"],
        "hardware": f"{cpu_name()}, {environment['threads']} threads",
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(RESULT.relative_to(ROOT))


if __name__ == "__main__":
    main()
