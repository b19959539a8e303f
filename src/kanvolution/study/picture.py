"""The picture of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanvolution.train.progress import axis_label
from kanvolution.visualize import comparison_figure


def study_figure(stored: Mapping[str, Any]) -> Any:
    """The picture of a study's results.

    Args:
        stored: what `kanvolution study` writes into `study.json`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    label, factor = axis_label(stored["metric"])
    title = f"{stored['help'].rstrip('.') or stored['study']} ({stored['data']})"
    return comparison_figure(
        stored["results"],
        title,
        metric=stored["metric"],
        metric_label=label,
        factor=factor,
        **stored["picture"],
    )
