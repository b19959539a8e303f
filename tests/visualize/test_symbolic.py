"""Fits by name: known functions are found, formulas say what they compute, and replaced functions compute the fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.visualize import (
    NAMED_FUNCTIONS,
    Edge,
    LayerView,
    SymbolicFit,
    SymbolicLayer,
    fit_function,
    layer_inputs,
    layer_view,
    output_change,
    replace_functions,
    symbolic,
)

pytest.importorskip("scipy")
sympy = pytest.importorskip("sympy")

KNOWN: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "constant": ("0", lambda x: torch.full_like(x, 2.5)),
    "line": ("x", lambda x: 2 * x - 1),
    "parabola": ("x^2", lambda x: 2 * (x - 0.5) ** 2 + 1),
    "cubic": ("x^3", lambda x: (x + 0.3) ** 3),
    "abs": ("|x|", lambda x: 1 - (x - 0.2).abs()),
    "relu": ("relu", lambda x: torch.relu(0.4 - x)),
    "exp": ("exp", lambda x: 0.5 * torch.exp(-1.5 * x)),
    "sin": ("sin", lambda x: 3 * torch.sin(2 * x + 0.3) + 1),
    "cos": ("sin", lambda x: torch.cos(2.5 * x)),
    "tanh": ("tanh", lambda x: torch.tanh(3 * x - 1)),
    "sigmoid": ("tanh", lambda x: torch.sigmoid(4 * x)),
    "gaussian": ("gaussian", lambda x: torch.exp(-2 * (x - 0.3) ** 2)),
    "lorentz": ("1/(1+x^2)", lambda x: 1 / (1 + 9 * x * x)),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_functions_are_found(case: str) -> None:
    name, function = KNOWN[case]
    x = 2 * torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    x = 2 * x
    best = fit_function(x, function(x))[0]
    assert best.name == name
    assert best.r2 > 0.9999
    torch.testing.assert_close(best(x), function(x), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMED_FUNCTIONS)
def test_the_formula_is_the_function(name: str) -> None:
    fit = SymbolicFit(name, 1.5, -0.5 if name != "x" else 1.0, 0.25, -2.0, 1.0)
    x = torch.tensor([-1.5, 0.2, 0.9], dtype=torch.float64)
    formula = sympy.lambdify(sympy.Symbol("x"), fit.expression(digits=12), "math")
    torch.testing.assert_close(torch.tensor([float(formula(v)) for v in x.tolist()], dtype=torch.float64), fit(x))
    assert fit.latex()


def test_the_simplest_of_equals_is_chosen() -> None:
    x = torch.linspace(-1, 1, 100)
    fits = fit_function(x, torch.full_like(x, 2.0))
    assert fits[0].name == "0" and float(fits[0].expression()) == 2
    assert fits[0].complexity == min(fit.complexity for fit in fits)
    assert fit_function(x, x, names=["sin", "x"], tolerance=0.5)[0].name == "x"


@pytest.mark.parametrize(
    ("target", "name"), [(torch.sin, "sin"), (torch.square, "x^2"), (torch.abs, "|x|")], ids=["sin", "square", "abs"]
)
def test_a_layer_trained_towards_a_function_is_named(target: Callable[[Tensor], Tensor], name: str) -> None:
    torch.manual_seed(0)
    layer = kv.KANLinear(1, 1, basis="spline", grid_size=12, grid_range=(-3.2, 3.2), base=None)
    x = torch.linspace(-3, 3, 400).unsqueeze(1)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (layer(x) - target(x)).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    table = symbolic(LayerView(layer), x.T, count=1)
    assert table.fits[0].name == name
    assert table.fits[0].r2 >= 0.99


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (kv.KANConv2d(4, 6, 3, padding=1, stride=2, groups=2, basis="gram"), (2, 4, 9, 9)),
        (kv.KANConv1d(4, 6, 3, padding="same", padding_mode="circular", basis="spline"), (2, 4, 9)),
        (kv.KANConv3d(2, 2, 2, basis="chebyshev"), (2, 2, 4, 4, 4)),
        (kv.KANLinear(5, 3, basis="rbf"), (7, 5)),
        (kv.KANConv2d(3, 3, 3, basis="wavelet_edge"), (3, 6, 6)),
    ],
    ids=["grouped", "circular", "3d", "linear", "unbatched"],
)
def test_a_replaced_function_computes_its_fit(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    view = LayerView(layer)
    x = torch.randn(shape)
    edges = [view.edge_at(i) for i in (0, view.edge_at(3) and 3, view.out_channels * view.inputs_per_group - 1)]
    fits = {edge: SymbolicFit("x^2", 0.7, 1.0, 0.1 * i, -0.3, 1.0) for i, edge in enumerate(edges)}
    replaced = SymbolicLayer(layer, fits)
    # The layer minus the functions' own part, plus the fit's, from layers with one function each.
    expected = layer(x)
    for edge, fit in fits.items():
        expected = expected + one_function(layer, view, edge, fit, x)
    torch.testing.assert_close(replaced(x), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(layer.weight, view.layer.weight)


def one_function(layer: nn.Module, view: LayerView, edge: Edge, fit: SymbolicFit, x: Tensor) -> Tensor:
    """fit minus phi of one edge, through a plain convolution of the changed values."""
    channel = x[..., edge.input] if not view.kernel_size else x.select(-1 - len(view.kernel_size), edge.input)
    if not view.kernel_size:
        change = torch.zeros(*x.shape[:-1], view.out_channels)
        change[:, edge.output] = fit(channel) - view.curves([edge], channel.flatten()).total[0].view_as(channel)
        return change
    batched = x.ndim == len(view.kernel_size) + 2
    channel = channel if batched else channel.unsqueeze(0)
    if layer.padding_mode != "zeros":
        channel = nn.functional.pad(channel.unsqueeze(1), layer._amounts(), mode=layer.padding_mode).squeeze(1)
    values = fit(channel) - view.curves([edge], channel.flatten()).total[0].view_as(channel)
    kernel = torch.zeros(view.out_channels, 1, *view.kernel_size)
    kernel[(edge.output, 0, *edge.tap)] = 1
    change = layer._convolve(values.unsqueeze(1), kernel, None, 1)
    return change if batched else change.squeeze(0)


def test_replacing_good_fits_changes_a_network_little() -> None:
    torch.manual_seed(0)
    model = kv.create_model("simple4", "gram", num_classes=4, in_chans=1, channels=[2, 2, 2, 2])
    images = torch.randn(16, 1, 8, 8)
    name = "stages.1.conv"
    inputs = layer_inputs(model, images)[name]
    table = symbolic(layer_view(model, name), inputs, count=6)
    fits = table.fits_above(0.99)
    assert fits
    changed = replace_functions(model, {name: fits})
    cost = output_change(model, changed, images)
    assert 0 < cost["relative_rms"] < 0.2
    assert output_change(model, model, images) == {"relative_rms": 0.0, "agreement": 1.0}
    assert str(edge := table.edges[0]) in str(table) and f"{edge.output},{edge.input}" in table.latex()
    assert not any(isinstance(module, SymbolicLayer) for module in model.modules())


def test_bad_values_are_named() -> None:
    x = torch.linspace(-1, 1, 20)
    with pytest.raises(ValueError, match="Did you mean 'sin'"):
        fit_function(x, x, names=["sine"])
    with pytest.raises(ValueError, match="S >= 8"):
        fit_function(x[:4], x[:4])
    with pytest.raises(ValueError, match="finite"):
        fit_function(x, x / 0)
    with pytest.raises(TypeError, match="must be a KANConv"):
        SymbolicLayer(kv.KANConvTranspose2d(1, 1, 2), {Edge(0, 0, (0, 0)): SymbolicFit("x", 1, 1, 0, 0, 1)})
    with pytest.raises(ValueError, match="at least one edge"):
        SymbolicLayer(kv.KANConv2d(1, 1, 2), {})
    with pytest.raises(ValueError, match="Did you mean"):
        replace_functions(kv.KAN([2, 2]), {"layer.0": {}})
