"""Runs studies that are small enough for a CPU, and stores their results and pictures.

    python benchmarks/studies.py                     # all studies that are not stored
    python benchmarks/studies.py bases               # one of them
    python benchmarks/studies.py --draw              # the pictures again, from what is stored

Each result is benchmarks/results/studies/NAME.json with the picture docs/pictures/studies/NAME.png; one that is there
already is not made again. The runs are in runs/studies/NAME, from which a program that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT

from kanvolution.files import atomic, write_json
from kanvolution.study import study_figure

RESULTS = ROOT / "benchmarks" / "results" / "studies"
PICTURES = ROOT / "docs" / "pictures" / "studies"
RUNS = ROOT / "runs" / "studies"
# Few epochs on the digits of scikit-learn, with a learning rate and a warm-up for so few.
COMMON = ["data=digits", "seed=0,1", "optim.lr=0.005", "schedule.warmup_epochs=0.5", "trainer.cpu=true", "tracker=none"]
STUDIES = {
    "bases": [
        "model.width_scale=0.125",
        "conv=identity,spline,rbf,chebyshev,legendre,gram,jacobi,bernstein,fourier,relu,wavelet",
        "norm=batch,none",
        "trainer.epochs=5",
    ],
    "dropout": ["model.width_scale=0.25", "rate=0.1,0.5", "data.augment=none", "trainer.epochs=8"],
    "penalties": ["model.width_scale=0.25", "data.augment=none", "trainer.epochs=8"],
    "scaling": ["size=0.125,0.25,0.5", "trainer.epochs=5"],
}
KEPT = ("top1", "loss")
"""Metrics that are stored."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where the runs are (runs/studies)")
    parser.add_argument("--draw", action="store_true", help="draw what is stored again, and run nothing")
    options = parser.parse_args()
    for name in options.names or STUDIES:
        file = RESULTS / f"{name}.json"
        if not options.draw:
            if file.exists():
                print(f"{file.relative_to(ROOT)} is there already")
                continue
            folder = options.runs / name
            command = ["study", name, *COMMON, *STUDIES[name]]
            kanvolution(*command, "--out", str(folder))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"command": " ".join(["kanvolution", *command]), **summary(folder)})
        if file.exists():
            draw(name, json.loads(file.read_text(encoding="utf-8")))


def summary(folder: Path) -> dict[str, Any]:
    """What a study found, and where its runs were made."""
    found = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    made = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*/environment.json"))]
    for entry in found["results"]:
        del entry["folders"]
        entry["metrics"] = {name: entry["metrics"][name] for name in KEPT if name in entry["metrics"]}
    return {
        "commit": ", ".join(sorted({str(facts["git_commit"]) for facts in made})),
        "torch": made[0]["torch"],
        "hardware": f"{made[0]['device']}, {made[0]['threads']} threads, busy with other work",
        "seeds": sorted({facts["seed"] for facts in made}),
        **found,
    }


def draw(name: str, stored: dict[str, Any]) -> None:
    """The picture of a stored result."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with atomic(PICTURES / f"{name}.png") as temporary:
        study_figure(stored).savefig(temporary, dpi=90, format="png")


def kanvolution(*arguments: str) -> None:
    """The command, in a process of its own."""
    code = "import sys; from kanvolution.cli import main; raise SystemExit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


if __name__ == "__main__":
    main()
