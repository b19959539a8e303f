"""Files that deployment writes: new ones only, and whole or not at all."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new_file(path: Path, suffix: str, what: str) -> None:
    """Raises ValueError unless `path` can become a new file with the suffix that `what` has."""
    if path.suffix != suffix:
        raise ValueError(f"path (={str(path)!r}) must end in {suffix!r} for {what}")
    if path.exists():
        raise ValueError(f"{str(path)!r} is there already and is not overwritten; choose another name")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} for {path.name!r}; make it")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside `path`, from where a rename is one step."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks that exporters make about themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def check_compiler(what: str) -> None:
    """Raises ValueError where no C++ compiler is found for `what`."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ValueError(f"{what} needs a C++ compiler and finds none; install g++, or take another")
