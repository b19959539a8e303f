"""Pictures of functions: what they show, from a small trained run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kanvolution as kv
from kanvolution.visualize import (
    LayerView,
    animate_functions,
    compare_functions,
    importance,
    layer_inputs,
    layer_view,
    out_of_range,
    plot_functions,
    plot_importance,
    plot_kernel,
    save_figure,
)

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(conv: str = "spline", seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return kv.create_model("simple4", conv, num_classes=10, in_chans=1, channels=[3, 3, 3, 3])


def visible(figure) -> list:
    return [axis for axis in figure.axes if axis.get_visible() and axis.get_title()]


def test_panels_are_the_most_important_edges_in_order(tmp_path: Path) -> None:
    model = network()
    view = layer_view(model, "stages.1.conv")
    inputs = layer_inputs(model, IMAGES)[view.name]
    figure = plot_functions(view, inputs, count=5)
    ranked = importance(view, inputs).ranked(5)
    assert [axis.get_title().partition("  ")[0] for axis in visible(figure)] == [str(edge) for edge in ranked]
    assert "outside the grid" in figure.get_suptitle()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 3 and labels[-1] == "φ(x)"
    assert save_figure(figure, tmp_path / "functions.png").stat().st_size > 10_000


def test_the_curve_drawn_is_phi() -> None:
    view = LayerView(kv.KANConv2d(2, 2, 3))
    edge = view.edge(1, 0, 4)
    figure = plot_functions(view, torch.randn(2, 300), edges=[edge])
    line = next(line for line in visible(figure)[0].lines if line.get_label() == "φ(x)")
    x = torch.tensor(line.get_xdata(), dtype=torch.float32)
    torch.testing.assert_close(torch.tensor(line.get_ydata()), view.curves([edge], x).total[0])


def test_a_kernel_has_a_panel_for_each_tap() -> None:
    figure = plot_kernel(LayerView(kv.KANConv2d(4, 2, (2, 3))), 1, 3, torch.randn(4, 50))
    assert len([axis for axis in figure.axes if axis.lines]) == 6
    assert len([axis for axis in plot_kernel(LayerView(kv.KANConv1d(4, 2, 5)), 1, 3).axes if axis.lines]) == 5
    with pytest.raises(ValueError, match="one or two dimensions"):
        plot_kernel(LayerView(kv.KANConv3d(1, 1, 3)), 0, 0)


@pytest.mark.parametrize("layer", [kv.KANConv2d(2, 3, 3), kv.KANConv1d(2, 3, 3), kv.KANLinear(30, 40)])
def test_importance_is_drawn_for_every_kind_of_layer(layer, tmp_path: Path) -> None:
    view = LayerView(layer)
    figure = plot_importance(importance(view, torch.randn(view.in_channels, 64)))
    assert len(visible(figure)) == 4
    save_figure(figure, tmp_path / "importance.svg")


def test_compared_layers_show_what_changed_most() -> None:
    before, after = network(), network()
    weight = after.stages[0].conv.weight
    with torch.no_grad():
        weight[2, :, 1, 2] += 3.0
    figure = compare_functions(
        layer_view(before, "stages.0.conv"), layer_view(after, "stages.0.conv"), torch.randn(1, 200), count=4
    )
    first = visible(figure)[0].get_title()
    assert first.startswith("0 → 2, tap 1-2  (rms") and not first.endswith("(rms 0)")
    with pytest.raises(ValueError, match="equal shapes"):
        compare_functions(layer_view(before, "stages.0.conv"), layer_view(before, "stages.1.conv"))


def test_animation_has_a_frame_for_each_state(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    states = [(f"epoch {i}", network(seed=i)) for i in range(3)]
    path = animate_functions(states, tmp_path / "curves.gif", data=IMAGES, count=4)
    with image.open(path) as gif:
        assert gif.n_frames == 3
    with pytest.raises(ValueError, match="is there already"):
        animate_functions(states, path)
    with pytest.raises(ValueError, match="at least 2 states"):
        animate_functions(states[:1], tmp_path / "one.gif")
    with pytest.raises(ValueError, match=r"must end in \.gif"):
        animate_functions(states, tmp_path / "one.mp4")


def test_inputs_outside_the_grid_are_counted() -> None:
    view = LayerView(kv.KANConv2d(1, 1, 3, basis="spline", grid_range=(-1.0, 1.0)))
    assert out_of_range(view, torch.tensor([[-2.0, 0.0, 0.5, 3.0]])) == 0.5
    assert out_of_range(LayerView(kv.KANConv2d(1, 1, 3, basis="gram")), torch.randn(1, 4)) is None


def test_bad_values_are_named(tmp_path: Path) -> None:
    view = LayerView(kv.KANConv2d(1, 1, 3))
    with pytest.raises(ValueError, match="count"):
        plot_functions(view, count=0)
    with pytest.raises(ValueError, match="at most 100"):
        plot_functions(view, count=101)
    figure = plot_functions(view, count=1)
    with pytest.raises(ValueError, match="must end in one of"):
        save_figure(figure, tmp_path / "picture.docx")
    save_figure(figure, tmp_path / "picture.png")
    with pytest.raises(ValueError, match="is there already"):
        save_figure(figure, tmp_path / "picture.png")
