"""`kanvolution eval`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.run_data import run_data
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="other data (data=NAME data.path=...) or options of the task; the run's own are the default",
    )
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="the last (default) or the best weights")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images taken at once (256)")
    parser.add_argument("--flips", action="store_true", help="average the outputs for each image and its mirror image")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON, with the tables of the task")
    add_import(parser)


@register_command("eval", "measure a saved run on its own validation images, or on other data", _arguments)
def evaluate(options: argparse.Namespace) -> int:
    """Print the metrics of a run, and those of each class."""
    from kanvolution.train import evaluate, find_checkpoint, load_run
    from kanvolution.train.progress import measured

    run = load_run(find_checkpoint(options.run_folder, options.checkpoint))
    name, data, task = run_data("eval", options.run_folder, run, options.overrides)
    device = "cpu" if options.cpu else None
    found = evaluate(run, data, task=task, batch_size=options.batch_size, device=device, flips=options.flips)
    if options.json:
        values = {"run": options.run_folder, "checkpoint": options.checkpoint, "epoch": run.epoch, "data": name}
        values["flips"] = options.flips
        print(json.dumps({**values, **dataclasses.asdict(found)}, indent=2))
        return 0
    flipped = ", each with its mirror image," if options.flips else ""
    images = f"{found.images:,} images of {name}{flipped}"
    print(f"{options.run_folder}, epoch {run.epoch}, on {images} in {found.seconds:.1f} s\n")
    print(table(measured(key, value) for key, value in found.metrics.items()))
    if found.classes:
        rows = [("class", "images", "recall", "precision", "F1")]
        rows += [
            (
                c.name,
                f"{c.images:,}",
                *("-" if v is None else f"{100 * v:.2f} %" for v in (c.recall, c.precision, c.f1)),
            )
            for c in found.classes
        ]
        print("\n" + table(rows, right=range(1, 5)))
    return 0
