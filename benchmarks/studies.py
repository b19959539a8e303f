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
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT

from kanvolution.files import write_json

RESULTS = ROOT / "benchmarks" / "results" / "studies"
PICTURES = ROOT / "docs" / "pictures"
# Few epochs on the digits of scikit-learn, with a learning rate and a warm-up for so few.
COMMON = ["data=digits", "seed=0,1", "optim.lr=0.005", "schedule.warmup_epochs=0.5", "trainer.cpu=true", "tracker=none"]
_SMALL = ["model=simple4", "model.width_scale=0.25", "data.augment=none", "trainer.epochs=8"]
STUDIES: dict[str, list[str]] = {
    # An instance norm has nothing to normalise where 8 layers leave one pixel of an image of 8x8.
    "bases": [
        "model.width_scale=0.125",
        "conv=identity,spline,rbf,chebyshev,legendre,gram,jacobi,bernstein,fourier,relu,wavelet",
        "norm=batch,none",
        "trainer.epochs=5",
    ],
    "dropout": ["rate=0.1,0.5", *_SMALL],
    "penalties": _SMALL,
    "scaling": ["size=0.5,0.7", "trainer.epochs=5"],
}


_METRICS = ("top1", "loss")


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
        command = ["study", name, *COMMON, *STUDIES[name]]
        done = subprocess.run([sys.executable, "-m", "kanvolution.cli", *command, "--out", str(folder)])
        if done.returncode not in (0, 1):  # 1: some runs failed, as the result tells
            raise SystemExit(done.returncode)
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(file, record(command, folder))
        shutil.copyfile(folder / "study.png", PICTURES / f"study_{name}.png")
        print(file.relative_to(ROOT))


def record(command: list[str], folder: Path) -> dict[str, Any]:
    """What is stored of a study: how it was made, and its table."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json")]
    made = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/environment.json")]
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for entry in found["results"]:
        del entry["folders"]
        entry["metrics"] = {name: entry["metrics"][name] for name in _METRICS if name in entry["metrics"]}
    return {
        "command": shlex.join(["kanvolution", *command]),
        "commit": ", ".join(sorted({str(facts["git_commit"]) for facts in made})),
        "torch": made[0]["torch"],
        "hardware": f"{made[0]['device']}, {made[0]['threads']} of {made[0]['cores']} threads, busy with other work",
        "seeds": sorted({facts["seed"] for facts in made}),
        "training_seconds": round(sum(run["seconds"] for run in runs)),
        **found,
    }


if __name__ == "__main__":
    main()
