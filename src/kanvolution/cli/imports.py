"""`--import FILE`: a user's file that registers models, bases, data sets."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from pathlib import Path


def add_import(parser: argparse.ArgumentParser) -> None:
    """Give a command the option `--import`; the files are imported before it runs."""
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file of yours that registers models, bases, data sets, ...; may be given more than once",
    )


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
