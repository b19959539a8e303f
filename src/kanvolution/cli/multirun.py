"""Several runs one after another, each in its own folder; what is done is not done again."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanvolution.cli.text import table

if TYPE_CHECKING:
    from kanvolution.configs import Composed

MARK = "multirun.json"
"""File that tells the folder of several runs from any other."""
_ERROR = "error.txt"


@dataclass(frozen=True)
class Job:
    """A run to make.

    Args:
        name: of its folder.
        overrides: of `kanvolution train`.
        varied: what it differs by from the others.
        facts: what is known of the setting beforehand; stands in its entry of the summary.
    """

    name: str
    overrides: tuple[str, ...]
    varied: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its folder, with the content of `result.json`, or the error in one line."""

    job: Job
    folder: Path
    result: dict[str, Any] | None
    error: str | None = None


class RunsInterrupted(Exception):  # noqa: N818 - it is no error
    """A signal ended the runs; the same call goes on with those that are left."""


def run_all(jobs: Sequence[Job], folder: Path, *, header: Mapping[str, Any]) -> list[Outcome]:
    """Make all runs, in a folder of their own each, below `folder`.

    A run that is finished is skipped, one that was interrupted goes on where it stopped. An error ends its own run
    only: it is reported, and kept with its traceback in `error.txt`.

    Args:
        jobs: what to run.
        folder: a new or empty folder, or one that this function has worked in.
        header: what to write into `multirun.json`.

    Raises:
        ValueError: an override that cannot be used, in any of the jobs; the folder of a run holds another one; or the
            folder is that of something else. All of it is found before the first run begins.
        RunsInterrupted: SIGINT or SIGTERM before all of them were done.
    """
    from kanvolution.files import write_json
    from kanvolution.train.interrupt import stop_on_signal
    from kanvolution.train.run_folder import check_run_folder

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several runs are made in one process; leave out torchrun, or start each run by itself")
    if not (folder / MARK).is_file():
        check_run_folder(folder)
    composed = [_compose(job, folder / job.name) for job in jobs]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARK, header)
    outcomes = []
    with stop_on_signal() as stop:
        for number, (job, config) in enumerate(zip(jobs, composed, strict=True), start=1):
            if stop:  # by a signal when the last step of a run was done
                raise RunsInterrupted(f"stopped by {stop.name} after {number - 1} of {len(jobs)} runs")
            print(f"run {number}/{len(jobs)}: {job.name}", flush=True)
            outcomes.append(_run(job, config, folder / job.name))
    return outcomes


def _compose(job: Job, folder: Path) -> Composed:
    from kanvolution.configs import compose, read_config
    from kanvolution.configs.compose import quoted

    composed = compose([*job.overrides, f"output_dir={quoted(str(folder))}"])
    if (folder / "config.yaml").is_file() and read_config(folder) != composed.values:
        raise ValueError(
            f"{str(folder)!r} holds a run of another config (compare its config.yaml); choose another output_dir, or "
            "remove the folder"
        )
    return composed


def _run(job: Job, config: Composed, folder: Path) -> Outcome:
    from kanvolution.train import TrainingInterrupted, run_job

    if (folder / "result.json").is_file():
        print("done before")
        return Outcome(job, folder, _result(folder))
    (folder / _ERROR).unlink(missing_ok=True)
    values = config.values
    if (folder / "config.json").is_file():  # the same run, as _compose has seen
        values = {**values, "resume": str(folder), "output_dir": None}
    try:
        run_job(values, text=config.text)
    except TrainingInterrupted as stopped:
        raise RunsInterrupted(str(stopped)) from stopped
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"kanvolution: failed: {job.name}: {message}", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        return Outcome(job, folder, None, message)
    (folder / _ERROR).unlink(missing_ok=True)
    return Outcome(job, folder, _result(folder))


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def folder_name(text: str, taken: Iterable[str] = ()) -> str:
    """A name of a folder that tells `text`, and is none of those `taken`.

    Example:
        >>> from kanvolution.cli.multirun import folder_name
        >>> folder_name("conv=gram,data.path='a b'")
        'conv=gram,data.path=a_b'
    """
    stem = re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", text.replace("'", "").replace('"', "")).strip("_.")[:120] or "run"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def summarise(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One entry for each setting: what it is, its runs over seeds, and mean and standard deviation of each metric.

    The standard deviation is that of a sample (n - 1); with one run it is None.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        setting = tuple((key, value) for key, value in outcome.job.varied.items() if key != "seed")
        groups.setdefault(setting, []).append(outcome)
    return [_summary(dict(setting), members) for setting, members in groups.items()]


def _summary(setting: dict[str, str], outcomes: list[Outcome]) -> dict[str, Any]:
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    names = list(results[0]["metrics"]) if results else []
    timed = [r["evaluation_seconds"] for r in results if "evaluation_seconds" in r]
    values = {name: [r["metrics"].get(name) for r in results] for name in names}
    return {
        "setting": setting,
        **outcomes[0].job.facts,
        "runs": len(results),
        "failed": len(outcomes) - len(results),
        "folders": [outcome.folder.name for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes if outcome.error],
        "metrics": {name: _spread(found) for name, found in values.items()},
        "parameters": results[0]["parameters"] if results else None,
        "seconds": _spread([r["seconds"] for r in results]) if results else None,
        "evaluation_seconds": statistics.fmean(timed) if timed else None,
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(found) if found else None,
        "std": statistics.stdev(found) if len(found) > 1 else None,
    }


def results_table(
    summary: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None, render: Callable[..., str] = table
) -> str:
    """The summary as a table, a row for each setting: mean ± standard deviation over its runs.

    Args:
        summary: of `summarise`.
        metrics: that are shown; None shows all.
        render: makes text of the rows.
    """
    from kanvolution.train.progress import measured

    keys = list(dict.fromkeys(key for entry in summary for key in entry["setting"]))
    if metrics is None:
        metrics = list(dict.fromkeys(name for entry in summary for name in entry["metrics"]))
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        **{key: partial(_label, key=key) for key in keys},
        "runs": lambda e: f"{e['runs']}" + (f" (+ {e['failed']} failed)" if e["failed"] else ""),
        **{measured(name, None)[0]: partial(_score, name=name) for name in metrics},
        "published": lambda e: "" if e.get("published") is None else measured(metrics[0], e["published"])[1],
        "width": lambda e: f"{e['width']:.3g}" if "width" in e else "",
        "of reference": lambda e: f"{e['share']:.2f}" if "share" in e else "",
        "parameters": lambda e: "" if e["parameters"] is None else f"{e['parameters']:,}",
        "training s": lambda e: "" if e["seconds"] is None else f"{e['seconds']['mean']:.1f}",
        "evaluation s": lambda e: "" if e["evaluation_seconds"] is None else f"{e['evaluation_seconds']:.2f}",
    }
    rows = [tuple(columns), *(tuple(cell(entry) for cell in columns.values()) for entry in summary)]
    # Columns that no entry has anything in are left out; the settings and their runs are always there.
    kept = [i for i, cells in enumerate(zip(*rows, strict=True)) if i <= len(keys) or any(cells[1:])]
    return render([tuple(row[i] for i in kept) for row in rows], right=range(len(keys), len(kept)))


def _label(entry: Mapping[str, Any], key: str) -> str:
    return entry["setting"].get(key, "")


def _score(entry: Mapping[str, Any], name: str) -> str:
    return spread_text(name, entry["metrics"].get(name)) if entry["runs"] else "failed"


def spread_text(name: str, spread: Mapping[str, float | None] | None) -> str:
    """A metric's mean ± standard deviation with its unit."""
    from kanvolution.train.progress import measured

    if spread is None:
        return ""
    mean = measured(name, spread["mean"])[1]
    if spread["mean"] is None or spread["std"] is None:
        return mean
    number, _, unit = mean.partition(" ")
    std = measured(name, spread["std"])[1].partition(" ")[0]
    return f"{number} ± {std} {unit}".rstrip()
