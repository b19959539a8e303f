"""Runs training jobs on real data through the command line and stores what they reached.

    python benchmarks/training.py mnist --data mnist.npz            # results/training/mnist_simple4_gram-seed0.json
    python benchmarks/training.py nuclei --data dsb2018             # results/training/dsb2018_unet-seed0.json
    python benchmarks/training.py mnist_small --data mnist.npz      # results/training/mnist_small-seed0.json
    python benchmarks/training.py mnist_small_plain --data mnist.npz
    python benchmarks/training.py cifar10_small --data cifar10.npz
    python benchmarks/training.py cifar10 --data cifar10.npz --minutes 9

The run is kept in `runs/JOB-seedS`. One that was stopped goes on by the same command, and ends with the weights that it
would have had; with `--minutes` it stops by itself, so that long runs fit machines that are lent for a short time. A
result that is there already is not made again. Keys after `--` go to `kanvolution train`, such as `trainer.epochs=12`,
or `trainer.mixed_precision=bf16 trainer.channels_last=true` on a GPU. Their results have a name of their own, by
`--name`. Where training flips images, the result also has the metrics with test images flipped, by that name.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, git

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
    # The lines of the aims: each network, and plain convolutions with its recipe and as many parameters.
    **{
        name: (name, [f"experiment={name}", "data=npz"])
        for aim in ("mnist_small", "cifar10_small", "cifar10")
        for name in (aim, f"{aim}_plain")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--data", required=True, help="file or folder of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="name of the result; by default the job's")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs (runs)")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    parser.add_argument("keys", nargs="*", help="further keys of kanvolution train, after --")
    options = parser.parse_intermixed_args()
    name, keys = JOBS[options.job]
    name = f"{options.name or name}-seed{options.seed}"
    file = RESULTS / f"{name}.json"
    if file.exists():
        print(f"{file.relative_to(ROOT)} is there already")
        return
    run = options.runs / name
    if not (run / "result.json").exists():
        keys = [*keys, f"seed={options.seed}", *options.keys, f"data.path={options.data}", f"output_dir={run}"]
        resumed = [f"resume={run}"] if (run / "checkpoints").exists() else []
        if not train([*keys, *resumed], options.minutes):
            print(f"{run} is not finished; the same command goes on")
            return
    RESULTS.mkdir(parents=True, exist_ok=True)
    values = record(run)
    if values["config"]["data"].get("augment") == "flip":
        values["metrics_flips"] = with_flips(run)
    file.write_text(json.dumps(values, indent=1) + "\n")
    print(file.relative_to(ROOT))


def train(keys: list[str], minutes: float | None) -> bool:
    """Whether `kanvolution train` with these keys came to its end; after so many minutes it is told to stop."""
    with subprocess.Popen([sys.executable, "-m", "kanvolution.cli", "train", *keys]) as process:
        try:
            code = process.wait(None if minutes is None else 60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # the state is saved
            process.wait()
            return False
    if code:
        raise SystemExit(code)
    return True


def with_flips(run: Path) -> dict[str, float]:
    """The metrics where outputs are averaged over each test image and its mirror image."""
    command = [sys.executable, "-m", "kanvolution.cli", "eval", str(run), "--flips", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["metrics"]


def record(run: Path) -> dict[str, Any]:
    """What is stored of a finished run: how it was made, by what, and what it reached."""
    result = json.loads((run / "result.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key in ("output_dir", "resume", "tracker"):
        config.pop(key)
    config["data"]["path"] = Path(config["data"]["path"]).name
    own = ("output_dir=", "resume=", "tracker=", "trainer.checkpoint_steps=")
    keys = [word for word in environment["command"][1:] if not word.startswith(own)]
    keys = [f"data.path={Path(key.partition('=')[2]).name}" if key.startswith("data.path=") else key for key in keys]
    return {
        "command": shlex.join(["kanvolution", *keys]),
        "config": config,
        "seed": environment["seed"],
        "metrics": result["metrics"],
        "parameters": result["parameters"],
        "seconds": result["seconds"],
        "epochs": epochs,
        "commit": environment["git_commit"] or git("rev-parse", "HEAD"),
        "torch": environment["torch"],
        "hardware": f"{environment['device']}, {environment['threads']} threads of {environment['cores']}",
    }


if __name__ == "__main__":
    main()
