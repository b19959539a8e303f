"""Every registered classifier: the interface that training, export and loading rely on; and the families themselves."""

import copy
import json
import pickle
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import kanvolution as kv
from kanvolution.models import HEADS, MODELS, Classifier, Matryoshka
from kanvolution.models.vgg import plan
from tests.tolerances import assert_close

# Options that make the members of a family small, by the start of their names.
SMALL: dict[str, dict[str, Any]] = {
    "simple": {"width_scale": 1 / 16},
    "vgg": {"width_scale": 1 / 8},
    "resnet": {"width_scale": 1 / 32},
    "densenet": {"width_scale": 1 / 16},
    "kaconvnext": {"channels": (4, 8), "depths": (1, 2), "patch_size": 2},
}
CLASSIFIERS = [name for name in kv.list_models() if name.startswith(tuple(SMALL))]
FEW = ("simple4", "vgg11v2", "resnet18", "resnet50", "densenet_tiny", "kaconvnext_s")
SIZE = 32


def marked(name: str) -> Any:
    return name if name in FEW else pytest.param(name, marks=pytest.mark.slow)


every_model = pytest.mark.parametrize("name", [marked(name) for name in CLASSIFIERS])
DENSE = ["simple4", "vgg11", "resnet18", "densenet_tiny"]  # families whose `conv` mixes channels, from the image on
every_dense_family = pytest.mark.parametrize("name", DENSE)
every_family = pytest.mark.parametrize("name", [*DENSE, "kaconvnext_s"])


def make(name: str, conv: Any = "gram", **options: Any) -> Any:
    small = next(options for start, options in SMALL.items() if name.startswith(start))
    return kv.create_model(name, conv=conv, **{"num_classes": 5, "in_chans": 2, **small, **options})


def images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 2, size, size)


def on_meta(name: str, conv: Any = "gram", **options: Any) -> Any:
    with torch.device("meta"):
        return kv.create_model(name, conv=conv, **options)


def count(name: str, conv: Any = "gram", **options: Any) -> int:
    return sum(p.numel() for p in on_meta(name, conv, **options).parameters())


def test_families_are_complete() -> None:
    assert set(CLASSIFIERS) == {
        *(f"simple{depth}" for depth in (4, 8, 12, 16)),
        *(f"vgg{depth}{version}" for depth in (11, 13, 16, 19) for version in ("", "v2", "v3", "v4")),
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"densenet{kind}" for kind in ("_tiny", "121", "161", "169", "201")),
        *(f"kaconvnext_{size}" for size in "sbl"),
    }


@every_model
def test_forward_and_backward(name: str) -> None:
    model = make(name)
    y = model(images())
    y.square().sum().backward()
    assert y.shape == (2, 5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_family
@pytest.mark.parametrize("conv", kv.list_bases())
def test_every_basis(name: str, conv: str) -> None:
    model = make(name, conv)
    y = model(images())
    y.sum().backward()
    assert y.shape == (2, 5)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@every_family
@pytest.mark.parametrize("structure", [kv.Bottleneck(2, 2), kv.LowRank(2), kv.Separable(), kv.Experts(2, k=1)], ids=str)
def test_every_structure(name: str, structure: Any) -> None:
    model = make(name, kv.ConvSpec("gram", structure=structure))
    (model(images(64)).square().sum() + kv.collect_losses(model)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@every_model
def test_features_head_and_new_head(name: str) -> None:
    model = make(name, drop_rate=0.1).eval()
    x = images()
    features = model.forward_features(x)
    assert features.shape[:2] == (2, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert_close(model.forward_head(features), model(x))
    model.double().reset_classifier(7)
    assert model(x.double()).shape == (2, 7) and model.num_classes == 7
    assert kv.create_model(**model.config).num_classes == 7
    model.float()
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


@every_model
def test_feature_maps_are_as_described(name: str) -> None:
    model, x = make(name, features_only=True).eval(), images(64)
    maps = model(x)
    assert [m.shape[1:] for m in maps] == [
        (info.channels, 64 // info.reduction, 64 // info.reduction) for info in model.feature_info
    ]
    last = make(name, features_only=True, out_indices=(-1,)).eval()
    last.load_state_dict(model.state_dict())
    assert torch.equal(last(x)[0], maps[-1])


@every_model
def test_it_is_copied_and_pickled(name: str) -> None:
    model, x = make(name, head="hidden_kan").eval(), images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        twin.reset_classifier(3)
        assert twin(x).shape == (2, 3) and model.num_classes == 5


@every_model
def test_config_and_state_make_the_model_again(name: str) -> None:
    spec = kv.ConvSpec("spline", grid_size=3, norm="layer", act="silu")
    model = make(name, spec).eval()
    twin = kv.create_model(**json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    x = images()
    assert torch.equal(twin(x), model(x))


# One block a stage shows what there is to trace; tracing all of them takes minutes.
SHALLOW: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": (1, 1), "widths": (64, 128)},
    "resnet50": {"layers": (1, 1), "widths": (64, 128)},
    "densenet_tiny": {"layers": (1, 2)},
}


@pytest.mark.parametrize("name", FEW)
def test_compile_and_export(name: str) -> None:
    model = make(name, **SHALLOW.get(name, {})).eval()
    x = images()
    expected = model(x)
    assert_close(torch.export.export(model, (x,)).module()(x), expected)
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_compile_and_export_at_full_depth(name: str) -> None:
    model = make(name).eval()
    x = images()
    expected = model(x)
    assert_close(torch.export.export(model, (x,)).module()(x), expected)
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)


@every_model
def test_checkpointing_gives_equal_gradients(name: str) -> None:
    model, x = make(name), images()
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad), key


@every_model
def test_an_image_too_small_is_refused(name: str) -> None:
    model = make(name).eval()
    smallest = max(info.reduction for info in model.feature_info)
    assert model(images(smallest)).shape == (2, 5)
    with pytest.raises(ValueError, match=rf"\(={smallest - 1}x64 pixels\) must be at least {smallest}x{smallest}.*enl"):
        model(torch.randn(1, 2, smallest - 1, 64))
    with pytest.raises(ValueError, match=r"must be a batch of images .* x\.unsqueeze\(0\)"):
        model(torch.randn(2, 64, 64))


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("name", "conv", "parameters"),
    [
        ("simple4", "gram", 1_940_346),
        ("simple8", "gram", 22_611_674),
        ("simple4", "spline", 3_489_774),
        ("simple8", "legendre", 22_611_642),
        ("simple8", "chebyshev", 18_091_050),
    ],
)
def test_parameter_counts_of_the_baselines(name: str, conv: str, parameters: int) -> None:
    assert count(name, conv, num_classes=10, in_chans=1) == parameters


@pytest.mark.parametrize(("name", "millions"), [("simple8", 22.66), ("simple12", 61.00), ("simple16", 53.13)])
def test_parameter_counts_of_the_report_on_cifar100(name: str, millions: float) -> None:
    assert round(count(name, num_classes=100) / 1e6, 2) == millions


BOTTLENECK = kv.ConvSpec("gram", degree=5, structure=kv.Bottleneck(8, 16))
INSTANCE = kv.ConvSpec("gram", degree=5, norm="instance")


@pytest.mark.parametrize(
    ("name", "conv", "parameters"),
    [
        ("vgg11v4", BOTTLENECK, 7_252_115),
        ("vgg11v2", INSTANCE, 24_652_420),
        ("vgg11v4", INSTANCE, 41_424_516),
    ],
)
def test_parameter_counts_of_vggs(name: str, conv: kv.ConvSpec, parameters: int) -> None:
    assert count(name, conv, width_scale=2) == parameters


# Counted in torch-conv-kan: affine instance norm, 3 channels, 10 classes, its default widths.
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet18", {"block": "light", "width_scale": 1 / 8}, 444_290),
        ("resnet50", {"width_scale": 1 / 8}, 1_846_982),
        ("resnet101", {"width_scale": 1 / 8}, 3_333_394),
        ("resnet152", {"width_scale": 1 / 8}, 4_557_918),
        ("densenet121", {}, 31_631_518),
        ("densenet161", {}, 120_129_734),
        ("densenet169", {}, 57_746_014),
        ("densenet201", {}, 82_298_078),
        ("densenet_tiny", {"head": "kan"}, 4_521_548 - 10),  # our KAN head has no bias under the layer's norm
    ],
)
def test_parameter_counts_of_residual_and_dense_networks(name: str, options: dict[str, Any], parameters: int) -> None:
    conv = kv.ConvSpec("gram", norm="instance")
    assert count(name, conv, num_classes=10, **options) == parameters


def test_plans_of_vggs() -> None:
    assert plan(11) == ((16,), (32,), (64, 64), (128, 128), (128, 128))
    assert plan(16, "v3") == ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128), (128, 256))
    assert [len(stage) for stage in plan(19, "v4")] == [2, 2, 4, 4, 4, 2] and plan(19, "v4")[-1] == (256, 256)


# --------------------------------------------------------------------------------- plain convolutions


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_with_plain_convolutions_a_resnet_is_torchvisions(name: str) -> None:
    theirs = getattr(torchvision.models, name)(num_classes=7).eval()
    ours = kv.create_model(name, conv="identity", num_classes=7).eval()
    stored = list(theirs.state_dict().values())
    keys = ours.state_dict()
    ours.load_state_dict({key: new.reshape(old.shape) for (key, old), new in zip(keys.items(), stored, strict=True)})
    x = torch.randn(2, 3, 64, 48)
    assert_close(ours(x), theirs(x))


def test_with_plain_convolutions_a_vgg_is_torchvisions() -> None:
    theirs = torchvision.models.vgg11_bn(num_classes=7).features[:-1].eval()
    channels = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    ours = kv.create_model("vgg11", conv=kv.ConvSpec("identity"), channels=channels, num_classes=0).eval()
    stored = [
        value for key, value in theirs.state_dict().items() if not (key.endswith("bias") and _is_conv(theirs, key))
    ]
    keys = ours.state_dict()
    ours.load_state_dict({key: new.reshape(old.shape) for (key, old), new in zip(keys.items(), stored, strict=True)})
    for module in theirs:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    x = torch.randn(1, 3, 16, 32)
    assert_close(ours.forward_features(x), theirs(x))


def _is_conv(model: nn.Module, key: str) -> bool:
    return isinstance(model.get_submodule(key.rpartition(".")[0]), nn.Conv2d)


@every_family
def test_any_factory_with_nn_convs_arguments_is_a_conv(name: str) -> None:
    model = make(name, nn.Conv2d)
    assert model(images()).shape == (2, 5)
    assert model.config["conv"] is None


# ------------------------------------------------------------------------------------------------ parts


@every_dense_family
def test_the_image_keeps_its_colours(name: str) -> None:
    model = make(name, kv.ConvSpec("gram", dropout=0.5))
    first, *others = [m for m in model.modules() if isinstance(m, kv.KANConvNormAct)]
    assert first.dropout is None
    assert any(isinstance(m.dropout, nn.Dropout2d) and m.dropout.p == 0.5 for m in others)


@every_dense_family
def test_groups_everywhere_but_in_the_first_layer(name: str) -> None:
    model = make(name, groups=2, width_scale=1 / 8)
    convs = [m for m in model.modules() if isinstance(m, kv.KANConv2d) and m.kernel_size != (1, 1)]
    assert convs[0].groups == 1 and all(conv.groups == 2 for conv in convs[1:])


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "densenet_tiny"])
def test_convs_of_single_stages(name: str) -> None:
    stages = len(make(name).stages)
    experts = kv.ConvSpec("gram", norm="layer", structure=kv.Experts(3, k=2))
    model = make(name, "chebyshev", stage_convs=[None] * (stages - 1) + [experts])
    bases = [{m.basis.name for m in stage.modules() if isinstance(m, kv.KANConv2d)} for stage in model.stages]
    assert bases == [{"chebyshev"}] * (stages - 1) + [{"gram"}]
    mixtures = [sum(isinstance(m, kv.MixtureOfExperts) for m in stage.modules()) for stage in model.stages]
    assert mixtures[:-1] == [0] * (stages - 1) and mixtures[-1] > 0
    model(images())
    assert kv.collect_losses(model) > 0
    twin = kv.create_model(**json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.eval().state_dict())
    x = images()
    assert torch.equal(twin(x), model(x))
    with pytest.raises(ValueError, match=rf"stage_convs \(length 1\) must have one entry for each of {stages}"):
        make(name, stage_convs=[None])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["simple4", "vgg11"])
def test_every_head(name: str, head: str) -> None:
    width = {"head_width": 6} if HEADS[head].hidden else {}
    model = make(name, "legendre", head=head, drop_rate=0.1, **width)
    y = model(images())
    y.sum().backward()
    assert y.shape == (2, 5) and all(p.grad is not None for p in model.parameters())
    kinds = [type(m) for m in model.head.modules()]
    assert (kv.KANLinear in kinds) == ("kan" in head) and (Matryoshka in kinds) == ("matryoshka" in head)
    assert all(m.basis.name == "legendre" for m in model.head.modules() if isinstance(m, kv.KANLinear))
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3) and [type(m) for m in model.head.modules()] == kinds


def test_matryoshka_learns_the_mean_loss_of_its_widths() -> None:
    head, x = Matryoshka(16, 3), torch.randn(1, 16)
    losses = head.nested(x).square().sum((1, 2))
    assert head.widths == (1, 2, 4, 8, 16)
    drawn = torch.stack([head(x).square().sum() for _ in range(2000)])
    assert all((losses - value).abs().min() < 1e-5 for value in drawn)
    assert_close(drawn.mean(), losses.mean(), 0.1)
    assert_close(head.eval()(x), head.nested(x)[-1])
    with pytest.raises(ValueError, match=r"widths \(=\[4, 8\]\) must increase and end with in_features \(=16\)"):
        Matryoshka(16, 3, [4, 8])


def test_pooling_to_a_larger_map() -> None:
    model = make("vgg11", pool_size=3)
    assert model.head.in_features == 9 * model.num_features
    assert model(images(64)).shape == (2, 5)


@pytest.mark.parametrize(("attention", "kind"), [("self", kv.SelfAttention), ("focal", kv.FocalModulation)])
def test_attention_in_late_stages(attention: str, kind: type[nn.Module]) -> None:
    plain = make("vgg11").eval()
    model = make("vgg11", attention=attention).eval()
    assert [sum(isinstance(m, kind) for m in stage.modules()) for stage in model.stages] == [0, 0, 0, 1, 1]
    # The gain of what attention adds starts at zero; self-attention has a norm on top.
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unexpected
    x = images()
    if attention == "focal":
        assert_close(model(x), plain(x))
    for p in model.parameters():
        if p.shape == (1,):
            nn.init.ones_(p)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    early = make("vgg11", attention=attention, attention_stages=(0,))
    assert [sum(isinstance(m, kind) for m in stage.modules()) for stage in early.stages] == [1, 0, 0, 0, 0]


def test_residual_blocks_start_as_their_shortcuts() -> None:
    model, x = make("resnet18").eval(), torch.randn(2, 2, 4, 4)
    block = model.stages[0][1]
    assert_close(block(x), torch.nn.functional.silu(x))
    other = make("resnet18", zero_init_last=False).eval().stages[0][1]
    assert (other(x) - torch.nn.functional.silu(x)).abs().max() > 0.1


def test_widths_of_the_stem_and_inside_of_blocks() -> None:
    model = make("resnet50", stem_width=32, inner_scale=2, width_scale=1 / 16)
    first = model.stages[0][0]
    assert first.shortcut.conv.in_channels == 2  # 32 / 16
    assert [conv.conv.out_channels for conv in first.convs] == [8, 8, 16]


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_stem_for_small_images(name: str) -> None:
    model = make(name, stem_kernel=3, stem_stride=1, stem_pool=False, features_only=True)
    assert [info.reduction for info in model.feature_info] == [1, 2, 4, 8]
    assert model(images(8))[-1].shape[2:] == (1, 1)


# ------------------------------------------------------------------------------------------------ registry


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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simpel4", {}, r"unknown model 'simpel4'\. Did you mean 'simple4'"),
        ("vgg12", {}, r"unknown model 'vgg12'\. Did you mean 'vgg1"),
        ("simple4", {"chanels": (1,)}, "Did you mean 'channels'"),
        ("simple4", {"num_classes": -1}, r"num_classes \(=-1\) must be >= 0"),
        ("simple4", {"channels": (4, 4)}, "one entry a layer"),
        ("simple4", {"conv": kv.ConvSpec("gram", ndim=1)}, "must have ndim=2"),
        ("simple4", {"drop_rate": 1}, r"drop_rate \(=1\) must be in"),
        ("simple4", {"width_scale": 0}, r"width_scale \(=0\) must be > 0"),
        ("simple4", {"head": "linera"}, "unknown head 'linera'. Did you mean 'linear'"),
        ("simple4", {"head": "kan", "conv": nn.Conv2d}, "takes its basis from conv"),
        ("simple4", {"head_width": 3}, r"head_width \(=3\) needs a head with hidden layers"),
        ("vgg11", {"attention": "slef"}, "unknown attention 'slef'. Did you mean 'self'"),
        (
            "vgg11",
            {"attention": "self", "attention_stages": (5,)},
            r"attention_stages \(=\[5\]\) must be between -5 and 4",
        ),
        ("vgg11", {"channels": ((4,), ())}, "none empty"),
        ("vgg11", {"pool_size": 0}, r"pool_size \(=0\) must be >= 1"),
        ("resnet18", {"block": "bottelneck"}, "Did you mean 'bottleneck'"),
        ("resnet18", {"layers": (2, 2)}, "one entry >= 1 a stage"),
        ("resnet18", {"stem_kernel": 4}, r"stem_kernel \(=4\) must be odd"),
        ("resnet18", {"groups": 48}, r"in_channels \(=64\) must be divisible by groups \(=48\)"),
        ("densenet121", {"layers": (1, 0)}, "one entry >= 1 a block"),
        ("densenet121", {"growth": 0}, r"growth \(=0\) must be >= 1"),
    ],
)
def test_bad_names_and_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.create_model(name, **options)


def test_a_conv_must_be_one() -> None:
    with pytest.raises(TypeError, match="must be the name of a basis"):
        kv.create_model("simple4", conv=3)


def test_a_classifier_is_described_by_its_last_stage() -> None:
    model = on_meta("resnet50", num_classes=10)
    assert isinstance(model, Classifier)
    assert model.num_features == 2048 and model.feature_info[-1].reduction == 32
