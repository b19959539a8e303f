"""Several settings compared: top-1 against the number of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanvolution.visualize.figures import new_figure, plain_axes


def comparison_figure(entries: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """Top-1 against the number of parameters, a point for each setting, a colour for each network.

    Args:
        entries: each with `setting` (of `model` and `conv`), `parameters`, and `metrics.top1` of `mean` and `std`, as
            the command `baselines` writes them; those without a top-1 are left out.
        title: shown above.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = new_figure((8, 5))
    axis = figure.subplots()
    scored = [e for e in entries if e["metrics"].get("top1", {}).get("mean") is not None]
    for model in dict.fromkeys(entry["setting"]["model"] for entry in scored):
        chosen = [entry for entry in scored if entry["setting"]["model"] == model]
        x = [entry["parameters"] for entry in chosen]
        y = [100 * entry["metrics"]["top1"]["mean"] for entry in chosen]
        spread = [100 * (entry["metrics"]["top1"]["std"] or 0.0) for entry in chosen]
        axis.errorbar(x, y, yerr=spread, fmt="o", capsize=3, label=model)
        for entry, a, b in zip(chosen, x, y, strict=True):
            axis.annotate(entry["setting"]["conv"], (a, b), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axis.set(xscale="log", xlabel="parameters", ylabel="top-1 (%)", title=title)
    plain_axes(axis)
    if scored:
        axis.legend(frameon=False)
    return figure
