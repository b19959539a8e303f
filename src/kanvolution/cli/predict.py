"""`kanvolution predict`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table

if TYPE_CHECKING:
    from kanvolution.train import Run


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, metavar="K", help="show the K likeliest classes (1)")
    parser.add_argument("--output", metavar="DIR", help="of a run that segments: write masks and overlays there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="swap light and dark first: the digits the default run learns are light on dark",
    )
    add_import(parser)


@register_command("predict", "classify or segment image files with a saved run", _arguments)
def predict(options: argparse.Namespace) -> int:
    """Print the likeliest classes of image files, or the areas of the classes of their pixels."""
    from kanvolution.train import load_run

    run = load_run(options.run_folder)
    if run.info.targets == "masks":
        if options.top is not None:
            raise ValueError("--top is for runs that classify images; this one gives a class to every pixel")
        return _segment(run, options)
    if options.output is not None:
        raise ValueError("--output is for runs that segment; this one gives a class to every image")
    return _classify(run, options)


def _classify(run: Run, options: argparse.Namespace) -> int:
    from kanvolution.train import predict

    top = 1 if options.top is None else options.top
    predictions = predict(run, options.images, top=top, invert=options.invert)
    if options.json:
        records = [
            {
                "file": file,
                "class": found.label,
                "probability": found.probability,
                "top": dict(zip(found.classes, found.probabilities, strict=True)),
            }
            for file, found in zip(options.images, predictions, strict=True)
        ]
        print(json.dumps(records, indent=2))
        return 0
    rows = [
        (file, "  ".join(f"{c} {100 * p:.1f} %" for c, p in zip(found.classes, found.probabilities, strict=True)))
        for file, found in zip(options.images, predictions, strict=True)
    ]
    print(table(rows))
    return 0


def _segment(run: Run, options: argparse.Namespace) -> int:
    from kanvolution.train.segment import class_areas, mask_files, save_masks, segment

    if options.output is not None:
        mask_files(options.output, options.images, run.info)  # nothing in the way: known before the work
    masks = segment(run, options.images, invert=options.invert)
    areas = [class_areas(mask, run.info) for mask in masks]
    files = [] if options.output is None else save_masks(options.output, options.images, masks, run.info)
    if options.json:
        records = [{"file": file, "areas": shares} for file, shares in zip(options.images, areas, strict=True)]
        for record, (mask, shown) in zip(records, files, strict=False):
            record.update(mask=str(mask), overlay=str(shown))
        print(json.dumps(records, indent=2))
        return 0
    rows = [
        (file, "  ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        for file, shares in zip(options.images, areas, strict=True)
    ]
    print(table(rows))
    print(f"masks and overlays in {options.output}" if files else "--output DIR writes the masks")
    return 0
