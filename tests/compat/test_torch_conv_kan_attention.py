"""torch-conv-kan's attention and focal modulation: its names, shapes and, where they hold, its checkpoints."""

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
from kanvolution.compat.torch_conv_kan.attention import ATTENTIONS
from tests.tolerances import GOLDEN, assert_close

DATA = Path(__file__).parents[1] / "data" / "golden_attention"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads((DATA / "index.json").read_text())}
FOCAL = [name for name in ATTENTIONS if "Focal" in name]


def build(case: dict[str, Any]) -> nn.Module:
    return getattr(tck, case["class"])(case["input_dim"], **case["kwargs"]).eval()


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with np.load(DATA / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    return state, arrays


def test_all_names_are_here() -> None:
    stems = [
        "SelfKAGNtention",
        "SelfReLUKANtention",
        "BottleNeckSelfKAGNtention",
        "BottleNeckSelfReLUKANtention",
        "RoPEBottleNeckSelfKAGNtention",
        "KAGNFocalModulation",
        "BottleNeckKAGNFocalModulation",
    ]
    names = {f"{stem}{ndim}D" for stem in stems for ndim in (1, 2, 3)}
    assert set(ATTENTIONS) == names and names <= set(tck.__all__)
    assert all(getattr(tck, name).__doc__ and getattr(tck, name).__name__ == name for name in names)


@pytest.mark.parametrize("name", CASES)
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
    other = build(CASES[name])
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(twin(arrays["x"]), arrays["y"], GOLDEN)
    model = nn.Sequential(nn.Identity(), build(CASES[name]))
    model.load_state_dict({f"1.{key}": value for key, value in state.items()})
    assert_close(model(arrays["x"]), arrays["y"], GOLDEN)


@pytest.mark.parametrize("name", CASES)
def test_loading_is_strict(name: str) -> None:
    state, _ = golden(name)
    for key in ("gamma", "norm_layer.weight", "proj_q.layer_norm.0.weight", "proj_v.base_conv.0.weight"):
        with pytest.raises(RuntimeError, match="Missing key"):
            build(CASES[name]).load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*surplus"):
        build(CASES[name]).load_state_dict({**state, "surplus": torch.zeros(1)})


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_name_trains_and_keeps_the_shape(name: str) -> None:
    ndim = int(name[-2])
    padding = {} if name in FOCAL else {"padding": 1}
    layer = getattr(tck, name)(8, dropout=0.2, **padding)
    assert isinstance(layer, kv.FocalModulation if name in FOCAL else kv.SelfAttention)
    x = torch.randn(2, 8, *(6 if ndim < 3 else 4,) * ndim)
    y = layer(x)
    y.square().mean().backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_signatures_are_the_peers(ndim: int) -> None:
    conv = ["groups", "padding", "stride", "dilation", "dropout"]
    rope = ["rope_theta", "rope_mixed"]
    first, last = ["input_dim", "inner_projection", "kernel_size"], ["norm_layer", "norm_kwargs"]
    for name, own in (
        ("SelfKAGNtention", ["degree", *conv]),
        ("SelfReLUKANtention", ["g", "k", "train_ab", *conv]),
        ("RoPEBottleNeckSelfKAGNtention", ["degree", *conv, *rope]),
    ):
        assert list(inspect.signature(getattr(tck, f"{name}{ndim}D")).parameters) == [*first, *own, *last]


def test_arguments_reach_the_layer() -> None:
    layer = tck.SelfKAGNtention2D(8, 4, 5, 2, 2, 2, 1, 1, 0.1, nn.InstanceNorm2d, affine=True)
    assert layer.squeeze.out_channels == 4 and layer.query.conv.kernel_size == (5, 5)
    assert layer.query.conv.basis.degree == 2 and layer.query.conv.groups == 2
    assert isinstance(layer.norm, nn.InstanceNorm2d) and layer.norm.affine and layer.query.norm.affine
    axial = tck.RoPEBottleNeckSelfKAGNtention3D(8, padding=1, rope_mixed=False, rope_theta=20.0)
    assert axial.rotary.kind == "axial" and axial.rotary.base == 20.0
    focal = tck.BottleNeckKAGNFocalModulation1D(8, 5, 3, 4, False, False, False, 2)
    assert [f.conv.kernel_size for f in focal.focal] == [(5,), (9,), (13,)] and focal.norm is None
    assert isinstance(focal.split, nn.Conv1d) and focal.focal[0].conv.basis.degree == 2 and not focal.average


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tck.SelfKAGNtention2D(), TypeError, "needs input_dim"),
        (lambda: tck.SelfKAGNtention2D(8)(torch.randn(1, 8, 6, 6)), ValueError, "use stride 1 and padding"),
        (lambda: tck.SelfKAGNtention2D(8, groups=3), ValueError, r"must be divisible by groups \(=3\)"),
        (lambda: tck.KAGNFocalModulation2D(8, focal_window=4), ValueError, "must be odd"),
        (lambda: tck.RoPEBottleNeckSelfKAGNtention2D(7), ValueError, r"channels of a head \(=7\) must be even"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
