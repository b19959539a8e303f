"""A study: trainings with settings of a space, chosen from what the earlier ones reached.

Everything is in one folder, from which the same call goes on: the study, a run folder for each trial, and the results
(`report.py`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanvolution.checks import integer_at_least
from kanvolution.files import write_json
from kanvolution.registry import unknown_name
from kanvolution.train.progress import Progress
from kanvolution.tune import backend_optuna, backend_ray  # noqa: F401 - they register
from kanvolution.tune.objective import TrialObjective, check_space
from kanvolution.tune.plan import BACKENDS, Plan
from kanvolution.tune.report import StudyResult, report
from kanvolution.tune.space import Space

SETTINGS = "settings.json"


def tune(
    overrides: Sequence[str],
    space: Space,
    output_dir: str | Path,
    *,
    samples: int = 20,
    metric: str = "top1",
    seed: int = 0,
    grace_epochs: int = 2,
    reduction: int = 3,
    backend: str = "optuna",
    progress: Progress | None = None,
    prepare: Callable[[], None] | None = None,
    **options: Any,
) -> StudyResult:
    """Search a space with Optuna's TPE; trainings that fall behind the others are stopped.

    The first trial has the settings of `overrides`, as far as they lie in the space. A trial that fails is reported,
    and the study goes on. The same call with the same folder continues a study, whenever it was interrupted.

    Trainings are compared after `grace_epochs` epochs, `reduction` times as many, and so on; the best 1 / `reduction`
    of those that came so far go on (asynchronous successive halving, Li et al., MLSys 2020, arXiv 1810.05934).

    Args:
        overrides: of `kanvolution train`, for all trials ("data=npz", "trainer.epochs=5").
        space: what is searched.
        output_dir: a new or empty folder, or that of the same study.
        samples: trials in all, those that are there already included; trials that were interrupted do not count.
        metric: of validation, in the last epoch.
        seed: of the choice of settings.
        grace_epochs: no training is stopped before; from the number of epochs on, none is.
        reduction: from one comparison to the next, a share of 1 / reduction goes on.
        backend: a name of `BACKENDS`.
        progress: what is told of each training; None prints. Trainings in other processes print nothing.
        prepare: called before trainings in every other process that makes them, to register what they need.
        options: of the back end.

    Raises:
        ValueError: a key that does not exist or cannot take a value of the space, before any training; a folder with
            something else in it; another space or metric than the study has; or not one trial was completed.
        ImportError: a package of the back end is missing.
        StudyInterruptedError: SIGINT or SIGTERM.
    """
    integer_at_least("samples", samples, 1)
    integer_at_least("seed", seed, 0)
    integer_at_least("grace_epochs", grace_epochs, 1)
    integer_at_least("reduction", reduction, 2)
    make = BACKENDS[backend]
    for name in options:
        if name not in backend_options(backend):
            raise ValueError(unknown_name(f"option of backend {backend!r}", name, backend_options(backend)))
    base, epochs = check_space(overrides, space)
    folder = Path(output_dir).resolve()
    settings = {
        "backend": backend,
        "metric": metric,
        "seed": seed,
        "grace_epochs": grace_epochs,
        "reduction": reduction,
        "overrides": list(overrides),
        "space": _plain(space),
    }
    known = folder / SETTINGS
    if known.is_file():
        if json.loads(known.read_text(encoding="utf-8")) != settings:
            raise ValueError(
                f"output_dir (={str(output_dir)!r}) holds a study of other settings (compare its {SETTINGS}); "
                "choose a new folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir (={str(output_dir)!r}) is not empty and holds no study; choose a new folder")
    objective = TrialObjective(tuple(overrides), metric, progress)
    plan = Plan(objective, space, base, folder, samples, seed, epochs, grace_epochs, reduction, prepare)
    trials = make(plan, lambda: _begin(folder, settings), **options)
    return report(trials, space, Path(output_dir), metric, overrides)


def backend_options(name: str) -> list[str]:
    """The options that a back end has of its own."""
    return [key for key in inspect.signature(BACKENDS[name]).parameters if key not in ("plan", "begin")]


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder of the study, when the back end is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def _plain(space: Space) -> dict[str, Any]:
    return {
        key: {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()}
        for key, d in space.dimensions.items()
    }
