"""Several settings compared: a metric over an axis, or over the number of parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kanvolution.visualize.figures import GREY, new_figure, plain_axes

Entry = Mapping[str, Any]

_MEASURED = {"parameters": "parameters", "seconds": "training (s)"}
_MARKERS = "os^Dv<>pX*"


def comparison_figure(
    entries: Sequence[Entry],
    title: str = "",
    *,
    x: str | None = None,
    colour: str | None = None,
    panel: str | None = None,
    label: str | None = None,
    metric: str = "top1",
    metric_label: str = "top-1 (%)",
    factor: float = 100.0,
) -> Any:
    """A metric of many settings: mean and standard deviation over the seeds of each.

    What is a number runs to the right, joined by lines if it is an axis. Names run down, a row for each, with the
    metric to the right. Settings that have fewer axes than others are lines through all panels.

    Args:
        entries: each with `setting` (axis to point), `metrics` (name to `mean` and `std`), `parameters` and `seconds`
            (with `mean`), as the command `study` writes them; those without the metric are left out.
        title: shown above.
        x: an axis, "parameters" or "seconds"; by default the last axis that has no other part.
        colour: an axis. Axes that have no part are told by colour as well.
        panel: an axis with a panel for each point.
        label: an axis whose points are written beside the marks.
        metric: what is shown.
        metric_label: how it is called.
        factor: that it is shown with, 100 for a share in percent.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    scored = [e for e in entries if e["metrics"].get(metric, {}).get("mean") is not None]
    axes: list[str] = max((list(e["setting"]) for e in scored), key=len, default=[])
    free = [axis for axis in axes if axis not in (x, colour, panel, label)]
    place = x or (free.pop() if free else "parameters")
    told = [*(axis for axis in axes if axis == colour), *free]
    points = [e for e in scored if len(e["setting"]) == len(axes)]
    others = [e for e in scored if len(e["setting"]) < len(axes)]
    texts = {_place(e, place): e["setting"].get(place, "") for e in points}
    values = list(texts)
    groups = list(dict.fromkeys(_group(e, told) for e in points))
    panels = list(dict.fromkeys(_group(e, [panel]) for e in points)) if panel in axes else [""]
    rows = any(isinstance(value, str) for value in values)
    width = (3.2 if rows else 3.4) * len(panels) + 2
    figure = new_figure((max(width, 7), 0.32 * len(values) + 1.4 if rows else 4.2))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharex=rows, sharey=True)[0]
    for axis, name in zip(drawn, panels, strict=True):
        shown = [e for e in points if panel not in axes or _group(e, [panel]) == name]
        for number, group in enumerate(groups):
            chosen = [e for e in shown if _group(e, told) == group]
            at = [_place(e, place) for e in chosen]
            mean, std = _spread(chosen, metric, factor)
            style: dict[str, Any] = {"marker": _MARKERS[number % len(_MARKERS)], "color": f"C{number % 10}"}
            style |= {"ms": 5, "capsize": 2, "elinewidth": 1, "label": group, "linestyle": "none"}
            if rows:  # one above the other within a row
                shift = 0.6 * ((number + 0.5) / len(groups) - 0.5)
                across, up = mean, [values.index(value) + shift for value in at]
                axis.errorbar(across, up, xerr=std, **style)
            else:
                if place in axes and label is None:
                    style["linestyle"] = "-"
                across, up = at, mean
                axis.errorbar(across, up, yerr=std, **style)
            if label is not None:
                for entry, a, b in zip(chosen, across, up, strict=True):
                    axis.annotate(
                        entry["setting"][label], (a, b), xytext=(5, 3), textcoords="offset points", fontsize=8
                    )
        for number, entry in enumerate(others):
            _line(axis, entry, metric, factor, rows, number)
        plain_axes(axis)
        axis.set_xlabel(metric_label if rows else _MEASURED.get(place, place))
        if name:
            axis.set_title(f"{panel}: {name}", fontsize=10)
    _ticks(drawn, texts, rows, place in axes)
    drawn[0].set_ylabel(place if rows else metric_label)
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontsize=11)
    handles, names = drawn[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside right center", frameon=False, title=", ".join(told), fontsize=9)
    return figure


def _spread(entries: Sequence[Entry], metric: str, factor: float) -> tuple[list[float], list[float]]:
    """Means and deviations; the deviation of a single run is 0."""
    spreads = [entry["metrics"][metric] for entry in entries]
    return [factor * s["mean"] for s in spreads], [factor * (s["std"] or 0.0) for s in spreads]


def _place(entry: Entry, x: str) -> Any:
    """Where an entry stands on x: a number, or a name."""
    if x == "parameters":
        return entry["parameters"]
    if x == "seconds":
        return entry["seconds"]["mean"]
    label = entry["setting"][x]
    try:
        return float(label)
    except ValueError:
        return label


def _group(entry: Entry, axes: Sequence[str | None]) -> str:
    return ", ".join(entry["setting"][axis] for axis in axes if axis is not None)


def _line(axis: Any, entry: Entry, metric: str, factor: float, rows: bool, number: int) -> None:
    """A setting beside the others, as a line with the band of its deviation."""
    (mean,), (std,) = _spread([entry], metric, factor)
    line, band = (axis.axvline, axis.axvspan) if rows else (axis.axhline, axis.axhspan)
    name = _group(entry, list(entry["setting"]))
    line(mean, color=GREY, linestyle=("--", ":", "-.")[number % 3], linewidth=1.2, label=name)
    if std:
        band(mean - std, mean + std, color=GREY, alpha=0.15, linewidth=0)


def _ticks(axes: Sequence[Any], texts: Mapping[Any, str], rows: bool, is_axis: bool) -> None:
    """A tick for each point of an axis, with its name; a scale that suits its numbers."""
    if rows:
        axes[0].set_yticks(range(len(texts)), list(texts.values()))
        axes[0].set_ylim(len(texts) - 0.5, -0.5)
        return
    wide = bool(texts) and min(texts) > 0 and max(texts) >= 10 * min(texts)
    for axis in axes:
        if wide or not is_axis:
            axis.set_xscale("log")
        if is_axis:
            axis.set_xticks(list(texts), list(texts.values()))
            axis.minorticks_off()
