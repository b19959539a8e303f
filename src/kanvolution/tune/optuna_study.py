"""The study in Optuna's database: which trials there are, what the next one is, and what became of it.

Both back ends choose settings here, so a study is the same whoever makes its trainings: the trial of the given settings
first, then those of trials that a process left open, then those that the tree-structured Parzen estimator proposes.
"""

from __future__ import annotations

from typing import Any

from kanvolution.extras import require
from kanvolution.tune.plan import Plan
from kanvolution.tune.report import Trial

DATABASE = "study.db"
_COUNTED = ("complete", "pruned", "failed")


class OptunaStudy:
    """The study of a plan, new or continued.

    Args:
        plan: what is searched; its folder is there.
        together: whether several trials are made at the same time.
    """

    def __init__(self, plan: Plan, *, together: bool = False) -> None:
        optuna = require("optuna", "tune")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plan = plan
        self._states = optuna.trial.TrialState
        self._distributions = {key: dimension.distribution() for key, dimension in plan.space.dimensions.items()}
        self._study = optuna.create_study(
            storage=f"sqlite:///{plan.folder / DATABASE}",
            study_name="study",
            load_if_exists=True,
            direction="minimize" if plan.lower_is_better else "maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=plan.grace_epochs, reduction_factor=plan.reduction
            ),
        )
        earlier = self._study.get_trials(deepcopy=False)
        # What was drawn before is not drawn again where a study goes on: its sampler has a seed of its own.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=plan.seed + len(earlier),
            n_startup_trials=min(10, max(3, plan.samples // 3)),
            constant_liar=together,
        )
        if not earlier:
            self._study.enqueue_trial(plan.base)
        for frozen in earlier:
            if frozen.state == self._states.RUNNING:  # of a process that is gone
                self._study.enqueue_trial(frozen.params)
                self._study.tell(frozen.number, state=self._states.FAIL)

    def missing(self) -> int:
        """Trials still to be made. Those that were interrupted do not count."""
        return max(0, self.plan.samples - sum(trial.state in _COUNTED for trial in self.trials()))

    def trials(self) -> list[Trial]:
        """All that have ended."""
        ended = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]
        return [
            Trial(
                t.number,
                _state(t),
                t.value,
                dict(t.params),
                t.user_attrs.get("error"),
            )
            for t in ended
        ]

    def histories(self) -> dict[int, dict[int, float]]:
        """The metric by epoch, of each trial that has ended, by number."""
        ended = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]
        return {t.number: dict(t.intermediate_values) for t in ended}

    def ask(self) -> Any:
        """The next trial, Optuna's own, with `number` and `params`."""
        return self._study.ask(self._distributions)

    def complete(self, trial: Any, value: float) -> None:
        """A training that reached its last epoch."""
        self._study.tell(trial, value)

    def prune(self, trial: Any) -> None:
        """A training that was stopped, since it fell behind; its value is the last one reported."""
        self._study.tell(trial, state=self._states.PRUNED)

    def fail(self, trial: Any, message: str) -> None:
        """A training that ended with an error."""
        print(f"trial {trial.number} failed: {message}", flush=True)
        trial.set_user_attr("error", message)
        self._study.tell(trial, state=self._states.FAIL)


def _state(trial: Any) -> str:
    """A trial's state in our words. Those that fail leave their error; those whose process ended cannot."""
    if trial.state.name == "FAIL":
        return "failed" if "error" in trial.user_attrs else "interrupted"
    return {"COMPLETE": "complete", "PRUNED": "pruned"}[trial.state.name]
