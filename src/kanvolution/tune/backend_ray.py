"""Trials in processes of Ray, several at a time: on this machine, or on those of a cluster.

Ray Tune starts the trainings, gives them their share of CPUs and GPUs, and stops those that fall behind (its ASHA).
The study itself is Optuna's, as with the other back end; to Ray it is one of the searchers that it asks for settings.
So what is known of a study is in one database, and nothing of Ray's own state is read when a study goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kanvolution.extras import require
from kanvolution.train.interrupt import StopFlag, stop_on_signal
from kanvolution.train.progress import Silent
from kanvolution.tune.objective import TrialObjective, error_text
from kanvolution.tune.optuna_study import OptunaStudy
from kanvolution.tune.plan import BACKENDS, Plan, StudyInterruptedError, first_trial_failed
from kanvolution.tune.ray_cluster import connected, gpus_or_default
from kanvolution.tune.report import Trial

_VALUE, _EPOCH, _ERROR, _LAST = "value", "epoch", "trial_error", "last"
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of the config are those of this process
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders hold the metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails reports its error alone
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output is silent if asked to
}


@BACKENDS.register("ray")
def ray_trials(
    plan: Plan,
    begin: Callable[[], None],
    address: str | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
) -> list[Trial]:
    """Trials side by side, as many as there are CPUs and GPUs for.

    Args:
        plan: of the study.
        begin: makes its folder.
        address: of a running cluster: HOST:PORT of its head, or "auto" for the one that this machine belongs to; null
            uses this machine alone. The study's folder must be on a file system that all machines share.
        cpus_per_trial: CPU cores for each training, also less than one; it computes with as many threads.
        gpus_per_trial: GPUs for each training, also less than one (0.25: four share a GPU); null is one if there are.
        max_concurrent: at most so many trainings at a time; null for no limit.

    Raises:
        ValueError: no machine has the CPUs or GPUs that a trial is to have, or the first trial failed.
        ConnectionError: there is no cluster at the address.
        StudyInterruptedError: SIGINT or SIGTERM.
    """
    with _environment(), connected(address, cpus_per_trial, gpus_per_trial):
        tune = require("ray.tune", "tune")
        begin()
        study = OptunaStudy(plan, together=True)
        missing = study.missing()
        if not missing:
            return study.trials()
        resources = {"cpu": cpus_per_trial, "gpu": gpus_or_default(gpus_per_trial)}
        with stop_on_signal() as signal, _storage(plan.folder) as storage:
            course = _Course(study, plan, signal)
            tune.Tuner(
                tune.with_resources(_trainable(plan), resources),
                tune_config=tune.TuneConfig(
                    search_alg=_searcher(course),
                    scheduler=_scheduler(study, plan),
                    num_samples=missing,
                    max_concurrent_trials=max_concurrent,
                    reuse_actors=True,  # a new process imports PyTorch for seconds
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=str(storage),
                    stop=_stopper(course),
                    verbose=0,
                ),
            ).fit()
        if course.first_error is not None:
            raise first_trial_failed(course.first_error)
        if signal.name is not None:
            raise StudyInterruptedError(plan.folder, signal.name)
        return study.trials()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Settings that Ray Tune reads from environment variables."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[Path]:
    """Where Ray keeps its own state, which nothing reads: a study goes on from its database."""
    storage = folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    try:
        yield storage
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _name(trial: Any) -> str:
    return str(trial.trial_id)


def _trainable(plan: Plan) -> Callable[[Mapping[str, Any]], None]:
    """What Ray runs in a process of its own for each trial."""
    objective: TrialObjective = replace(plan.objective, progress=Silent())
    prepare, folder_of, directory = plan.prepare, plan.trial_folder, Path.cwd()

    def train(config: Mapping[str, Any]) -> None:
        send = require("ray.tune", "tune").report
        if directory.is_dir():
            os.chdir(directory)
        epochs = [0]

        def tell(value: float, epoch: int) -> None:
            epochs[0] = epoch
            send({_VALUE: value, _EPOCH: epoch})  # does not return where Ray stops the trial

        try:
            if prepare is not None:
                prepare()
            value = objective(config["settings"], folder_of(config["number"]), tell)
        except Exception as error:
            send({_ERROR: error_text(error)})
        else:
            send({_VALUE: value, _EPOCH: epochs[0] + 1, _LAST: True})

    return train


class _Course:
    """What happens to the trials, for the study: Ray tells of them by names of its own."""

    def __init__(self, study: OptunaStudy, plan: Plan, signal: StopFlag) -> None:
        self.study, self.plan, self.signal = study, plan, signal
        self.first_error: str | None = None
        self._open: dict[str, Any] = {}
        self._epochs: dict[str, int] = {}

    @property
    def over(self) -> bool:
        """Whether no training is to go on."""
        return bool(self.signal) or self.first_error is not None

    def begin(self, name: str) -> dict[str, Any]:
        """The config of the next trial."""
        trial = self._open[name] = self.study.ask()
        return {"number": trial.number, "settings": dict(trial.params)}

    def report(self, name: str, result: Mapping[str, Any]) -> None:
        """After an epoch. Ray tells of one more than once, and of the last one only at the end."""
        if name in self._open and _VALUE in result and self._epochs.get(name, 0) < result[_EPOCH]:
            self._epochs[name] = result[_EPOCH]
            self._open[name].report(result[_VALUE], result[_EPOCH])

    def end(self, name: str, result: Mapping[str, Any] | None) -> None:
        """The training has ended, by itself or by Ray. One that a signal ends stays open, and is made again."""
        result = result or {}
        self.report(name, result)
        trial = self._open.pop(name, None)
        if trial is None:
            return
        if _ERROR in result:
            self._fail(trial, result[_ERROR])
        elif _LAST in result:
            self.study.complete(trial, result[_VALUE])
            print(f"trial {trial.number}: {self.plan.objective.metric} {result[_VALUE]:.4f}", flush=True)
        elif self.over:
            pass
        elif _VALUE in result:
            self.study.prune(trial)
            print(f"trial {trial.number} stopped after epoch {result[_EPOCH]}: {result[_VALUE]:.4f}", flush=True)
        else:
            self._fail(trial, "its process ended without an error of its own")

    def _fail(self, trial: Any, message: str) -> None:
        self.study.fail(trial, message)
        if trial.number == 0:
            self.first_error = message


def _searcher(course: _Course) -> Any:
    """The study as Ray Tune's source of trials."""
    base = require("ray.tune.search", "tune").Searcher

    class StudySearcher(base):
        def suggest(self, trial_id: str) -> Any:
            return self.FINISHED if course.over else course.begin(trial_id)

        def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
            course.report(trial_id, result)

        def on_trial_complete(
            self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
        ) -> None:
            course.end(trial_id, None if error else result)

        def save(self, checkpoint_path: str) -> None:
            """The study is in Optuna's database."""

        def restore(self, checkpoint_path: str) -> None:
            """The study is in Optuna's database."""

    return StudySearcher(metric=_VALUE, mode="min" if course.plan.lower_is_better else "max")


def _scheduler(study: OptunaStudy, plan: Plan) -> Any:
    """ASHA, knowing what the trials of earlier calls reached."""
    schedulers = require("ray.tune.schedulers", "tune")
    if plan.grace_epochs >= plan.epochs:
        return schedulers.FIFOScheduler()
    scheduler = schedulers.ASHAScheduler(
        time_attr=_EPOCH,
        metric=_VALUE,
        mode="min" if plan.lower_is_better else "max",
        max_t=plan.epochs,
        grace_period=plan.grace_epochs,
        reduction_factor=plan.reduction,
    )
    for number, history in study.histories().items():
        trial = SimpleNamespace(trial_id=f"earlier-{number}")
        scheduler.on_trial_add(None, trial)
        for epoch, value in sorted(history.items()):
            scheduler.on_trial_result(None, trial, {_EPOCH: epoch, _VALUE: value})
    return scheduler


def _stopper(course: _Course) -> Any:
    """Ends all trainings when the study is over."""
    base = require("ray.tune.stopper", "tune").Stopper

    class StudyStopper(base):
        def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return course.over

    return StudyStopper()
