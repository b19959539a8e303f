"""Training: one engine, tasks, optimisers, schedules, run folders. Optional packages are imported when a run starts."""

from kanvolution.train.checkpoint import Run, load_run, save_run
from kanvolution.train.engine import FitResult, NonFiniteLossError, TrainerConfig, TrainingInterrupted, fit
from kanvolution.train.job import run_job
from kanvolution.train.optim import OPTIMS, create_optim, list_optims, register_optim
from kanvolution.train.predict import Prediction, predict
from kanvolution.train.schedule import SCHEDULES, create_schedule, list_schedules, register_schedule
from kanvolution.train.tasks import TASKS, Classification, Task, create_task, list_tasks, register_task
from kanvolution.train.trackers import TRACKERS, Tracker, create_tracker, list_trackers, register_tracker

__all__ = [
    "OPTIMS",
    "SCHEDULES",
    "TASKS",
    "TRACKERS",
    "Classification",
    "FitResult",
    "NonFiniteLossError",
    "Prediction",
    "Run",
    "Task",
    "Tracker",
    "TrainerConfig",
    "TrainingInterrupted",
    "create_optim",
    "create_schedule",
    "create_task",
    "create_tracker",
    "fit",
    "list_optims",
    "list_schedules",
    "list_tasks",
    "list_trackers",
    "load_run",
    "predict",
    "register_optim",
    "register_schedule",
    "register_task",
    "register_tracker",
    "run_job",
    "save_run",
]
