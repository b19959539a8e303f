"""Fine-tuning from a config: what `kanvolution finetune` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanvolution.data import create_data
from kanvolution.data.info import DataInfo, DataSets
from kanvolution.data.registry import PreparedImages
from kanvolution.deploy.adapt import ADAPTER_WEIGHTS, Adapter, adapt, load_base
from kanvolution.deploy.adapters import adapter_kind
from kanvolution.extras import require
from kanvolution.train.checkpoint import save_weights
from kanvolution.train.config import TrainerConfig
from kanvolution.train.engine import FitResult
from kanvolution.train.job import fit_config
from kanvolution.train.options import named_options
from kanvolution.train.parallel import is_main
from kanvolution.train.progress import Progress
from kanvolution.train.run_folder import check_run_folder

ADAPTER = "adapter"
"""Folder in a run that holds the adapter alone."""


@dataclass(frozen=True)
class MergedForm:
    """How a run of fine-tuning is saved: the merged network, which loads like any other, and the adapter beside it.

    Attributes:
        adapter: on the network that is trained.
        info: what it is adapted to.
    """

    adapter: Adapter
    info: DataInfo

    def settings(self) -> dict[str, Any]:
        """The kind of adapter and the fingerprint of the base network."""
        return {"adapter": self.adapter.kind.to_dict(), "base": self.adapter.base["fingerprint"]}

    def save(self, folder: Path, epoch: int) -> None:
        """Write `model.safetensors`, and `adapter/` unless everything is trained."""
        save_weights(folder, self.adapter.merged_state_dict(), epoch)
        if not self.adapter.kind.whole:
            self.adapter.save(folder / ADAPTER, data=self.info)


@dataclass(frozen=True)
class Finetuned:
    """What a finished run of fine-tuning amounts to.

    Attributes:
        result: of the run; `result.parameters` counts those that were trained.
        total: number of all parameters of the merged network.
        adapter: the folder of the adapter alone; None where everything was trained.
        adapter_bytes: size of its weights.
    """

    result: FitResult
    total: int
    adapter: Path | None
    adapter_bytes: int


def finetune_job(
    config: Mapping[str, Any],
    *,
    text: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] = print,
) -> Finetuned:
    """Load the network and the data, put an adapter on the network, and train it.

    The run folder is that of training: its weights are those of the merged network, saved after every epoch. Images are
    normalised as those were that the network was trained on.

    Args:
        config: the keys of `kanvolution.configs.finetune.compose_finetune`, as plain dictionaries.
        text: the config as it is saved in the run folder.
        progress: see `fit`.
        say: is told what the user should know before training begins.

    Raises:
        ValueError: see `fit`, `create_data`, `load_base` and `adapt`; data that the network cannot take; to resume, a
            base network that is not the one that the run began with.
    """
    if config["output_dir"] is not None and is_main():
        check_run_folder(config["output_dir"])
    if not config["checkpoint"]:
        raise ValueError("no network to start from; name a run, a saved model or published weights: CHECKPOINT")
    trainer = TrainerConfig(**config["trainer"])
    if trainer.fsdp:
        raise ValueError("trainer.fsdp (=True) does not go with adapters, which are small; set it to false")
    kind = adapter_kind(config["adapter"])
    model, trained_on = load_base(config["checkpoint"])
    data_name, data_options = named_options("data", config["data"])
    data = create_data(data_name, **data_options)
    if trained_on is not None:
        data = prepared_as(data, trained_on)
    classes = getattr(model, "num_classes", None)
    require("accelerate", "train").utils.set_seed(config["seed"])
    adapter = adapt(model, kind, num_classes=data.info.num_classes, source=str(config["checkpoint"]))
    if adapter.num_classes is not None and is_main():
        say(f"{data.info.name} has {data.info.num_classes} classes and the network {classes}: it gets a new head")
    network = getattr(model, "config", None) or {}
    result = fit_config(
        config,
        model,
        data,
        trainer=trainer,
        text=text,
        name=f"{kind.name}-{network.get('name', type(model).__name__)}-{data.info.name}",
        progress=progress,
        form=MergedForm(adapter, data.info),
    )
    adapter.merge()
    total = sum(p.numel() for p in model.parameters())
    folder = None if kind.whole else result.folder / ADAPTER
    size = (folder / ADAPTER_WEIGHTS).stat().st_size if folder is not None and is_main() else 0
    return Finetuned(result, total, folder, size)


def prepared_as(data: DataSets, info: DataInfo) -> DataSets:
    """The data normalised as those images were that a network was trained on.

    Raises:
        ValueError: images of other channels, or targets of another kind.
    """
    own = data.info
    if own.in_chans != info.in_chans:
        raise ValueError(
            f"images of {own.name} have {own.in_chans} channels, the network takes {info.in_chans}; "
            f"for image files pass data.channels={info.in_chans}"
        )
    if own.targets != info.targets:
        raise ValueError(
            f"{own.name} has {own.targets}, and the network was trained on {info.targets}; name other data"
        )
    facts = replace(own, mean=info.mean, std=info.std)
    train, val = (
        PreparedImages(part.images, facts, part.augment) if isinstance(part, PreparedImages) else part
        for part in (data.train, data.val)
    )
    return DataSets(train, val, facts)
