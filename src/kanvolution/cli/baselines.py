"""`kanvolution baselines`."""

from __future__ import annotations

import argparse

from kanvolution.cli.command import register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.study import run_study


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="the data (data=mnist) and any other key of train; several values make several runs (seed=0,1,2)",
    )
    parser.add_argument("--models", metavar="NAMES", help="networks, as model=NAMES (simple4,simple8)")
    parser.add_argument("--convs", metavar="NAMES", help="bases, as conv=NAMES; all that are registered by default")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs and the comparison (runs/baselines-DATA)")
    add_import(parser)


@register_command("baselines", "train the simple networks with every basis on a data set, and compare them", _arguments)
def baselines(options: argparse.Namespace) -> int:
    """The study of that name."""
    from kanvolution.study import read_study

    chosen = {"model": options.models, "conv": options.convs}
    axes = [f"{axis}={names}" for axis, names in chosen.items() if names is not None]
    return run_study(read_study("baselines").changed([*axes, *options.overrides]), options.out, "baselines")
