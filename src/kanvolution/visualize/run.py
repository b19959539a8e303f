"""All pictures of a network's functions, for `kanvolution show`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kanvolution.registry import unknown_name
from kanvolution.visualize.figures import save_figure
from kanvolution.visualize.functions import (
    compare_functions,
    out_of_range,
    plot_functions,
    plot_importance,
    plot_kernel,
)
from kanvolution.visualize.importance import Importance, importance
from kanvolution.visualize.layers import Data, LayerView, layer_inputs, layer_view, layer_views
from kanvolution.visualize.symbolic import SymbolicTable, symbolic


@dataclass(frozen=True)
class ShownLayer:
    """What `show_functions` found of a layer, and its pictures."""

    name: str
    importance: Importance
    outside_grid: float | None
    symbolic: SymbolicTable | None
    files: tuple[Path, ...]

    @property
    def edges_for_90(self) -> int:
        """How many edges give 90 % of the variance that all contribute."""
        return self.importance.edges_for(0.9)


def chosen_views(model: nn.Module, layers: Sequence[str] = ("*",)) -> list[LayerView]:
    """The views of the layers of a model that are named, or match shell patterns, in the order of the patterns.

    Raises:
        ValueError: a name or pattern without a layer (the nearest is named).
    """
    views = {view.name: view for view in layer_views(model)}
    chosen: dict[str, LayerView] = {}
    for pattern in layers:
        found = fnmatch.filter(views, pattern)
        if not found:
            raise ValueError(unknown_name("layer", pattern, views or ["(none)"]))
        chosen.update({name: views[name] for name in found})
    return list(chosen.values())


def show_functions(
    model: nn.Module,
    data: Data,
    folder: str | Path,
    *,
    layers: Sequence[str] = ("*",),
    count: int = 16,
    fits: int = 0,
    before: nn.Module | None = None,
) -> list[ShownLayer]:
    """Draw the functions of a network's layers into a new folder.

    For each layer: `LAYER-functions.png`, `LAYER-importance.png`, `LAYER-kernel.png` (the most important pair of
    channels; kernels of more than one tap and at most two dimensions), with `fits` `LAYER-symbolic.txt`, and with
    `before` `LAYER-change.png`.

    Args:
        model: the network.
        data: inputs, see `layer_inputs`.
        folder: a new or empty folder.
        layers: names or shell patterns.
        count: curves in a picture.
        fits: how many of the most important functions are fitted by named ones.
        before: an earlier state of the network, to compare with.

    Raises:
        ValueError: a layer that is not there (the nearest is named), or a folder that is not empty.
    """
    views = {view.name: view for view in chosen_views(model, layers)}
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder (={str(folder)!r}) is there already and not empty; choose another name")
    inputs = layer_inputs(model, data, list(views))
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, view in views.items():
        if name not in inputs:  # an expert, say, that none of the images was sent to
            continue
        values = inputs[name]
        found = importance(view, values)
        pictures = {
            "functions": plot_functions(view, values, count=count),
            "importance": plot_importance(found),
        }
        if len(view.kernel_size) in (1, 2) and view.weight.shape[-1] > 1:
            best = found.ranked(1)[0]
            pictures["kernel"] = plot_kernel(view, best.output, best.input, values)
        if before is not None:
            pictures["change"] = compare_functions(layer_view(before, name), view, values, count=count)
        files = [save_figure(figure, folder / f"{name}-{what}.png") for what, figure in pictures.items()]
        table = None
        if fits:
            table = symbolic(view, values, count=fits)
            files.append(_write(folder / f"{name}-symbolic.txt", f"{table}\n\n{table.latex()}\n"))
        shown.append(ShownLayer(name, found, out_of_range(view, values), table, tuple(files)))
    return shown


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
