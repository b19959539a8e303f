"""Checkpoints of torch-conv-kan's simple networks become models of ours that compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.compat import torch_conv_kan as tck
from kanvolution.compat.torch_conv_kan.checkpoints import Reader
from tests.tolerances import assert_close

CHANNELS = (2, 4, 6, 6, 8)
STRIDES = (1, 2, 2, 1)
# family -> (options of its layers, options that the checkpoint does not tell, entries that only this family has)
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "KAN": ({}, {}, ()),
    "FastKAN": ({"grid_size": 5, "grid_range": (-1, 1)}, {}, ("rbf.grid",)),
    "KACN": ({"degree": 2}, {}, ("arange",)),
    "KAGN": ({"degree": 4}, {}, ()),
    "KAJN": ({"degree": 2, "a": 0.5}, {"a": 0.5}, ()),
    "ReLUKAN": ({"g": 4}, {}, ()),
    "WavKAN": ({"wavelet_type": "morlet"}, {"kind": "morlet"}, ()),
    "BottleNeckKAGN": ({"degree": 2}, {}, ()),
    "BottleNeckReLUKAN": ({}, {}, ()),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


class Recorder(Reader):
    """Writes random entries of the names and shapes that a layer of torch-conv-kan has, where a `Reader` reads them."""

    optional: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.optional

    def take(self, name: str, *shape: int) -> Tensor:
        value = torch.randn(shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        if name == "arange":
            value = torch.arange(float(torch.Size(shape).numel())).view(shape)
        if name == "rbf.grid":
            value = torch.linspace(-1, 1, *shape)
        self.state[self.prefix + name] = value
        return value


def layer(family: str, i: int, groups: int = 1, norm: Any = nn.BatchNorm2d, affine: bool = True) -> nn.Module:
    return getattr(tck, f"{family}Conv2DLayer")(
        CHANNELS[i],
        CHANNELS[i + 1],
        kernel_size=3,
        padding=1,
        stride=STRIDES[i],
        groups=groups if i else 1,
        norm_layer=norm,
        affine=affine,
        **FAMILIES[family][0],
    )


def checkpoint(family: str, **options: Any) -> tuple[dict[str, Tensor], nn.Module]:
    """A state dict as torch-conv-kan's network has it, and the network by the old names with the same weights."""
    layers = [layer(family, i, **options) for i in range(4)]
    state: dict[str, Tensor] = {}
    for i, block in enumerate(layers):
        entries: dict[str, Tensor] = {}
        recorder = Recorder(entries, "")
        recorder.optional = FAMILIES[family][2]
        hook = next(iter(block._load_state_dict_pre_hooks.values()))
        hook.hook.part(recorder, block)
        state.update({f"layers.{i}.{'module.' if i else ''}{key}": value for key, value in entries.items()})
        block.load_state_dict(entries)
    linear = nn.Linear(CHANNELS[-1], 3)
    state.update({f"output.1.{key}": value.detach() for key, value in linear.state_dict().items()})
    return state, nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()


@every_family
def test_the_model_computes_what_the_network_did(family: str, tmp_path: Path) -> None:
    state, network = checkpoint(family)
    given = FAMILIES[family][1]
    model = tck.convert_simple(state, layers="KAJN" if family == "KAJN" else None, **given)
    x = torch.randn(2, 2, 12, 12)
    assert_close(model(x), network(x), 1e-4)
    again = kv.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert torch.equal(again(x), model(x)) and not model.training


@pytest.mark.parametrize(
    "options",
    [{"groups": 2}, {"norm": nn.InstanceNorm2d}, {"norm": nn.InstanceNorm2d, "affine": False}],
    ids=["groups", "instance", "not affine"],
)
def test_groups_and_norms_are_read_from_the_entries(options: dict[str, Any]) -> None:
    state, network = checkpoint("KAGN", **options)
    model = tck.convert_simple({f"module.{key}": value for key, value in state.items()})
    x = torch.randn(2, 2, 12, 12)
    assert_close(model(x), network(x), 1e-4)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, network = checkpoint("WavKAN")
    save_file(state, tmp_path / "peer.safetensors")
    torch.save({"state_dict": state}, tmp_path / "peer.pth")
    for name in ("peer.safetensors", "peer.pth"):
        out = tmp_path / f"out-{name}"
        assert main(["convert-checkpoint", str(tmp_path / name), str(out), "--conv", "kind=morlet"]) == 0
        assert "simple4, basis wavelet_edge, " in capsys.readouterr().out
        x = torch.randn(2, 2, 12, 12)
        assert_close(kv.from_pretrained(out)(x), network(x), 1e-4)
    assert main(["convert-checkpoint", str(tmp_path / "peer.pth"), str(tmp_path), "--conv", "kind=morlet"]) == 2
    assert "holds other things" in capsys.readouterr().err
    assert main(["convert-checkpoint", str(tmp_path / "peer.pth"), str(tmp_path / "b"), "--conv", "kind"]) == 2
    assert "must be KEY=VALUE" in capsys.readouterr().err


def edited(edit: Any, family: str = "KAGN", **options: Any) -> dict[str, Tensor]:
    state, _ = checkpoint(family, **options)
    edit(state)
    return state


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: {"features.0.weight": torch.zeros(1)}, {}, "not of one of torch-conv-kan's simple networks"),
        (lambda: edited(lambda s: s.pop("layers.2.module.poly_weights")), {}, "missing: layers.2.poly_weights"),
        (
            lambda: edited(lambda s: s.pop("layers.2.module.base_conv.0.weight")),
            {},
            "lacks layers.2.base_conv.0.weight",
        ),
        (lambda: edited(lambda s: s.update({"layers.0.extra": torch.zeros(1)})), {}, "left over: layers.0.extra"),
        (
            lambda: edited(lambda s: s.update({"layers.1.module.beta_weights": torch.zeros(9)})),
            {},
            r"of another shape: layers.1.beta_weights: \(9,\) in the checkpoint",
        ),
        (lambda: edited(lambda s: s.pop("output.1.bias")), {}, "the head of the checkpoint is no linear layer"),
        (lambda: edited(lambda s: s.update({"layers.0.experts.0.x": torch.zeros(1)})), {}, "mixtures of experts"),
        (lambda: checkpoint("KAJN")[0], {}, "can be KAJN, KALN or KABN"),
        (lambda: checkpoint("KAJN")[0], {"layers": "KALN"}, "KALN layers cannot be converted"),
        (lambda: checkpoint("KAJN")[0], {"layers": "KAJ"}, "Did you mean 'KAJN'"),
        (lambda: checkpoint("KAJN")[0], {"layers": "KACN"}, "are of another family"),
        (lambda: checkpoint("KAGN")[0], {"degre": 3}, "Did you mean 'degree'"),
        (lambda: checkpoint("KAGN")[0], {"model": "simple8"}, "one entry a layer"),
        (lambda: checkpoint("KAN", groups=2)[0], {}, "a PReLU slope for each of 2 groups"),
    ],
)
def test_bad_checkpoints(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tck.convert_simple(make(), **options)
