"""A study: trainings with settings of a space, chosen from what the earlier ones reached.

Everything is in one folder, from which the same call goes on: the state of the back end, a run folder for each trial,
and the results (`report.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanvolution.checks import integer_at_least
from kanvolution.extras import require
from kanvolution.files import write_json
from kanvolution.registry import Registry
from kanvolution.train import TrainingInterrupted
from kanvolution.train.progress import Progress
from kanvolution.train.tasks import Task
from kanvolution.tune.objective import TrialObjective, check_space
from kanvolution.tune.report import StudyResult, Trial, report
from kanvolution.tune.space import Space

SETTINGS, DATABASE = "settings.json", "study.db"


@dataclass(frozen=True)
class Plan:
    """What a back end is asked for.

    Args:
        objective: what each trial does.
        space: what is searched.
        base: the settings of the first trial, for the keys whose value lies in the space.
        folder: of the study.
        samples: trials in all, those that are there already included.
        seed: of the choice of settings.
    """

    objective: TrialObjective
    space: Space
    base: dict[str, Any]
    folder: Path
    samples: int
    seed: int

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is to become small."""
        return self.objective.metric in Task.lower_is_better


BACKENDS: Registry[Callable[..., list[Trial]]] = Registry("backend")
"""What makes the trials of a `Plan`, with options of its own; returns all of them, those of earlier calls included."""


def tune(
    overrides: Sequence[str],
    space: Space,
    output_dir: str | Path,
    *,
    samples: int = 20,
    metric: str = "top1",
    seed: int = 0,
    backend: str = "optuna",
    progress: Progress | None = None,
    **options: Any,
) -> StudyResult:
    """Search a space with Optuna's TPE; runs that fall behind the others are stopped.

    The first trial has the settings of `overrides`, as far as they lie in the space. A trial that fails is reported,
    and the study goes on. The same call with the same folder continues a study, whenever it was interrupted.

    Args:
        overrides: of `kanvolution train`, for all trials ("data=npz", "trainer.epochs=5").
        space: what is searched.
        output_dir: a new or empty folder, or that of the same study.
        samples: trials in all, those that are there already included; trials that were interrupted do not count.
        metric: of validation, in the last epoch.
        seed: of the choice of settings.
        backend: a name of `BACKENDS`.
        progress: what is told of each training; None prints.
        options: of the back end.

    Raises:
        ValueError: a key that does not exist or cannot take a value of the space, before any training; a folder with
            something else in it; another space or metric than the study has; or not one trial was completed.
        ImportError: a package of the back end is missing.
        TrainingInterrupted: SIGINT or SIGTERM during a training.
    """
    integer_at_least("samples", samples, 1)
    integer_at_least("seed", seed, 0)
    make = BACKENDS[backend]
    base = check_space(overrides, space)
    folder = Path(output_dir)
    settings = {
        "backend": backend,
        "metric": metric,
        "seed": seed,
        "overrides": list(overrides),
        "space": _plain(space),
    }
    known = folder / SETTINGS
    if known.is_file():
        if json.loads(known.read_text(encoding="utf-8")) != settings:
            raise ValueError(
                f"output_dir (={str(folder)!r}) holds a study of other settings (compare its {SETTINGS}); "
                "choose a new folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir (={str(folder)!r}) is not empty and holds no study; choose a new folder")
    plan = Plan(TrialObjective(tuple(overrides), metric, progress), space, base, folder, samples, seed)
    trials = make(plan, lambda: _begin(folder, settings), **options)
    return report(trials, space, folder, metric, overrides)


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder of the study, when the back end is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def _plain(space: Space) -> dict[str, Any]:
    return {
        key: {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()}
        for key, d in space.dimensions.items()
    }


@BACKENDS.register("optuna")
def optuna_trials(plan: Plan, begin: Callable[[], None]) -> list[Trial]:
    """One training after another in this process; those behind the median of the others are stopped."""
    optuna = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begin()
    states = optuna.trial.TrialState
    storage = f"sqlite:///{plan.folder / DATABASE}"
    # What was drawn before is not drawn again where a study goes on: its sampler has a seed of its own.
    study = optuna.create_study(
        storage=storage,
        study_name="study",
        load_if_exists=True,
        direction="minimize" if plan.lower_is_better else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    earlier = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(
        seed=plan.seed + len(earlier), n_startup_trials=min(10, max(3, plan.samples // 3))
    )
    if not earlier:
        study.enqueue_trial(plan.base)
    for frozen in earlier:
        if frozen.state == states.RUNNING:  # of a process that is gone
            study.enqueue_trial(frozen.params)
            study.tell(frozen.number, state=states.FAIL)
    while sum(_state(t) in ("complete", "pruned", "failed") for t in study.get_trials(deepcopy=False)) < plan.samples:
        _make(study, plan)
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return [Trial(t.number, _state(t), t.value, dict(t.params), t.user_attrs.get("error")) for t in finished]


def _state(trial: Any) -> str:
    """A trial's state in our words. Those that fail leave their error; those whose process ended cannot."""
    if trial.state.name == "FAIL":
        return "failed" if "error" in trial.user_attrs else "interrupted"
    return {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "open")


def _make(study: Any, plan: Plan) -> None:
    """One trial of an Optuna study."""
    optuna = require("optuna", "tune")
    states = optuna.trial.TrialState
    trial = study.ask({key: dimension.distribution() for key, dimension in plan.space.dimensions.items()})

    def tell(value: float, epoch: int) -> None:
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        value = plan.objective(trial.params, plan.folder / f"trial{trial.number:03d}", tell)
        if not math.isfinite(value):
            raise ValueError(f"{plan.objective.metric} has no value")
    except optuna.TrialPruned:
        study.tell(trial, state=states.PRUNED)
    except TrainingInterrupted:
        raise  # the trial stays open, as after a kill, and is made again
    except Exception as error:  # whatever a setting breaks is that setting's result
        message = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"trial {trial.number} failed: {message}", flush=True)
        trial.set_user_attr("error", message)
        study.tell(trial, state=states.FAIL)
        if trial.number == 0:
            raise ValueError(f"the first trial, with the settings given, failed: {error}") from error
    else:
        study.tell(trial, value)
