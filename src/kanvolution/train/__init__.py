"""Training: one engine, tasks, optimisers, schedules, run folders. Optional packages are imported when a run starts."""

from kanvolution.train.checkpoint import Run, load_run, save_run
from kanvolution.train.config import TrainerConfig
from kanvolution.train.engine import FitResult, TrainingInterrupted, fit
from kanvolution.train.evaluate import Evaluation, evaluate, find_checkpoint
from kanvolution.train.health import NonFiniteLossError
from kanvolution.train.job import run_job
from kanvolution.train.losses import LOSSES, create_loss, list_losses, register_loss
from kanvolution.train.objective import Objective
from kanvolution.train.optim import OPTIMS, create_optim, list_optims, register_optim
from kanvolution.train.predict import Prediction, predict
from kanvolution.train.schedule import SCHEDULES, create_schedule, list_schedules, register_schedule
from kanvolution.train.segment import save_masks, segment
from kanvolution.train.tasks import (
    TASKS,
    Classification,
    Penalties,
    Segmentation,
    Task,
    create_task,
    list_tasks,
    register_task,
)
from kanvolution.train.trackers import TRACKERS, Tracker, create_tracker, list_trackers, register_tracker

__all__ = [
    "LOSSES",
    "OPTIMS",
    "SCHEDULES",
    "TASKS",
    "TRACKERS",
    "Classification",
    "Evaluation",
    "FitResult",
    "NonFiniteLossError",
    "Objective",
    "Penalties",
    "Prediction",
    "Run",
    "Segmentation",
    "Task",
    "Tracker",
    "TrainerConfig",
    "TrainingInterrupted",
    "create_loss",
    "create_optim",
    "create_schedule",
    "create_task",
    "create_tracker",
    "evaluate",
    "find_checkpoint",
    "fit",
    "list_losses",
    "list_optims",
    "list_schedules",
    "list_tasks",
    "list_trackers",
    "load_run",
    "predict",
    "register_loss",
    "register_optim",
    "register_schedule",
    "register_task",
    "register_tracker",
    "run_job",
    "save_masks",
    "save_run",
    "segment",
]
