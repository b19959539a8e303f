"""The functions of a network's layers as parts of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanvolution.pages.svg import TIMES, function_panel
from kanvolution.visualize.functions import out_of_range, standard_normal, value_ranges
from kanvolution.visualize.importance import importance
from kanvolution.visualize.layers import Data, Edge, LayerView, layer_inputs
from kanvolution.visualize.run import chosen_views

_POINTS = 72
_BINS = 24


@dataclass(frozen=True)
class Panel:
    """A function of a layer: its edge and tap, its share of the variance that all edges contribute, and its chart."""

    edge: str
    tap: str
    share: str
    chart: str


@dataclass(frozen=True)
class LayerPart:
    """A layer: facts as (name, value), its most important functions, and what each B_k contributes (name, share)."""

    name: str
    facts: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    functions: tuple[tuple[str, float], ...]


def layer_parts(
    model: nn.Module, data: Data | None, *, layers: Sequence[str] = ("*",), count: int = 12
) -> list[LayerPart]:
    """The layers of a network with their most important functions.

    Args:
        model: the network; left as it was.
        data: its inputs, see `layer_inputs`; None: standard-normal inputs of each layer, and no histograms.
        layers: names or shell patterns.
        count: functions of each layer.

    Raises:
        ValueError: a layer that is not there (the nearest is named).
    """
    views = chosen_views(model, layers)
    inputs = None if data is None else layer_inputs(model, data, [view.name for view in views])
    parts = []
    for view in views:
        if inputs is None:
            parts.append(_part(view, standard_normal(view), count, measured=False))
        elif view.name in inputs:  # an expert that none of the images was sent to is left out
            parts.append(_part(view, inputs[view.name], count, measured=True))
    return parts


def edge_charts(view: LayerView, values: Tensor, edges: Sequence[Edge], *, measured: bool = True) -> list[str]:
    """A chart of each edge's function over the values [in_channels, M] of the layer's inputs."""
    low, high = value_ranges(values)
    places = torch.stack([torch.linspace(float(a), float(b), _POINTS) for a, b in zip(low, high, strict=True)])
    curves = view.curves(edges, places)
    grid = getattr(view.source, "grid_range", None)
    bounds = grid if grid is not None and view.source.input_map == "identity" else ()
    charts = []
    for i, edge in enumerate(edges):
        x = places[edge.input]
        counts = torch.histc(values[edge.input].float(), _BINS, float(x[0]), float(x[-1])) if measured else None
        parts = curves.base is not None
        charts.append(
            function_panel(
                x.tolist(),
                curves.total[i].tolist(),
                curves.base[i].tolist() if curves.base is not None else None,
                curves.functions[i].tolist() if parts else None,
                None if counts is None else counts.tolist(),
                bounds,
                f"function of edge {edge} of {view.name}",
            )
        )
    return charts


def edge_name(edge: Edge) -> tuple[str, str]:
    """Input and output, and the tap ("" where there is one only)."""
    ends, _, tap = str(edge).partition(", ")
    return ends, tap


def _part(view: LayerView, values: Tensor, count: int, *, measured: bool) -> LayerPart:
    found = importance(view, values)
    edges = found.ranked(count)
    charts = edge_charts(view, values, edges, measured=measured)
    panels = tuple(
        Panel(*edge_name(edge), f"{100 * found.share(edge):.1f} %", chart)
        for edge, chart in zip(edges, charts, strict=True)
    )
    total = float(found.functions.sum()) or 1.0
    shares = tuple((name, float(v) / total) for name, v in zip(view.function_names, found.functions, strict=True))
    kernel = TIMES.join(map(str, view.kernel_size)) or "linear"
    outside = out_of_range(view, values) if measured else None
    facts = [
        ("basis", f"{view.source.name or type(view.source).__name__}, {view.basis.size} functions"),
        ("channels", f"{view.in_channels} → {view.out_channels}" + (f" in {view.groups} groups" * (view.groups > 1))),
        ("kernel", kernel),
        ("edges", f"{found.edges.numel():,}"),
        ("give 90 % of the variance", f"{found.edges_for(0.9):,} of them"),
    ]
    if outside is not None:
        facts.append(("inputs outside of the grid", f"{100 * outside:.1f} %"))
    return LayerPart(view.name, tuple(facts), panels, shares)
