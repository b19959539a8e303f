"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from kanvolution.registry import unknown_name


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed to `path` when the block ends, removed when it fails.

    The rename replaces a file that is there in one step: whoever reads `path` sees the old file or the new one, also
    after a crash, and a failure (a full disk, say) leaves the old one.

    Example:
        >>> import tempfile, pathlib
        >>> from kanvolution.files import atomic
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; give them the rights that any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def saving(path: str | Path) -> Iterator[Path]:
    """`atomic` for the large files of a run: whatever fails in the block is an OSError that says what is left.

    Raises:
        OSError: no space, no permission, or what the library that writes reports for it.
    """
    try:
        with atomic(path) as temporary:
            yield temporary
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a failed write as its own RuntimeError, with the system's error behind it.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
        raise OSError(
            getattr(cause, "errno", None) or errno.EIO,
            f"{str(path)!r} cannot be saved: {reason}; what was saved before is untouched. Make room or give "
            "permission, then continue with resume=RUN",
        ) from error


def remove_temporaries(folder: Path) -> None:
    """Remove what `atomic` leaves in a folder when its process is killed in the middle."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; a list of plain values stays on one line."""
    text = json.dumps(values, indent=2)
    # Line breaks within the strings of JSON are escaped, so those matched here are its layout.
    text = re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r"\n\s*", " ", m[1]) + "]", text)
    write_text(path, text + "\n")


def write_json_lines(path: str | Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of one JSON object a line, whole or not at all.

    A number that is not finite becomes null, which every reader of JSON takes.
    """
    clean = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()} for values in lines
    ]
    write_text(path, "".join(json.dumps(values) + "\n" for values in clean))


def yaml_file(kind: str, source: str | Path, shipped: Path) -> Path:
    """A YAML file of the package, by its name, or one of the user's, by its path.

    Args:
        kind: what the file holds, for the message.
        source: the name or the path.
        shipped: folder of those that the package has.

    Raises:
        ValueError: there is neither.
    """
    for path in (shipped / f"{source}.yaml", Path(source)):
        if path.is_file():
            return path
    message = unknown_name(kind, str(source), sorted(path.stem for path in shipped.glob("*.yaml")))
    raise ValueError(f"{message} It can also be a YAML file of yours, and there is none of this name.")
