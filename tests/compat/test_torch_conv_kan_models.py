"""torch-conv-kan's networks: its names, signatures, numbers of parameters, keys and outputs."""

import gzip
import importlib
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
from kanvolution.compat.torch_conv_kan.missing import MISSING
from kanvolution.compat.torch_conv_kan.models import MODELS
from kanvolution.compat.torch_conv_kan.signatures import REQUIRED
from tests.compat.golden import normal, value
from tests.tolerances import GOLDEN, assert_close

DATA = Path(__file__).parents[1] / "data" / "golden_architectures"
PEER: dict[str, Any] = json.loads((DATA / "names.json").read_text())
CASES: dict[str, dict[str, Any]] = json.loads(gzip.decompress((DATA / "cases.json.gz").read_bytes()))
DEEP = ("101", "152", "161", "169", "201")

SLOW_CASES = ("vgg_wav_kan", "densekagnet121bn")
every_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_CASES else ()) for name in CASES]
)


def arguments_of(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with the classes of torch.nn in place of their names."""
    return {key: getattr(nn, v) if key in ("norm_layer", "base_activation") else v for key, v in given.items()}


def build(name: str, **changes: Any) -> nn.Module:
    return MODELS[name](**{**arguments_of(CASES[name]["arguments"]), **changes}).eval()


def state_of(name: str) -> dict[str, Tensor]:
    """torch-conv-kan's state dict; constants are stored, the others follow from their names."""
    return {
        key: torch.tensor(entry["is"]) if isinstance(entry, dict) else value(key, entry, f"{name}/")
        for key, entry in CASES[name]["state"].items()
    }


def image_of(name: str) -> Tensor:
    size = CASES[name]["size"]
    return torch.from_numpy(normal(f"{name}/x", [2, 2, size, size]))


def prediction(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


# -------------------------------------------------------------------------------------------- names and signatures


def test_every_name_is_here_or_said_to_be_missing() -> None:
    names = {name for module in PEER["modules"].values() for name in module}
    assert set(PEER["exported"]) <= set(tck.__all__)
    assert names - set(tck.__all__) == set(MISSING)
    assert set(MODELS) <= names


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_name_says_what_to_use(name: str) -> None:
    with pytest.raises(ImportError, match=f"torch-conv-kan's {name} is not in kanvolution"):
        exec(f"from kanvolution.compat.torch_conv_kan import {name}")
    for path in (word for word in MISSING[name].replace(",", " ").split() if word.startswith("kanvolution.")):
        module, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), path
    assert not hasattr(tck, f"{name}Of")


def readable(default: Any) -> Any:
    if default is REQUIRED:
        return "REQUIRED"
    return default.__name__ if isinstance(default, type) else list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("name", PEER["signatures"])
def test_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(tck, name)).parameters.values()
    ours = [[f"**{p.name}"] if p.kind is p.VAR_KEYWORD else [p.name, readable(p.default)] for p in parameters]
    assert ours == PEER["signatures"][name]


# ---------------------------------------------------------------------------------------------- the same networks


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if any(depth in name for depth in DEEP) else ()) for name in MODELS],
)
def test_numbers_of_parameters(name: str) -> None:
    """As many as torch-conv-kan's has of which the gradient is wanted, without the gates that it does not use."""
    case = PEER["parameters"][name]
    with torch.device("meta"):
        network = MODELS[name](**arguments_of(case["arguments"]))
    assert sum(p.numel() for p in network.parameters()) == case["count"]


@every_case
def test_golden_outputs(name: str) -> None:
    network = build(name)
    network.load_state_dict(state_of(name))
    with np.load(DATA / "outputs.npz") as file:
        expected = torch.from_numpy(file[name])
    x = image_of(name)
    with torch.no_grad():
        output = prediction(network(x))
        assert_close(output, expected, GOLDEN)
        again = build(name)
        again.load_state_dict(network.state_dict())  # its own keys as well
        assert torch.equal(prediction(again(x)), output)


@pytest.mark.parametrize("name", ["SimpleConvKAGN", "reskanet_18x32p", "tiny_densekagnet_moebn", "u2net_small"])
def test_loading_is_strict_and_speaks_of_the_peers_keys(name: str) -> None:
    state = state_of(name)
    lost = next(key for key in reversed(state) if "norm" not in key and not key.endswith("tracked"))
    taken = state.pop(lost)
    with pytest.raises(RuntimeError, match=f'Missing key.* in state_dict: "{lost}"'):
        build(name).load_state_dict(state)
    state = {**state, lost: taken, f"{lost}.other": taken}
    with pytest.raises(RuntimeError, match=f'Unexpected key.* in state_dict: "{lost}.other"'):
        build(name).load_state_dict(state)
    state.pop(f"{lost}.other")
    with pytest.raises(RuntimeError, match=r"size mismatch|does not fit"):
        build(name).load_state_dict({**state, lost: taken[None]})


# What torch-conv-kan wraps in its penalty; the entries of these layers have "module." in their names.
PENALISED = {
    "reskanet_18x32p": lambda path: path.startswith("stages"),
    "tiny_densekanet": lambda path: ".layers." in path,
    "ukagnet_18": lambda path: path != "encoder.0.0" and not path.endswith("body.0"),
    "u2net_small": lambda path: True,
    "SimpleConvKAGN": lambda path: path != "stages.0",
}


@pytest.mark.parametrize("name", PENALISED)
def test_penalty_and_the_keys_of_penalised_layers(name: str) -> None:
    key = "l1_penalty" if name.startswith("Simple") else "l1_decay"
    network = build(name, **{key: 1e-3}).train()
    blocks = {path: m for path, m in network.named_modules() if isinstance(m, kv.KANConvNormAct)}
    counted: list[nn.Module] = [m for path, m in blocks.items() if PENALISED[name](path)]
    if name.startswith("u2net"):  # ordinary convolutions are wrapped alone, without their norms
        counted = [m.get_submodule("conv") for m in counted]
    network(image_of(name))
    expected = 1e-3 * sum(p.abs().sum() for m in counted for p in m.parameters())
    assert_close(kv.collect_losses(network), expected, 1e-5)

    marks = ("base_conv", "poly_weights", "spline_conv", "beta_weights", "layer_norm", "prelus")  # of a layer
    plain = name.startswith("u2net")
    wrapped = {}
    for entry, tensor in state_of(name).items():
        unwrapped = not entry.startswith(("classifier", "output")) and ".module." not in entry  # simple ones always are
        parts = entry.split(".")
        at = next((i for i, part in enumerate(parts) if part in marks), None)
        at = len(parts) - 1 if plain and ".0." in entry else at
        wrapped[".".join([*parts[:at], "module", *parts[at:]]) if at and unwrapped else entry] = tensor
    network.eval().load_state_dict(wrapped)
    loaded = build(name)
    loaded.load_state_dict(state_of(name))
    with torch.no_grad():
        assert torch.equal(network(image_of(name)), loaded(image_of(name)))


@pytest.mark.parametrize("name", ["moe_vggkagn_bn", "reskagnetbn_moe_18x32p", "SimpleMoEConvKAGNBN"])
def test_networks_of_experts_return_their_losses(name: str) -> None:
    network = build(name).train()
    y, loss = network(image_of(name), loss_coef=1.0)
    mixtures = [m for m in network.modules() if isinstance(m, kv.layers.MixtureOfExperts)]
    assert len(mixtures) == {"moe_vggkagn_bn": 7, "reskagnetbn_moe_18x32p": 8, "SimpleMoEConvKAGNBN": 4}[name]
    assert loss > 0 and y.requires_grad and not kv.collect_losses(network)
    (y.sum() + loss).backward()
    assert all(m.gate.weight.grad is not None for m in mixtures)
    block = network.block
    assert isinstance(block, kv.models.Network)  # one of this package, which holds its losses
    block(image_of(name))
    share = 4 if name.startswith("res") else 1  # torch-conv-kan's residual networks take the mean of their stages
    assert isinstance(network, tck.PeerMixture) and network.share == 1 / share
    assert kv.collect_losses(block) > 0


def test_u2nets_give_side_outputs_in_training() -> None:
    network = tck.u2kacnet_small(2, 3, norm_layer=nn.BatchNorm2d)
    x = torch.randn(2, 2, 32, 32)
    assert [y.shape for y in network(x)] == [(2, 3, 32, 32)] * 7
    assert network.eval()(x).shape == (2, 3, 32, 32)


def dropouts(network: nn.Module) -> dict[str, float]:
    """path of a layer -> rate of its dropout."""
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, kv.KANConvNormAct):
            rates = {m.p for m in module.modules() if hasattr(m, "p")}
            assert len(rates) <= 1
            found[path] = rates.pop() if rates else 0.0
    return found


def test_which_layers_have_dropout() -> None:
    assert set(dropouts(tck.reskagnet_18x32p(2, 3, dropout=0.1)).values()) == {0.1}
    assert set(dropouts(tck.u2kagnet_small(2, 3, dropout=0.1)).values()) == {0.1}
    dense = dropouts(tck.tiny_densekagnet(2, 3, dropout=0.1))
    assert {path for path, rate in dense.items() if not rate} == {
        path for path in dense if path == "stem" or path.endswith(".0")
    }
    simple = dropouts(tck.SimpleConvKAGN([4, 4, 4, 4], dropout=0.1))
    assert list(simple.values()) == [0.0, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("mixer", ["conv", "self-att", "focal"])
@pytest.mark.parametrize("use_bottleneck", [False, True])
def test_mixers_of_ukagnet(mixer: str, use_bottleneck: bool) -> None:
    network = tck.UKAGNet(2, 3, unet_depth=3, mixer_type=mixer, use_bottleneck=use_bottleneck, groups=2)
    kinds = {"conv": (), "self-att": kv.layers.SelfAttention, "focal": kv.layers.FocalModulation}[mixer]
    assert sum(isinstance(m, kinds) for m in network.modules()) == (0 if mixer == "conv" else 2)
    network(torch.randn(2, 2, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    copied = pickle.loads(pickle.dumps(network.eval()))
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(copied(x), network(x))


# ------------------------------------------------------------------------------------------- chosen by an argument


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def test_auto_kan_makes_the_network_of_a_name() -> None:
    with torch.device("meta"):
        auto = tck.AutoKAN(
            model_name="ukanet18", input_channels=2, num_classes=3, base_activation="silu", norm_layer="batchnorm2d"
        )
        same = tck.ukanet_18(2, 3, spline_order=1, grid_size=1, base_activation=nn.SiLU, norm_layer=nn.BatchNorm2d)
        assert shapes(auto) == shapes(same)
        deep = tck.AutoKAN(model_name="densekalnet161", input_channels=2, num_classes=3, growth_rate=4)
        assert shapes(deep) == shapes(tck.densekalnet161(2, 3, growth_rate=4))
        vgg = tck.AutoKAN(model_name="vggkagn", input_channels=2, num_classes=3)
        assert shapes(vgg) == shapes(tck.vggkagn(2, 3, affine=True))


def test_auto_kan_knows_the_names_of_the_peer() -> None:
    with pytest.raises(ValueError, match="unknown model_name 'none'") as error:
        tck.AutoKAN(model_name="none", input_channels=1, num_classes=1)
    assert all(name in str(error.value) for name in PEER["auto"])


@pytest.mark.parametrize("is_moe", [False, True])
def test_tiny_auto_kagn(is_moe: bool) -> None:
    experts = {"num_experts": 3} if is_moe else {}
    with torch.device("meta"):
        vgg = tck.TinyAutoKAGN(2, 3, "VGG", is_moe, width_scale=2, vgg_type="VGG11v2", num_experts=3)
        make: Any = tck.moe_vggkagn_bn if is_moe else tck.vggkagn_bn
        options: dict[str, Any] = {"norm_layer": nn.BatchNorm2d, "affine": True, "expected_feature_shape": (1, 1)}
        assert shapes(vgg) == shapes(make(2, 3, width_scale=2, vgg_type="VGG11v2", **options, **experts))
        dense = tck.TinyAutoKAGN(2, 3, "DenseNet", is_moe, growth_rate=4, num_experts=3)
        make = tck.tiny_densekagnet_moebn if is_moe else tck.tiny_densekagnet_bn
        assert shapes(dense) == shapes(make(2, 3, growth_rate=4, **experts))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tck.reskagnet50(2, 3, hidden_layer_dim=8), ValueError, r"hidden_layer_dim \(=8\) must be None"),
        (lambda: tck.reskagnet50(2, 3, degre=3), TypeError, "unknown argument of reskagnet50 'degre'. Did you mean"),
        (lambda: tck.vggkan(2, 3, vgg_type="VGG11sa"), ValueError, "has attention, which KANConv2DLayer has none of"),
        (lambda: tck.UKAGNet(mixer_type="self"), ValueError, "unknown mixer_type 'self'. Did you mean 'self-att'"),
        (lambda: tck.ukanet_18(2, 3, l1_decay=-1), ValueError, r"l1_decay \(=-1\) must be finite and >= 0"),
        (lambda: tck.SimpleConvKAGN([4, 4, 4]), ValueError, r"channels \(=\[4, 4, 4\]\) and strides"),
        (lambda: tck.densekanet121(2, 3, base_activation=nn.PReLU), ValueError, "base_activation"),
        (
            lambda: tck.AutoKAN(model_name="ukanet", input_channels=1, num_classes=1),
            ValueError,
            "unknown model_name 'ukanet'. Did you mean 'u2?kanet",
        ),
        (
            lambda: tck.AutoKAN(model_name="vggkan", input_channels=1, num_classes=1, norm_layer="batch"),
            ValueError,
            "unknown norm_layer 'batch'. Did you mean 'batchnorm2d'",
        ),
        (lambda: tck.TinyAutoKAGN(2, 3, "ResNet"), ValueError, "unknown model_type 'ResNet'"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------- saved


@pytest.mark.parametrize("name", ["SimpleConvKALN", "reskanet_18x32p", "reskagnetbn_moe_18x32p", "u2net_small"])
def test_saved_networks_are_made_again(name: str, tmp_path: Path) -> None:
    network = build(name)
    network.load_state_dict(state_of(name))
    kv.save_pretrained(network, tmp_path / "saved")
    again = kv.from_pretrained(tmp_path / "saved")
    x = image_of(name)
    with torch.no_grad():
        assert torch.equal(prediction(again(x)), prediction(network(x)))
    assert again.config == network.config and again.config["in_chans"] == 2
    assert f"| Network | `{name}`, a `{type(network).__name__}` |" in (tmp_path / "saved" / "README.md").read_text()


def test_saved_feature_maps_and_new_heads(tmp_path: Path) -> None:
    network: Any = tck.SimpleConvKAGN([4, 4, 6, 8], norm_layer=nn.InstanceNorm2d)
    network.reset_classifier(5)
    x = torch.randn(1, 1, 16, 16)
    network.save_pretrained(tmp_path / "head")
    assert kv.from_pretrained(tmp_path / "head")(x).shape == (1, 5)
    maps = kv.models.FeatureMaps(network.eval(), [1, 3])
    maps.save_pretrained(tmp_path / "maps")
    again = kv.from_pretrained(tmp_path / "maps")
    assert all(torch.equal(one, other) for one, other in zip(again(x), maps(x), strict=True))


def test_a_class_of_ones_own_cannot_be_saved(tmp_path: Path) -> None:
    class OwnNorm(nn.InstanceNorm2d):
        pass

    network: Any = tck.SimpleConvKAGN([4, 4, 6, 8], norm_layer=OwnNorm)
    with pytest.raises(ValueError, match="cannot be saved with what makes it again"):
        network.save_pretrained(tmp_path / "saved")
