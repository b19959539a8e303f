"""The training loop, on whatever devices Accelerate finds."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from kanvolution.checks import integer_at_least
from kanvolution.data.info import DataSets
from kanvolution.extras import require
from kanvolution.files import write_json, write_json_lines, write_text
from kanvolution.registry import unknown_name
from kanvolution.train.checkpoint import CONFIG, WEIGHTS, SavedForm, parameter_count, save_config, save_weights
from kanvolution.train.config import TrainerConfig
from kanvolution.train.ema import Ema
from kanvolution.train.health import NonFiniteLossError, diagnose
from kanvolution.train.interrupt import StopFlag, stop_on_signal
from kanvolution.train.objective import Objective
from kanvolution.train.optim import create_optim, needs_closure
from kanvolution.train.options import named_options
from kanvolution.train.parallel import accelerator_of, on_main, shard, share_buffers, synchronise_batch_norms
from kanvolution.train.progress import Progress, Silent, default_progress, memory_in_use
from kanvolution.train.randomness import EpochSampler, SeededImages, seed_step
from kanvolution.train.run_folder import RESULT, environment, make_run_folder, open_run_folder, record_environment
from kanvolution.train.schedule import create_schedule
from kanvolution.train.state import Parts, Position, States, check_settings, load_state, plain
from kanvolution.train.tasks import Task, create_task
from kanvolution.train.trackers import NoTracker, Tracker, create_tracker
from kanvolution.train.with_loss import ModelWithLoss
from kanvolution.visualize import draw_run

BEST = "best"
"""Folder in a run that holds the weights of the best epoch, where `keep_best` asks for them."""
METRICS = "metrics.jsonl"
"""File in a run with one line of metrics for each epoch."""


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
        self.folder, self.epoch, self.signal_name = folder, epoch, signal_name
        super().__init__(
            (
                f"stopped by {signal_name}; the weights after {epoch} whole epoch{'s' * (epoch != 1)} are in {folder}"
                if epoch
                else f"stopped by {signal_name} in the first epoch; the weights so far are in {folder}"
            )
            + f". Continue with resume={folder}"
        )


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
    resume: str | Path | None = None,
    config: str | None = None,
    name: str = "run",
    progress: Progress | None = None,
    form: SavedForm | None = None,
) -> FitResult:
    """Train a model in place, and save it after every epoch.

    The run folder gets `model.safetensors` and `config.json` (see `load_run`), `metrics.jsonl` (a line for each epoch),
    `environment.json`, `result.json`, the pictures of `kanvolution.visualize.draw_run`, and until it is finished
    `checkpoints/`, from which `resume` goes on. The weights of the last epoch are the result (with `trainer.ema`, their
    running mean): none is picked by its validation score. `trainer.keep_best` saves the best ones beside it.

    With torchrun it is called in every process, and all of them return; the first one writes the files.

    Args:
        model: a network whose output the task understands.
        data: see `kanvolution.data.create_data`.
        task, optim, schedule: a name, or a dictionary with `name` and options; a `Task` of your own.
        trainer: how the loop runs.
        tracker: where the metrics are shown; see `create_tracker`.
        seed: of data order, augmentation and dropout. (Seed torch before making the model for the initial weights.)
        output_dir: a new or empty folder; None makes one under runs/.
        resume: the folder of a run that was stopped: go on with it, to the same weights as if it had never stopped. All
            other arguments must be those that it began with; the weights of `model` are replaced.
        config: the text of a config to save as `config.yaml`.
        name: used for the folder that None makes.
        progress: what is told of the run's course; None prints to stdout.
        form: writes the weights; None writes the state dict of the model.

    Raises:
        ValueError: an unknown name or option, a value out of range, a folder that is not empty, or a run to resume that
            is finished or began with other arguments.
        NonFiniteLossError: the loss became infinite or not a number; the last checkpoint is kept.
        TrainingInterrupted: SIGINT or SIGTERM; `resume` goes on from there.
        OSError: a checkpoint cannot be written; the one before is kept.

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
    if resume is not None and output_dir is not None and Path(resume).resolve() != Path(output_dir).resolve():
        raise ValueError(f"resume (={str(resume)!r}) goes on in its own folder; leave out output_dir (={output_dir})")
    settings = {
        "model": getattr(model, "config", type(model).__name__),
        "data": {"train": _size(data.train), "val": _size(data.val), **data.info.to_dict()},
        **{kind: _chosen(kind, c) for kind, c in (("task", task), ("optim", optim), ("schedule", schedule))},
        "trainer": asdict(trainer),
        "seed": seed,
        **({} if form is None else {"form": form.settings()}),
    }
    task = task if isinstance(task, Task) else create_task(task, data.info)
    if trainer.keep_best is not None:
        _check_metric(trainer.keep_best, model, task, data)
    create_schedule(schedule, trainer.epochs, trainer.epochs)
    tracker = tracker if isinstance(tracker, Tracker) else create_tracker(tracker)
    progress = default_progress() if progress is None else progress
    with accelerator_of(trainer, seed) as accelerator, _memory_format(model, trainer):
        progress = progress if accelerator.is_main_process else Silent()
        tracker = tracker if accelerator.is_main_process else NoTracker()
        loop = _Loop(accelerator, model, optim, schedule, data, task, trainer, seed, progress, form)
        settings["processes"] = accelerator.num_processes

        def make_folder() -> str:
            if resume is not None:
                return str(open_run_folder(resume))
            folder = make_run_folder(output_dir, name)
            save_config(folder, model, data.info)
            if config is not None:
                write_text(folder / "config.yaml", config)
            return str(folder)

        folder = Path(on_main(accelerator, make_folder))
        try:
            with stop_on_signal() as stop:
                loop.open(folder, plain(settings), resume is not None)
                facts = {**environment(accelerator.device, accelerator.num_processes), "seed": seed}
                on_main(accelerator, partial(record_environment, folder, facts))
                title = f"training {name} on {accelerator.device}: {folder}"
                progress.start(title, trainer.epochs, loop.steps_per_epoch, loop.steps_done)
                with tracker.running(folder, name, config):
                    result = loop.run(stop, tracker)
                    if accelerator.is_main_process:
                        # What is spread over the processes cannot be run by one of them.
                        tracker.show(draw_run(folder, data, None if trainer.fsdp else model))
                return result
        except (ValueError, TypeError):
            # A mistake that shows only now. A new folder without weights is of no use; a corrected run may take it.
            if resume is None and accelerator.is_main_process and not (folder / WEIGHTS).exists():
                shutil.rmtree(folder)
            raise
        finally:
            progress.stop()


def _size(images: Dataset) -> int:
    return len(images)  # pyright: ignore[reportArgumentType]


def _chosen(kind: str, choice: Any) -> Any:
    """The choice of a task, optimiser or schedule, written in one way."""
    if isinstance(choice, str | Mapping):
        name, options = named_options(kind, choice)
        return {"name": name, **options}
    return type(choice).__qualname__


def _check_metric(name: str, model: nn.Module, task: Task, data: DataSets) -> None:
    """Raises ValueError unless the task measures `name`: it is asked about two images, before any work."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # a loader draws from the CPU's generator
            inputs, target = next(iter(DataLoader(data.val, 2)))
            task.reset(device)
            task.update(model.eval()(inputs.to(device)), target.to(device))
            metrics = task.compute()
    finally:
        model.train(was_training)
    if name not in metrics:
        raise ValueError(unknown_name("metric trainer.keep_best", name, metrics))


@contextlib.contextmanager
def _memory_format(model: nn.Module, trainer: TrainerConfig) -> Iterator[None]:
    """The model in channels-last order, if asked for; gradient checkpointing for the time of the block."""
    if trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if not trainer.grad_checkpointing:
        yield
        return
    switch: Any = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise ValueError(
            f"trainer.grad_checkpointing (=True) needs a model with a method set_grad_checkpointing, and "
            f"{type(model).__name__} has none; set it to false"
        )
    before = bool(getattr(model, "grad_checkpointing", False))
    switch(True)
    try:
        with contextlib.ExitStack() as stack:
            if trainer.compile:
                from torch._dynamo import config

                # What modules hold for `collect_losses` is not to be held again when backward runs a forward.
                stack.enter_context(config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True))
            yield
    finally:
        switch(before)


class _Loop:
    """One run: its prepared parts, and the passes over the data."""

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        optim: str | Mapping[str, Any],
        schedule: str | Mapping[str, Any],
        data: DataSets,
        task: Task,
        trainer: TrainerConfig,
        seed: int,
        progress: Progress,
        form: SavedForm | None,
    ) -> None:
        self.accelerator, self.model, self.task = accelerator, model, task
        self.trainer, self.seed, self.progress, self.form = trainer, seed, progress, form
        if trainer.sync_batch_norm and accelerator.num_processes > 1:
            synchronise_batch_norms(model)
        if trainer.fsdp:
            shard(model, accelerator)
        optimizer = create_optim(optim, model)
        self.needs_closure = needs_closure(optimizer)
        if self.needs_closure and trainer.mixed_precision == "fp16":
            raise ValueError(
                f"trainer.mixed_precision (='fp16') cannot be used with {type(optimizer).__name__}, which evaluates "
                "the loss several times in a step; use bf16 or no"
            )
        self.objective = Objective(task, model)
        with_loss = ModelWithLoss(model, self.objective, trainer.compile)
        # What is spread over the processes already needs no wrapping for them.
        self.run_model = accelerator.prepare_model(with_loss, evaluation_mode=trainer.fsdp)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self._make_loaders(data)
        self.steps_per_epoch = math.ceil(len(self.train_loader) / trainer.accumulation)
        factor = create_schedule(schedule, self.steps_per_epoch * trainer.epochs, trainer.epochs)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        ema = Ema(model, trainer.ema) if trainer.ema else None
        self.parts = Parts(model, optimizer, self.scheduler, accelerator.scaler, ema, trainer.fsdp)
        self.position = Position()

    def _make_loaders(self, data: DataSets) -> None:
        trainer = self.trainer
        common: dict[str, Any] = {
            "num_workers": trainer.num_workers,
            "pin_memory": self.accelerator.device.type == "cuda",
            "persistent_workers": trainer.num_workers > 0,
        }
        size, together = _size(data.train), trainer.batch_size * self.accelerator.num_processes
        limit = trainer.max_steps * trainer.accumulation * together if trainer.max_steps else None
        self.sampler = EpochSampler(size, self.seed, limit)
        # A last batch of a few images (of one, for a norm) is left out; the order changes with every epoch.
        whole = size >= together
        images = SeededImages(data.train, self.seed)
        train = DataLoader(images, trainer.batch_size, sampler=self.sampler, drop_last=whole, **common)
        val = data.val
        if trainer.max_steps:
            val = Subset(val, range(min(_size(val), trainer.max_steps * together)))
        val = DataLoader(val, trainer.batch_size, **common)
        self.train_loader, self.val_loader = map(self.accelerator.prepare_data_loader, (train, val))
        self.images_per_step = trainer.accumulation * together
        self.images_per_epoch = len(self.train_loader) * together if whole else size

    @property
    def steps_done(self) -> int:
        """Steps of the optimiser since the beginning of the run."""
        return (self.position.epoch - 1) * self.steps_per_epoch + self.position.step

    def open(self, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
        """Begin the run in its folder, or go to where it was stopped."""
        self.folder, self.settings = folder, settings
        self.recorded = _lines(folder / METRICS)
        self.states = States(folder, self.trainer.keep_last)
        newest = on_main(self.accelerator, lambda: str(self.states.newest() or "")) if resume else ""
        if not newest:
            self._save_state()
            return
        stored, self.position, parts = load_state(Path(newest))
        check_settings(folder, stored, settings)
        self.parts.load_state_dict(parts, source=newest)
        self.last_state = newest
        on_main(self.accelerator, self.states.tidy)

    def run(self, stop: StopFlag, tracker: Tracker) -> FitResult:
        """Train to the end, or to a signal."""
        self.stop, self.stopping, self.tracker = stop, False, tracker
        with self.objective:
            return self._run()

    def _run(self) -> FitResult:
        position, metrics = self.position, {}
        while position.epoch <= self.trainer.epochs:
            if position.step == 0:
                position.lr = float(self.scheduler.get_last_lr()[0])
            self._train_epoch()
            begun = time.perf_counter()
            with self.parts.averaged():
                metrics = {} if self.stopping else self._validate()
                if not self.stopping:
                    self._record(metrics, position.seconds + time.perf_counter() - begun)
            if self.stopping:
                self._interrupted()
            self.position = position = Position(position.epoch + 1, best=position.best, records=position.records)
            if position.epoch <= self.trainer.epochs:
                self._save_state()
        if self.parts.ema is not None:
            self.parts.ema.swap()
        seconds = sum(record["seconds"] for record in position.records)
        result = FitResult(self.folder, metrics, self.task.tables(), parameter_count(self.model), round(seconds, 2))

        def finish() -> None:
            write_json(self.folder / RESULT, {k: v for k, v in asdict(result).items() if k != "folder"})
            self.states.clear()

        on_main(self.accelerator, finish)
        return result

    def _train_epoch(self) -> None:
        position, every = self.position, self.trainer.checkpoint_steps
        self.run_model.train()
        self.sampler.begin(position.epoch, position.step * self.images_per_step)
        self.objective.begin(position.penalties, position.calls)
        begun = time.perf_counter() - position.seconds
        for batches in _grouped(self.train_loader, self.trainer.accumulation):
            position.loss += self._step(batches)
            position.step += 1
            position.seconds = time.perf_counter() - begun
            self.progress.step(position.epoch, sum(len(b[0]) for b in batches) * self.accelerator.num_processes)
            if self.stopping:
                return
            if every and self.steps_done % every == 0 and position.step < self.steps_per_epoch:
                self._save_state()

    def _step(self, batches: list[Any]) -> float:
        """One step of the optimiser on the mean loss of some batches. Returns that loss before the step."""
        losses: list[float] = []

        def closure() -> float:
            # Seeded here, since a line search needs one function: dropout is the same in all evaluations of a step.
            seed_step(self.seed, self.position.epoch, self.position.step, self.accelerator.process_index)
            self.optimizer.zero_grad()
            total = 0.0
            for number, (inputs, target) in enumerate(batches, start=1):
                last = number == len(batches)
                inputs, target = self.task.transform_batch(inputs, target)
                with contextlib.nullcontext() if last else self.accelerator.no_sync(self.run_model):
                    loss = self.run_model(self._ordered(inputs), target) / len(batches)
                    value = self._shared(loss)
                    # A line search may try a step that is too long; its first evaluation is where the weights are.
                    if not losses and not math.isfinite(value):
                        raise self._not_finite(value, inputs)
                    self.accelerator.backward(loss)
                total += value
            # What a line search sees has to be the gradient of the loss, at whatever length.
            if self.trainer.grad_clip > 0 and not self.needs_closure:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.trainer.grad_clip)
            losses.append(total)
            return total

        if self.needs_closure:
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
            if self.parts.ema is not None:
                self.parts.ema.update()
        return losses[0]

    def _shared(self, loss: Tensor) -> float:
        """The mean loss of all processes, which also agree here on whether to stop.

        It is read before backward: so a loss that is not finite never reaches the weights. On a GPU this waits for the
        forward pass only; backward, the step and the next images overlap as before.
        """
        if self.accelerator.num_processes == 1:
            self.stopping = bool(self.stop)
            return float(loss.detach())
        values = torch.stack([loss.detach().float(), torch.full_like(loss.detach(), bool(self.stop)).float()])
        value, stopping = self.accelerator.reduce(values, "mean").tolist()
        self.stopping = stopping > 0
        return value

    def _ordered(self, inputs: Tensor) -> Tensor:
        channels_last = self.trainer.channels_last and inputs.ndim == 4
        return inputs.to(memory_format=torch.channels_last) if channels_last else inputs

    def _not_finite(self, value: float, inputs: Tensor) -> NonFiniteLossError:
        position = self.position
        seed_step(self.seed, position.epoch, position.step, self.accelerator.process_index)
        with self.accelerator.autocast():
            cause = diagnose(self.model, inputs, lambda: self.model(self._ordered(inputs)))
        # The processes had other images: the first that found more than a bad sum tells.
        causes = require("accelerate.utils", "train").gather_object([cause])
        cause = min(causes, key=lambda text: "every layer" in text)
        lr = float(self.scheduler.get_last_lr()[0])
        return NonFiniteLossError(value, position.epoch, position.step + 1, lr, cause, self.last_state)

    @torch.no_grad()
    def _validate(self) -> dict[str, float | None]:
        self.run_model.eval()
        if self.trainer.fsdp:  # copies share theirs before every forward
            share_buffers(self.model)
        self.task.reset(self.accelerator.device)
        for inputs, target in self.val_loader:
            output = self.run_model(self._ordered(inputs))
            output, target = self.accelerator.gather_for_metrics((output, target))
            self.task.update(output, target)
            self._shared(torch.zeros((), device=self.accelerator.device))
            if self.stopping:
                return {}
        return self.task.compute()

    def _record(self, metrics: Mapping[str, float | None], seconds: float) -> None:
        """Save the weights of an epoch, and write down what it measured."""
        position = self.position
        record = {
            "epoch": position.epoch,
            "lr": position.lr,
            "train_loss": position.loss / self.steps_per_epoch,
            **{f"train_{name}": value for name, value in self.objective.means().items()},
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": round(seconds, 3),
            "images_per_second": round(self.images_per_epoch / position.seconds, 1),
            "memory_gib": round(memory_in_use(self.accelerator.device) / 2**30, 3),
        }
        position.records.append(record)
        best = self._is_best(metrics)
        write = self._writer()

        def save() -> None:
            write(self.folder, position.epoch)
            if best:
                (self.folder / BEST).mkdir(exist_ok=True)
                write(self.folder / BEST, position.epoch)
                shutil.copyfile(self.folder / CONFIG, self.folder / BEST / CONFIG)
                write_json(self.folder / BEST / "metrics.json", record)
            # An epoch whose state was not saved any more is trained again; the tracker knows it already.
            if position.epoch > self.recorded:
                self.tracker.log(record)
            write_json_lines(self.folder / METRICS, position.records)

        on_main(self.accelerator, save)
        self.progress.epoch(record)

    def _writer(self) -> Callable[[Path, int], None]:
        """What writes the present weights, for an epoch, into a folder. All processes have to ask for it."""
        if self.form is not None:
            return self.form.save
        weights = self.parts.model_state()
        return lambda folder, epoch: save_weights(folder, weights, epoch)

    def _is_best(self, metrics: Mapping[str, float | None]) -> bool:
        """Whether this epoch has the best value of `keep_best` so far; remembers it."""
        name = self.trainer.keep_best
        if name is None:
            return False
        value, best = metrics[name], self.position.best
        if value is None or not math.isfinite(value):
            return False
        better = best is None or (value < best if name in self.task.lower_is_better else value > best)
        if better:
            self.position.best = value
        return better

    def _save_state(self) -> None:
        if self.position.step:
            self.position.penalties, self.position.calls = self.objective.sums(), self.objective.calls
        parts = self.parts.state_dict()
        save = partial(self.states.save, self.steps_done, self.settings, self.position, parts)
        self.last_state = on_main(self.accelerator, lambda: str(save()))

    def _interrupted(self) -> None:
        self._save_state()
        # The weights of the last whole epoch are there already, with their metrics; save only where there are none.
        if self.position.epoch == 1:
            with self.parts.averaged():
                write = self._writer()
                on_main(self.accelerator, lambda: write(self.folder, 0))
        raise TrainingInterrupted(self.folder, self.position.epoch - 1, self.stop.name or "a signal to another process")


def _lines(file: Path) -> int:
    """The number of lines of a file; 0 where there is none."""
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


def _grouped(batches: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Lists of `count` batches; the last may be shorter."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group
