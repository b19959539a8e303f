"""The command line: `kanvolution train`, `predict`, `models`, `bases`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanvolution.registry import unknown_name

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True)
class Command:
    """A subcommand: a line of help, its arguments, and what it does with them, returning the exit code."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0; 1 a run failed; 2 a mistake in the arguments; 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else USER_ERROR
    if arguments[0] == "--version":
        from kanvolution import __version__

        print(f"kanvolution {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"{unknown_name('command', name, COMMANDS)} See kanvolution --help.")
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(f"kanvolution {name}", description=command.help, add_help=name != "train")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.add_arguments(parser)
    options, unknown = parser.parse_known_intermixed_args(rest)
    try:
        if unknown:
            flags = [flag for action in parser._actions for flag in action.option_strings]
            raise ValueError(unknown_name("option", unknown[0], flags))
        for file in getattr(options, "imports", []):
            import_file(file)
        return command.run(options)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if options.debug:
            raise
        return _fail(str(error))


def import_file(path: str) -> None:
    """Import a user's file, once, for what it registers.

    Raises:
        ValueError: there is no such file, it is no Python file, or it raised an error itself.
    """
    file = Path(path).resolve()
    if not file.is_file() or file.suffix != ".py":
        raise ValueError(f"--import {path}: there is no such Python file")
    name = f"kanvolution_import_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--import {path}: it cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise ValueError(f"--import {path} failed: {type(error).__name__}: {error}") from error
        raise


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kanvolution COMMAND ...",
            "",
            "Convolutional Kolmogorov-Arnold networks for PyTorch.",
            "",
            *lines,
            "",
            "kanvolution COMMAND --help tells more; kanvolution --version tells the version.",
        ]
    )


def _fail(message: str, code: int = USER_ERROR) -> int:
    print(f"kanvolution: error: {message}", file=sys.stderr)
    return code


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file of yours that registers models, bases, data sets, ...; may be given more than once",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("-h", "--help", action="store_true", help="show the groups, their choices, and all keys")
    _add_import(parser)


def _train(options: argparse.Namespace) -> int:
    from kanvolution.configs import compose

    if options.help:
        from kanvolution.configs.manual import manual

        print(manual(options.overrides))
        return 0
    composed = compose(options.overrides)

    from kanvolution.train import NonFiniteLossError, TrainingInterrupted, run_job
    from kanvolution.train.progress import summary

    try:
        result = run_job(composed.values, text=composed.text)
    except TrainingInterrupted as stopped:
        print(f"kanvolution: {stopped}", file=sys.stderr)
        return INTERRUPTED
    except NonFiniteLossError as error:
        return _fail(str(error), FAILED)
    metrics = result.metrics
    rows = {"top-1": _percent(metrics.get("top1")), "macro AUC": _number(metrics.get("macro_auc"))}
    summary(
        {
            **{name: value for name, value in rows.items() if value},
            "parameters": f"{result.parameters:,}",
            "seconds": f"{result.seconds:.1f}",
            "run folder": str(result.folder),
        }
    )
    return 0


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K likeliest classes (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="swap light and dark first: the digits the default run learns are light on dark",
    )
    _add_import(parser)


def _predict(options: argparse.Namespace) -> int:
    from kanvolution.train import predict

    predictions = predict(options.run_folder, options.images, top=options.top, invert=options.invert)
    if options.json:
        records = [
            {
                "file": file,
                "class": found.label,
                "probability": found.probability,
                "top": dict(zip(found.classes, found.probabilities, strict=True)),
            }
            for file, found in zip(options.images, predictions, strict=True)
        ]
        print(json.dumps(records, indent=2))
        return 0
    rows = [
        (file, "  ".join(f"{c} {100 * p:.1f} %" for c, p in zip(found.classes, found.probabilities, strict=True)))
        for file, found in zip(options.images, predictions, strict=True)
    ]
    print(_table(rows))
    return 0


def _models(options: argparse.Namespace) -> int:
    from kanvolution.models import MODELS, create_model, list_models
    from kanvolution.train.checkpoint import parameter_count

    rows = [("model", "parameters (conv=gram, 3 channels, 10 classes)", "options")]
    for name in list_models():
        count = parameter_count(create_model(name, num_classes=10, in_chans=3))
        rows.append((name, f"{count:,}", _signature(MODELS[name], ("conv", "num_classes", "in_chans"))))
    print(_table(rows))
    return 0


def _bases(options: argparse.Namespace) -> int:
    from kanvolution.bases import BASES, list_bases
    from kanvolution.bases.basis import option_names

    rows = [("basis", "functions", "options")]
    for name in list_bases():
        cls = BASES[name]
        context = tuple(p for p in inspect.signature(cls).parameters if p not in option_names(cls))
        summary_line = (inspect.getdoc(cls) or "").partition("\n")[0]
        rows.append((name, summary_line.partition(" Source:")[0], _signature(cls, context)))
    print(_table(rows))
    return 0


def _signature(function: Callable, skipped: tuple[str, ...]) -> str:
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters if p.name not in skipped
    )


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _nothing(parser: argparse.ArgumentParser) -> None: ...


COMMANDS: dict[str, Command] = {
    "train": Command("train a network; without arguments, on handwritten digits", _train_arguments, _train),
    "predict": Command("classify image files with a saved run", _predict_arguments, _predict),
    "models": Command("list the networks", _nothing, _models),
    "bases": Command("list the bases of a convolution", _nothing, _bases),
}

if __name__ == "__main__":
    sys.exit(main())
