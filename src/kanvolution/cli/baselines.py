"""`kanvolution baselines`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanvolution.cli.command import FAILED, INTERRUPTED, fail, register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import markdown, table
from kanvolution.registry import unknown_name

if TYPE_CHECKING:
    from kanvolution.cli.multirun import Job, Outcome

_TIMES = "evaluation.json"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="the data (data=mnist) and any other key of train; several values make several runs (seed=0,1,2)",
    )
    parser.add_argument("--models", default="simple4,simple8", metavar="NAMES", help="networks (simple4,simple8)")
    parser.add_argument("--convs", metavar="NAMES", help="bases; all that are registered by default")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs and the comparison (runs/baselines-DATA)")
    add_import(parser)


@register_command("baselines", "train the simple networks with every basis on a data set, and compare them", _arguments)
def baselines(options: argparse.Namespace) -> int:
    """Train, validate and time each basis, and write one comparison."""
    from kanvolution.bases import list_bases
    from kanvolution.cli.multirun import run_all, summarise
    from kanvolution.configs import expand
    from kanvolution.files import write_json, write_text
    from kanvolution.models import list_models
    from kanvolution.train import TrainingInterrupted
    from kanvolution.visualize import comparison_figure

    for override in options.overrides:
        if override.partition("=")[0] in ("model", "conv", "experiment", "output_dir"):
            raise ValueError(f"{override!r}: baselines takes --models, --convs and --out in its place")
    models = _names("model", options.models, list_models())
    convs = _names("conv", options.convs or ",".join(list_bases()), list_bases())
    named = [text.partition("=")[2] for text in options.overrides if text.startswith("data=")]
    data = named[-1] if named else "digits"
    folder = Path(options.out or f"runs/baselines-{data}")
    jobs = [job for v in expand(options.overrides) for job in _jobs(models, convs, data, v.overrides, v.varied)]
    try:
        outcomes = run_all(jobs, folder, header={"models": models, "convs": convs, "overrides": options.overrides})
    except TrainingInterrupted as stopped:
        print(f"kanvolution: {stopped}\nkanvolution: the same command goes on with the other runs", file=sys.stderr)
        return INTERRUPTED
    entries = summarise(outcomes)
    times = [_evaluation_seconds(outcome) for outcome in outcomes]
    by_folder = {outcome.folder.name: seconds for outcome, seconds in zip(outcomes, times, strict=True)}
    for entry in entries:
        found = [seconds for name in entry["folders"] if (seconds := by_folder[name]) is not None]
        entry["evaluation_seconds"] = statistics.fmean(found) if found else None
        entry["published"] = _published(data, entry["setting"])
    write_json(folder / "baselines.json", {"data": data, "results": entries})
    write_text(folder / "baselines.md", markdown(*_table(entries)) + "\n")
    comparison_figure(entries, title=f"Baselines on {data}").savefig(folder / "baselines.png", dpi=120)
    rows, right = _table(entries)
    print(f"\n{table(rows, right)}\n\n{folder}: baselines.md, baselines.json, baselines.png")
    failed = sum(outcome.error is not None for outcome in outcomes)
    return fail(f"{failed} of {len(outcomes)} runs failed; see error.txt in their folders", FAILED) if failed else 0


def _names(kind: str, text: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(kind, name, known))
    if not names:
        raise ValueError(f"--{kind}s (={text!r}) must name at least one, e.g. {known[0]}")
    return names


def _jobs(
    models: Sequence[str], convs: Sequence[str], data: str, overrides: Sequence[str], varied: Mapping[str, str]
) -> list[Job]:
    from kanvolution.cli.multirun import Job, folder_name

    jobs = []
    for model in models:
        for conv in convs:
            experiment = _experiment(data, model, conv)
            settings = [f"experiment={experiment}"] if experiment else []
            setting = {"model": model, "conv": conv, **varied}
            name = folder_name(",".join([model, conv, *(f"{key}={value}" for key, value in varied.items())]))
            jobs.append(Job(name, (*settings, f"model={model}", f"conv={conv}", *overrides), setting))
    return jobs


def _experiment(data: str, model: str, conv: str) -> str | None:
    """The experiment with torch-conv-kan's settings for a basis, or for any; None where it has none for these data."""
    from kanvolution.configs import EXPERIMENTS

    return next((name for name in (f"{data}_{model}_{conv}", f"{data}_{model}") if name in EXPERIMENTS), None)


def _published(data: str, setting: Mapping[str, str]) -> float | None:
    """The top-1 that torch-conv-kan publishes for a setting."""
    from kanvolution.configs import EXPERIMENTS

    name = _experiment(data, setting["model"], setting["conv"])
    return EXPERIMENTS[name].published.get("top1") if name else None


def _evaluation_seconds(outcome: Outcome) -> float | None:
    """How long a pass over the validation images takes; measured once, and kept in the folder of the run."""
    if outcome.result is None:
        return None
    from kanvolution.configs import read_config
    from kanvolution.data import create_data
    from kanvolution.files import write_json
    from kanvolution.train import evaluate
    from kanvolution.train.options import named_options

    file = outcome.folder / _TIMES
    if not file.is_file():
        config = read_config(outcome.folder)
        name, options = named_options("data", config["data"])
        device = "cpu" if config["trainer"]["cpu"] else None
        found = evaluate(outcome.folder, create_data(name, **options), task=config["task"], device=device)
        write_json(file, {"images": found.images, "seconds": found.seconds})
    return json.loads(file.read_text(encoding="utf-8"))["seconds"]


def _table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, ...]], range]:
    """Rows, the best top-1 first within each network, and the columns to set to the right."""
    from kanvolution.cli.multirun import spread_text
    from kanvolution.train.progress import measured

    keys = list(dict.fromkeys(key for entry in entries for key in entry["setting"]))
    head = (*keys, "top-1", "top-1 of torch-conv-kan", "parameters", "training s", "evaluation s")
    models = list(dict.fromkeys(entry["setting"]["model"] for entry in entries))
    ordered = sorted(entries, key=lambda e: (models.index(e["setting"]["model"]), -_top1(e)))
    rows: list[tuple[str, ...]] = [head]
    for entry in ordered:
        seconds = entry["evaluation_seconds"]
        rows.append(
            (
                *(entry["setting"].get(key, "") for key in keys),
                spread_text("top1", entry["metrics"].get("top1")) if entry["runs"] else "failed",
                measured("top1", entry["published"])[1] if entry["published"] is not None else "",
                f"{entry['parameters']:,}" if entry["parameters"] is not None else "",
                f"{entry['seconds']['mean']:.1f}" if entry["seconds"] else "",
                f"{seconds:.2f}" if seconds is not None else "",
            )
        )
    return rows, range(len(keys), len(head))


def _top1(entry: Mapping[str, Any]) -> float:
    mean = entry["metrics"].get("top1", {}).get("mean")
    return -1.0 if mean is None else mean
