"""torch-conv-kan's networks of linear layers: its numbers, its keys, its call signatures."""

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
from kanvolution.compat.torch_conv_kan.networks import NETWORKS
from tests.tolerances import GOLDEN, assert_close

DATA = Path(__file__).parents[1] / "data" / "golden_networks"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads((DATA / "index.json").read_text())}
every_case = pytest.mark.parametrize("name", CASES)


def build(case: dict[str, Any]) -> nn.Module:
    options = {k: getattr(nn, v) if k == "base_activation" else v for k, v in case["kwargs"].items()}
    return getattr(tck, case["class"])(case["layers_hidden"], **options).eval()


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with np.load(DATA / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    return state, arrays


def test_all_names_are_here() -> None:
    names = {"KAN", "FastKAN", "KALN", "KACN", "KAGN", "BottleNeckKAGN", "WavKAN", "KAJN", "KABN", "ReLUKAN"}
    assert set(NETWORKS) == names == {case["class"] for case in CASES.values()}
    assert names <= set(tck.__all__)


@every_case
def test_golden_outputs_and_gradients(name: str) -> None:
    network = build(CASES[name])
    state, arrays = golden(name)
    network.load_state_dict(state)
    x = arrays["x"].requires_grad_()
    y = network(x)
    y.backward(arrays["grad_y"])
    assert x.grad is not None
    assert_close(y, arrays["y"], GOLDEN)
    assert_close(x.grad, arrays["grad_x"], GOLDEN)


@every_case
def test_own_state_dict_keeps_what_was_loaded(name: str) -> None:
    network = build(CASES[name])
    state, arrays = golden(name)
    network.load_state_dict(state)
    other = build(CASES[name])
    other.load_state_dict(network.state_dict())
    for twin in (other, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert_close(twin.eval()(arrays["x"]), arrays["y"], GOLDEN)
    copy.deepcopy(network).load_state_dict(state)
    model = nn.ModuleDict({"deep": build(CASES[name])})
    model.load_state_dict({f"deep.{key}": value for key, value in state.items()})
    assert_close(model["deep"](arrays["x"]), arrays["y"], GOLDEN)


@every_case
def test_loading_is_strict(name: str) -> None:
    network = build(CASES[name])
    state, _ = golden(name)
    for key in state:
        layer = network.get_submodule(".".join(key.split(".")[:2]))
        before = {k: v.clone() for k, v in layer.state_dict().items()}
        with pytest.raises(RuntimeError, match="Missing key") as caught:
            network.load_state_dict({k: v for k, v in state.items() if k != key})
        assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
        assert key in str(caught.value) and "linear" not in str(caught.value).replace("_linear", "")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*surplus"):
        network.load_state_dict({**state, key.rpartition(".")[0] + ".surplus": torch.zeros(1)})
    key = next(key for key in state if "weight" in key or "coeffs" in key)
    with pytest.raises(RuntimeError, match="does not fit this network") as caught:
        build(CASES[name]).load_state_dict({**state, key: state[key][:1]})
    assert key in str(caught.value) and "in the checkpoint" in str(caught.value)


def test_a_bernstein_network_takes_the_peers_weights_but_has_bernstein_polynomials() -> None:
    network = tck.KABN([6, 5, 3], degree=3)
    state = {
        f"layers.{i}.{key}": torch.randn(shape)
        for i, (n, m) in enumerate([(6, 5), (5, 3)])
        for key, shape in {
            "base_weights": (m, n),
            "bernstein_coeffs": (n, m, 4),
            "norm.weight": (m,),
            "norm.bias": (m,),
        }.items()
    }
    network.load_state_dict(state)
    x = torch.randn(2, 6)
    u = torch.sigmoid(x)
    b = torch.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], dim=-1)
    y = torch.einsum("nik,iok->no", b, state["layers.0.bernstein_coeffs"])
    y = y + nn.functional.silu(x) @ state["layers.0.base_weights"].T
    norm = nn.functional.layer_norm(y, (5,), state["layers.0.norm.weight"], state["layers.0.norm.bias"])
    assert_close(network.layers[0](x), nn.functional.silu(norm))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_trains(name: str) -> None:
    network = getattr(tck, name)([6, 8, 8, 3], dropout=0.2, l1_decay=0.01)
    x = torch.randn(16, 6)
    assert [isinstance(layer, nn.Dropout) for layer in network.layers] == [True, False, True, False, True, False]
    (network(x).square().mean() + network.penalty()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    first = next(network.layers[1].parameters())
    for p in network.parameters():
        p.grad = None
    network.penalty().backward()
    assert_close(first.grad, 0.01 * first.sign())  # what the peer's hook adds
    assert all(p.grad is None for p in network.layers[5].parameters())
    assert 0.1 < float(network(torch.randn(64, 6)).detach().std()) < 3


def test_l1_decay_wraps_the_peers_layers() -> None:
    assert any(".module." in key for key in golden("spline_l1")[0])


def test_signatures_name_the_peers_parameters() -> None:
    assert list(inspect.signature(tck.ReLUKAN).parameters) == [
        "layers_hidden",
        "dropout",
        "l1_decay",
        "g",
        "k",
        "train_ab",
        "first_dropout",
    ]
    assert all(factory.__doc__ and factory.__name__ == name for name, factory in NETWORKS.items())


def test_positional_arguments_follow_the_peers_order() -> None:
    network = tck.KAN([4, 3, 2], 0.1, 4, 2, nn.SiLU, [-2, 2], 0.5, False)
    linear = network.layers[0].linear
    assert isinstance(linear, kv.KANLinear)
    assert (linear.basis.grid_size, linear.basis.spline_order, linear.basis.base) == (4, 2, "silu")
    assert network.l1_decay == 0.5 and isinstance(network.layers[1], nn.Dropout)
    assert float(tck.FastKAN([64, 64], spline_weight_init_scale=0.3).layers[0].linear.weight.detach().std()) > 0.1


def test_legendre_depends_on_its_batch_only_after_loading_a_peers_checkpoint() -> None:
    network = build(CASES["legendre"])
    state, arrays = golden("legendre")
    x = arrays["x"]
    changed = torch.cat([x[:1], 5 * x[1:]])
    assert_close(network(changed)[:1], network(x)[:1])
    network.load_state_dict(state)
    assert not torch.allclose(network(changed)[:1], network(x)[:1], rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tck.KAGN([4]), ValueError, r"layers_hidden \(=\[4\]\) must name at least input and output"),
        (lambda: tck.KAGN([4, 0]), ValueError, r"layers_hidden \(=0\) must be >= 1"),
        (lambda: tck.KAGN([4, 2], degre=3), TypeError, "Did you mean 'degree'"),
        (lambda: tck.KAGN([4, 2], base_activation=nn.GELU), ValueError, "must be torch.nn.SiLU"),
        (lambda: tck.KAN([4, 2], base_activation=nn.Softplus), ValueError, "must be one of torch.nn's GELU"),
        (lambda: tck.KAN([4, 2], dropout=1.0), ValueError, r"dropout \(=1.0\) must be in \[0, 1\)"),
        (lambda: tck.KAN([4, 2], l1_decay=-1), ValueError, r"l1_decay \(=-1\) must be finite and >= 0"),
        (lambda: tck.WavKAN([4, 2], wavelet_type="morlett"), ValueError, "Did you mean 'morlet'"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
