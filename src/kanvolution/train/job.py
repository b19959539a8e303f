"""A training run from a config: what `kanvolution train` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kanvolution.data import DataSets, create_data
from kanvolution.extras import require
from kanvolution.layers import ConvSpec
from kanvolution.models import create_model
from kanvolution.train.checkpoint import SavedForm
from kanvolution.train.config import TrainerConfig
from kanvolution.train.engine import FitResult, fit
from kanvolution.train.options import named_options
from kanvolution.train.parallel import is_main
from kanvolution.train.progress import Progress
from kanvolution.train.run_folder import check_run_folder


def run_job(config: Mapping[str, Any], *, text: str | None = None, progress: Progress | None = None) -> FitResult:
    """Load the data, make the model, and train it.

    Args:
        config: the keys of `kanvolution.configs.compose`, as plain dictionaries.
        text: the config as it is saved in the run folder.
        progress: see `fit`.

    Raises:
        ValueError: see `fit`, `create_data` and `create_model`.
    """
    if config["output_dir"] is not None and is_main():
        check_run_folder(config["output_dir"])
    trainer = TrainerConfig(**config["trainer"])
    spec = ConvSpec(**config["conv"])
    model_name, model_options = named_options("model", config["model"])
    data_name, data_options = named_options("data", config["data"])
    data = create_data(data_name, **data_options)
    require("accelerate", "train").utils.set_seed(config["seed"])
    model = create_model(
        model_name, spec, num_classes=data.info.num_classes, in_chans=data.info.in_chans, **model_options
    )
    name = f"{model_name}-{spec.basis}-{data.info.name}"
    return fit_config(config, model, data, trainer=trainer, text=text, name=name, progress=progress)


def fit_config(
    config: Mapping[str, Any],
    model: nn.Module,
    data: DataSets,
    *,
    trainer: TrainerConfig,
    text: str | None,
    name: str,
    progress: Progress | None,
    form: SavedForm | None = None,
) -> FitResult:
    """`fit` with what the configs of all jobs have: task, optim, schedule, tracker, seed, output_dir and resume."""
    keys = ("task", "optim", "schedule", "tracker", "seed", "output_dir", "resume")
    chosen = {key: config[key] for key in keys}
    return fit(model, data, trainer=trainer, config=text, name=name, progress=progress, form=form, **chosen)
