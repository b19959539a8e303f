"""What all pictures share: a figure without a window system, and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanvolution.extras import require

BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#d1571b", "#2a8c55", "#8a8f98"


def new_figure(size: tuple[float, float]) -> Any:
    """A `matplotlib.figure.Figure` of a size in inches, outside Matplotlib's global state."""
    figure = require("matplotlib.figure", "viz").Figure(figsize=size, layout="constrained")
    # The canvas of the file format: no window system is asked for.
    require("matplotlib.backends.backend_agg", "viz").FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path, dpi: int = 120) -> Path:
    """Save a figure in the format of the file's ending.

    Raises:
        ValueError: an ending that Matplotlib does not write, or a file that is there already.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"file (={str(path)!r}) must end in one of: {', '.join(sorted(known))}")
    if path.exists():
        raise ValueError(f"file (={str(path)!r}) is there already; choose another name")
    figure.savefig(path, dpi=dpi)
    return path


def plain_axes(axis: Any) -> None:
    """Axes without the box's upper and right side, with a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
