"""torch-conv-kan's bottlenecks and mixtures of experts, against the numbers of the layers they are made of."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.compat import torch_conv_kan as tck
from kanvolution.layers import named_losses
from tests.compat.test_torch_conv_kan_layers import CASES, golden
from tests.tolerances import GOLDEN, assert_close

PREFIXES = {
    "KAN": "spline",
    "FastKAN": "rbf",
    "KALN": "legendre",
    "KACN": "chebyshev",
    "KAGN": "gram",
    "WavKAN": "wavelet",
    "FullBottleneckKAGN": "bottleneck-gram",
}
NAMES = [name for name in tck.EXPERT_LAYERS if "MoEBottleNeck" not in name]
INNER = [name for name in tck.EXPERT_LAYERS if "MoEBottleNeck" in name]


def dimension(name: str) -> int:
    return int(name[-len("1DLayer")])


def stem(name: str) -> str:
    return name.removeprefix("MoE").removesuffix(f"Conv{dimension(name)}DLayer")


def case_of(name: str) -> dict[str, Any]:
    """The golden case of the layer that is the expert."""
    cases = [c for key, c in CASES.items() if key.startswith(f"{PREFIXES[stem(name)]}_{dimension(name)}d_padding1_k3")]
    assert cases, name
    return cases[0]


def gates(channels: int, num_experts: int, prefix: str = "") -> dict[str, Tensor]:
    """The peer's entries of a gate that tells samples apart."""
    weights = {name: 4 * torch.randn(channels, num_experts) for name in ("w_gate", "w_noise")}
    return {prefix + key: value for key, value in {**weights, "mean": torch.zeros(1), "std": torch.ones(1)}.items()}


def mixture(name: str, num_experts: int = 4, k: int = 2, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A mixture, and a peer's state dict for it whose experts are the golden layer, each with other weights."""
    case = case_of(name)
    state, _ = golden(case["name"])
    peers = gates(8, num_experts)
    for i in range(num_experts):
        for key, value in state.items():
            scaled = value * (1 + 0.3 * i) if "conv" in key or "poly" in key else value
            peers[f"experts.{i}.{key}"] = scaled
    layer = getattr(tck, name)(8, 12, num_experts=num_experts, k=k, **{**case["kwargs"], **options})
    return layer.eval(), peers


def inner_mixture(name: str, scales: list[float], **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A bottleneck with experts, and a peer's state dict whose experts have the golden weights times a number."""
    state, _ = golden(f"bottleneck-gram_{dimension(name)}d_padding1_k3")
    own = ("poly_weights", "beta_weights")
    peers = {key: value for key, value in state.items() if key not in own}
    width = state["poly_weights"].shape[1]
    peers |= gates(width, len(scales), "experts.")
    peers |= {key: value for key, value in gates(width, len(scales)).items() if key.startswith("w_")}
    for i, scale in enumerate(scales):
        peers[f"experts.experts.{i}.poly_weights"] = scale * state["poly_weights"]
        peers[f"experts.experts.{i}.beta_weights"] = state["beta_weights"]
    layer = getattr(tck, name)(8, 12, kernel_size=3, padding=1, num_experts=len(scales), **options)
    return layer.eval(), peers


def test_the_names_are_here() -> None:
    stems = [*PREFIXES, "BottleNeckKAGN"]
    assert set(tck.EXPERT_LAYERS) == {f"MoE{s}Conv{n}DLayer" for s in stems for n in (1, 2, 3)}


@pytest.mark.parametrize("name", NAMES)
def test_loaded_mixtures_are_sums_of_loaded_layers(name: str) -> None:
    layer, state = mixture(name)
    layer.load_state_dict(dict(state))
    case = case_of(name)
    x = golden(case["name"])[1]["x"]
    if stem(name) == "KALN":
        x = x[:1]  # a peer's Legendre layer scales by the range of all the samples it sees
    experts = []
    for i in range(4):
        expert = getattr(tck, case["class"])(8, 12, **case["kwargs"]).eval()
        start = f"experts.{i}."
        expert.load_state_dict({key.removeprefix(start): v for key, v in state.items() if key.startswith(start)})
        experts.append(expert(x))
    logits = x.mean(dim=tuple(range(2, x.ndim))) @ state["w_gate"]
    top = logits.topk(2)
    weights = torch.zeros_like(logits).scatter(1, top.indices, top.values.softmax(1))
    y, loss = layer(x, loss_coef=0.5)
    assert_close(y, torch.einsum("ne,en...->n...", weights, torch.stack(experts)), GOLDEN)
    counts = (weights > 0).sum(0).float()
    expected = sum(0.5 * v.var() / v.mean().square() for v in (weights.sum(0), counts))
    assert_close(loss, expected, GOLDEN)


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [0.5, 1.5]])
def test_loaded_experts_in_a_bottleneck_have_the_golden_numbers(name: str, scales: list[float]) -> None:
    """Equal experts are the golden layer whatever the gate says, and so is an equal mix of experts whose mean it is."""
    layer, state = inner_mixture(name, scales, k=2)
    if len(scales) == 2:
        state["experts.w_gate"] *= 0
    layer.load_state_dict(state)
    _, arrays = golden(f"bottleneck-gram_{dimension(name)}d_padding1_k3")
    x = arrays["x"].requires_grad_()
    y, loss = layer(x)
    y.backward(arrays["grad_y"])
    assert_close(y, arrays["y"], GOLDEN)
    if len(scales) == 2:
        assert x.grad is not None
        assert_close(x.grad, arrays["grad_x"], GOLDEN)
    assert loss.ndim == 0


@pytest.mark.parametrize("name", [NAMES[1], INNER[1]])
def test_own_state_dict_copies_and_prefixes(name: str) -> None:
    layer, state = inner_mixture(name, [1.0, 2.0]) if name in INNER else mixture(name)
    model = nn.ModuleDict({"deep": layer})
    model.load_state_dict({f"deep.{key}": value for key, value in state.items()})
    x = torch.randn(3, 8, 9, 9)
    y, loss = layer(x)
    other = (inner_mixture(name, [1.0, 2.0]) if name in INNER else mixture(name))[0]
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        again, loss2 = twin(x)
        assert torch.equal(again, y) and torch.equal(loss2, loss)
    copy.deepcopy(layer).load_state_dict(state)


@pytest.mark.parametrize("name", [NAMES[1], INNER[1]])
def test_loading_is_strict(name: str) -> None:
    layer, state = inner_mixture(name, [1.0, 2.0]) if name in INNER else mixture(name)
    for key in state:
        with pytest.raises(RuntimeError, match="Missing key") as caught:
            layer.load_state_dict({k: v for k, v in state.items() if k != key})
        assert f'"{key}"' in str(caught.value) and "block." not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*surplus"):
        layer.load_state_dict({**state, "surplus": torch.zeros(1)})
    key = next(key for key in state if "poly_weights" in key or "spline_conv" in key)
    with pytest.raises(RuntimeError, match="does not fit this layer"):
        layer.load_state_dict({**state, key: state[key][..., :1]})


@pytest.mark.parametrize("name", tck.EXPERT_LAYERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_every_name_trains(name: str, groups: int) -> None:
    layer = getattr(tck, name)(4, 6, kernel_size=3, padding=1, groups=groups, num_experts=3, k=2, dropout=0.2)
    assert isinstance(layer, tck.PeerMixture)
    x = torch.randn(3, 4, *(6,) * dimension(name))
    y, loss = layer(x, train=True, loss_coef=1e-2)
    (y.square().mean() + loss).backward()
    assert y.shape == (3, 6, *(6,) * dimension(name))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert not named_losses(layer)
    assert float(kv.collect_losses(layer)) == 0


@pytest.mark.parametrize("name", ["MoEKAGNConv2DLayer", "MoEBottleNeckKAGNConv2DLayer"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled(name: str, training: bool) -> None:
    layer = getattr(tck, name)(4, 6, kernel_size=3, padding=1, num_experts=3, k=2).train(training)
    x = torch.randn(3, 4, 6, 6)
    torch.manual_seed(1)
    y, loss = layer(x)
    torch.manual_seed(1)
    y2, loss2 = torch.compile(layer, fullgraph=True, backend="eager")(x)
    assert_close(y2, y)
    assert_close(loss2, loss)


def test_without_noise_the_peers_noise_weights_are_left_out() -> None:
    layer, state = mixture("MoEKAGNConv2DLayer", noisy_gating=False)
    layer.load_state_dict(state)
    assert not [key for key in layer.state_dict() if "noise" in key]


def test_bottleneck_arguments() -> None:
    layer = tck.BottleNeckKAGNConv2DLayer(64, 128, 3, dim_reduction=8, min_internal=4, padding=1)
    assert layer.conv.squeeze.out_channels == 16
    assert (
        tck.BottleNeckKAGNConv2DLayer(4, 8, 3, 2, 1, 0, 1, 1, 0.0, nn.BatchNorm2d, 2.0).conv.squeeze.out_channels == 4
    )
    relu = tck.BottleNeckReLUKANConv1DLayer(64, 128, 3, 4, 2, False, dim_reduction=2, affine=True)
    assert relu.conv.squeeze.out_channels == 64 and relu.norm.affine
    assert relu.conv.conv.basis.low.requires_grad is False
    noisy = tck.BottleNeckKAGNConv2DLayer(4, 8, 3, dropout=0.5)
    assert isinstance(noisy.dropout, kv.layers.NoiseInjection)


def test_signatures_are_the_peers() -> None:
    assert list(inspect.signature(tck.MoEKACNConv1DLayer).parameters) == [
        *("input_size", "output_size", "num_experts", "noisy_gating", "k", "kernel_size", "stride", "padding"),
        "kan_kwargs",
    ]
    layer = tck.MoEKAGNConv2DLayer(4, 6, 5, False, 1, 5, 2, 2, degree=2)
    moe = layer.block
    assert len(moe.experts) == 5 and not moe.gate.noisy and moe.k == 1
    conv = moe.experts[0].conv
    assert (conv.kernel_size, conv.stride, conv.padding, conv.basis.degree) == ((5, 5), (2, 2), (2, 2), 2)
    defaults = {n: inspect.signature(getattr(tck, f"MoEBottleNeckKAGNConv{n}DLayer")).parameters for n in (1, 2, 3)}
    assert [(defaults[n]["num_experts"].default, defaults[n]["k"].default) for n in (1, 2, 3)] == [
        (16, 4),
        (8, 2),
        (16, 4),
    ]
    assert list(defaults[3])[-6:-1] == ["dim_reduction", "num_experts", "noisy_gating", "k", "pregate"]
    assert list(defaults[2])[-6:-1] == ["num_experts", "noisy_gating", "k", "dim_reduction", "pregate"]
    assert inspect.signature(tck.BottleNeckKAGNConv2DLayer).parameters["dim_reduction"].default == 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tck.MoEKANConv2DLayer(3), TypeError, "needs output_size"),
        (
            lambda: tck.MoEKANConv2DLayer(3, 8, num_experts=2, k=3),
            ValueError,
            r"k \(=3\) must be <= num_experts \(=2\)",
        ),
        (lambda: tck.MoEBottleNeckKAGNConv2DLayer(3, 8, 3, k=9), ValueError, r"k \(=9\) must be <= num_experts \(=8\)"),
        (lambda: tck.MoEBottleNeckKAGNConv2DLayer(3, 8, 3, pregate=True), ValueError, "pregate"),
        (lambda: tck.BottleNeckKAGNConv2DLayer(4, 8, 3, dim_reduction=0), ValueError, "must be > 0"),
        (lambda: tck.BottleNeckKAGNConv2DLayer(3, 8, 3, groups=2), ValueError, "must be divisible by groups"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
