"""Numbers and tables as the commands print them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of cells in columns as wide as their widest cell."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def signature(function: Callable, skipped: tuple[str, ...]) -> str:
    """The parameters of a function with their defaults, but those `skipped`."""
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(
        p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters if p.name not in skipped
    )


def percent(value: float | None) -> str:
    """A share of 1 as "98.76 %"; "" for None."""
    return "" if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    """Four decimals; "undefined" for None."""
    return "undefined" if value is None else f"{value:.4f}"
