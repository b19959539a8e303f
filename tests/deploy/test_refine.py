"""Functions in other bases of their kind: unchanged where that is possible, near where it is not."""

import json

import pytest
import torch

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.deploy import RangeCounter, divide_grids, fit_range, refine, refit
from kanvolution.visualize.layers import layer_inputs
from tests.tolerances import assert_close

EXACT = {
    "chebyshev": ({"degree": 3}, {"degree": 6}),
    "legendre": ({"degree": 2}, {"degree": 5}),
    "gram": ({"degree": 3}, {"degree": 5}),
    "jacobi": ({"degree": 3}, {"degree": 4}),
    "bernstein": ({"degree": 3}, {"degree": 5}),
    "fourier": ({"degree": 2}, {"degree": 4}),
    "wavelet": ({"num_wavelets": 3}, {"num_wavelets": 5}),
    "spline": ({"grid_size": 3, "input_map": "tanh", "grid_range": (-1, 1)}, {"grid_size": 9}),
}
NEAR = {
    "spline": ({"grid_size": 4, "grid_range": (-5, 5)}, {"grid_size": 11}),
    "rbf": ({"grid_size": 5, "grid_range": (-5, 5)}, {"grid_size": 12}),
    "relu": ({"grid_size": 4, "grid_range": (-5, 5)}, {"grid_size": 9}),
}


def perturbed(model):
    """Parameters away from where they start, and statistics of data."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return model


def network(basis, dtype=torch.float64, **options):
    torch.manual_seed(0)
    spec = basis if isinstance(basis, kv.ConvSpec) else kv.ConvSpec(basis, **options)
    model = kv.create_model("simple4", spec, num_classes=3, in_chans=2, channels=[4, 6, 6, 4], head="kan")
    perturbed(model).to(dtype).train()(images(dtype))
    return model.eval()


def images(dtype=torch.float64):
    return torch.randn(6, 2, 12, 12, generator=torch.Generator().manual_seed(2)).to(dtype)


def outputs(model, x):
    return model(x).detach()


@pytest.mark.parametrize("basis", EXACT)
@pytest.mark.parametrize(
    "other", [{}, {"structure": kv.LowRank(2)}, {"norm_site": "functions"}], ids=["plain", "low_rank", "norm"]
)
def test_more_functions_leave_the_functions_as_they_are(basis, other, tmp_path) -> None:
    old, new = EXACT[basis]
    model = network(basis, **old, **other)
    found = refine(model, **new)
    assert_close(outputs(found.model, images()), outputs(model, images()))
    assert all(layer.functions[1] > layer.functions[0] and layer.error < 1e-9 for layer in found.layers)
    assert len(found.layers) == 5
    again = kv.from_pretrained(found.model.save_pretrained(tmp_path / "refined"))
    assert torch.equal(outputs(again, images()), outputs(found.model, images()))


@pytest.mark.parametrize("basis", EXACT)
def test_in_float32_too(basis) -> None:
    old, new = EXACT[basis]
    model = network(basis, torch.float32, **old)
    assert_close(
        outputs(refine(model, **new).model, images(torch.float32)), outputs(model, images(torch.float32)), 1e-5
    )


@pytest.mark.parametrize("ndim", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("basis", [*EXACT, *(name for name in NEAR if name not in EXACT)])
def test_layers_of_other_dimensions_and_with_groups(basis, groups, ndim) -> None:
    old, new = EXACT.get(basis) or NEAR[basis]
    conv = {1: kv.KANConv1d, 3: kv.KANConv3d}[ndim](4, 6, 3, padding=1, groups=groups, basis=basis, **old).double()
    x = torch.randn(2, 4, *(5,) * ndim, dtype=torch.float64)
    finer = refine(perturbed(conv), **new).model
    assert finer.weight.shape[1] > conv.weight.shape[1]
    y, expected = finer(x), conv(x)
    if basis in EXACT:
        assert_close(y.detach(), expected.detach())
    else:
        assert (y - expected).square().mean() < 0.01 * expected.square().mean()


def test_a_transposed_layer() -> None:
    layer = kv.KANConvTranspose2d(3, 4, 2, stride=2, basis="bernstein").double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert_close(refine(layer, degree=5).model(x).detach(), layer(x).detach())


def test_a_spline_is_unchanged_on_its_range_when_intervals_are_divided() -> None:
    layer = perturbed(kv.KANLinear(3, 2, basis="spline", grid_size=4, grid_range=(-1, 2)).double())
    x = torch.empty(50, 3, dtype=torch.float64).uniform_(-1, 2)
    assert_close(refine(layer, grid_size=12).model(x).detach(), layer(x).detach(), 1e-7)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("parts", [2, 3])
def test_dividing_the_intervals_changes_nothing_anywhere(order, parts) -> None:
    options = {"grid_size": 4, "spline_order": order, "grid_range": (-2, 1)}
    layer = perturbed(kv.KANLinear(3, 2, basis="spline", **options).double())
    x = torch.linspace(-6, 6, 301, dtype=torch.float64).expand(3, -1).mT
    assert_close(divide_grids(layer, parts).model(x).detach(), layer(x).detach(), 1e-7)


def test_a_network_of_divided_splines_is_the_same(tmp_path) -> None:
    model = network("spline", torch.float32)
    finer = divide_grids(model, layers=["stages*"]).model
    assert finer.stages[0].conv.basis.grid_size == 2 * 5 + 2 * 3 and finer.head.basis.grid_size == 5
    assert_close(outputs(finer, images(torch.float32)), outputs(model, images(torch.float32)), 1e-5)
    again = kv.from_pretrained(finer.save_pretrained(tmp_path / "finer"))
    assert torch.equal(outputs(again, images(torch.float32)), outputs(finer, images(torch.float32)))


@pytest.mark.parametrize("basis", NEAR)
def test_other_grids_are_near(basis) -> None:
    old, new = NEAR[basis]
    model = network(basis, **old)
    found = refine(model, images(), **new)
    change = outputs(found.model, images()) - outputs(model, images())
    assert change.abs().max() < 0.1 * outputs(model, images()).abs().max()
    assert all(layer.error < 0.03 for layer in found.layers)


def test_the_nearest_functions_are_those_of_least_squares_over_the_inputs() -> None:
    layer = perturbed(kv.KANLinear(1, 1, basis="chebyshev", degree=4).double())
    x = torch.randn(1, 500, dtype=torch.float64)
    values = layer.basis(x.unsqueeze(0))[0, 0]  # [K, M]
    phi = layer.weight.detach()[0] @ values
    coarse = perturbed(kv.KANLinear(1, 1, basis="chebyshev", degree=4).double())
    coarse.load_state_dict(layer.state_dict())
    error = refit(coarse, kv.create_basis("chebyshev", degree=2), x)
    best = torch.linalg.lstsq(values[:3].mT, phi.unsqueeze(1)).solution[:, 0]
    smallest = float((phi - best @ values[:3]).square().mean().sqrt() / phi.square().mean().sqrt())
    assert error == pytest.approx(smallest, rel=0.02)
    assert_close(coarse.weight.detach()[0], best, 0.05 * float(best.abs().max()))


def test_fewer_functions_are_nearest_where_the_data_are() -> None:
    model = network("gram", degree=4)
    blind, seeing = (refine(model, data, degree=2).model for data in (None, images()))
    expected = outputs(model, images())
    assert seeing.stages[0].conv.basis.size == 4
    assert (outputs(seeing, images()) - expected).norm() < (outputs(blind, images()) - expected).norm()


@pytest.mark.parametrize("keep", [[0, 1, 3], [2, 3]])
def test_functions_left_out_are_there_again_in_a_whole_basis(keep) -> None:
    layer = perturbed(kv.KANLinear(2, 3, basis="gram", degree=4).double())
    x = torch.randn(20, 2, dtype=torch.float64)
    weight = layer.weight.detach().unflatten(1, (-1, layer.basis.size))[:, :, keep].flatten(1)
    layer.set_basis(layer.basis.kept(keep), weight)
    whole = refine(layer, degree=5).model
    assert whole.basis.num_functions == 6 and whole.weight.shape[1] == 2 * (6 + (0 in keep))
    assert_close(whole(x).detach(), layer(x).detach())


def test_chosen_layers_alone() -> None:
    model = network("gram")
    found = refine(model, layers=["stages.1*", "head"], degree=5)
    assert [layer.name for layer in found.layers] == ["stages.1.conv", "head"]
    assert found.model.config["changes"].keys() == {"stages.1.conv", "head"}
    assert found.model.stages[0].conv.basis.degree == 3 and model.stages[1].conv.basis.degree == 3


def test_grids_are_fitted_to_the_inputs(tmp_path) -> None:
    model = network("spline", grid_size=6, grid_range=(-1, 1))
    found = fit_range(model, images(), quantiles=(0.0, 1.0))
    seen = layer_inputs(model, images())
    for layer in found.layers:
        assert layer.functions == (10, 10)
        assert layer.grid_range == (
            (-1, 1),
            pytest.approx((float(seen[layer.name].min()), float(seen[layer.name].max()))),
        )
    counters = []
    for each in (model, found.model):
        with RangeCounter(each) as counter:
            y = outputs(each, images())
        counters.append(counter.outside["stages.0.conv"])
    assert counters[0] > 0.3 and counters[1] < 0.01
    again = kv.from_pretrained(found.model.save_pretrained(tmp_path / "fitted"))
    assert torch.equal(outputs(again, images()), y)


def test_inputs_are_counted_after_norm_and_map() -> None:
    block = kv.ConvSpec("spline", grid_range=(-1, 1), input_map="tanh", norm_site="functions")(2, 3, 3).eval()
    with RangeCounter(block) as counter:
        block(100 * torch.randn(2, 2, 4, 4))
    assert counter.counts == {"conv": [0, 64, 0]}
    assert not any(module._forward_hooks for module in block.modules())
    assert RangeCounter(block).outside == {"conv": 0.0}
    assert not RangeCounter(network("wavelet")).counts  # whose functions may be anywhere


def test_the_network_is_left_as_it_was() -> None:
    model = network("spline").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refine(model, images(), grid_size=10)
    assert model.training and "changes" not in model.config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_values() -> None:
    model = network("gram")
    with pytest.raises(ValueError, match="refine needs an option"):
        refine(model)
    with pytest.raises(ValueError, match=r"unknown option of the layers' bases 'degre'. Did you mean 'degree'"):
        refine(model, degre=4)
    with pytest.raises(ValueError, match=r"unknown layer 'stage'"):
        refine(model, layers=["stage"], degree=4)
    with pytest.raises(ValueError, match=r"degree \(=-1\) must be >= 0"):
        refine(model, degree=-1)
    with pytest.raises(ValueError, match=r"base \(=None\) must stay 'silu'"):
        refine(model, base=None)
    with pytest.raises(ValueError, match="no layer has a basis with intervals"):
        divide_grids(model)
    with pytest.raises(ValueError, match=r"parts \(=1\) must be >= 2"):
        divide_grids(network("spline"), 1)
    with pytest.raises(ValueError, match="functions of its own for each output"):
        refine(network("wavelet_edge"), kind="dog")
    with pytest.raises(ValueError, match="no Kolmogorov-Arnold layer with functions"):
        refine(torch.nn.Linear(2, 2), degree=3)
    with pytest.raises(ValueError, match="no layer has a basis with a grid whose range"):
        fit_range(model, images())
    with pytest.raises(ValueError, match=r"quantiles \(=\(0.5, 0.1\)\)"):
        fit_range(model, images(), quantiles=(0.5, 0.1))


def test_command(tmp_path, capsys) -> None:
    pytest.importorskip("hydra")
    run = tmp_path / "run"
    settings = ["conv=spline", "model.channels=[4,4,4,4]", "trainer.epochs=1", "trainer.batch_size=256"]
    assert main(["train", *settings, f"output_dir={run}"]) == 0
    capsys.readouterr()
    assert main(["refine", str(run), "grid_size=10", "--images", "64"]) == 0
    printed = capsys.readouterr().out
    assert "stages.3.conv" in printed and "9 → 14" in printed
    assert main(["eval", str(tmp_path / "run_refined")]) == 0
    assert main(["refine", str(run), "grid_size=10"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["refine", str(run), "--fit-range", "0.01", "--output", str(tmp_path / "fitted")]) == 0
    config = json.loads((tmp_path / "fitted" / "config.json").read_text())
    assert "grid_range" in config["model"]["changes"]["stages.1.conv"]["basis"]
    assert main(["refine", str(run), "--output", str(tmp_path / "none")]) == 2
    assert "say one thing to refine" in capsys.readouterr().err
    assert main(["refine", str(run), "grid_size=ten", "--output", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
