"""Runs on disk: `model.safetensors` and `config.json`, enough to rebuild the model and to prepare an image for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kanvolution.data.info import DataInfo
from kanvolution.models import create_model
from kanvolution.train.files import saving, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class Run:
    """A saved run: its model in evaluation mode, the facts of its data, and how many epochs it was trained."""

    path: Path
    model: nn.Module
    info: DataInfo
    epoch: int


def save_config(folder: Path, model: nn.Module, info: DataInfo) -> None:
    """Write `config.json`: the package's version, `model.config` (null for a model not of `create_model`), the data."""
    from kanvolution import __version__

    write_json(
        folder / CONFIG,
        {"kanvolution": __version__, "model": getattr(model, "config", None), "data": info.to_dict()},
    )


def save_weights(folder: Path, state: Mapping[str, Tensor], epoch: int) -> None:
    """Write a state dict as `model.safetensors`, whole or not at all; an older one stays until the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    # Clones, since the format refuses tensors that share memory.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with saving(folder / WEIGHTS) as temporary:
        save_file(own, temporary, metadata={"format": "pt", "epoch": str(epoch)})


def save_run(folder: str | Path, model: nn.Module, info: DataInfo, epoch: int = 0) -> None:
    """Save a model so that `load_run` and `kanvolution predict` can use it. `folder` must exist."""
    save_config(Path(folder), model, info)
    save_weights(Path(folder), model.state_dict(), epoch)


def load_run(path: str | Path, model: nn.Module | None = None) -> Run:
    """The saved run in a folder, on the CPU.

    Args:
        path: the folder.
        model: the network to load into; needed only where it was not made by `create_model`.

    Raises:
        ValueError: no run there, a file is damaged, or the weights have other keys or shapes than the model.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{str(folder)!r} is not the folder of a run: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        info = DataInfo.from_dict(config["data"])
        architecture = config["model"]
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{str(folder / CONFIG)!r} is damaged: {error}") from error
    if model is None:
        model = _rebuild(architecture, folder)
    state, metadata = _read_weights(folder / WEIGHTS)
    load_weights(model, state, source=str(folder / WEIGHTS))
    return Run(folder, model.eval(), info, int(metadata.get("epoch", 0)))


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Load `state` into `model`.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; all of them are listed, and nothing is loaded.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [
        f"{name} ({list(state[name].shape)} in the file, {list(wanted[name].shape)} in the model)"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        words = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{source} does not fit the model. {words}")
    model.load_state_dict(state)


def _rebuild(architecture: Any, folder: Path) -> nn.Module:
    if not isinstance(architecture, Mapping) or not architecture.get("conv"):
        raise ValueError(
            f"{str(folder)!r} was trained with a model or convolution made by hand; pass it: load_run(path, model=...)"
        )
    try:
        return create_model(**architecture)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model of {str(folder)!r} cannot be made: {error} A model or basis of your own must be registered "
            "first (kanvolution predict --import FILE)"
        ) from error


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is damaged or no safetensors file: {error}") from error


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
