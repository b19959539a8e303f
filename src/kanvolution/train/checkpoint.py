"""Runs on disk: a saved model (see `models.pretrained`) with the facts needed to prepare an image for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from kanvolution.data.info import DataInfo
from kanvolution.models.hub import fetch
from kanvolution.models.pretrained import CONFIG, load_saved, read_config, write_config
from kanvolution.models.weights import WEIGHTS, write_weights


@dataclass(frozen=True)
class Run:
    """A saved run: its model in evaluation mode, the facts of its data, and how many epochs it was trained."""

    path: Path
    model: nn.Module
    info: DataInfo
    epoch: int


class SavedForm(Protocol):
    """What a run writes of its model, where that is not the state dict: an adapted network is saved merged."""

    def settings(self) -> Mapping[str, Any]:
        """What a run and the one that continues it have to have in common, in JSON types."""
        ...

    def save(self, folder: Path, epoch: int) -> None:
        """Write `model.safetensors` of the model as it is now. Called in the main process."""
        ...


def save_config(folder: Path, model: nn.Module, info: DataInfo) -> None:
    """Write `config.json`: the package's version, `model.config` (null for a model not of `create_model`), the data."""
    write_config(folder, model, info.to_dict())


def save_weights(folder: Path, state: Mapping[str, Tensor], epoch: int) -> None:
    """Write a state dict as `model.safetensors`, whole or not at all; an older one stays until then.

    Raises:
        OSError: no space or no permission.
    """
    write_weights(folder / WEIGHTS, state, {"epoch": str(epoch)})


def save_run(folder: str | Path, model: nn.Module, info: DataInfo, epoch: int = 0) -> None:
    """Save a model so that `load_run` and `kanvolution predict` can use it. `folder` must exist."""
    save_config(Path(folder), model, info)
    save_weights(Path(folder), model.state_dict(), epoch)


def load_run(path: str | Path, model: nn.Module | None = None) -> Run:
    """The saved run in a folder, on the CPU.

    Args:
        path: the folder of a run, or a folder or repository of `save_pretrained(..., data=...)`.
        model: the network to load into; needed only where it was not made by `create_model`.

    Raises:
        ValueError: no run there, a file is damaged, or the weights have other keys or shapes than the model.
    """
    folder = fetch(path, (CONFIG, WEIGHTS))
    saved = read_config(folder)
    if saved.data is None:
        raise ValueError(
            f"{str(path)!r} says nothing of its data, so images cannot be prepared for it; save it with data=..., or "
            "load the network alone with kanvolution.from_pretrained"
        )
    try:
        info = DataInfo.from_dict(saved.data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(folder / CONFIG)!r} is damaged: {error}") from error
    network, metadata = load_saved(saved, model)
    return Run(folder, network, info, int(metadata.get("epoch", 0)))


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
