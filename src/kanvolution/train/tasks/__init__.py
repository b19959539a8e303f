"""Tasks: what is minimised and what is measured."""

from kanvolution.train.tasks.classification import Classification
from kanvolution.train.tasks.segmentation import Segmentation
from kanvolution.train.tasks.task import TASKS, Penalties, Task, create_task, list_tasks, register_task

__all__ = ["TASKS", "Classification", "Penalties", "Segmentation", "Task", "create_task", "list_tasks", "register_task"]
