"""`kanvolution study`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanvolution.cli.command import FAILED, INTERRUPTED, fail, register_command
from kanvolution.cli.imports import add_import
from kanvolution.cli.text import markdown, table

if TYPE_CHECKING:
    from kanvolution.cli.multirun import Job, Outcome
    from kanvolution.study import Study

_TIMES = "evaluation.json"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a study, or a YAML file of yours; without it the studies are listed"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="AXIS=POINT,... takes some points of an axis; any key of train, with several values as a further axis",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the runs and the comparison (runs/NAME-DATA)")
    add_import(parser)


@register_command("study", "train and compare many settings, at equal size if wanted", _arguments)
def study(options: argparse.Namespace) -> int:
    """Make the runs of a study, and write its table and picture."""
    from kanvolution.study import list_studies, read_study

    if options.name is None:
        print(table([("study", ""), *((name, read_study(name).help) for name in list_studies())]))
        return 0
    return run_study(read_study(options.name).changed(options.overrides), options.out, "study")


def run_study(study: Study, out: str | None, stem: str) -> int:
    """Make those runs of a study that are not done, and write its results.

    Args:
        study: what is run.
        out: its folder; None for runs/NAME-DATA.
        stem: of the files in the folder: a table in Markdown, a picture, and all of it as JSON.

    Returns:
        The exit code.

    Raises:
        ValueError: see `run_all` and `BudgetFitter`; found before the first run begins.
    """
    from kanvolution.cli.multirun import RunsInterrupted, results_table, run_all, summarise
    from kanvolution.configs import compose
    from kanvolution.files import atomic, write_json, write_text
    from kanvolution.study import study_figure

    choices = compose(study.combinations()[0].overrides).choices
    data = ",".join(study.axes.get("data", [choices["data"]]))
    folder = Path(out or f"runs/{study.name}-{data}")
    fitted = _earlier(folder, study).get("fitted", {})
    jobs = _jobs(study, choices, fitted)
    # The reference of a budget stands under all of them, and is run once.
    unique = {job.overrides: job for job in reversed(jobs)}
    header = {"study": study.name, "fitted": fitted}
    try:
        outcomes = run_all([job for job in jobs if unique[job.overrides] is job], folder, header=header)
    except RunsInterrupted as stopped:
        print(f"kanvolution: {stopped}\nkanvolution: the same command goes on with the other runs", file=sys.stderr)
        return INTERRUPTED
    if study.evaluation:
        outcomes = [_timed(outcome) for outcome in outcomes]
    found = {outcome.job.overrides: outcome for outcome in outcomes}
    entries = summarise([replace(found[job.overrides], job=job) for job in jobs])
    _check_metric(study, entries)
    if study.best_first:
        entries = _best_first(entries, study)
    stored = {
        "study": study.name,
        "help": study.help,
        "data": data,
        "metric": study.metric,
        "settings": list(study.settings),
        "picture": asdict(study.picture),
        "results": entries,
    }
    write_json(folder / f"{stem}.json", stored)
    text = results_table(entries, metrics=[study.metric], render=markdown)
    write_text(folder / f"{stem}.md", text + "\n")
    with atomic(folder / f"{stem}.png") as temporary:
        study_figure(stored).savefig(temporary, dpi=120, format="png")
    print(f"\n{results_table(entries, metrics=[study.metric])}\n\n{folder}: {stem}.md, {stem}.json, {stem}.png")
    failed = sum(outcome.error is not None for outcome in outcomes)
    return fail(f"{failed} of {len(outcomes)} runs failed; see error.txt in their folders", FAILED) if failed else 0


def _earlier(folder: Path, study: Study) -> dict[str, Any]:
    """What the study's folder tells of runs made before. Raises ValueError for a folder of something else."""
    from kanvolution.cli.multirun import MARK
    from kanvolution.train.run_folder import check_run_folder

    if not (folder / MARK).is_file():
        check_run_folder(folder)
        return {}
    header = json.loads((folder / MARK).read_text(encoding="utf-8"))
    if header.get("study") != study.name:
        holds = f"study {header['study']!r}" if "study" in header else "several runs of `train -m`"
        raise ValueError(f"{str(folder)!r} holds {holds}, not study {study.name!r}; choose another folder with --out")
    return header


def _check_metric(study: Study, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the runs did not measure what the study shows."""
    from kanvolution.registry import unknown_name

    known = {name for entry in entries for name in entry["metrics"]}
    if known and study.metric not in known:
        message = unknown_name("metric", study.metric, known)
        raise ValueError(f"{message} The runs are kept: with another metric the same command shows them.")


def _jobs(study: Study, choices: Mapping[str, str], fitted: dict[str, dict[str, Any]]) -> list[Job]:
    """The runs of a study. What a budget asks for is taken from `fitted`, or put there."""
    from kanvolution.cli.multirun import Job, folder_name
    from kanvolution.configs import compose
    from kanvolution.study import BUDGET, SEED, BudgetFitter

    points = study.combinations()
    fit = BudgetFitter(study.budget) if study.budget else None
    if fit is not None:  # a mistake is found before anything is measured
        for overrides in dict.fromkeys(_without_seed(point.overrides) for point in points):
            compose(overrides)
    jobs: list[Job] = []
    for hold in study.budget.hold if study.budget else [None]:
        for point in points:
            varied = point.setting if hold is None else {BUDGET: hold, **point.setting}
            overrides = point.overrides
            facts: dict[str, float | None] = {}
            if fit is not None and hold not in (None, "none") and point.overrides != point.reference:
                name = _name({axis: label for axis, label in varied.items() if axis != SEED})
                of = [list(_without_seed(made)) for made in (point.overrides, point.reference)]
                if fitted.get(name, {}).get("of") != of:
                    fitted[name] = {"of": of, **asdict(fit(point, hold))}
                    print(f"{name}: {fit.budget.key}={fitted[name]['value']:g}", flush=True)
                overrides = (*overrides, f"{fit.budget.key}={fitted[name]['value']:g}")
                facts = {"width": fitted[name]["value"], "share": fitted[name]["share"]}
            if study.experiments:
                experiment = _experiment(study, choices, overrides)
                overrides = (*([f"experiment={experiment}"] if experiment else []), *overrides)
                facts["published"] = _published(experiment, study.metric)
            jobs.append(Job(folder_name(_name(varied), [job.name for job in jobs]), overrides, varied, facts))
    return jobs


def _without_seed(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if text.partition("=")[0] != "seed")


def _name(setting: Mapping[str, str]) -> str:
    return ",".join(f"{axis}={label}" for axis, label in setting.items())


def _experiment(study: Study, choices: Mapping[str, str], overrides: Sequence[str]) -> str | None:
    """The first experiment of the study's patterns that there is, for the choices of a point."""
    from kanvolution.configs import EXPERIMENTS

    own = {key: value for key, _, value in (text.partition("=") for text in overrides) if key in choices}
    try:
        names = [pattern.format_map({**choices, **own}) for pattern in study.experiments]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"experiments (={list(study.experiments)}) must be names, with {{GROUP}} of: {', '.join(sorted(choices))}"
        ) from error
    return next((name for name in names if name in EXPERIMENTS), None)


def _published(experiment: str | None, metric: str) -> float | None:
    from kanvolution.configs import EXPERIMENTS

    return EXPERIMENTS[experiment].published.get(metric) if experiment else None


def _timed(outcome: Outcome) -> Outcome:
    """With the seconds of a pass over the validation images; measured once, and kept in the folder of the run."""
    if outcome.result is None:
        return outcome
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
    seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
    return replace(outcome, result={**outcome.result, "evaluation_seconds": seconds})


def _best_first(entries: Sequence[dict[str, Any]], study: Study) -> list[dict[str, Any]]:
    """Entries in the order of the main axis; the best of each point first, failed ones last."""
    from kanvolution.train.tasks import Task

    axis, points = study.main_axis, study.axes[study.main_axis]
    sign = 1 if study.metric in Task.lower_is_better else -1

    def rank(entry: Mapping[str, Any]) -> tuple[int, bool, float]:
        label, mean = entry["setting"][axis], entry["metrics"].get(study.metric, {}).get("mean")
        return list(points).index(label) if label in points else -1, mean is None, sign * (mean or 0.0)

    return sorted(entries, key=rank)
