"""Every registered model with every basis: the interface that training, export and loading rely on."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.models import MODELS, Segmenter
from tests.tolerances import assert_close

SMALL: dict[str, dict[str, Any]] = {
    "simple4": {"channels": (4, 4, 8, 8)},
    "simple8": {"channels": (4,) * 8},
    "u2net": {"channels": (4, 4), "mid_channels": (2, 2), "last_mid_channels": 2, "depths": (3, 2), "dilated": 1},
    "u2net_small": {"channels": (2, 2), "mid_channels": (2, 2), "last_mid_channels": 2, "depths": (2, 3), "dilated": 0},
    "unet": {"width": 4, "depth": 2, "layers": 1},
    **{f"kaconvnext_{size}": {"channels": (4, 8), "depths": (1, 2), "patch_size": 2} for size in "sbl"},
}
every_model = pytest.mark.parametrize("name", kv.list_models())


def make(name: str, conv: Any = "gram", **options: Any) -> nn.Module:
    return kv.create_model(name, conv=conv, **{"num_classes": 5, "in_chans": 2, **SMALL[name], **options})


def space(model: nn.Module, x: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of space of an output: those of the image for segmentation, none for classification."""
    return tuple(x.shape[2:]) if isinstance(model, Segmenter) else ()


@every_model
@pytest.mark.parametrize("conv", kv.list_bases())
def test_forward_backward_with_every_basis(name: str, conv: str) -> None:
    model = make(name, conv)
    x = torch.randn(2, 2, 16, 16)
    y = model(x)
    y.sum().backward()
    assert y.shape == (2, 5, *space(model, x))
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@every_model
def test_features_head_and_new_head(name: str) -> None:
    model = make(name, drop_rate=0.1).eval()
    x = torch.randn(2, 2, 16, 16)
    features = model.forward_features(x)
    first = features[0] if isinstance(features, list) else features
    assert first.shape[:2] == (2, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features, *space(model, x))
    assert_close(model.forward_head(features), model(x))
    model.double().reset_classifier(7)
    assert model(x.double()).shape == (2, 7, *space(model, x)) and model.num_classes == 7
    assert kv.create_model(**model.config).num_classes == 7
    model.float()
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features, *space(model, x))


@every_model
def test_config_rebuilds_the_model(name: str) -> None:
    spec = kv.ConvSpec("spline", grid_size=3, norm="group", norm_options={"num_groups": 2}, act="silu")
    model = make(name, spec).eval()
    config = json.loads(json.dumps(model.config))
    twin = kv.create_model(**config).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(twin(x), model(x))


@every_model
def test_compile_and_export(name: str) -> None:
    model = make(name).eval()
    x = torch.randn(2, 2, 16, 16)
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("name", "conv", "count"),
    [
        ("simple4", "gram", 1_940_346),
        ("simple8", "gram", 22_611_674),
        ("simple4", "spline", 3_489_774),
        ("simple8", "legendre", 22_611_642),
        ("simple8", "chebyshev", 18_091_050),
    ],
)
def test_parameter_counts_are_the_peers(name: str, conv: str, count: int) -> None:
    with torch.device("meta"):
        model = kv.create_model(name, conv=conv, num_classes=10, in_chans=1)
    assert sum(p.numel() for p in model.parameters()) == count


def test_any_factory_with_nn_convs_arguments_is_a_conv() -> None:
    model = kv.create_model("simple4", conv=nn.Conv2d, num_classes=3, in_chans=1, channels=(2, 2, 2, 2))
    assert model(torch.randn(1, 1, 8, 8)).shape == (1, 3)
    assert model.config["conv"] is None


def test_a_model_of_ones_own() -> None:
    @kv.register_model("tiny_test_model")
    def tiny(conv: Any, num_classes: int, in_chans: int, width: int = 4) -> nn.Module:
        return nn.Sequential(conv(in_chans, width, 3), nn.Flatten(), nn.LazyLinear(num_classes))

    try:
        model = kv.create_model("tiny_test_model", conv="rbf", num_classes=2, in_chans=1, width=6)
        assert model(torch.randn(1, 1, 5, 5)).shape == (1, 2)
        assert "tiny_test_model" in kv.list_models("tiny*")
        with pytest.raises(ValueError, match="already registered"):
            kv.register_model("tiny_test_model")(tiny)
    finally:
        MODELS.unregister("tiny_test_model")


def test_bad_names_and_options() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'simpel4'\. Did you mean 'simple4'"):
        kv.create_model("simpel4")
    with pytest.raises(ValueError, match="Did you mean 'channels'"):
        kv.create_model("simple4", chanels=(1,))
    with pytest.raises(ValueError, match=r"num_classes \(=-1\) must be >= 0"):
        kv.create_model("simple4", num_classes=-1)
    with pytest.raises(ValueError, match="one entry a layer"):
        kv.create_model("simple4", channels=(4, 4))
    with pytest.raises(ValueError, match="must have ndim=2"):
        kv.create_model("simple4", conv=kv.ConvSpec("gram", ndim=1))
    with pytest.raises(TypeError, match="must be the name of a basis"):
        kv.create_model("simple4", conv=3)
    with pytest.raises(ValueError, match=r"drop_rate \(=1\) must be in"):
        kv.create_model("simple4", drop_rate=1)
