"""What a study leaves behind: a table of its trials, the best settings as an experiment, and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanvolution.configs import compose
from kanvolution.configs.experiments import experiment_of
from kanvolution.extras import require
from kanvolution.files import write_json, write_text
from kanvolution.train.tasks import Task
from kanvolution.tune.objective import override_lines
from kanvolution.tune.space import Space

RESULTS, BEST, PICTURE = "study.json", "best.yaml", "study.png"
_ENOUGH = 4
"""Trials from which on importances are computed."""


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Args:
        number: from 0, in the order of their beginning.
        state: "complete", "pruned" (stopped since it fell behind), "failed", or "interrupted" (its process ended).
        value: of the metric; of the last epoch where it was pruned, None where it has none.
        settings: key to value.
        error: of a trial that failed.
    """

    number: int
    state: str
    value: float | None
    settings: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class StudyResult:
    """All trials, the best one, and the overrides of `kanvolution train` that repeat it.

    Args:
        folder: of the study.
        metric: that was searched for.
        trials: in the order of their beginning.
        best: among those that are complete.
        overrides: of `kanvolution train`, with the best settings.
        importance: the share of each key in the variance of the metric (functional ANOVA); empty for few trials.
    """

    folder: Path
    metric: str
    trials: Sequence[Trial]
    best: Trial
    overrides: Sequence[str]
    importance: Mapping[str, float]


def report(trials: Sequence[Trial], space: Space, folder: Path, metric: str, overrides: Sequence[str]) -> StudyResult:
    """Write `study.json`, `best.yaml` and `study.png` into the folder.

    Raises:
        ValueError: no trial is complete.
    """
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if not complete:
        errors = [trial.error for trial in trials if trial.error]
        raise ValueError(f"no trial was completed; the last one ended with {errors[-1] if errors else 'no value'}")
    lower = metric in Task.lower_is_better
    best = (min if lower else max)(complete, key=lambda trial: trial.value or 0.0)
    lines = [*overrides, *override_lines(best.settings)]
    result = StudyResult(folder, metric, trials, best, lines, _importance(complete, space))
    write_json(folder / RESULTS, {k: v for k, v in asdict(result).items() if k != "folder"})
    yaml = require("yaml", "train")
    head = f"# Trial {best.number} of a study: {metric} {best.value:.4f}. Run it: kanvolution train experiment=FILE\n"
    write_text(folder / BEST, head + yaml.safe_dump(experiment_of(compose(lines)), sort_keys=False))
    _draw(result, folder / PICTURE, lower)
    return result


def _importance(complete: Sequence[Trial], space: Space) -> dict[str, float]:
    """Each key's share of the variance, by functional ANOVA of a forest (Hutter et al., ICML 2014); largest first."""
    if len(complete) < _ENOUGH or len({trial.value for trial in complete}) == 1 or len(space.dimensions) < 2:
        return {}
    optuna = require("optuna", "tune")
    study = optuna.create_study()
    distributions = {key: dimension.distribution() for key, dimension in space.dimensions.items()}
    for trial in complete:
        study.add_trial(
            optuna.trial.create_trial(params=dict(trial.settings), distributions=distributions, value=trial.value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {k: float(v) for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def _draw(result: StudyResult, path: Path, lower: bool) -> None:
    """The value of each trial and the best so far; the importance of the keys; the value over each key."""
    figure_module = require("matplotlib.figure", "viz")
    trials = [trial for trial in result.trials if trial.value is not None]
    values = [trial.value or 0.0 for trial in trials]
    keys = list(result.importance) or sorted(result.best.settings)
    panels = 1 + bool(result.importance) + len(keys)
    columns = min(4, panels)
    rows = math.ceil(panels / columns)
    figure = figure_module.Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    axes = iter(figure.subplots(rows, columns, squeeze=False).flatten())
    axis = next(axes)
    for state, marker in (("complete", "o"), ("pruned", "x")):
        chosen = [trial for trial in trials if trial.state == state]
        axis.plot([trial.number for trial in chosen], [trial.value for trial in chosen], marker, label=state)
    complete = [trial for trial in trials if trial.state == "complete"]
    best = [(min if lower else max)(t.value or 0.0 for t in complete[: i + 1]) for i in range(len(complete))]
    axis.step([trial.number for trial in complete], best, where="post", label="best so far")
    axis.set(xlabel="trial", ylabel=result.metric)
    axis.legend(fontsize=7)
    if result.importance:
        axis = next(axes)
        axis.barh(list(result.importance), list(result.importance.values()))
        axis.invert_yaxis()
        axis.set(xlabel="importance")
        axis.tick_params(axis="y", labelsize=7)
    for key, axis in zip(keys, axes, strict=False):
        at = [trial.settings[key] for trial in trials]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in at)
        axis.plot(at if numbers else [str(v) for v in at], values, "o")
        if numbers and min(at) > 0 and max(at) / min(at) > 20:
            axis.set_xscale("log")
        axis.set(xlabel=key)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
