"""`kanvolution train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kanvolution.cli.command import FAILED, INTERRUPTED, fail, register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import markdown


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-h", "--help", action="store_true", help="show the groups, their choices, and all keys")
    parser.add_argument("-m", "--multirun", action="store_true", help="a run for each of several values")
    add_import(parser)


@register_command("train", "train a network; without arguments, on handwritten digits", _arguments, own_help=True)
def train(options: argparse.Namespace) -> int:
    """Train the network that the overrides describe."""
    from kanvolution.configs import compose

    if options.help:
        from kanvolution.configs.manual import manual

        print(manual(options.overrides))
        return 0
    if options.multirun:
        return _several(options.overrides)
    composed = compose(options.overrides)

    from kanvolution.train import NonFiniteLossError, TrainingInterrupted, run_job
    from kanvolution.train.parallel import is_main
    from kanvolution.train.progress import measured, summary

    try:
        result = run_job(composed.values, text=composed.text)
    except TrainingInterrupted as stopped:
        print(f"kanvolution: {stopped}", file=sys.stderr)
        return INTERRUPTED
    except NonFiniteLossError as error:
        return fail(str(error), FAILED)
    if not is_main():  # one table, not one for each process
        return 0
    summary(
        {
            **dict(measured(name, value) for name, value in result.metrics.items()),
            "parameters": f"{result.parameters:,}",
            "seconds": f"{result.seconds:.1f}",
            "run folder": str(result.folder),
        }
    )
    return 0


def _several(overrides: Sequence[str]) -> int:
    """A run for each combination of the values, in folders of one folder, and a table of their results."""
    from kanvolution.cli.multirun import Job, RunsInterrupted, folder_name, results_table, run_all, summarise
    from kanvolution.configs import ConfigError, expand
    from kanvolution.configs.compose import parse_override
    from kanvolution.files import write_json, write_text
    from kanvolution.train.run_folder import make_run_folder

    variants = expand([text for text in overrides if not text.startswith("output_dir=")])
    given = [expand([text]) for text in overrides if text.startswith("output_dir=")]
    if any(len(values) > 1 for values in given):
        raise ConfigError(
            "output_dir holds several values; it is the folder of all runs, each has one of its own in it"
        )
    jobs: list[Job] = []
    for variant in variants:
        name = folder_name(variant.name, [job.name for job in jobs])
        jobs.append(Job(name, variant.overrides, variant.varied))
    named = parse_override(given[-1][0].overrides[0]).value() if given else None
    folder = Path(str(named)) if named is not None else make_run_folder(None, "multirun")
    try:
        outcomes = run_all(jobs, folder, header={"overrides": list(overrides)})
    except RunsInterrupted as stopped:
        print(f"kanvolution: {stopped}", file=sys.stderr)
        print(f"kanvolution: the same command with output_dir={folder} goes on with the other runs", file=sys.stderr)
        return INTERRUPTED
    except ValueError:
        if named is None and not any(folder.iterdir()):
            folder.rmdir()
        raise
    summary = summarise(outcomes)
    write_json(folder / "results.json", {"results": summary})
    write_text(folder / "results.md", results_table(summary, render=markdown) + "\n")
    print(f"\n{results_table(summary)}\n\n{folder}")
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        return fail(f"{failed} of {len(outcomes)} runs failed; see error.txt in their folders", FAILED)
    return 0
