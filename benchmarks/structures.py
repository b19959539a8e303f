"""Trains the structures of a convolution on MNIST at the same channels, and writes the table of docs/structures.md.

Every run is one file in the results folder, width-NAME-seedS.json; runs that are there already are not repeated, so the
program can be stopped and started again. At the same number of parameters or time of a step structures are compared by
`kanvolution study structures`.

    python benchmarks/structures.py run --data mnist.npz                 # all runs that are missing
    python benchmarks/structures.py run --data mnist.npz --only full rank2 --seeds 0
    python benchmarks/structures.py cost                                 # time of a training step, all in one process
    python benchmarks/structures.py table                                # the table from what is stored
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ROOT, cpu_name, git
from torch import nn

import kanvolution as kv

RESULTS = ROOT / "benchmarks" / "results" / "structures_mnist"
CHANNELS, STRIDES = (8, 16, 32, 64), (2, 1, 2, 1)
SPECS: dict[str, kv.ConvSpec] = {
    "plain": kv.ConvSpec("identity"),
    "full": kv.ConvSpec("gram"),
    "rank1": kv.ConvSpec("gram", structure=kv.LowRank(1)),
    "rank2": kv.ConvSpec("gram", structure=kv.LowRank(2)),
    "shared2": kv.ConvSpec("gram", structure=kv.LowRank(2, shared=True)),
    "bottleneck": kv.ConvSpec("gram", structure=kv.Bottleneck(reduction=4, min_width=8)),
    "experts": kv.ConvSpec("gram", structure=kv.Experts(4, k=1)),
    "separable": kv.ConvSpec("gram", structure=kv.Separable()),
    "separable_kan": kv.ConvSpec("gram", structure=kv.Separable(pointwise="kan")),
}


def make_model(name: str) -> nn.Module:
    """The 4-layer network of a structure."""
    return kv.create_model("simple4", SPECS[name], num_classes=10, in_chans=1, channels=CHANNELS, strides=STRIDES)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cost(options: argparse.Namespace) -> None:
    """Time a training step of every network, in turns, and store the medians."""
    models = {f"width {name}": make_model(name) for name in SPECS}
    x = torch.randn(options.batch_size, 1, 28, 28)
    seconds: dict[str, list[float]] = {key: [] for key in models}
    for _ in range(options.repeats + 1):
        for key, model in models.items():
            begun = time.perf_counter()
            model(x).square().mean().backward()
            seconds[key].append(time.perf_counter() - begun)
            model.zero_grad()
    steps = {key: 1000 * statistics.median(times[1:]) for key, times in seconds.items()}
    write(
        RESULTS / "cost.json",
        {
            "step_ms": {key: round(value, 2) for key, value in steps.items()},
            "relative": {key: round(value / steps["width plain"], 2) for key, value in steps.items()},
            "batch_size": options.batch_size,
            "repeats": options.repeats,
            "command": "python benchmarks/structures.py cost",
            **provenance(),
        },
    )


def flops(model: nn.Module) -> float:
    with kv.ops.flop_counter(display=False) as counter, torch.no_grad():
        model.eval()(torch.randn(1, 1, 28, 28))
    model.train()
    return counter.get_total_flops()


def provenance() -> dict[str, str]:
    return {
        "commit": git("rev-parse", "HEAD"),
        "torch": torch.__version__,
        "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads",
    }


def write(file: Path, record: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(file)


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    from kanvolution.data import create_data
    from kanvolution.train import TrainerConfig, fit

    file = RESULTS / f"width-{name}-seed{seed}.json"
    if file.exists():
        return
    torch.manual_seed(seed)
    model = make_model(name)
    data = create_data("npz", path=options.data, augment="shift")
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            model,
            data,
            trainer=TrainerConfig(epochs=options.epochs, batch_size=options.batch_size),
            optim={"name": "adamw", "lr": options.lr},
            seed=seed,
            output_dir=Path(folder) / "run",
            name=name,
        )
    record: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "config": model.config,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "parameters": count(model),
        "mflops": round(flops(model) / 1e6, 3),
        "top1": result.metrics["top1"],
        "seconds": result.seconds,
        "command": "python benchmarks/structures.py run",
        **provenance(),
    }
    write(file, record)
    print(f"{file.name}: {100 * record['top1']:.2f} % in {record['seconds']:.0f} s", flush=True)


def table() -> str:
    """A Markdown table of all stored runs: mean and standard deviation over seeds."""
    records = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*-seed*.json"))]
    times = json.loads((RESULTS / "cost.json").read_text())["relative"]
    lines = [
        "| structure | parameters | MFLOPs | step / plain | top-1 (%) | seeds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in SPECS:
        runs = [r for r in records if r["name"] == name]
        if not runs:
            continue
        scores = [100 * r["top1"] for r in runs]
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        lines.append(
            f"| {name} | {runs[0]['parameters']:,} | {runs[0]['mflops']:.1f} | {times[f'width {name}']:.1f} "
            f"| {math.fsum(scores) / len(scores):.2f}{spread} | {len(runs)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="train what is not stored yet")
    runner.add_argument("--data", required=True, help="MNIST as .npz with x_train, y_train, x_test, y_test")
    runner.add_argument("--only", nargs="+", choices=SPECS, default=list(SPECS))
    runner.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    runner.add_argument("--epochs", type=int, default=10)
    runner.add_argument("--batch-size", type=int, default=128)
    runner.add_argument("--lr", type=float, default=3e-3)
    timer = commands.add_parser("cost", help="time a training step of every network")
    timer.add_argument("--repeats", type=int, default=15)
    timer.add_argument("--batch-size", type=int, default=128)
    for command in (runner, timer):
        command.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    commands.add_parser("table", help="print the table of what is stored")
    options = parser.parse_args()
    if options.command == "table":
        print(table())
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.command == "cost":
        cost(options)
        return
    for seed in options.seeds:
        for name in options.only:
            run(name, seed, options)


if __name__ == "__main__":
    sys.exit(main())
