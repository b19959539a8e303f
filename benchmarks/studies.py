"""Makes the studies of the package at a size that a small machine can take, and stores tables and pictures.

    python benchmarks/studies.py bases
    python benchmarks/studies.py dropout penalties scaling

The runs are kept in `runs/studies/NAME`; a study that was stopped goes on by the same command. The result is
benchmarks/results/studies/NAME.json, with the picture as docs/pictures/study_NAME.png; one that is there already is not
made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from common import ROOT, cpu_name, git

from kanvolution.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "studies"
PICTURES = ROOT / "docs" / "pictures"
# Few epochs on the digits of scikit-learn, with a rate and a warm-up for so few.
COMMON = ["optim.lr=0.005", "schedule.warmup_epochs=0.5", "trainer.cpu=true", "tracker=none"]
_SMALL = ["model=simple4", "model.width_scale=0.25", "data.augment=none", "trainer.epochs=6", "seed=0,1"]
STUDIES: dict[str, list[str]] = {
    "bases": ["model.width_scale=0.125", "trainer.epochs=5", "seed=0,1"],
    "dropout": _SMALL,
    "penalties": _SMALL,
    "scaling": ["trainer.epochs=5", "seed=0,1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=STUDIES, metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "studies", help="folder of the runs")
    options = parser.parse_args()
    for name in options.names:
        file = RESULTS / f"{name}.json"
        if file.exists():
            print(f"{file.relative_to(ROOT)} is there already")
            continue
        folder = options.runs / name
        command = ["study", name, *STUDIES[name], *COMMON]
        done = subprocess.run([sys.executable, "-m", "kanvolution.cli", *command, "--out", str(folder)])
        if not (folder / "study.json").is_file():
            raise SystemExit(done.returncode)
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(file, record(command, folder))
        shutil.copyfile(folder / "study.png", PICTURES / f"study_{name}.png")
        print(file.relative_to(ROOT))


def record(command: list[str], folder: Path) -> dict[str, Any]:
    """What is stored of a study: how it was made, and its table."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json")]
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return {
        "command": shlex.join(["kanvolution", *command]),
        "commit": git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "torch": torch.__version__,
        "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "training_seconds": round(sum(run["seconds"] for run in runs)),
        **found,
    }


if __name__ == "__main__":
    main()
