"""`kanvolution train`."""

from __future__ import annotations

import argparse
import sys

from kanvolution.cli.command import FAILED, INTERRUPTED, fail, register_command
from kanvolution.cli.imports import add_import


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-h", "--help", action="store_true", help="show the groups, their choices, and all keys")
    add_import(parser)


@register_command("train", "train a network; without arguments, on handwritten digits", _arguments, own_help=True)
def train(options: argparse.Namespace) -> int:
    """Train the network that the overrides describe."""
    from kanvolution.configs import compose

    if options.help:
        from kanvolution.configs.manual import manual

        print(manual(options.overrides))
        return 0
    composed = compose(options.overrides)

    from kanvolution.train import NonFiniteLossError, TrainingInterrupted, run_job
    from kanvolution.train.progress import measured, summary

    try:
        result = run_job(composed.values, text=composed.text)
    except TrainingInterrupted as stopped:
        print(f"kanvolution: {stopped}", file=sys.stderr)
        return INTERRUPTED
    except NonFiniteLossError as error:
        return fail(str(error), FAILED)
    summary(
        {
            **dict(measured(name, value) for name, value in result.metrics.items()),
            "parameters": f"{result.parameters:,}",
            "seconds": f"{result.seconds:.1f}",
            "run folder": str(result.folder),
        }
    )
    return 0
