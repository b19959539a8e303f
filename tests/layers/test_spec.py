"""ConvSpec: the serialisable conv factory."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.layers import resolve_conv
from kanvolution.layers.parts import ACTIVATIONS, NORMS


@pytest.mark.parametrize("norm", [*NORMS, None])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_norm_in_every_dimension(norm: str | None, ndim: int) -> None:
    block = kv.ConvSpec("chebyshev", ndim=ndim, norm=norm, norm_options={"num_groups": 2} if norm == "group" else {})(
        4, 6, 3, padding=1
    )
    y = block(torch.randn(2, 4, *(6,) * ndim))
    assert y.shape == (2, 6, *(6,) * ndim)
    assert (block.conv.bias is None) == (norm is not None)


@pytest.mark.parametrize("act", [*ACTIVATIONS, None, "auto"])
def test_every_activation(act: str | None) -> None:
    block = kv.ConvSpec("spline", act=act)(4, 6, 3)
    expected = nn.PReLU if act == "auto" else type(None) if act is None else type(ACTIVATIONS[act]())
    assert type(block.act) is expected


def test_json_round_trip_equality_and_hash() -> None:
    spec = kv.ConvSpec("spline", grid_range=(-1, 1), norm="group", norm_options={"num_groups": 4}, dropout=0.1)
    again = kv.ConvSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and hash(again) == hash(spec)
    assert again != kv.ConvSpec("spline")
    with pytest.raises(AttributeError):
        spec.basis = "gram"


def test_arguments_reach_the_layer() -> None:
    block = kv.ConvSpec("gram", degree=2)(4, 8, (3, 5), 2, (1, 2), 1, 2, True, "circular", None, torch.float64)
    conv = block.conv
    assert conv.kernel_size == (3, 5) and conv.stride == (2, 2) and conv.padding == (1, 2) and conv.groups == 2
    assert conv.bias is not None and conv.padding_mode == "circular" and conv.basis.degree == 2
    assert all(p.dtype == torch.float64 for p in block.parameters())


def test_resolve_conv() -> None:
    spec = kv.ConvSpec("rbf")
    assert resolve_conv("rbf") == spec and resolve_conv(spec.to_dict()) == spec and resolve_conv(spec) is spec
    assert resolve_conv(nn.Conv2d) is nn.Conv2d


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"basis": "splin"}, "Did you mean 'spline'"),
        ({"norm": "bach"}, "Did you mean 'batch'"),
        ({"act": "sillu"}, "Did you mean 'silu'"),
        ({"dropout": 1.0}, r"dropout \(=1.0\) must be in \[0, 1\)"),
        ({"dropout_site": "ful"}, "Did you mean 'full'"),
        ({"norm_site": "input"}, "unknown norm_site 'input'"),
        ({"ndim": 4}, r"ndim \(=4\) must be 1, 2 or 3"),
        ({"degre": 3}, "Did you mean 'degree'"),
        ({"degree": -1}, r"degree \(=-1\) must be >= 0"),
        ({"norm_options": {"epz": 1}}, "do not fit norm 'batch'.*epz"),
        ({"norm": None, "norm_options": {"eps": 1}}, "need a norm"),
        ({"norm": None, "norm_site": "functions"}, "need a norm"),
    ],
)
def test_bad_values_fail_when_the_spec_is_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.ConvSpec(**arguments)


def test_a_spec_is_changed_by_replace() -> None:
    spec = kv.ConvSpec("spline", grid_size=3, structure=kv.LowRank(2))
    assert dataclasses.replace(spec, norm="group") == kv.ConvSpec(
        "spline", grid_size=3, structure=kv.LowRank(2), norm="group"
    )


@pytest.mark.parametrize("structure", ["bottleneck", kv.Bottleneck])
def test_a_structure_is_a_structure(structure: Any) -> None:
    with pytest.raises(TypeError, match="must be a Structure"):
        kv.ConvSpec(structure=structure)
    with pytest.raises(TypeError, match=r"inner \(=.* must be a Structure"):
        kv.Bottleneck(inner=structure)


def test_dropout_that_could_act_on_nothing_is_refused() -> None:
    for site in ("poly", "degree"):
        with pytest.raises(ValueError, match="Conv2d has no functions"):
            kv.KANConvNormAct(nn.Conv2d(3, 4, 3), dropout=nn.Dropout(0.9), dropout_site=site)


def test_unknown_entry_of_a_dictionary() -> None:
    with pytest.raises(ValueError, match="Did you mean 'options'"):
        kv.ConvSpec.from_dict({"basis": "gram", "option": {}})
