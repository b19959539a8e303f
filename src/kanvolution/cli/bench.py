"""`kanvolution bench`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kanvolution.cli.command import FAILED, register_command


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `kanvolution bench`."""
    parser.add_argument("--bases", nargs="+", metavar="NAME", help="bases to measure (all)")
    parser.add_argument("--shapes", nargs="+", metavar="NAME", help="shapes of layers (all)")
    backends = ["eager", "compile"]
    parser.add_argument("--backends", nargs="+", metavar="NAME", default=backends, help="eager, compile, triton")
    parser.add_argument("--rounds", type=int, default=7, help="how many times each is timed (7)")
    parser.add_argument("--clock", default="wall", help="wall, or cpu: time that processors worked for the process")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--channels-last", action="store_true", help="inputs in the channels-last layout")
    parser.add_argument("--peer", metavar="DIR", help="a checkout of torch-conv-kan to measure beside")
    parser.add_argument("--output", metavar="FILE", help="write FILE.json and FILE.md")


@register_command("bench", "time layers against the plain convolution of as many channels", arguments)
def bench(options: argparse.Namespace) -> int:
    """Measure, print a line for each case, and write the results where asked to."""
    from kanvolution import benchmark

    chosen = (options.bases, options.shapes, options.backends)
    settings = {name: getattr(options, name) for name in ("rounds", "clock", "threads", "channels_last", "peer")}
    record = benchmark.run(*chosen, **settings, report=lambda line: print(line, flush=True))
    if options.output:
        target = Path(options.output)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        target.with_suffix(".md").write_text(benchmark.markdown(record), encoding="utf-8")
    return 0 if all(result["correct"] for result in record["results"]) else FAILED
