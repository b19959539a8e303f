"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
    finally:
        temporary.unlink(missing_ok=True)


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


def append_json_line(path: str | Path, values: Mapping[str, Any]) -> None:
    """Append one line of JSON; a number that is not finite becomes null, which every reader of JSON takes."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(clean) + "\n")
