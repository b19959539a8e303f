"""`convert`: which convolutions are replaced, that init="preserve" computes the same, and what the report says."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import kanvolution as kv
from kanvolution.layers import KANConvNormAct
from kanvolution.layers.layer import KANLayer
from kanvolution.layers.structures import BottleneckConv
from kanvolution.models.conversion import SamePadding
from tests.tolerances import assert_close

TIMM = (
    "resnet18",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnetx_002",
    "tf_mobilenetv3_small_minimal_100",  # pads by the size of its input
    "mixnet_s",
)
TORCHVISION = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")


def with_statistics(model: nn.Module, size: int) -> nn.Module:
    """Norms with random affine maps and the statistics of random images; evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0, 0.3)
            norm.momentum = 1.0
        model.train()(torch.randn(8, 3, size, size))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def assert_preserved(model: nn.Module, conv: Any, x: torch.Tensor, **options: Any) -> nn.Module:
    """The converted model computes what `model` did, and every new function gets a gradient."""
    with torch.no_grad():
        before = model(x)
        assert (before[0] - before[1]).abs().max() > 1e-3 * before.abs().max()  # the image matters
    count = sum(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in model.modules())
    model = kv.convert(model, conv, init="preserve", **options)
    report = model.conversion
    assert len(report.replaced) == count and not report.skipped
    after = model(x)
    assert_close(after, before, 1e-5)
    (after - torch.randn_like(after)).square().mean().backward()
    layers = [m for m in model.modules() if isinstance(m, KANLayer)]
    assert len(layers) == count
    for layer in layers:
        assert layer.weight.grad is not None
        functions = layer.weight.grad.unflatten(1, (-1, layer.basis.size))[:, :, 1:]
        assert functions.abs().sum() > 0
    return model


@pytest.mark.parametrize("name", TIMM)
def test_preserve_timm(name: str) -> None:
    model = with_statistics(timm.create_model(name, num_classes=10), 48)
    assert_preserved(model, "chebyshev", torch.randn(2, 3, 48, 48), degree=2)


@pytest.mark.parametrize("name", TORCHVISION)
def test_preserve_torchvision(name: str) -> None:
    model = with_statistics(torchvision.models.get_model(name, num_classes=10), 64)
    assert_preserved(model, "rbf", torch.randn(2, 3, 64, 64), grid_size=2)


@pytest.mark.parametrize("basis", kv.list_bases())
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_preserve_every_basis_and_dimension(basis: str, ndim: int) -> None:
    if basis == "own_powers":
        pytest.skip("its base function is fixed")
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[ndim - 1]
    model = nn.Sequential(
        conv(4, 6, 3, padding=1, stride=2), norm(6), nn.ReLU(), conv(6, 6, 3, groups=6, padding="same"), conv(6, 4, 1)
    ).eval()
    x = torch.randn(2, 4, *(7,) * ndim)
    before = model(x)
    model = kv.convert(model, basis, init="preserve")
    assert len(model.conversion.replaced) == 3 and not any(isinstance(m, conv) for m in model.modules())
    assert_close(model(x), before, 1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": (3, 1), "padding": (1, 0), "dilation": (2, 1)},
        {"kernel_size": (3, 5), "padding": "same"},
        {"kernel_size": 3, "padding": "valid", "bias": False},
        *({"kernel_size": 3, "padding": (2, 1), "padding_mode": m} for m in ("reflect", "replicate", "circular")),
        {"kernel_size": 3, "groups": 4, "stride": (2, 1)},
        {"kernel_size": 3, "groups": 2, "dtype": torch.float64},
    ],
    ids=str,
)
def test_arguments_are_kept(arguments: dict[str, Any]) -> None:
    old = nn.Conv2d(4, 8, **arguments).eval()
    new = kv.convert(old, "gram", init="preserve")
    assert isinstance(new, kv.KANConv2d)
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "training"):
        assert getattr(new, name) == getattr(old, name), name
    assert (new.bias is None) == (old.bias is None) and new.weight.dtype == old.weight.dtype
    x = torch.randn(2, 4, 9, 8, dtype=old.weight.dtype)
    assert_close(new(x), old(x), 1e-5)
    fresh = kv.convert(nn.Conv2d(4, 8, **arguments), "gram")
    assert fresh(x).shape == old(x).shape and fresh.basis.base == "silu" and fresh.training


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(ndim: int, groups: int) -> None:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[ndim - 1]
    old = kind(4, 6, 3, stride=2, padding=1, output_padding=1, groups=groups)
    new = kv.convert(old, "legendre", init="preserve")
    x = torch.randn(2, 4, *(5,) * ndim)
    assert_close(new(x), old(x), 1e-5)
    assert kv.convert(old, kv.ConvSpec("gram", ndim=1))(x).shape == old(x).shape


@pytest.mark.parametrize(
    "structure",
    [kv.LowRank(1), kv.LowRank(3, shared=True), kv.Bottleneck(2, 2), kv.Bottleneck(2, 2, inner=kv.LowRank(2))],
    ids=str,
)
def test_preserve_with_structures_and_dropout(structure: Any) -> None:
    spec = kv.ConvSpec("gram", norm=None, act=None, structure=structure, dropout=0.2)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, bias=False)).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    model = kv.convert(model, spec, init="preserve")
    assert_close(model(x), before, 1e-5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # the functions of a bottleneck move in the second step
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "beta" not in n)
    if structure == kv.LowRank(1):
        assert model.conversion.replaced[0].flops[1] == model.conversion.replaced[0].flops[0]


def test_a_converted_resnet_trains() -> None:
    model = kv.convert(torchvision.models.resnet18(num_classes=4), "gram", init="preserve", degree=2)
    x, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model.layer1[0].conv1.weight.unflatten(1, (64, 4))[:, :, 1:].abs().sum() > 0


def replaced(where: Any) -> list[str]:
    model = kv.convert(torchvision.models.resnet18(), "identity", where=where)
    names = [name for layer in model.conversion.replaced for name in layer.names]
    assert names == [name for name, module in model.named_modules() if isinstance(module, kv.KANConv2d)]
    return names


def test_where() -> None:
    everything = replaced(None)
    assert len(everything) == 20
    first = [f"layer1.{i}.conv{j}" for i in (0, 1) for j in (1, 2)]
    assert replaced("layer1") == replaced("layer1.*") == replaced(["layer1.?.conv1", "layer1.?.conv2"]) == first
    assert replaced("*.downsample") == [f"layer{i}.0.downsample.0" for i in (2, 3, 4)]
    assert replaced(["conv1", "layer1"]) == ["conv1", *first]
    assert replaced(nn.Conv2d) == everything
    assert replaced(torchvision.models.resnet.BasicBlock) == everything[1:]
    assert replaced(lambda name, conv: conv.kernel_size == (7, 7)) == ["conv1"]
    assert replaced((nn.Conv2d, lambda name, conv: name == "conv1")) == everything


def test_where_chooses_nothing() -> None:
    model = torchvision.models.resnet18()
    before = {name: type(module) for name, module in model.named_modules()}
    for where, message in (
        ("layr1.0.conv1", r"chooses none of the 20 convolutions. The nearest names: layer1.0.conv1, "),
        (["layer1", "layer9"], r"where \(='layer9'\).*The nearest names: layer"),
        (nn.Conv3d, r"chooses none of the 20 convolutions. Types .*: BasicBlock, Conv2d, Sequential"),
        (lambda name, conv: False, r"Their names: conv1, layer1.0.conv1"),
    ):
        with pytest.raises(ValueError, match=message):
            kv.convert(model, where=where)
    with pytest.raises(TypeError, match=r"where \(=3\) must be a pattern"):
        kv.convert(model, where=3)
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_a_conv_spec_and_a_factory() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, padding_mode="reflect", padding=1))

    spec = kv.ConvSpec("spline", norm="instance", act="silu", grid_size=3, ndim=1)
    for conv in (spec, spec.to_dict()):
        first = kv.convert(network(), conv)[0]
        assert isinstance(first, KANConvNormAct) and isinstance(first.norm, nn.InstanceNorm2d)
        assert first.conv.basis.grid_size == 3 and first.conv.bias is not None
    x = torch.randn(1, 3, 9, 9)
    factory = partial(kv.KANConv2d, basis="rbf", base="identity")
    plain = network()
    assert_close(kv.convert(plain, factory, init="preserve")(x), plain(x))
    assert type(kv.convert(network(), nn.Conv2d)[1]) is nn.Conv2d
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3))
    report = kv.convert(mixed, factory).conversion
    assert [layer.reason for layer in report.layers] == [
        "",
        "a conv factory makes no transposed convolutions; pass a basis or a ConvSpec",
    ]


class Scaled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Initialised(nn.Conv2d):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


def test_what_is_left_and_why() -> None:
    tied = nn.Conv2d(4, 4, 1)
    twin = nn.Conv2d(4, 4, 1)
    twin.weight = tied.weight
    hooked = nn.Conv2d(4, 4, 1)
    hooked.register_forward_hook(lambda *_: None)
    layers = {
        "plain": Initialised(4, 4, 1),
        "scaled": Scaled(4, 4, 1),
        "standardised": timm.layers.StdConv2d(4, 4, 1),
        "normed": parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        "hooked": hooked,
        "tied": tied,
        "twin": twin,
        "lazy": nn.LazyConv2d(4, 1),
        "kan": kv.ConvSpec("gram", structure=kv.Bottleneck())(4, 4, 1),
    }
    model = kv.convert(nn.ModuleDict(layers), "gram")
    reasons = {layer.names[0]: layer.reason for layer in model.conversion.layers}
    assert reasons.pop("plain") == "" and isinstance(model["plain"], kv.KANConv2d)
    assert reasons.pop("scaled") == "Scaled computes something else than Conv2d"
    assert reasons.pop("standardised") == "StdConv2d computes something else than Conv2d"
    assert reasons.pop("normed") == "its weight is parametrized"
    assert reasons.pop("hooked").startswith("it has forward hooks")
    assert reasons.pop("tied") == reasons.pop("twin") == "its weight belongs to another module, too"
    assert reasons.pop("lazy") == "it has no shape before the first forward"
    assert set(reasons.values()) == {"it is part of a Kolmogorov-Arnold layer"} and len(reasons) == 3
    assert "left: Scaled computes something else" in str(model.conversion)
    with pytest.raises(ValueError, match=r"none of the 1 chosen convolutions can be replaced. scaled: Scaled computes"):
        kv.convert(model, "gram", where="scaled")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [(9, 3, 2, 1), (8, 5, 3, 1), (7, 2, 1, 1), (8, 3, 2, 2)]
)
def test_padding_by_the_size_of_the_input(size: int, kernel: int, stride: int, dilation: int) -> None:
    old = timm.layers.create_conv2d(3, 4, kernel, stride=stride, dilation=dilation, padding="same", bias=True)
    assert type(old).__name__ == "Conv2dSame"
    model = nn.Sequential(old)
    x = torch.randn(2, 3, size, size + 1)
    before = model(x)
    model = kv.convert(model, "chebyshev", init="preserve")
    assert [type(module) for module in model[0]] == [SamePadding, kv.KANConv2d]
    assert_close(model(x), before, 1e-5)


def test_a_shared_module_is_replaced_once() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    x = torch.randn(1, 4, 8, 8)
    before = model(x)
    model = kv.convert(model, "gram", where="2", init="preserve")
    assert model[0] is model[2][0] and isinstance(model[0], kv.KANConv2d)
    assert [layer.names for layer in model.conversion.layers] == [("0", "2.0")]
    assert_close(model(x), before)


def test_flags_of_gradients_and_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False)
    model[1].eval()
    model = kv.convert(model, "gram", example=torch.randn(1, 3, 9, 9))
    assert [p.requires_grad for p in model[0].parameters()] == [False] * 3
    assert all(p.requires_grad for p in model[1].parameters())
    assert [module.training for module in model] == [True, False] and model.training


def test_the_report_counts_parameters_and_flops() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(288, 2))
    model = kv.convert(model, "chebyshev", where=["0", "1"], degree=3, example=torch.randn(2, 3, 8, 8))
    report = model.conversion
    first, second = report.layers
    assert first.before == "Conv2d 3 -> 8, 3x3" and second.before == "Conv2d 8 -> 8, 3x3, groups 8"
    assert first.after == "KANConv2d chebyshev, K = 4"
    assert first.parameters == (3 * 8 * 9 + 8, 4 * 3 * 8 * 9 + 8)
    assert first.flops == (2 * 3 * 8 * 9, 2 * 4 * 3 * 8 * 9) and second.flops == (2 * 8 * 9, 2 * 4 * 8 * 9)
    linear = 288 * 2 + 2
    assert report.parameters == tuple(a + b + linear for a, b in zip(first.parameters, second.parameters, strict=True))
    expected = tuple(2 * (64 * a + 36 * b + 2 * 288 * 2) for a, b in zip(first.flops, second.flops, strict=True))
    assert report.flops == expected
    text = str(report)
    assert (
        "224 -> 872 (x 3.89)" in text and "2 replaced, 0 left; parameters" in text and f"FLOPs {expected[0]:,}" in text
    )
    assert kv.convert(nn.Conv2d(3, 8, 3), "gram").conversion.flops is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: kv.convert(m, "grm"), ValueError, "Did you mean 'gram'"),
        (lambda m: kv.convert(m, "gram", degre=2), ValueError, "Did you mean 'degree'"),
        (
            lambda m: kv.convert(m, "gram", init="preserv"),
            ValueError,
            "unknown init 'preserv'. Did you mean 'preserve'",
        ),
        (lambda m: kv.convert(m, kv.ConvSpec("gram"), degree=2), ValueError, "go into conv"),
        (lambda m: kv.convert(m, kv.ConvSpec("gram"), init="preserve"), ValueError, "must have none; pass ConvSpec"),
        (lambda m: kv.convert(m, "gram", init="preserve", base="silu"), ValueError, "must be 'identity' with"),
        (lambda m: kv.convert(m, "own_powers", init="preserve"), ValueError, "is 'silu', and must be the identity"),
        (lambda m: kv.convert(m, nn.Conv2d, init="preserve"), ValueError, "cannot make a Conv2d compute the old"),
        (
            lambda m: kv.convert(
                m, kv.ConvSpec("gram", norm=None, act=None, structure=kv.Separable()), init="preserve"
            ),
            ValueError,
            r"0 \(Conv2d 3 -> 4, 3x3\): init='preserve' cannot make a Sequential compute",
        ),
        (lambda m: kv.convert(m, lambda *a, **k: 3), TypeError, "conv made 3, which is no module"),
        (lambda m: kv.convert(m, 3), TypeError, r"conv \(=3\) must be the name of a basis"),
        (lambda m: kv.convert("resnet18"), TypeError, r"model \(='resnet18'\) must be a torch.nn.Module"),
        (lambda m: kv.convert(nn.Linear(2, 2)), ValueError, r"the model \(Linear\) has no nn.Conv1d"),
    ],
)
def test_bad_values_change_nothing(call: Any, error: type[Exception], message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    before = list(model)
    with pytest.raises(error, match=message):
        call(model)
    assert list(model) == before


def test_a_bottleneck_without_base_function_cannot_become_plain() -> None:
    block = kv.ConvSpec("chebyshev", norm=None, act=None, structure=kv.Bottleneck())(4, 4, 1)
    assert isinstance(block.conv, BottleneckConv)
    with pytest.raises(ValueError, match="is None, and must be the identity"):
        block.become_plain(torch.zeros(4, 4, 1, 1))
    with pytest.raises(ValueError, match="norm or an activation is part"):
        kv.ConvSpec("gram")(4, 4, 1).become_plain(torch.zeros(4, 4, 1, 1))
    with pytest.raises(
        ValueError, match=r"weight \(shape \(4, 4\), without a bias\) must have shape \(4, 4, 1, 1\), with"
    ):
        kv.KANConv2d(4, 4, 1, basis="legendre").become_plain(torch.zeros(4, 4))
