"""The training loop, on whatever device Accelerate finds."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kanvolution.checks import integer_at_least
from kanvolution.data.info import DataSets
from kanvolution.extras import require
from kanvolution.files import append_json_line, write_json, write_text
from kanvolution.registry import unknown_name
from kanvolution.train.checkpoint import WEIGHTS, parameter_count, save_config, save_weights
from kanvolution.train.interrupt import StopFlag, stop_on_signal
from kanvolution.train.objective import Objective
from kanvolution.train.optim import create_optim, needs_closure
from kanvolution.train.progress import Progress, Silent, default_progress
from kanvolution.train.run_folder import environment, make_run_folder
from kanvolution.train.schedule import create_schedule
from kanvolution.train.tasks import Task, create_task
from kanvolution.train.trackers import NoTracker, Tracker, create_tracker
from kanvolution.visualize import draw_run

PRECISIONS = ("no", "bf16", "fp16")


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainerConfig:
    """How the loop runs. Raises ValueError for a value out of range."""

    epochs: int = _key(20, "passes over the training images")
    batch_size: int = _key(64, "images in a step, on each device")
    grad_clip: float = _key(1.0, "largest norm of the gradient; 0 leaves it as it is, and so does optim=lbfgs")
    mixed_precision: str = _key("no", "no, bf16 or fp16 (fp16 needs a GPU)")
    num_workers: int = _key(0, "processes that prepare images; 0 is best for small images in memory")
    cpu: bool = _key(False, "use the CPU even where there is a GPU")

    def __post_init__(self) -> None:
        integer_at_least("trainer.epochs", self.epochs, 1)
        integer_at_least("trainer.batch_size", self.batch_size, 1)
        integer_at_least("trainer.num_workers", self.num_workers, 0)
        if not self.grad_clip >= 0:
            raise ValueError(f"trainer.grad_clip (={self.grad_clip}) must be >= 0; 0 switches clipping off")
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(unknown_name("trainer.mixed_precision", self.mixed_precision, PRECISIONS))
        if self.mixed_precision == "fp16" and (self.cpu or not torch.cuda.is_available()):
            raise ValueError("trainer.mixed_precision (='fp16') needs a GPU; on a CPU use bf16 or no")


@dataclass(frozen=True)
class FitResult:
    """What a finished run amounts to: metrics of the last epoch, whose weights are the ones saved."""

    folder: Path
    metrics: dict[str, float | None]
    tables: dict[str, list[list[Any]]]
    parameters: int
    seconds: float


class TrainingInterrupted(Exception):  # noqa: N818 - it is no error
    """The run was stopped by a signal; `folder` holds the last checkpoint, trained for `epoch` whole epochs."""

    def __init__(self, folder: Path, epoch: int, signal_name: str) -> None:
        self.folder, self.epoch = folder, epoch
        super().__init__(
            f"stopped by {signal_name}; the weights after {epoch} whole epoch{'s' * (epoch != 1)} are in {folder}"
            if epoch
            else f"stopped by {signal_name} in the first epoch; the weights so far are in {folder}"
        )


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number."""


def fit(
    model: nn.Module,
    data: DataSets,
    *,
    task: str | Mapping[str, Any] | Task = "classification",
    optim: str | Mapping[str, Any] = "adamw",
    schedule: str | Mapping[str, Any] = "cosine",
    trainer: TrainerConfig | None = None,
    tracker: str | Mapping[str, Any] | Tracker = "auto",
    seed: int = 0,
    output_dir: str | Path | None = None,
    config: str | None = None,
    name: str = "run",
    progress: Progress | None = None,
) -> FitResult:
    """Train a model in place, and save it after every epoch.

    The run folder gets `model.safetensors` and `config.json` (see `load_run`), `metrics.jsonl` (a line for each epoch),
    `environment.json`, `result.json`, and the pictures of `kanvolution.visualize.draw_run`. The weights of the last
    epoch are the result: none is picked by its validation score.

    Args:
        model: a network whose output the task understands.
        data: see `kanvolution.data.create_data`.
        task, optim, schedule: a name, or a dictionary with `name` and options; a `Task` of your own.
        trainer: how the loop runs.
        tracker: where the metrics are shown; see `create_tracker`.
        seed: of data order, augmentation and dropout. (Seed torch before making the model for the initial weights.)
        output_dir: a new or empty folder; None makes one under runs/.
        config: the text of a config to save as `config.yaml`.
        name: used for the folder that None makes.
        progress: what is told of the run's course; None prints to stdout.

    Raises:
        ValueError: an unknown name or option, a value out of range, or a folder that is not empty.
        NonFiniteLossError: the loss became infinite or not a number; the last checkpoint is kept.
        TrainingInterrupted: SIGINT or SIGTERM; the last checkpoint is kept.

    Example:
        >>> import tempfile, kanvolution as kv
        >>> from kanvolution.data import create_data
        >>> from kanvolution.train import TrainerConfig, fit
        >>> model = kv.create_model("simple4", "gram", num_classes=10, in_chans=1, channels=[2, 2, 2, 2])
        >>> result = fit(model, create_data("digits"), trainer=TrainerConfig(epochs=1, batch_size=256),
        ...              output_dir=tempfile.mkdtemp())  # doctest: +ELLIPSIS
        training run on ...
        epoch 1/1 ...
        >>> sorted(result.metrics)
        ['auc_ovo', 'calibration_error', 'loss', 'macro_auc', 'macro_f1', 'macro_recall', 'top1', 'top5']
    """
    trainer = trainer or TrainerConfig()
    integer_at_least("seed", seed, 0)
    task = task if isinstance(task, Task) else create_task(task, data.info)
    optimizer = create_optim(optim, model)
    create_schedule(schedule, trainer.epochs, trainer.epochs)
    tracker = tracker if isinstance(tracker, Tracker) else create_tracker(tracker)
    progress = default_progress() if progress is None else progress
    with _accelerator(trainer, seed) as accelerator:
        progress = progress if accelerator.is_main_process else Silent()
        tracker = tracker if accelerator.is_main_process else NoTracker()
        loop = _Loop(accelerator, model, optimizer, schedule, data, task, trainer, progress)
        folder = Path()
        if accelerator.is_main_process:
            folder = make_run_folder(output_dir, name)
            save_config(folder, model, data.info)
            write_json(folder / "environment.json", {**environment(accelerator.device), "seed": seed})
            if config is not None:
                write_text(folder / "config.yaml", config)
        with stop_on_signal() as stop:
            progress.start(f"training {name} on {accelerator.device}: {folder}", trainer.epochs, loop.steps_per_epoch)
            try:
                with tracker.running(folder, name, config):
                    result = loop.run(folder, stop, tracker)
                    if accelerator.is_main_process:
                        tracker.show(draw_run(folder))
                return result
            except (ValueError, TypeError):
                # A mistake that shows only now. The folder is new and holds no weights; a corrected run may take it.
                if accelerator.is_main_process and not (folder / WEIGHTS).exists():
                    shutil.rmtree(folder)
                raise
            finally:
                progress.stop()


@contextlib.contextmanager
def _accelerator(trainer: TrainerConfig, seed: int) -> Iterator[Any]:
    accelerate = require("accelerate", "train")
    state = require("accelerate.state", "train")
    # Accelerate keeps its settings in class-wide state and refuses others later: every run starts anew, and a program
    # that uses Accelerate itself finds its own again.
    shared = [getattr(state, name)._shared_state for name in ("AcceleratorState", "PartialState", "GradientState")]
    before = [dict(values) for values in shared]
    for values in shared:
        values.clear()
    accelerate.utils.set_seed(seed)
    try:
        yield accelerate.Accelerator(
            cpu=trainer.cpu,
            mixed_precision=trainer.mixed_precision,
            dataloader_config=accelerate.utils.DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed),
        )
    finally:
        for values, old in zip(shared, before, strict=True):
            values.clear()
            values.update(old)


class _Loop:
    """One run: its prepared parts, and the passes over the data."""

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: str | Mapping[str, Any],
        data: DataSets,
        task: Task,
        trainer: TrainerConfig,
        progress: Progress,
    ) -> None:
        self.accelerator, self.raw_model, self.task, self.trainer, self.progress = (
            accelerator,
            model,
            task,
            trainer,
            progress,
        )
        self.objective = Objective(task, model)
        self.needs_closure = needs_closure(optimizer)
        if self.needs_closure and trainer.mixed_precision == "fp16":
            raise ValueError(
                f"trainer.mixed_precision (='fp16') cannot be used with {type(optimizer).__name__}, which evaluates "
                "the loss several times in a step; use bf16 or no"
            )
        self.own_forward = "forward" in vars(model)
        size = len(data.train)  # pyright: ignore[reportArgumentType]
        common: dict[str, Any] = {
            "num_workers": trainer.num_workers,
            "pin_memory": accelerator.device.type == "cuda",
            "persistent_workers": trainer.num_workers > 0,
        }
        # A last batch of a few images (of one, for a norm) is left out; the order changes with every epoch.
        train = DataLoader(data.train, trainer.batch_size, shuffle=True, drop_last=size >= trainer.batch_size, **common)
        val = DataLoader(data.val, trainer.batch_size, **common)
        self.model, self.optimizer, self.train_loader, self.val_loader = accelerator.prepare(
            model, optimizer, train, val
        )
        self.steps_per_epoch = len(self.train_loader)
        factor = create_schedule(schedule, self.steps_per_epoch * trainer.epochs, trainer.epochs)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def run(self, folder: Path, stop: StopFlag, tracker: Tracker) -> FitResult:
        with self.objective:
            return self._run(folder, stop, tracker)

    def _run(self, folder: Path, stop: StopFlag, tracker: Tracker) -> FitResult:
        started, epoch = time.perf_counter(), 0
        metrics: dict[str, float | None] = {}
        try:
            for epoch in range(1, self.trainer.epochs + 1):
                begun = time.perf_counter()
                lr = self.scheduler.get_last_lr()[0]
                train_loss, images = self._train_epoch(epoch, stop)
                penalties = self.objective.means()
                trained = time.perf_counter() - begun
                if not stop:
                    metrics = self._validate(stop)
                if stop:
                    self._interrupted(folder, epoch - 1, stop)
                record = {
                    "epoch": epoch,
                    "lr": lr,
                    "train_loss": train_loss,
                    **{f"train_{name}": value for name, value in penalties.items()},
                    **{f"val_{name}": value for name, value in metrics.items()},
                    "seconds": round(time.perf_counter() - begun, 3),
                    "images_per_second": round(images / trained, 1),
                }
                if self.accelerator.is_main_process:
                    save_weights(folder, self._unwrapped(), epoch)
                    append_json_line(folder / "metrics.jsonl", record)
                    self.progress.epoch(record)
                    tracker.log(record)
        except NonFiniteLossError as error:
            kept = f"the weights of the last good epoch are in {folder}" if epoch > 1 else "no weights were saved yet"
            raise NonFiniteLossError(f"{error}; {kept}") from None
        finally:
            # Takes Accelerate's wrapping of forward off the caller's model, and the attribute it leaves behind.
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            if not self.own_forward:
                vars(self.raw_model).pop("forward", None)
        seconds = time.perf_counter() - started
        result = FitResult(folder, metrics, self.task.tables(), parameter_count(self.raw_model), round(seconds, 2))
        if self.accelerator.is_main_process:
            write_json(folder / "result.json", {k: v for k, v in asdict(result).items() if k != "folder"})
        return result

    def _train_epoch(self, epoch: int, stop: StopFlag) -> tuple[float, int]:
        self.model.train()
        self.train_loader.set_epoch(epoch)
        self.objective.begin()
        total, images, recent = 0.0, 0, []
        # On a GPU reading the loss waits for the device; look at it now and then.
        interval = 1 if self.accelerator.device.type == "cpu" else 20
        for step, (inputs, target) in enumerate(self.train_loader, start=1):
            inputs, target = self.task.transform_batch(inputs, target)
            recent.append(self._step(inputs, target))
            if len(recent) == interval or step == self.steps_per_epoch:
                total += self._checked_sum(recent, epoch, step)
                recent = []
            if not self.accelerator.optimizer_step_was_skipped:
                self.scheduler.step()
            self.optimizer.zero_grad()
            images += len(target) * self.accelerator.num_processes
            self.progress.step(epoch, len(target) * self.accelerator.num_processes)
            if stop:
                break
        return total / self.steps_per_epoch, images

    def _step(self, inputs: Tensor, target: Tensor) -> Tensor:
        """One step of the optimiser. Returns the loss before it."""
        if self.needs_closure:
            return self._step_with_closure(inputs, target)
        loss = self._evaluate(inputs, target)
        if self.trainer.grad_clip > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.trainer.grad_clip)
        self.optimizer.step()
        return loss

    def _step_with_closure(self, inputs: Tensor, target: Tensor) -> Tensor:
        # A line search needs one function: dropout and noise are the same in all evaluations of a step, and processes
        # that see other images agree on the loss as they do on the gradients.
        seed = int(torch.randint(2**62, ()))
        device = self.accelerator.device
        losses: list[Tensor] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                losses.append(self.accelerator.reduce(self._evaluate(inputs, target), "mean"))
            return losses[-1]

        self.optimizer.step(closure)
        return losses[0]

    def _evaluate(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, with its gradients added to those that are there."""
        loss = self.objective(self.model(inputs), target)
        self.accelerator.backward(loss)
        return loss.detach()

    def _checked_sum(self, losses: list[Tensor], epoch: int, step: int) -> float:
        values = torch.stack(losses).tolist()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"the loss is {value} at epoch {epoch}, step {step - len(values) + 1 + i} "
                    f"(lr {self.scheduler.get_last_lr()[0]:.2e}); lower optim.lr or trainer.grad_clip, "
                    "or use trainer.mixed_precision=no"
                )
        return sum(values)

    @torch.no_grad()
    def _validate(self, stop: StopFlag) -> dict[str, float | None]:
        self.model.eval()
        self.task.reset(self.accelerator.device)
        for inputs, target in self.val_loader:
            output, target = self.accelerator.gather_for_metrics((self.model(inputs), target))
            self.task.update(output, target)
            if stop:
                return {}
        return self.task.compute()

    def _interrupted(self, folder: Path, whole_epochs: int, stop: StopFlag) -> None:
        # The weights of the last whole epoch are there already, with their metrics; save only where there are none.
        if whole_epochs == 0 and self.accelerator.is_main_process:
            save_weights(folder, self._unwrapped(), 0)
        raise TrainingInterrupted(folder, whole_epochs, str(stop.name))

    def _unwrapped(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)
