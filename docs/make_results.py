"""Writes results.md from the stored results: `python docs/make_results.py`."""

from __future__ import annotations

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = Path(__file__).with_name("results.md")
# Line, published best of convolutional KANs, aim in percent, experiment.
AIMS = [
    ("MNIST", "99.68 (22.6 M parameters)", 99.70, 1.0, "mnist_small"),
    ("CIFAR-10, up to 5 M parameters", "85.37 (10.7 M)", 94.0, 5.0, "cifar10"),
    ("CIFAR-10, up to 0.4 M parameters", "88.47", 90.0, 0.4, "cifar10_small"),
]

KINDS = {"mnist_small": "Gram", "cifar10": "Chebyshev, rank 1", "cifar10_small": "Chebyshev, rank 1"}
"""The convolutions of the experiments."""


def load(pattern: str) -> dict[str, dict[str, Any]]:
    """The stored results whose path below `results` matches, by the name of their file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(pattern))}


def table(head: list[str], rows: list[list[str]], right: int) -> list[str]:
    """A table whose columns from `right` on are aligned to the right."""
    rule = ["---" if i < right else "--:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)] + [""]


def percent(share: float) -> str:
    """A share of 1 as percent."""
    return f"{100 * share:.2f}"


def aims() -> list[str]:
    """The lines of the aims: what was reached, beside plain convolutions."""
    rows = []
    for line, published, aim, limit, experiment in AIMS:
        for name, plain in ((experiment, False), (f"{experiment}_plain", True)):
            what = "plain" if plain else KINDS[experiment]
            runs = list(load(f"training/{name}-seed*.json").values())
            if not runs:
                reached, state = "", "not run on a GPU yet"
            else:
                best, reached = spread([run["metrics"]["top1"] for run in runs])
                epochs, seeds = runs[0]["config"]["trainer"]["epochs"], len(runs)
                reached += f" ({epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''})"
                if all("metrics_flips" in run for run in runs):
                    reached += f"; with flips {spread([run['metrics_flips']['top1'] for run in runs])[1]}"
                state = "met" if best >= aim and runs[0]["parameters"] <= 1e6 * limit and seeds >= 3 else "missed"
            if plain:
                state = "for comparison" if runs else state
            rows.append([line, what, published, f">= {aim:.1f}" if aim < 99 else f">= {aim:.2f}", reached, state])
    return table(["line", "convolutions", "published best (%)", "aim (%)", "reached (%)", ""], rows, 6)


def spread(shares: list[float]) -> tuple[float, str]:
    """The mean in percent, and its text with the standard deviation where there are several."""
    mean = 100 * statistics.fmean(shares)
    std = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return mean, f"{mean:.2f}{std}"


def training() -> list[str]:
    """Runs of the training jobs."""
    rows = []
    for name, run in load("training/*.json").items():
        metrics = run["metrics"]
        score = f"top-1 {percent(metrics['top1'])} %" if "top1" in metrics else f"Dice {metrics['dice']:.4f}"
        rows.append(
            [
                f"`{name.rpartition('-')[0]}`",
                str(len(run["epochs"])),
                str(run["seed"]),
                f"{run['parameters']:,}",
                score,
                f"{run['seconds']:.0f}",
                run["hardware"],
                f"`{run['commit'][:8]}`",
                f"`{run['command']}`",
            ]
        )
    digits = load("digits.json")["digits"]
    for run in digits["runs"]:
        facts = [str(run["seed"]), f"{run['parameters']:,}", f"top-1 {percent(run['top1'])} %", f"{run['seconds']:.0f}"]
        command = f"`kanvolution train seed={run['seed']}`"
        rows.append(["`digits`", "", *facts, digits["hardware"], f"`{digits['commit'][:8]}`", command])
    head = [
        "result",
        "epochs",
        "seed",
        "parameters",
        "on the held-out images",
        "seconds",
        "hardware",
        "commit",
        "command",
    ]
    return table(head, rows, 9)


def quantization() -> list[str]:
    """Networks of 8-bit integers."""
    rows = []
    for name, run in load("quantize/*.json").items():
        before, after = run["metrics"]["top1"]
        rows.append(
            [
                f"`{name}`",
                percent(before),
                percent(after),
                *(f"{run['bytes'][i] / 1e6:.2f}" for i in (0, 1)),
                f"{run['speedup']['64']:.2f}",
            ]
        )
    head = ["result", "top-1 float32 (%)", "8-bit (%)", "file (MB)", "8-bit file (MB)", "times as fast, 64 images"]
    return table(head, rows, 1)


def pruning() -> list[str]:
    """Networks by the steps of pruning."""
    rows = [
        [f"`{name}`", str(i), f"{step['parameters']:,}", f"{step['operations']:,}", percent(step["metrics"]["top1"])]
        for name, run in load("prune/*.json").items()
        for i, step in enumerate(run["steps"])
    ]
    return table(["result", "step", "parameters", "operations", "top-1 (%)"], rows, 1)


def search() -> list[str]:
    """Studies, and what they found trained again."""
    rows = []
    for name, run in load("tune/*.json").items():
        again = [f"{percent(run['again'][key]['mean'])} ± {percent(run['again'][key]['std'])}" for key in _ENDS]
        rows.append([f"`{name}`", str(len(run["trials"])), f"{run['seconds']:.1f}", *again])
    return table(["result", "trials", "seconds", "top-1 at the start, again (%)", "of the best, again (%)"], rows, 1)


_ENDS = ("default", "best")


def adapters() -> list[str]:
    """Adapters of a network for MNIST."""
    rows = [
        [
            f"`adapter={run['command'].split('adapter=')[1].partition(' data=')[0]}`",
            str(run["seed"]),
            f"{run['trained']:,}",
            percent(run["top1"]),
            f"{run['seconds']:.0f}",
        ]
        for run in load("adapt/*.json")["mnist_rotated"]["runs"]
    ]
    return table(["adapter", "seed", "trained parameters", "top-1 (%)", "seconds"], rows, 1)


def structures() -> list[str]:
    """Structures of layers on MNIST."""
    rows = [
        [f"`{run['name']}`", str(run["seed"]), f"{run['parameters']:,}", percent(run["top1"]), f"{run['seconds']:.0f}"]
        for name, run in load("structures_mnist/*-seed*.json").items()
    ]
    return table(["structure", "seed", "parameters", "top-1 (%)", "seconds"], rows, 1)


def studies() -> list[str]:
    """Studies: the picture of each, and its table."""
    lines = []
    for name, run in load("studies/*.json").items():
        entries = run["results"]
        axes = list(dict.fromkeys(axis for entry in entries for axis in entry["setting"]))
        sized = any("share" in entry for entry in entries)
        head = [*axes, "top-1 (%)", "parameters", *(["of reference"] if sized else [])]
        rows = [
            [
                *(entry["setting"].get(axis, "") for axis in axes),
                mean_and_deviation(entry["metrics"]["top1"]),
                f"{entry['parameters']:,}",
                *([f"{entry['share']:.2f}" if "share" in entry else ""] if sized else []),
            ]
            for entry in entries
        ]
        lines += [f"### {name}", "", run["help"], f"Made by `{run['command']}`", f"on {run['hardware']};"]
        lines += [f"{len(run['seeds'])} seeds.", "", f"![](pictures/study_{name}.png)", ""]
        lines += table(head, rows, len(axes))
    return lines


def mean_and_deviation(found: dict[str, float | None]) -> str:
    """Mean and standard deviation in percent; without the deviation for a single run."""
    mean, std = found["mean"], found["std"]
    assert mean is not None
    return percent(mean) + ("" if std is None else f" ± {percent(std)}")


def shipped() -> list[str]:
    """Weights inside of the package."""
    rows = [
        [f"`{name}`", f"{run['parameters']:,}", percent(run["metrics"]["top1"]), percent(run["metrics"]["top5"])]
        for name, run in load("shipped/*.json").items()
    ]
    return table(["weights", "parameters", "top-1 (%)", "top-5 (%)"], rows, 1)


def page() -> str:
    """The text of results.md."""
    parts: list[tuple[str, str, list[str]]] = [
        (
            "Aims",
            "Top-1 on the test images in percent, after the last epoch. A line is met when the mean of three seeds "
            'reaches the aim. "Plain" is a network of ordinary convolutions with the same recipe and as many '
            "parameters. The runs were made on one thread of a CPU that was busy with other work, for the few epochs "
            "that this allowed. On a GPU, `python benchmarks/training.py cifar10_small --data cifar10.npz -- "
            "trainer.mixed_precision=bf16 trainer.channels_last=true`, and the same with `mnist_small`, `cifar10` and "
            "the names ending in `_plain`, run the whole recipes. `--minutes 9` stops in time, and the same command "
            'goes on. "With flips": outputs averaged over each test image and its mirror image (`kanvolution eval '
            "--flips`); the aims are compared without.",
            aims(),
        ),
        ("Training", "Of every run: its command, and where it was made.", training()),
        (
            "Weights in the package",
            "Rounded to bfloat16. See [published weights](models/index.md#published-weights).",
            shipped(),
        ),
        ("Structures on MNIST", "Ten epochs each; see [structures](structures.md).", structures()),
        (
            "Studies",
            "Few epochs on the 8x8 digits, where one image is 0.3 %: see [what they show](study.md#measured).",
            studies(),
        ),
        ("8-bit integers", "See [quantization](quantize.md).", quantization()),
        ("Pruning", "See [pruning](prune.md). Step 0 is the network before.", pruning()),
        ("Search", "Five epochs on the digits; three seeds that the study did not see; see [tune](tune.md).", search()),
        ("Adapters", "A network for MNIST, adapted to turned digits; see [adapting](adapt.md).", adapters()),
    ]
    lines = [
        "# Results",
        "",
        "Made from the files in `benchmarks/results` by `python docs/make_results.py`. Times are in",
        "[measured times and memory](speed.md).",
        "",
    ]
    for heading, text, rows in parts:
        lines += [f"## {heading}", "", textwrap.fill(text, 130, break_on_hyphens=False), "", *rows]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
