"""A study: trainings with settings of a space, chosen by Optuna from what the earlier ones reached.

Everything is in one folder: `study.db`, from which the same call goes on, a run folder for each trial, and the results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanvolution.checks import integer_at_least
from kanvolution.configs import ConfigError, compose
from kanvolution.extras import require
from kanvolution.files import write_json, write_text
from kanvolution.registry import unknown_name
from kanvolution.train import run_job
from kanvolution.train.progress import Progress
from kanvolution.train.trackers import Tracker
from kanvolution.tune.space import Space

DATABASE, RESULTS, BEST, PICTURE = "study.db", "study.json", "best.txt", "study.png"
_LOWER_IS_BETTER = ("loss", "calibration_error", "hd95")


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Args:
        number: from 0, in the order of their beginning.
        state: "complete", "pruned" (stopped since it fell behind), or "failed".
        value: of the metric; of the last epoch where it was pruned, None where it failed.
        settings: key to value.
    """

    number: int
    state: str
    value: float | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class StudyResult:
    """All trials, the best one, and the overrides of `kanvolution train` that repeat it."""

    folder: Path
    metric: str
    trials: Sequence[Trial]
    best: Trial
    overrides: Sequence[str]


class _Reporter(Tracker):
    """Tells Optuna of each epoch, and stops a run that falls behind the others."""

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric

    def log(self, record: Mapping[str, Any]) -> None:
        value = record.get(f"val_{self.metric}")
        if value is None or not math.isfinite(value):
            return
        self.trial.report(value, record["epoch"])
        if self.trial.should_prune():
            raise require("optuna", "tune").TrialPruned

    def start(self, folder: Path, name: str, config: str | None) -> None:
        """Nothing to do."""

    def show(self, pictures: Sequence[Path]) -> None:
        """Nothing to do."""

    def finish(self, ok: bool) -> None:
        """Nothing to do."""


def tune(
    overrides: Sequence[str],
    space: Space,
    output_dir: str | Path,
    *,
    samples: int = 20,
    metric: str = "top1",
    seed: int = 0,
    progress: Progress | None = None,
) -> StudyResult:
    """Search a space with Optuna's TPE; runs that fall behind the median of the others are stopped.

    The first trial has the settings of `overrides`, as far as they lie in the space. A trial that fails is reported,
    and the study goes on. The same call with the same folder continues a study, whenever it was interrupted.

    Args:
        overrides: of `kanvolution train`, for all trials ("data=npz", "trainer.epochs=5").
        space: what is searched.
        output_dir: a new or empty folder, or that of the same study.
        samples: trials in all, those that are there already included.
        metric: of validation, in the last epoch.
        seed: of the sampler.
        progress: what is told of each training; None prints.

    Raises:
        ValueError: a key that does not exist or cannot take a value of the space, before any training; a folder with
            something else in it; another space or metric than the study has; or not one trial was completed.
        ImportError: Optuna is missing.
    """
    optuna = require("optuna", "tune")
    integer_at_least("samples", samples, 1)
    base = _check(overrides, space)
    folder = Path(output_dir)
    database = folder / DATABASE
    if folder.is_dir() and any(folder.iterdir()) and not database.is_file():
        raise ValueError(f"output_dir (={str(folder)!r}) is not empty and holds no study; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    facts = {"metric": metric, "overrides": list(overrides), "space": _plain(space)}
    study = optuna.create_study(
        storage=f"sqlite:///{database}",
        study_name="study",
        load_if_exists=True,
        direction="minimize" if metric in _LOWER_IS_BETTER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(3, samples // 3))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    earlier = study.user_attrs.get("facts")
    if earlier is None:
        study.set_user_attr("facts", facts)
        study.enqueue_trial({key: base[key] for key in space.dimensions if key in base})
    elif earlier != facts:
        raise ValueError(f"output_dir (={str(folder)!r}) holds a study of other settings; choose a new folder")
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)  # of a process that is gone

    def objective(trial: Any) -> float:
        settings = {key: dimension.suggest(trial, key) for key, dimension in space.dimensions.items()}
        lines = [*overrides, *_lines(settings), f"output_dir={folder / f'trial{trial.number:03d}'}"]
        composed = compose(lines)
        values = {**composed.values, "tracker": _Reporter(trial, metric)}
        metrics = run_job(values, text=composed.text, progress=progress).metrics
        if metric not in metrics:
            raise ValueError(unknown_name("metric", metric, metrics))
        value = metrics[metric]
        return math.nan if value is None else float(value)

    left = samples - len([t for t in study.get_trials(deepcopy=False) if t.state.is_finished()])
    for _ in range(max(0, left)):
        trial = study.ask()
        try:
            value = objective(trial)
        except optuna.TrialPruned:
            study.tell(trial, state=states.PRUNED)
        except Exception as error:  # whatever a setting breaks is that setting's result
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            study.tell(trial, state=states.FAIL)
            if not study.get_trials(deepcopy=False, states=(states.COMPLETE,)) and trial.number == 0:
                raise ValueError(f"the first trial, with the settings given, failed: {error}") from error
        else:
            study.tell(trial, value if math.isfinite(value) else None, skip_if_finished=True)
    return _results(study, folder, metric, overrides)


def _check(overrides: Sequence[str], space: Space) -> dict[str, Any]:
    """The values of the space's keys before the search; ConfigError for a key or a value that cannot be."""
    for text in overrides:
        if text.startswith(("output_dir=", "resume=", "tracker=")):
            raise ConfigError(f"{text!r}: every trial has its own; leave it out")
    for settings in space.extremes():
        compose([*overrides, *_lines(settings)])
    values: Any = compose(overrides).values
    found: dict[str, Any] = {}
    for key, dimension in space.dimensions.items():
        value = values
        for part in key.split("."):
            value = value[part]
        if dimension.contains(value):
            found[key] = value
    return found


def _lines(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


def _plain(space: Space) -> dict[str, Any]:
    return {
        key: {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()}
        for key, d in space.dimensions.items()
    }


def _results(study: Any, folder: Path, metric: str, overrides: Sequence[str]) -> StudyResult:
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    found = [t for t in study.get_trials(deepcopy=False) if t.state.name in names]
    trials = [Trial(t.number, names[t.state.name], t.value, dict(t.params)) for t in found]
    if not any(trial.state == "complete" for trial in trials):
        errors = [t.user_attrs["error"] for t in found if "error" in t.user_attrs]
        raise ValueError(
            f"no trial was completed; the last one ended with {errors[-1] if errors else 'an interruption'}"
        )
    best = next(trial for trial in trials if trial.number == study.best_trial.number)
    lines = [*overrides, *_lines(best.settings)]
    write_json(
        folder / RESULTS,
        {"metric": metric, "best": asdict(best), "overrides": lines, "trials": [asdict(trial) for trial in trials]},
    )
    write_text(folder / BEST, "kanvolution train " + " ".join(lines) + "\n")
    _draw(study, folder / PICTURE, metric)
    return StudyResult(folder, metric, trials, best, lines)


def _draw(study: Any, path: Path, metric: str) -> None:
    """The value of each trial and the best so far; the value over each key."""
    figure_module = require("matplotlib.figure", "viz")
    complete = [t for t in study.get_trials(deepcopy=False) if t.value is not None]
    keys = sorted({key for t in complete for key in t.params})
    columns = min(4, 1 + len(keys))
    rows = math.ceil((1 + len(keys)) / columns)
    figure = figure_module.Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    lower = study.direction.name == "MINIMIZE"
    best: list[float] = []
    for t in complete:
        best.append(t.value if not best else (min if lower else max)(best[-1], t.value))
    axes[0].plot([t.number for t in complete], [t.value for t in complete], "o", label="trial")
    axes[0].step([t.number for t in complete], best, where="post", label="best so far")
    axes[0].set(xlabel="trial", ylabel=metric)
    axes[0].legend(fontsize=7)
    for axis, key in zip(axes[1:], keys, strict=False):
        values = [t.params[key] for t in complete]
        text = not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        axis.plot([str(v) for v in values] if text else values, [t.value for t in complete], "o")
        if not text and min(values) > 0 and max(values) / min(values) > 20:
            axis.set_xscale("log")
        axis.set(xlabel=key)
    for axis in axes[1 + len(keys) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
