"""`kanvolution finetune`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kanvolution.cli.command import FAILED, INTERRUPTED, fail, register_command
from kanvolution.cli.imports import add_import


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="CHECKPOINT [KEY=VALUE ...]")
    parser.add_argument("-h", "--help", action="store_true", help="show the groups, their choices, and all keys")
    add_import(parser)


@register_command("finetune", "fit a trained network to other data by an adapter", _arguments, own_help=True)
def finetune(options: argparse.Namespace) -> int:
    """Put an adapter on a saved network and train it."""
    from kanvolution.configs.finetune import compose_finetune

    words = list(options.overrides)
    named = bool(words) and ("=" not in words[0] or Path(words[0]).exists())
    checkpoint = words.pop(0) if named else None
    if options.help:
        from kanvolution.configs.manual import manual

        print(manual(words, "finetune"))
        return 0
    composed = compose_finetune(checkpoint, words)

    from kanvolution.deploy.finetune import finetune_job
    from kanvolution.train import NonFiniteLossError, TrainingInterrupted
    from kanvolution.train.parallel import is_main
    from kanvolution.train.progress import measured, summary

    try:
        done = finetune_job(composed.values, text=composed.text)
    except TrainingInterrupted as stopped:
        print(f"kanvolution: {stopped}", file=sys.stderr)
        return INTERRUPTED
    except NonFiniteLossError as error:
        return fail(str(error), FAILED)
    if not is_main():
        return 0
    result = done.result
    summary(
        {
            **dict(measured(name, value) for name, value in result.metrics.items()),
            "trained": f"{result.parameters:,} of {done.total:,} parameters",
            "seconds": f"{result.seconds:.1f}",
            "run folder": str(result.folder),
            **({} if done.adapter is None else {"adapter": f"{done.adapter} ({done.adapter_bytes / 1024:.0f} KiB)"}),
        }
    )
    return 0
