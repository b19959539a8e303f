"""Trials one after another in this process."""

from __future__ import annotations

from collections.abc import Callable

from kanvolution.extras import require
from kanvolution.train import TrainingInterrupted
from kanvolution.tune.objective import error_text
from kanvolution.tune.optuna_study import OptunaStudy
from kanvolution.tune.plan import BACKENDS, Plan, StudyInterruptedError, first_trial_failed
from kanvolution.tune.report import Trial


@BACKENDS.register("optuna")
def optuna_trials(plan: Plan, begin: Callable[[], None]) -> list[Trial]:
    """One training after another; those that fall behind are stopped by asynchronous successive halving."""
    require("optuna", "tune")
    begin()
    study = OptunaStudy(plan)
    while study.missing():
        _make(study, plan)
    return study.trials()


def _make(study: OptunaStudy, plan: Plan) -> None:
    """One trial."""
    pruned = require("optuna", "tune").TrialPruned
    trial = study.ask()

    def tell(value: float, epoch: int) -> None:
        trial.report(value, epoch)
        if trial.should_prune():
            raise pruned

    try:
        value = plan.objective(trial.params, plan.trial_folder(trial.number), tell)
    except pruned:
        study.prune(trial)
    except TrainingInterrupted as stopped:  # the trial stays open, as after a kill, and is made again
        raise StudyInterruptedError(plan.folder, stopped.signal_name) from stopped
    except Exception as error:  # whatever a setting breaks is that setting's result
        study.fail(trial, error_text(error))
        if trial.number == 0:
            raise first_trial_failed(str(error)) from error
    else:
        study.complete(trial, value)
