"""`kanvolution bench`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kanvolution.cli.command import FAILED, register_command


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `kanvolution bench`."""
    parser.add_argument("--bases", nargs="+", metavar="NAME", help="bases to measure (all)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="layers and networks to measure (all)")
    add_settings(parser)
    parser.add_argument("--output", metavar="FILE", help="write FILE.json and FILE.md")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The arguments that `settings` reads."""
    names = "eager, compile, triton, auto (eager compile; on a GPU eager triton)"
    parser.add_argument("--backends", nargs="+", metavar="NAME", default=(), help=names)
    parser.add_argument("--rounds", type=int, default=7, help="how many times each is timed (7)")
    parser.add_argument("--repeats", type=int, help="calls in a row whose mean is one time (1; on a GPU 10)")
    parser.add_argument("--keep-memory", action="store_true", help="keep what tensors on a CPU have given back (glibc)")
    parser.add_argument("--captured", action="store_true", help="time replays of CUDA graphs, without Python's work")
    parser.add_argument("--clock", default="wall", help="wall, or cpu: time that processors worked for the process")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")
    parser.add_argument("--dtype", default="float32", help="float32; bfloat16 or float16 by autocast")
    parser.add_argument("--channels-last", action="store_true", help="inputs and weights in the channels-last layout")
    parser.add_argument("--profile", action="store_true", help="take the time of a training step apart")
    parser.add_argument("--cold", action="store_true", help="compile with empty caches, and report the time")
    parser.add_argument("--batch", type=int, help="images in a batch, in place of the cases' own")
    parser.add_argument("--size", type=int, help="height and width of images, in place of the cases' own")
    parser.add_argument("--peer", metavar="DIR", help="a checkout of torch-conv-kan to measure beside")


def settings(options: argparse.Namespace) -> Any:
    """The `benchmark.Settings` of parsed arguments."""
    from dataclasses import fields

    from kanvolution.benchmark import Settings

    values = {field.name: getattr(options, field.name) for field in fields(Settings)}
    return Settings(**{**values, "backends": tuple(options.backends)})


@register_command("bench", "time layers and networks against plain convolutions of as many channels", arguments)
def bench(options: argparse.Namespace) -> int:
    """Measure, print a line for each case, and write the results where asked to."""
    from kanvolution import benchmark

    record = benchmark.run(options.bases, options.cases, settings(options), report=lambda line: print(line, flush=True))
    if options.output:
        write(record, Path(options.output))
    return 0 if all(result["correct"] for result in record["results"]) else FAILED


def write(record: dict[str, Any], target: Path) -> None:
    """Write the results as TARGET.json and TARGET.md."""
    from kanvolution import benchmark
    from kanvolution.files import write_text

    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    write_text(target.with_suffix(".md"), benchmark.markdown(record))
