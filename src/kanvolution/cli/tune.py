"""`kanvolution tune`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanvolution.cli.command import INTERRUPTED, register_command
from kanvolution.cli.imports import add_import, import_file
from kanvolution.cli.text import table

if TYPE_CHECKING:
    from kanvolution.configs import Key
    from kanvolution.tune import StudyResult

_HEAD = """\
usage: kanvolution tune [KEY=VALUE ...] [tune.KEY=VALUE ...] [output_dir=DIR] [--import FILE ...]

Search for the best settings of training. Keys are those of `kanvolution train`, and go to every training; the first one
has them alone. output_dir is the folder of the study (runs/tune); the same command goes on with it.

examples:
  kanvolution tune trainer.epochs=10 tune.samples=20 output_dir=runs/study
  kanvolution tune data=npz data.path=FILE.npz tune.space=my_space.yaml tune.metric=macro_f1
  kanvolution tune model=simple8 schedule=polynomial tune.space=torch_conv_kan tune.backend=ray tune.gpus_per_trial=0.5
  kanvolution train experiment=runs/study/best.yaml

options:
  --import FILE   a Python file of yours that registers models, bases, data sets, ...; may be given more than once
  --debug         show the traceback of an error
  -h, --help      this text

keys:
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-h", "--help", action="store_true", help="show the keys")
    add_import(parser)


@register_command("tune", "search for the best settings of training", _arguments, own_help=True)
def tune(options: argparse.Namespace) -> int:
    """Run the study and print its trials, the best last."""
    from kanvolution.tune import StudyInterruptedError, read_space, tune

    if options.help:
        print(_HEAD + "\n".join(_help()))
        return 0
    settings, overrides = _split(options.overrides)
    folder = settings.pop("output_dir")
    prepare = functools.partial(_import_files, [str(Path(file).resolve()) for file in options.imports])
    try:
        result = tune(overrides, read_space(settings.pop("space")), folder, prepare=prepare, **settings)
    except StudyInterruptedError as stopped:
        print(f"kanvolution: {stopped}; the same command goes on with the study", file=sys.stderr)
        return INTERRUPTED
    _print(result)
    return 0


def _import_files(files: Sequence[str]) -> None:
    for file in files:
        import_file(file)


def _keys(backend: str) -> list[Key]:
    """The keys below `tune`, for a back end."""
    from kanvolution.configs import Key
    from kanvolution.configs.groups import function_keys
    from kanvolution.tune import BACKENDS, tune

    return [
        Key("space", str, "default", "what is searched: a name, or a YAML file"),
        *function_keys(tune, ("overrides", "space", "output_dir", "progress", "prepare")),
        *function_keys(BACKENDS[backend], ("plan", "begin")),
    ]


def _split(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values below `tune` with the study's folder, and what is left for the trainings.

    Raises:
        ConfigError: a key that does not exist, or a value of the wrong type.
    """
    from kanvolution.configs import ConfigError
    from kanvolution.configs.compose import parse_override
    from kanvolution.configs.groups import schema
    from kanvolution.extras import require
    from kanvolution.registry import unknown_name
    from kanvolution.tune import BACKENDS, backend_options

    given: dict[str, Any] = {"output_dir": "runs/tune"}
    rest = []
    for text in overrides:
        if text.startswith(("tune.", "output_dir=")):
            override = parse_override(text)
            given[override.key_or_group.removeprefix("tune.")] = override.value()
        else:
            rest.append(text)
    folder = str(given.pop("output_dir"))
    omegaconf = require("omegaconf", "train")
    keys = _keys(str(given.get("backend", "optuna")))
    for name in given:
        if name not in [key.name for key in keys]:
            owners = [backend for backend in BACKENDS if name in backend_options(backend)]
            if owners:
                raise ConfigError(f"tune.{name} is a key of tune.backend={owners[0]}; choose that, or leave it out")
            raise ConfigError(unknown_name("key", f"tune.{name}", [f"tune.{key.name}" for key in keys]))
    try:
        config = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(schema("tune", keys)), given)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise ConfigError(f"tune.{error.full_key}: {str(error).splitlines()[0]}") from error
    return {**omegaconf.OmegaConf.to_container(config), "output_dir": folder}, rest


def _help() -> Iterator[str]:
    """A line for each key; those of one back end alone say so."""
    from kanvolution.tune import BACKENDS, backend_options

    rows = {}
    for backend in BACKENDS:
        for key in _keys(backend):
            own = f"{backend}: " if key.name in backend_options(backend) else ""
            default = "null" if key.default is None else key.default
            rows[f"tune.{key.name}={default}"] = own + key.help
    width = max(map(len, rows))
    return (f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items())


def _print(result: StudyResult) -> None:
    from kanvolution.tune.report import BEST

    keys = list(result.best.settings)
    rows = [("trial", result.metric, "", *keys)]
    for trial in [*(t for t in result.trials if t is not result.best), result.best]:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        state = "best" if trial is result.best else "" if trial.state == "complete" else trial.state
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in (trial.settings.get(k, "") for k in keys))
        rows.append((str(trial.number), value, state, *cells))
    print(f"\n{table(rows, right=(0, 1))}\n")
    for trial in result.trials:
        if trial.error:
            print(f"trial {trial.number} failed: {trial.error}")
    print(f"the best one again: kanvolution train experiment={result.folder / BEST}\n{result.folder}")
