"""`kanvolution show`."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        help="other data than the run's: data=NAME data.path=...",
    )
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer, or a pattern; all by default")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="curves in a picture (16)")
    parser.add_argument("--fits", type=int, default=0, metavar="N", help="fit the N most important functions (0)")
    parser.add_argument("--compare", metavar="RUN", help="an earlier run or checkpoint of the same network")
    parser.add_argument("--checkpoint", default="last", metavar="WHICH", help="the last (default) or the best weights")
    parser.add_argument("--output", metavar="DIR", help="a new folder for the pictures (RUN/functions)")
    add_import(parser)


@register_command("show", "draw the functions that a saved run has learned", _arguments)
def show(options: argparse.Namespace) -> int:
    """Write the pictures and print a line for each layer."""
    import torch
    from torch.utils.data import DataLoader

    from kanvolution.train import find_checkpoint, load_run
    from kanvolution.train.evaluate import validation_images
    from kanvolution.visualize.run import show_functions

    run = load_run(find_checkpoint(options.run_folder, options.checkpoint))
    before = None if options.compare is None else load_run(options.compare).model
    _, data, _ = run_data("show", options.run_folder, run, options.overrides)
    # Mixed, since the images of a folder come class by class.
    mixed = torch.Generator().manual_seed(0)
    images = DataLoader(validation_images(run, data), 64, shuffle=True, generator=mixed)
    folder = Path(options.output or Path(options.run_folder) / "functions")
    layers = options.layer or ["*"]
    found = show_functions(
        run.model, images, folder, layers=layers, count=options.count, fits=options.fits, before=before
    )
    rows = [("layer", "channels", "functions", "edges", "give 90 %", "outside the grid")]
    for layer in found:
        view = layer.importance.view
        rows.append(
            (
                layer.name,
                f"{view.in_channels} → {view.out_channels}",
                str(view.basis.size),
                f"{layer.importance.edges.numel():,}",
                f"{layer.edges_for_90:,}",
                "-" if layer.outside_grid is None else f"{100 * layer.outside_grid:.1f} %",
            )
        )
    print(table(rows, right=range(2, 6)))
    for layer in found:
        if layer.symbolic is not None:
            print(f"\n{layer.name}\n{layer.symbolic}")
    print(f"\n{sum(len(layer.files) for layer in found)} files in {folder}")
    return 0
