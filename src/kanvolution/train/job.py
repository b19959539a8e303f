"""A training run from a config: what `kanvolution train` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanvolution.data import create_data
from kanvolution.extras import require
from kanvolution.layers import ConvSpec
from kanvolution.models import create_model
from kanvolution.train.engine import FitResult, TrainerConfig, fit
from kanvolution.train.options import named_options
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
    if config["output_dir"] is not None:
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
    return fit(
        model,
        data,
        task=config["task"],
        optim=config["optim"],
        schedule=config["schedule"],
        trainer=trainer,
        tracker=config["tracker"],
        seed=config["seed"],
        output_dir=config["output_dir"],
        config=text,
        name=f"{model_name}-{spec.basis}-{data.info.name}",
        progress=progress,
    )
