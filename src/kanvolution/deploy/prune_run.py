"""Pruning of a trained run in steps, each followed by training, and what every step cost and gained."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from kanvolution.checks import integer_at_least
from kanvolution.data import DataSets
from kanvolution.deploy.prune import UNITS, operations, prune_to
from kanvolution.deploy.timing import in_turns
from kanvolution.files import write_json
from kanvolution.train import Run, TrainerConfig, evaluate, fit
from kanvolution.train.progress import Progress
from kanvolution.train.run_folder import check_run_folder

REPORT = "pruning.json"
_BATCH = 64


@dataclass(frozen=True)
class PruneStep:
    """A network on the way.

    Args:
        sizes: how many channels or functions each layer has that some can be left out of, by its name.
        parameters: number of them.
        operations: floating-point operations for one image.
        cut: metrics on the validation images before training went on; None for the network one begins with.
        metrics: after it.
        latency_ms: median time of a batch of 64 images, in ms; all steps are timed in turns.
        folder: of the run, relative to the output folder; None for the network one begins with.
    """

    sizes: Mapping[str, int]
    parameters: int
    operations: int
    cut: Mapping[str, float | None] | None
    metrics: Mapping[str, float | None]
    latency_ms: float
    folder: str | None


def prune_run(
    run: Run,
    data: DataSets,
    output_dir: str | Path,
    *,
    share: float = 0.5,
    by: str = "channels",
    steps: int = 2,
    epochs: int = 1,
    lr: float = 1e-3,
    batch_size: int = 64,
    images: int = 512,
    least: int | None = None,
    task: str | Mapping[str, Any] = "classification",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[PruneStep]:
    """Prune a run to a share of its operations, in equal ratios, and train after each step.

    Args:
        run: a run of a network that `prune_to` takes.
        data: what it was trained on.
        output_dir: a new or empty folder. It gets a run folder for each step, "step1" and so on, and `pruning.json`.
        share: of the operations that is kept in the end, in (0, 1).
        by: "channels" or "functions"; see `prune_to`.
        steps: how many times it is pruned.
        epochs: trained after each step.
        lr, batch_size: of that training (AdamW, a one-cycle schedule).
        images: training images to measure on.
        least: see `prune_to`.
        task: as in training.
        config: the config of the run; saved with every step.
        seed: of that training.
        progress: what is told of it; None prints.

    Returns:
        The network one began with, and each step.

    Raises:
        ValueError: a value out of range, a network that cannot be pruned, or a folder that is not empty.
    """
    integer_at_least("steps", steps, 1)
    integer_at_least("epochs", epochs, 1)
    integer_at_least("images", images, 1)
    output = Path(output_dir)
    check_run_folder(output)
    random = torch.Generator().manual_seed(seed)
    loader = DataLoader(data.train, min(_BATCH, images), shuffle=True, generator=random)
    batches = [inputs for inputs, _ in islice(loader, -(-images // _BATCH))]
    image = batches[0][:1]
    model = run.model.cpu()
    models: list[nn.Module] = [model]
    folders: list[str | None] = [None]
    before = evaluate(run, data, task=task, device="cpu").metrics
    cuts: list[Mapping[str, float | None] | None] = [None]
    after = [before]
    full = operations(model, image)
    # All steps are planned on the first network: a share that cannot be reached is known before any training.
    prune_to(model, batches, share, by=by, least=least)
    for step in range(1, steps + 1):
        wanted = share ** (step / steps) * full / operations(model, image)
        model = prune_to(model, batches, min(wanted, 1 - 1e-9), by=by, least=least)
        folder = output / f"step{step}"
        cuts.append(evaluate(Run(folder, model, run.info, 0), data, task=task, device="cpu").metrics)
        result = fit(
            model,
            data,
            task=task,
            optim={"name": "adamw", "lr": lr},
            schedule="onecycle",
            trainer=TrainerConfig(epochs=epochs, batch_size=batch_size),
            seed=seed,
            output_dir=folder,
            name=f"step{step}",
            config=_config_text(config, folder),
            progress=progress,
        )
        model = model.cpu().eval()
        models.append(model)
        folders.append(folder.name)
        after.append(result.metrics)
    x = image.expand(_BATCH, *image.shape[1:]).contiguous()
    with torch.no_grad():
        times = in_turns({str(i): partial(model.eval(), x) for i, model in enumerate(models)}, repeats=9).values()
    found = [
        PruneStep(
            UNITS[by].counts(model),
            sum(p.numel() for p in model.parameters()),
            operations(model, image),
            cut,
            metrics,
            round(statistics.median(milliseconds), 3),
            folder,
        )
        for model, cut, metrics, milliseconds, folder in zip(models, cuts, after, times, folders, strict=True)
    ]
    write_json(
        output / REPORT,
        {"by": by, "share": share, "epochs": epochs, "lr": lr, "steps": [asdict(step) for step in found]},
    )
    return found


def _config_text(config: Mapping[str, Any] | None, folder: Path) -> str | None:
    if config is None:
        return None
    import yaml

    return yaml.safe_dump({**config, "output_dir": str(folder)}, sort_keys=False)
