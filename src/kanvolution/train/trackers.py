"""Where the course of a run is shown beside `metrics.jsonl`: TensorBoard, Weights & Biases, Trackio; by name."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kanvolution.extras import require
from kanvolution.registry import Registry, unknown_name
from kanvolution.train.options import check_options, named_options

_EXTRA = "track"


class Tracker(ABC):
    """Told of a run's course by the engine, in its main process. `fit` calls `running`, `log` and `show`."""

    @abstractmethod
    def start(self, folder: Path, name: str, config: str | None) -> None:
        """Before the first epoch.

        Args:
            folder: of the run.
            name: what is trained.
            config: the text of the run's config, where there is one.

        Raises:
            ValueError: the service cannot be used; the message says what to do.
        """

    @abstractmethod
    def log(self, record: Mapping[str, Any]) -> None:
        """After each epoch, with its line of `metrics.jsonl`."""

    @abstractmethod
    def show(self, pictures: Sequence[Path]) -> None:
        """After the last epoch, with the pictures of the run."""

    @abstractmethod
    def finish(self, ok: bool) -> None:
        """When the run ends; `ok` unless by an error or an interruption."""

    @contextlib.contextmanager
    def running(self, folder: Path, name: str, config: str | None) -> Iterator[None]:
        """`start`, and `finish` however the block ends."""
        self.start(folder, name, config)
        ok = False
        try:
            yield
            ok = True
        finally:
            self.finish(ok)


TRACKERS: Registry[Callable[..., Tracker]] = Registry("tracker")


T = TypeVar("T", bound=Callable[..., Tracker])


def register_tracker(name: str) -> Callable[[T], T]:
    """Decorator: makes a tracker available to every config as `tracker=name`. It takes options of its own."""
    return TRACKERS.adding(name)


def list_trackers() -> list[str]:
    """The names of all registered trackers, sorted."""
    return list(TRACKERS)


def create_tracker(choice: str | Mapping[str, Any]) -> Tracker:
    """The tracker "tensorboard" or {"name": "wandb", "mode": "offline"}.

    Raises:
        ValueError: unknown name or option (the nearest is named), or a value out of range.
        ImportError: its package is not installed.
    """
    name, options = named_options("tracker", choice)
    make = TRACKERS[name]
    check_options(f"tracker {name!r}", make, options)
    return make(**options)


@register_tracker("none")
class NoTracker(Tracker):
    """`metrics.jsonl` alone."""

    def start(self, folder: Path, name: str, config: str | None) -> None: ...

    def log(self, record: Mapping[str, Any]) -> None: ...

    def show(self, pictures: Sequence[Path]) -> None: ...

    def finish(self, ok: bool) -> None: ...


@register_tracker("tensorboard")
class TensorBoard(Tracker):
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self) -> None:
        require("tensorboard", _EXTRA)

    def start(self, folder: Path, name: str, config: str | None) -> None:
        self._writer = require("torch.utils.tensorboard", _EXTRA).SummaryWriter(str(folder))
        self._epoch = 0
        if config is not None:
            self._writer.add_text("config", "```yaml\n" + config + "```")

    def log(self, record: Mapping[str, Any]) -> None:
        self._epoch = record["epoch"]
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, self._epoch)
        self._writer.flush()

    def show(self, pictures: Sequence[Path]) -> None:
        import numpy as np

        image = require("PIL.Image", "train")
        for picture in pictures:
            with image.open(picture) as file:
                self._writer.add_image(picture.stem, np.asarray(file.convert("RGB")), self._epoch, dataformats="HWC")

    def finish(self, ok: bool) -> None:
        self._writer.close()


@register_tracker("auto")
def auto() -> Tracker:
    """TensorBoard where it is installed, else `metrics.jsonl` alone."""
    return TensorBoard() if importlib.util.find_spec("tensorboard") else NoTracker()


_MODES = ("online", "offline", "disabled")


@register_tracker("wandb")
class WandB(Tracker):
    """Weights & Biases. A run that is resumed goes on in the same chart.

    Args:
        project: name of the project.
        entity: user or team; null takes the account's own.
        mode: online, offline (kept in the run folder, for `wandb sync`) or disabled; null asks WANDB_MODE.
    """

    def __init__(self, project: str = "kanvolution", entity: str | None = None, mode: str | None = None) -> None:
        if mode is not None and mode not in _MODES:
            raise ValueError(unknown_name("tracker.mode", mode, _MODES))
        self._wandb = require("wandb", _EXTRA)
        self._options = {"project": project, "entity": entity, "mode": mode}

    def start(self, folder: Path, name: str, config: str | None) -> None:
        try:
            self._run = self._wandb.init(
                name=folder.name,
                job_type=name,
                dir=str(folder),
                config=_values(config),
                id=_stored_id(folder / "wandb_id.txt"),
                resume="allow",
                settings=self._wandb.Settings(console="off", silent=True),
                **self._options,
            )
        except self._wandb.Error as error:
            raise ValueError(
                f"Weights & Biases cannot be used: {error}. Log in with `wandb login`, or pass tracker.mode=offline"
            ) from error

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["epoch"])

    def show(self, pictures: Sequence[Path]) -> None:
        self._run.log({picture.stem: self._wandb.Image(str(picture)) for picture in pictures})

    def finish(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


@register_tracker("trackio")
class Trackio(Tracker):
    """Trackio: charts in a local database (`trackio show`), or in a Hugging Face Space.

    Args:
        project: name of the project.
        space_id: a Space to send the charts to, as USER/NAME; null keeps them on this machine.
    """

    def __init__(self, project: str = "kanvolution", space_id: str | None = None) -> None:
        self._trackio = require("trackio", _EXTRA)
        self._options = {"project": project, "space_id": space_id}

    def start(self, folder: Path, name: str, config: str | None) -> None:
        self._run = self._trackio.init(name=folder.name, config=_values(config), resume="allow", **self._options)

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["epoch"])

    def show(self, pictures: Sequence[Path]) -> None:
        self._run.log({picture.stem: self._trackio.Image(str(picture)) for picture in pictures})

    def finish(self, ok: bool) -> None:
        self._run.finish()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of `metrics.jsonl`, as trackers name them: "train_loss" becomes "train/loss".

    Example:
        >>> from kanvolution.train.trackers import scalars
        >>> scalars({"epoch": 1, "lr": 0.1, "train_loss": 0.5, "val_macro_auc": None})
        {'lr': 0.1, 'train/loss': 0.5}
    """
    found = {}
    for key, value in record.items():
        if key != "epoch" and isinstance(value, int | float) and math.isfinite(value):
            part, _, rest = key.partition("_")
            found[f"{part}/{rest}" if part in ("train", "val") and rest else key] = float(value)
    return found


def _values(config: str | None) -> dict[str, Any]:
    return {} if config is None else require("yaml", "train").safe_load(config)


def _stored_id(file: Path) -> str:
    if not file.is_file():
        file.write_text(uuid.uuid4().hex[:16])
    return file.read_text().strip()
