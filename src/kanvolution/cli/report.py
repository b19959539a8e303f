"""`kanvolution report`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.run_data import run_data


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folders of runs, shown side by side; and KEY=VALUE for other data than theirs: data=NAME data.path=...",
    )
    parser.add_argument("--output", metavar="FILE", help="a new file (report.html in the folder of the first run)")
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer, or a pattern; all by default")
    parser.add_argument("--count", type=int, default=12, metavar="N", help="functions of each layer (12)")
    parser.add_argument("--no-data", action="store_true", help="without the validation images and what is made of them")
    add_import(parser)


@register_command("report", "write one HTML page about saved runs: results, functions, where they look", _arguments)
def report(options: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from kanvolution.pages.report import ReportedRun, check_new_file, write_report
    from kanvolution.train import load_run
    from kanvolution.train.evaluate import validation_images

    folders, overrides = _apart(options.runs)
    if not folders:
        raise ValueError("name the folder of a run: kanvolution report RUN")
    file = Path(options.output or Path(folders[0]) / "report.html")
    loaded = [load_run(folder) for folder in folders]
    check_new_file(file)
    runs = []
    for folder, run in zip(folders, loaded, strict=True):
        images = None
        if not options.no_data:
            try:
                images = validation_images(run, run_data("report", folder, run, overrides)[1])
            except ValueError as error:
                raise ValueError(f"{error} (Or make the report without the images: --no-data)") from error
        runs.append(ReportedRun(folder, run.model, run.info, images))
    print(write_report(runs, file, layers=options.layer or ["*"], count=options.count))
    return 0


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders and overrides. A folder may have a = in its name, as those of several runs have."""
    overrides = [word for word in words if re.match(r"(data|task)(\.\w+)*=", word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides
