"""Views of layers: curves and importance against the layer itself, and what looking leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.bases import list_bases
from kanvolution.visualize import Edge, LayerView, importance, layer_inputs, layer_view, layer_views

every_basis = pytest.mark.parametrize("basis", list_bases())


def one_edge_output(layer: nn.Module, view: LayerView, edge: Edge, x: Tensor) -> Tensor:
    """phi of one edge as the layer computes it: its input channel alone varies, at its tap alone."""
    image = torch.zeros(len(x), view.in_channels, *view.kernel_size)
    at_zero = layer(image)
    image[(slice(None), edge.input, *edge.tap)] = x
    return (layer(image) - at_zero)[:, edge.output].flatten()


@every_basis
@pytest.mark.parametrize("groups", [1, 2])
def test_curves_are_what_the_layer_computes(basis: str, groups: int) -> None:
    torch.manual_seed(0)
    layer = kv.KANConv2d(4, 6, (2, 3), groups=groups, basis=basis).eval()
    view = LayerView(layer)
    x = torch.linspace(-1.5, 1.5, 9)
    for edge in (view.edge(0, 1, (1, 2)), view.edge(5, 3, 2), view.edge(2, 0, 0)):
        curve = view.curves([edge], torch.cat([x, torch.zeros(1)])).total[0]
        expected = one_edge_output(layer, view, edge, x)
        torch.testing.assert_close(curve[:-1] - curve[-1], expected, atol=1e-5, rtol=1e-4)


@every_basis
def test_curves_of_a_linear_layer_add_up_to_its_output(basis: str) -> None:
    torch.manual_seed(0)
    layer = kv.KANLinear(3, 2, basis=basis).eval()
    view = LayerView(layer)
    x = torch.randn(5, 3)
    total = sum(view.curves([view.edge(o, i) for o in range(2)], x[:, i]).total for i in range(3))
    assert layer.bias is not None
    torch.testing.assert_close(total + layer.bias.detach()[:, None], layer(x).detach().T, atol=1e-5, rtol=1e-4)


@every_basis
def test_importance_is_the_variance_of_the_curve(basis: str) -> None:
    torch.manual_seed(0)
    view = LayerView(kv.KANConv2d(4, 4, 3, groups=2, basis=basis))
    inputs = torch.randn(4, 500) * torch.tensor([0.5, 1.0, 1.5, 2.0])[:, None]
    found = importance(view, inputs)
    edges = [view.edge_at(i) for i in range(found.edges.numel())]
    variances = view.curves(edges, inputs).total.var(1, unbiased=False)
    torch.testing.assert_close(found.edges.flatten(), variances, atol=1e-6, rtol=1e-3)
    assert found.ranked(3)[0] == edges[int(variances.argmax())]
    torch.testing.assert_close(found.inputs.sum(), variances.sum(), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.outputs.sum(), variances.sum(), atol=1e-5, rtol=1e-3)
    assert found.taps.shape == (3, 3)


def test_importance_of_functions_is_that_of_each_alone() -> None:
    torch.manual_seed(0)
    layer = kv.KANConv1d(2, 3, 3, basis="chebyshev", degree=2)
    inputs = torch.randn(2, 400)
    found = importance(LayerView(layer), inputs)
    expanded = layer.basis(inputs[None])[0].detach()
    weight = layer.weight.detach().view(3, 2, -1, 3)
    expected = torch.einsum("oikt,ik->k", weight.square(), expanded.var(-1, unbiased=False))
    torch.testing.assert_close(found.functions, expected, atol=1e-6, rtol=1e-4)


def test_structures_show_the_layer_they_are_made_of() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8, 6, 6)
    for structure in (kv.LowRank(2), kv.Bottleneck(reduction=2), kv.Separable(), kv.Experts(2, k=1)):
        block = kv.ConvSpec("gram", structure=structure)(8, 8, 3, padding=1)
        names = [view.name for view in layer_views(block)]
        inputs = layer_inputs(block, x, samples=100)
        assert names and set(inputs) <= set(names)
        for name, values in inputs.items():
            assert importance(layer_view(block, name), values).edges.sum() > 0


def test_inputs_are_those_the_layer_sees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), kv.KANConv2d(2, 3, 1), nn.Flatten(), kv.KANLinear(3 * 16, 4))
    x = torch.randn(5, 1, 4, 4)
    seen = layer_inputs(model, x, samples=1000)
    hidden = model[0](x).detach()
    assert {name: values.shape[0] for name, values in seen.items()} == {"1": 2, "3": 48}
    for channel in range(2):
        assert torch.isin(seen["1"][channel], hidden[:, channel]).all()
    again = layer_inputs(model, [(x, torch.zeros(5))], samples=1000)
    assert torch.equal(again["1"], seen["1"])


def test_functions_behind_a_norm_are_shown_over_the_normalised_input() -> None:
    torch.manual_seed(0)
    block = kv.ConvSpec("rbf", norm="batch", norm_site="functions")(3, 4, 3)
    name = layer_views(block)[0].name
    view = layer_view(block, name)
    assert view.normalised and not view.has_base
    x = 5 + 3 * torch.randn(8, 3, 9, 9)
    block.train()(x)
    values = layer_inputs(block, x)[name]
    norm = view.source.norm
    assert norm is not None
    normalised = norm.eval()(x).detach()
    assert torch.isin(values[0], normalised[:, 0]).all()
    assert view.curves([view.edge(0, 0, 0)], values).base is None


def test_looking_leaves_the_model_as_it_was() -> None:
    model = kv.create_model("simple4", num_classes=3, in_chans=1, channels=[2, 2, 2, 2])
    model.train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    layer_inputs(model, torch.randn(4, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_error() -> None:
    model = kv.create_model("simple4", num_classes=3, in_chans=1, channels=[2, 2, 2, 2])
    with pytest.raises(ValueError, match="2 channels, but in_channels is 1"):
        layer_inputs(model, torch.randn(4, 2, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer_view(nn.Conv2d(1, 1, 1)), "no Kolmogorov-Arnold layers"),
        (lambda: layer_view(kv.KAN([2, 3, 1]), "layer.0"), "Did you mean"),
        (lambda: LayerView(kv.KANConv2d(4, 4, 3, groups=2)).edge(0, 2, 0), "must be in 0..1"),
        (lambda: LayerView(kv.KANConv2d(4, 4, 3)).edge(4, 0), "must be in 0..3"),
        (lambda: LayerView(kv.KANConv2d(4, 4, 3)).edge(0, 0, (3, 0)), "inside the kernel"),
        (lambda: LayerView(kv.KANConv2d(4, 4, 1, basis="wavelet_edge", mix=True)), "mixtures of all edges"),
        (lambda: importance(LayerView(kv.KANConv2d(4, 4, 3)), torch.randn(3, 9)), r"must be \[4, M\]"),
        (lambda: layer_inputs(kv.KANConv2d(4, 4, 3), []), "has no images"),
    ],
)
def test_what_is_not_there_is_said(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a KANConv"):
        LayerView(nn.Conv2d(1, 1, 1))
