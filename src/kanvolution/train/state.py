"""The state of a run: what it takes to continue it exactly, on disk under RUN/checkpoints."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.files import remove_temporaries, saving
from kanvolution.models.weights import load_weights
from kanvolution.train.ema import Ema

FORMAT = 1
"""Number of the layout of a state; it grows when an older one cannot be read any more."""

MAY_DIFFER = tuple(
    f"trainer.{name}"
    for name in ("num_workers", "keep_last", "checkpoint_steps", "cpu", "compile", "grad_checkpointing")
)
"""Settings that may change when a run is continued: results do not depend on them, but for rounding."""


@dataclass
class Position:
    """How far a run has come.

    Args:
        epoch: the epoch that goes on or begins, from 1.
        step: steps done in it.
        loss: sum of their losses.
        lr: learning rate at its beginning.
        seconds: training time spent in it.
        penalties: sum of each penalty.
        calls: how many values it is a sum of.
        best: best value of `keep_best` so far.
        records: the lines of `metrics.jsonl`.
    """

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    lr: float = 0.0
    seconds: float = 0.0
    penalties: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    best: float | None = None
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """What changes during training. Random numbers are no part of it: they follow from seed, epoch and step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: Any
    ema: Ema | None
    sharded: bool

    def model_state(self) -> dict[str, Tensor]:
        """The model's whole state dict on the CPU. Of a sharded one in the first process; all have to ask."""
        if self.sharded:
            dcp = _distributed_state()
            whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
            return dcp.get_model_state_dict(self.model, options=whole)
        return {name: value.detach().cpu() for name, value in self.model.state_dict().items()}

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the model has the weights that count: their running means, where there are any."""
        return contextlib.nullcontext() if self.ema is None else self.ema.swapped()

    def state_dict(self) -> dict[str, Any]:
        """The state of all parts; see `model_state` for processes."""
        averaged = None
        if self.ema is not None:
            with self.ema.swapped():
                # A copy: what is on the CPU already is the model's own memory, and swapped back before it is written.
                averaged = {name: value.clone() for name, value in self.model_state().items()}
        if self.sharded:
            dcp = _distributed_state()
            whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer = dcp.get_optimizer_state_dict(self.model, self.optimizer, options=whole)
        else:
            optimizer = self.optimizer.state_dict()
        return {
            "model": self.model_state(),
            "ema": None if self.ema is None else {"updates": self.ema.updates, "model": averaged},
            "optimizer": optimizer,
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], source: str) -> None:
        """Take over what `state_dict` gave. Raises ValueError where it does not fit, naming `source`."""
        if self.ema is not None:
            self._load_model(state["ema"]["model"], source)
            self.ema.restart(state["ema"]["updates"])
        self._load_model(state["model"], source)
        if self.sharded:
            dcp = _distributed_state()
            whole = dcp.StateDictOptions(full_state_dict=True)
            dcp.set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"], options=whole)
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])

    def _load_model(self, state: Mapping[str, Tensor], source: str) -> None:
        if self.sharded:
            dcp = _distributed_state()
            dcp.set_model_state_dict(self.model, dict(state), options=dcp.StateDictOptions(full_state_dict=True))
        else:
            load_weights(self.model, state, source)


def _distributed_state() -> Any:
    from torch.distributed.checkpoint import state_dict

    return state_dict


class States:
    """The states of a run on disk, by the number of steps done.

    Args:
        run: the folder of the run.
        keep: how many of the newest are kept.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "checkpoints"
        self.keep = keep

    def newest(self) -> Path | None:
        """The file of the newest state."""
        return max(self._files(), default=None)

    def save(self, steps: int, settings: Mapping[str, Any], position: Position, parts: Mapping[str, Any]) -> Path:
        """Write a state, and remove those that are too many once it is whole.

        Raises:
            OSError: it cannot be written; those before stay.
        """
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step-{steps:09d}.pt"
        state = {"format": FORMAT, "settings": dict(settings), "position": asdict(position), "parts": dict(parts)}
        with saving(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
        for old in sorted(self._files())[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def clear(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove files that a killed process left half written."""
        remove_temporaries(self.folder.parent)
        remove_temporaries(self.folder)

    def _files(self) -> Iterator[Path]:
        return self.folder.glob("step-*.pt")


def load_state(path: Path) -> tuple[dict[str, Any], Position, dict[str, Any]]:
    """(settings, position, state of the parts) of a file that `States.save` wrote; nothing in it is executed.

    Raises:
        ValueError: the file is damaged or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']}, this version reads {FORMAT}")
        return state["settings"], Position(**state["position"]), state["parts"]
    except Exception as error:
        # torch reports damaged files in many ways: RuntimeError, EOFError, UnpicklingError, OSError.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be read: {reason}; remove it to continue from the one before"
        ) from error


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as values of JSON, so that they compare equal after reading them."""
    return json.loads(json.dumps(settings, default=lambda value: type(value).__qualname__))


def check_settings(run: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the keys, unless a run is continued with the settings that it began with.

    An option that the version before did not know does not stop its runs, as long as it is off (None, False, 0).
    """
    old, new = dict(_flat(stored)), dict(_flat(given))
    new = {key: value for key, value in new.items() if key in old or value not in _OFF}
    changed = [
        f"{key} is {_shown(old, key)} there and {_shown(new, key)} here"
        for key in dict.fromkeys([*old, *new])
        if key not in MAY_DIFFER and _shown(old, key) != _shown(new, key)
    ]
    if changed:
        raise ValueError(
            f"{str(run)!r} can be continued with its own settings only: {'; '.join(changed)}. "
            "Leave them as they were, or start a new run"
        )


_OFF = (None, False, 0)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"
