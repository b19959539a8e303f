"""Pictures of the functions a layer has learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanvolution.checks import integer_at_least
from kanvolution.extras import require
from kanvolution.ops.pointwise import POINTWISE
from kanvolution.visualize.figures import BLUE, GREEN, GREY, ORANGE, new_figure, plain_axes
from kanvolution.visualize.importance import Importance, importance
from kanvolution.visualize.layers import Edge, LayerView, layer_inputs, layer_view

_POINTS = 201
_MOST_PANELS = 100


def plot_functions(
    view: LayerView,
    inputs: Tensor | None = None,
    *,
    count: int = 16,
    edges: Sequence[Edge] | None = None,
) -> Any:
    """The curves of a layer's edges as small multiples, the most important first.

    Each panel shows phi, its base part and its basis part over the values the edge really sees, whose histogram lies
    behind. Its title has the edge (input → output, tap) and its share of the variance that all edges contribute.

    Args:
        view: the layer, see `layer_view`.
        inputs: values of its inputs [in_channels, M], see `layer_inputs`. None: standard-normal values, and no
            histogram.
        count: panels, at most 100.
        edges: which edges; None for the `count` most important.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: a count out of range, or inputs of other channels.
    """
    integer_at_least("count", count, 1)
    if count > _MOST_PANELS:
        raise ValueError(f"count (={count}) must be at most {_MOST_PANELS}, more panels cannot be read; choose edges")
    measured = inputs is not None
    values = inputs if inputs is not None else standard_normal(view)
    found = importance(view, values)
    chosen = list(edges) if edges is not None else found.ranked(count)
    columns = min(len(chosen), 4 if len(chosen) <= 16 else 6)
    rows = -(-len(chosen) // columns)
    figure = new_figure((2.6 * columns + 0.3, 2.1 * rows + 1.0))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    low, high = value_ranges(values)
    for panel, edge in zip(panels, chosen, strict=False):
        x = torch.linspace(float(low[edge.input]), float(high[edge.input]), _POINTS)
        _draw_curves(panel, view, edge, x)
        if measured:
            _draw_histogram(panel, values[edge.input], x)
        panel.set_title(f"{edge}  ({100 * found.share(edge):.1f} %)", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_xmargin(0)
    _finish(figure, panels, len(chosen), columns, "normalised input" if view.normalised else "input x")
    _legend(figure, panels[0])
    figure.suptitle(_title(view, values if measured else None), fontsize=10)
    return figure


def plot_kernel(view: LayerView, output: int, input: int, inputs: Tensor | None = None) -> Any:
    """The functions of one (output, input) pair where its kernel has them: a panel for each tap, on common axes.

    Args:
        view: a layer with a kernel of one or two dimensions.
        output, input: the channels.
        inputs: values of the layer's inputs [in_channels, M]; None for standard-normal values.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: channels that are not there, or a kernel of other dimensions.
    """
    if len(view.kernel_size) not in (1, 2):
        raise ValueError(f"{view.name} has a kernel of shape {view.kernel_size}; it must have one or two dimensions")
    values = inputs if inputs is not None else standard_normal(view)
    rows, columns = view.kernel_size if len(view.kernel_size) == 2 else (1, *view.kernel_size)
    figure = new_figure((max(3.2, 1.5 * columns + 0.8), 1.35 * rows + 1.2))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    edges = [view.edge(output, input, position) for position in range(rows * columns)]
    low, high = value_ranges(values[input : input + 1])
    x = torch.linspace(float(low), float(high), _POINTS)
    curves = view.curves(edges, x.expand(view.in_channels, -1)).total
    for panel, curve in zip(panels.flatten(), curves, strict=True):
        panel.axhline(0, color=GREY, linewidth=0.6)
        panel.plot(x, curve, color=BLUE, linewidth=1.4)
        if inputs is not None:
            _draw_histogram(panel, values[input], x)
        panel.tick_params(labelsize=7)
        panel.set_xmargin(0)
        plain_axes(panel)
    figure.supxlabel("normalised input" if view.normalised else "input x", fontsize=9)
    figure.supylabel("φ(x)", fontsize=9)
    figure.suptitle(f"{view.name}: taps of {input} → {output}", fontsize=10)
    return figure


def plot_importance(found: Importance, count: int = 24) -> Any:
    """Bars of what input channels, taps and single functions contribute, and the shares of the edges in order.

    Args:
        found: see `importance`.
        count: bars of input channels at most; the most important are shown.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    integer_at_least("count", count, 1)
    view = found.view
    figure = new_figure((10.5, 5.6))
    panels = figure.subplots(2, 2)
    _draw_edges(panels[0, 0], found)
    _draw_bars(panels[0, 1], found.functions, view.function_names, "functions B_k alone", rotate=view.basis.size > 8)
    order = found.inputs.argsort(descending=True)[:count]
    shown = f"{len(order)} of {view.in_channels} " if len(order) < view.in_channels else ""
    names = [str(i) for i in order.tolist()]
    _draw_bars(panels[1, 0], found.inputs, names, f"{shown}input channels", order=order)
    taps = found.taps
    if taps.ndim == 2 and taps.numel() > 1:
        picture = panels[1, 1].imshow((100 * taps / taps.sum().clamp_min(1e-30)).numpy(), cmap="Blues", vmin=0)
        figure.colorbar(picture, ax=panels[1, 1], label="share of variance (%)")
        panels[1, 1].set_anchor("W")
        panels[1, 1].set(title="taps of the kernel", xticks=range(taps.shape[1]), yticks=range(taps.shape[0]))
    elif taps.numel() > 1:
        flat = taps.flatten()
        _draw_bars(panels[1, 1], flat, [str(i) for i in range(len(flat))], "taps of the kernel")
    else:
        order = found.outputs.argsort(descending=True)[:count]
        names = [str(i) for i in order.tolist()]
        _draw_bars(panels[1, 1], found.outputs, names, "output channels", order=order)
    figure.suptitle(f"{view.name}: variance contributed on data", fontsize=11)
    return figure


def compare_functions(before: LayerView, after: LayerView, inputs: Tensor | None = None, *, count: int = 16) -> Any:
    """The curves of one layer at two times, the edges that changed most first.

    Args:
        before, after: views of equal layers, from two checkpoints for example.
        inputs: values of the inputs of the layer [in_channels, M]; None for standard-normal values.
        count: panels, at most 100.

    Returns:
        A `matplotlib.figure.Figure`. Titles have the root mean square of the change, on the inputs.

    Raises:
        ValueError: layers of different shape, or a count out of range.
    """
    integer_at_least("count", count, 1)
    if (before.weight.shape, before.groups) != (after.weight.shape, after.groups):
        raise ValueError(
            f"layers must have equal shapes to be compared, got {tuple(before.weight.shape)} and "
            f"{tuple(after.weight.shape)}"
        )
    if count > _MOST_PANELS:
        raise ValueError(f"count (={count}) must be at most {_MOST_PANELS}, more panels cannot be read")
    values = inputs if inputs is not None else standard_normal(after)
    # A shortlist by the change of weights; what is shown of it is decided by the change on data.
    change = (after.weight - before.weight).square().sum(2).flatten()
    candidates = [after.edge_at(i) for i in change.argsort(descending=True)[: 8 * count].tolist()]
    moved = (after.curves(candidates, values).total - before.curves(candidates, values).total).square().mean(1).sqrt()
    order = moved.argsort(descending=True)[:count].tolist()
    columns = min(len(order), 4)
    rows = -(-len(order) // columns)
    figure = new_figure((2.6 * columns + 0.3, 2.1 * rows + 1.0))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    low, high = value_ranges(values)
    for panel, index in zip(panels, order, strict=False):
        edge = candidates[index]
        x = torch.linspace(float(low[edge.input]), float(high[edge.input]), _POINTS)
        row = x.expand(after.in_channels, -1)
        panel.plot(x, before.curves([edge], row).total[0], color=GREY, linewidth=1.4, label="before")
        panel.plot(x, after.curves([edge], row).total[0], color=BLUE, linewidth=1.4, label="after")
        if inputs is not None:
            _draw_histogram(panel, values[edge.input], x)
        panel.set_title(f"{edge}  (rms {moved[index]:.2g})", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_xmargin(0)
        plain_axes(panel)
    _finish(figure, panels, len(order), columns, "normalised input" if after.normalised else "input x")
    _legend(figure, panels[0])
    figure.suptitle(f"{after.name}: functions before and after", fontsize=10)
    return figure


def animate_functions(
    models: Sequence[tuple[str, nn.Module]],
    path: str | Path,
    *,
    layer: str | None = None,
    data: Any = None,
    count: int = 9,
    seconds_each: float = 0.4,
) -> Path:
    """A GIF of a layer's curves over several states of a network, over training checkpoints for example.

    Edges, axes and histograms are those of the last state, so that what moves is the curves.

    Args:
        models: (label, network) pairs in order.
        path: a new file ending in .gif.
        layer: name of the layer; None for the first.
        data: inputs of the network, see `layer_inputs`; None for standard-normal values of the layer's inputs.
        count: panels, at most 25.
        seconds_each: how long each state is shown.

    Raises:
        ValueError: fewer than two states, another ending, a file that is there already, or a count out of range.
    """
    path = Path(path)
    if len(models) < 2:
        raise ValueError(f"models (={len(models)}) must be at least 2 states to animate")
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path (={str(path)!r}) must end in .gif")
    if path.exists():
        raise ValueError(f"path (={str(path)!r}) is there already; choose another name")
    integer_at_least("count", count, 1)
    if count > 25:
        raise ValueError(f"count (={count}) must be at most 25")
    if not seconds_each > 0:
        raise ValueError(f"seconds_each (={seconds_each}) must be positive")
    views = [layer_view(model, layer) for _, model in models]
    last = views[-1]
    inputs = None if data is None else layer_inputs(models[-1][1], data, [last.name])[last.name]
    values = inputs if inputs is not None else standard_normal(last)
    edges = importance(last, values).ranked(count)
    low, high = value_ranges(values)
    places = torch.stack([torch.linspace(float(a), float(b), _POINTS) for a, b in zip(low, high, strict=True)])
    curves = [view.curves(edges, places).total for view in views]
    image = require("PIL.Image", "viz")
    frames = []
    for (label, _), shown in zip(models, curves, strict=True):
        figure = new_figure((8, 2.0 * -(-len(edges) // 3) + 0.8))
        panels = figure.subplots(-(-len(edges) // 3), min(3, len(edges)), squeeze=False).flatten()
        for i, (panel, edge) in enumerate(zip(panels, edges, strict=False)):
            x = places[edge.input]
            bottom = min(float(state[i].min()) for state in curves)
            top = max(float(state[i].max()) for state in curves)
            pad = 0.05 * (top - bottom) or 1.0
            panel.set_ylim(bottom - pad, top + pad)
            panel.plot(x, shown[i], color=BLUE, linewidth=1.6)
            if inputs is not None:
                _draw_histogram(panel, values[edge.input], x)
            panel.set_title(str(edge), fontsize=8)
            panel.tick_params(labelsize=7)
            panel.set_xmargin(0)
            plain_axes(panel)
        for panel in panels[len(edges) :]:
            panel.set_visible(False)
        figure.suptitle(f"{last.name}: {label}", fontsize=10)
        figure.canvas.draw()
        frames.append(image.frombytes("RGBA", figure.canvas.get_width_height(), bytes(figure.canvas.buffer_rgba())))
    frames = [frame.convert("RGB") for frame in frames]
    duration = round(1000 * seconds_each)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return path


def out_of_range(view: LayerView, inputs: Tensor) -> float | None:
    """The share of a layer's inputs that lie outside the grid of its basis; None for a basis without a grid.

    There splines and bumps are zero, and only the base function is left.
    """
    grid = getattr(view.source, "grid_range", None)
    if grid is None:
        return None
    mapped = POINTWISE[view.source.input_map].value(inputs)
    return float(((mapped < grid[0]) | (mapped > grid[1])).float().mean())


def _draw_curves(panel: Any, view: LayerView, edge: Edge, x: Tensor) -> None:
    curves = view.curves([edge], x.expand(view.in_channels, -1))
    if curves.base is not None:
        panel.plot(x, curves.base[0], color=GREEN, linewidth=1.0, linestyle="--", label="base part w₀ b(x)")
        panel.plot(x, curves.functions[0], color=ORANGE, linewidth=1.0, linestyle=":", label="basis part Σ wₖ Bₖ(x)")
    panel.plot(x, curves.total[0], color=BLUE, linewidth=1.6, label="φ(x)")
    grid = getattr(view.source, "grid_range", None)
    if grid is not None and view.source.input_map == "identity":
        for bound in grid:
            if float(x[0]) < bound < float(x[-1]):
                panel.axvline(bound, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    plain_axes(panel)


def _draw_histogram(panel: Any, values: Tensor, x: Tensor) -> None:
    behind = panel.twinx()
    behind.hist(values.numpy(), bins=40, range=(float(x[0]), float(x[-1])), color=GREY, alpha=0.28)
    behind.set_yticks([])
    behind.spines[:].set_visible(False)
    panel.set_zorder(behind.get_zorder() + 1)
    panel.patch.set_visible(False)


def _draw_edges(panel: Any, found: Importance) -> None:
    shares = found.edges.flatten().sort(descending=True).values.double()
    reached = 100 * shares.cumsum(0) / shares.sum().clamp_min(1e-300)
    panel.plot(range(1, len(shares) + 1), reached.tolist(), color=BLUE)
    panel.axhline(90, color=GREY, linewidth=0.8, linestyle=":")
    panel.set(
        title=f"edges: {found.edges_for(0.9):,} of {len(shares):,} give 90 %",
        xlabel="edges, most important first",
        ylabel="share of variance (%)",
        ylim=(0, 102),
    )
    if len(shares) > 100:
        panel.set_xscale("log")
    plain_axes(panel)


def _draw_bars(
    panel: Any, values: Tensor, names: Sequence[str], title: str, order: Tensor | None = None, rotate: bool = False
) -> None:
    shares = 100 * values / values.sum().clamp_min(1e-30)
    shares = shares if order is None else shares[order]
    panel.bar(range(len(shares)), shares.tolist(), color=BLUE)
    crowded = len(names) > 12
    panel.set_xticks(range(len(shares)), names, fontsize=7 if crowded else 8, rotation=90 if crowded or rotate else 0)
    panel.set(title=title, ylabel="share of variance (%)")
    plain_axes(panel)


def _finish(figure: Any, panels: Sequence[Any], used: int, columns: int, label: str) -> None:
    """Hides the panels that are not used and labels the axes; the legend's place is below the last row."""
    for index, panel in enumerate(panels):
        panel.set_visible(index < used)
        if used - columns <= index < used:
            panel.set_xlabel(label, fontsize=8)
    figure.supylabel("φ(x)", fontsize=9)


def _legend(figure: Any, panel: Any) -> None:
    lines, labels = panel.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)


def _title(view: LayerView, inputs: Tensor | None) -> str:
    text = f"{view.name}: most important functions, {view.source.name or type(view.source).__name__}"
    share = None if inputs is None else out_of_range(view, inputs)
    return text if share is None else f"{text}; {100 * share:.1f} % of inputs outside the grid"


def value_ranges(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each channel the range that all but a few in a thousand values lie in; never empty."""
    ordered = values.sort(dim=1).values
    count = ordered.shape[1]
    low, high = ordered[:, int(0.002 * (count - 1))], ordered[:, -1 - int(0.002 * (count - 1))]
    flat = high - low < 1e-6
    return torch.where(flat, low - 1, low), torch.where(flat, high + 1, high)


def standard_normal(view: LayerView) -> Tensor:
    """Standard-normal values for the inputs of a layer, [in_channels, 1024], the same for all of them, every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 1024, generator=generator).expand(view.in_channels, -1)
