"""torch-conv-kan's layers: its numbers, its keys, its call signatures."""

import copy
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.compat import torch_conv_kan as tck
from tests.tolerances import GOLDEN, assert_close

DATA = Path(__file__).parents[1] / "data" / "golden"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads((DATA / "index.json").read_text())}
HERE = [name for name, case in CASES.items() if hasattr(tck, case["class"])]
NORMS = {"instance": "InstanceNorm", "batch": "BatchNorm"}


def build(case: dict[str, Any]) -> nn.Module:
    options = dict(case["kwargs"])
    norm = options.pop("norm", None)
    if norm is not None:
        options["norm_layer"] = getattr(nn, f"{NORMS[norm]}{case['ndim']}d")
    return getattr(tck, case["class"])(case["in_channels"], case["out_channels"], **options).eval()


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with np.load(DATA / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    return state, arrays


def test_all_cases_are_here() -> None:
    assert set(CASES) == set(HERE)
    assert len(tck.LAYERS) == 33


@pytest.mark.parametrize("name", HERE)
def test_golden_outputs_and_gradients(name: str) -> None:
    layer = build(CASES[name])
    state, arrays = golden(name)
    layer.load_state_dict(state)
    x = arrays["x"].requires_grad_()
    y = layer(x)
    y.backward(arrays["grad_y"])
    assert x.grad is not None
    assert_close(y, arrays["y"], GOLDEN)
    assert_close(x.grad, arrays["grad_x"], GOLDEN)


@pytest.mark.parametrize("name", HERE)
def test_own_state_dict_keeps_what_was_loaded(name: str) -> None:
    """A layer that took a peer's checkpoint is saved and loaded, copied and pickled by our own keys."""
    layer = build(CASES[name])
    state, arrays = golden(name)
    layer.load_state_dict(state)
    other = build(CASES[name])
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(twin.eval()(arrays["x"]), arrays["y"], GOLDEN)
    copy.deepcopy(layer).load_state_dict(state)


@pytest.mark.parametrize("name", HERE)
def test_loads_inside_a_model_under_any_prefix(name: str) -> None:
    state, arrays = golden(name)
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"deep": build(CASES[name])}))
    model.load_state_dict({f"1.deep.{key}": value for key, value in state.items()})
    assert_close(model[1]["deep"](arrays["x"]), arrays["y"], GOLDEN)


@pytest.mark.parametrize("name", HERE)
def test_loading_is_strict(name: str) -> None:
    layer = build(CASES[name])
    state, _ = golden(name)
    used = [key for key in state if key not in ("arange", "rbf.grid")]
    for key in used:
        without = {k: v for k, v in state.items() if k != key}
        if not any(
            k.split(".")[0] in ("base_conv", "poly_weights", "poly_conv", "spline_conv", "relukan_conv", "wavelet_conv")
            for k in without
        ):
            continue
        if "wavelet_weights.0." in key:
            continue  # without it the three forms of the weights cannot be told apart
        with pytest.raises(RuntimeError, match="Missing key") as caught:
            layer.load_state_dict(without)
        assert key in str(caught.value)
        assert "conv.weight" not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*surplus"):
        layer.load_state_dict({**state, "surplus": torch.zeros(1)})
    key = next(key for key in state if "weight" in key)
    with pytest.raises(RuntimeError, match="does not fit this layer") as caught:
        layer.load_state_dict({**state, key: state[key][..., :1]})
    assert key in str(caught.value) and "in the checkpoint" in str(caught.value)


def test_a_failed_load_says_so_and_keeps_the_weights() -> None:
    layer = tck.KAGNConv2DLayer(8, 12, 3, padding=1)
    state, _ = golden("gram_2d_padding1_k3")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    state.pop("poly_weights")
    with pytest.raises(RuntimeError, match="poly_weights"):
        layer.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_the_peers_readme_example_runs_as_written() -> None:
    class SimpleConvKAN(nn.Module):
        def __init__(
            self,
            layer_sizes: list[int],
            num_classes: int = 10,
            input_channels: int = 1,
            spline_order: int = 3,
            groups: int = 1,
        ) -> None:
            super().__init__()
            make = tck.KANConv2DLayer
            self.layers = nn.Sequential(
                make(
                    input_channels,
                    layer_sizes[0],
                    spline_order,
                    kernel_size=3,
                    groups=1,
                    padding=1,
                    stride=1,
                    dilation=1,
                ),
                make(
                    layer_sizes[0],
                    layer_sizes[1],
                    spline_order,
                    kernel_size=3,
                    groups=groups,
                    padding=1,
                    stride=2,
                    dilation=1,
                ),
                nn.AdaptiveAvgPool2d((1, 1)),
            )
            self.output = nn.Linear(layer_sizes[1], num_classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(torch.flatten(self.layers(x), 1))

    model = SimpleConvKAN([4, 8], spline_order=2)
    assert model.layers[0].conv.basis.spline_order == 2
    assert model.layers[0].conv.kernel_size == (3, 3)
    assert model(torch.randn(2, 1, 12, 12)).shape == (2, 10)


@pytest.mark.parametrize("name", tck.LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_every_name_trains(name: str, groups: int) -> None:
    ndim = int(name[-len("1DLayer")])
    layer = getattr(tck, name)(4, 6, kernel_size=3, padding=1, groups=groups, dropout=0.2)
    assert isinstance(layer, kv.KANConvNormAct)
    x = torch.randn(2, 4, *(6,) * ndim)
    y = layer(x)
    y.square().mean().backward()
    assert y.shape == (2, 6, *(6,) * ndim)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("name", tck.LAYERS)
def test_signatures_name_the_peers_parameters(name: str) -> None:
    parameters = list(inspect.signature(getattr(tck, name)).parameters)
    assert parameters[:3] == ["input_dim", "output_dim", "kernel_size"]
    assert {"groups", "padding", "stride", "dilation", "dropout", "norm_layer", "norm_kwargs"} <= set(parameters)
    assert getattr(tck, name).__doc__ and getattr(tck, name).__name__ == name


def test_positional_arguments_follow_the_peers_order() -> None:
    layer = tck.KAGNConv2DLayer(4, 8, 3, 2, 2, 1, 2, 1, 0.1, nn.BatchNorm2d, affine=False)
    assert layer.conv.basis.degree == 2 and layer.conv.groups == 2
    assert layer.conv.padding == (1, 1) and layer.conv.stride == (2, 2)
    assert isinstance(layer.norm, nn.BatchNorm2d) and not layer.norm.affine
    assert tck.ReLUKANConv1DLayer(4, 8, 3, 4, 2, False).conv.basis.low.requires_grad is False


def test_legendre_depends_on_its_batch_only_after_loading_a_peers_checkpoint() -> None:
    layer = tck.KALNConv2DLayer(8, 12, 3, padding=1).eval()
    state, arrays = golden("legendre_2d_padding1_k3")
    x = arrays["x"]
    changed = torch.cat([x[:1], 5 * x[1:]])
    assert_close(layer(changed)[:1], layer(x)[:1])
    layer.load_state_dict(state)
    assert not torch.allclose(layer(changed)[:1], layer(x)[:1], rtol=1e-2)
    constant = layer(torch.full_like(x, 0.3))
    assert torch.isfinite(constant).all()


def test_a_norm_that_mixes_channels_stays_within_its_group() -> None:
    layer = tck.KAGNConv2DLayer(4, 8, 3, padding=1, groups=2, norm_layer=lambda c: nn.GroupNorm(1, c)).eval()
    x = torch.randn(2, 4, 6, 6)
    changed = x.clone()
    changed[:, 2:] *= 3
    assert torch.equal(layer(changed)[:, :4], layer(x)[:, :4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tck.KANConv2DLayer(3, 8), TypeError, "needs kernel_size"),
        (lambda: tck.KANConv2DLayer(3, 8, 3, 3, spline_order=3), TypeError, "two values for 'spline_order'"),
        (lambda: tck.KACNConv1DLayer(3, 8, 3, groups=2), ValueError, r"input_dim \(=3\) must be divisible by groups"),
        (
            lambda: tck.KANConv2DLayer(3, 8, 3, base_activation=nn.Softplus),
            ValueError,
            "must be one of torch.nn's GELU",
        ),
        (lambda: tck.WavKANConv2DLayer(3, 8, 3, wav_version="fst"), ValueError, "Did you mean 'fast'"),
        (lambda: tck.WavKANConv2DLayer(3, 8, 3, wavelet_type="morlett"), ValueError, "Did you mean 'morlet'"),
        (lambda: tck.KAGNConv2DLayer(3, 8, 3, degree=-1), ValueError, r"degree \(=-1\) must be >= 0"),
        (lambda: tck.KAGNConv2DLayer(3, 8, 3, dropout=1.5), ValueError, r"dropout \(=1.5\) must be in \[0, 1\)"),
        (lambda: tck.KAGNConv2DLayer(3, 8, 3, *range(12)), TypeError, "takes at most"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
