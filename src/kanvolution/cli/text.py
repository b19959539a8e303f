"""Tables and signatures as the commands print them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable


def table(rows: Iterable[tuple[str, ...]], right: Container[int] = ()) -> str:
    """Rows of cells in columns as wide as their widest cell; the columns `right` are set to the right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    )


def signature(function: Callable, skipped: tuple[str, ...]) -> str:
    """The parameters of a function with their defaults, but those `skipped`."""
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters if p.name not in skipped
    )
