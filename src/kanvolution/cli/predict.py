"""`kanvolution predict`."""

from __future__ import annotations

import argparse
import json

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import table


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K likeliest classes (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="swap light and dark first: the digits the default run learns are light on dark",
    )
    add_import(parser)


@register_command("predict", "classify image files with a saved run", _arguments)
def predict(options: argparse.Namespace) -> int:
    """Print the likeliest classes of image files."""
    from kanvolution.train import predict

    predictions = predict(options.run_folder, options.images, top=options.top, invert=options.invert)
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
