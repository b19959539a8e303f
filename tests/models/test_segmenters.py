"""U-Nets and U^2-Nets: sizes, side outputs, maps, gradients, and the parameters of torch-conv-kan's."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.models import Segmenter
from kanvolution.models.attentions import GatedResidual
from kanvolution.models.resnet import Residual
from kanvolution.models.segmenter import DecoderStage, SegmentationHead
from kanvolution.models.u2net import ResidualU
from tests.tolerances import assert_close

TINY_U2 = {"channels": (4, 6, 8), "mid_channels": (2, 3, 4), "last_mid_channels": 2, "depths": (3, 2, 2), "dilated": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("unet", {"width": 4, "depth": 3}),
    "light": ("unet", {"width": 4, "depth": 3, "block": "light", "layers": 1}),
    "bottleneck": ("unet", {"width": 8, "depth": 3, "block": "bottleneck", "layers": 1, "groups": 2}),
    "transpose": ("unet", {"width": 4, "depth": 3, "layers": 1, "upsample": "transpose"}),
    "u2net": ("u2net", TINY_U2),
}
every_case = pytest.mark.parametrize("case", CASES)


def make(case: str, conv: Any = "gram", **options: Any) -> Any:
    name, own = CASES[case]
    return kv.create_model(name, conv, **{"num_classes": 2, "in_chans": 1, **own, **options})


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@every_case
@pytest.mark.parametrize("conv", kv.list_bases())
def test_every_basis(case: str, conv: str) -> None:
    model = make(case, conv)
    model(torch.randn(2, 1, 9, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_case
@pytest.mark.parametrize("structure", [kv.Bottleneck(2, 2), kv.LowRank(2), kv.Separable(), kv.Experts(2, k=1)], ids=str)
def test_every_structure(case: str, structure: Any) -> None:
    model = make(case, kv.ConvSpec("gram", structure=structure))
    (model(torch.randn(2, 1, 9, 8)).square().sum() + kv.collect_losses(model)).backward()
    assert all(p.grad is not None for p in model.parameters())


@every_case
def test_new_head_and_pre_logits(case: str) -> None:
    model, x = make(case, drop_rate=0.1).eval(), torch.randn(2, 1, 12, 9)
    features = model.forward_features(x)
    assert_close(model.forward_head(features), model(x))
    assert torch.equal(model.forward_head(features, pre_logits=True), features[0])
    assert features[0].shape == (2, model.num_features, 12, 9)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7, 12, 9) and kv.create_model(**model.config).num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features[0])


@every_case
def test_config_and_state_make_the_model_again(case: str) -> None:
    spec = kv.ConvSpec("spline", grid_size=3, norm="layer", act="silu")
    model, x = make(case, spec, deep_supervision=True).eval(), torch.randn(1, 1, 9, 9)
    twin = kv.create_model(**json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x), model(x))


@every_case
@pytest.mark.parametrize("size", [(16, 16), (13, 22), (7, 5), (1, 3)])
def test_any_size_gives_logits_of_that_size(case: str, size: tuple[int, int]) -> None:
    model = make(case).eval()
    assert model(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@every_case
def test_a_sample_does_not_depend_on_its_neighbours(case: str) -> None:
    model, x = make(case).eval(), torch.randn(3, 1, 13, 10)
    assert_close(model(x)[1:2], model(x[1:2]))


@every_case
def test_maps_are_as_feature_info_says(case: str) -> None:
    model, x = make(case).eval(), torch.randn(2, 1, 24, 16)
    maps = model.forward_stages(x)
    sizes = [(2, i.channels, 24 // i.reduction, 16 // i.reduction) for i in model.feature_info]
    assert [tuple(m.shape) for m in maps] == sizes
    chosen = make(case, features_only=True, out_indices=(0, -1)).eval()
    chosen.network.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
    for found, expected in zip(chosen(x), (maps[0], maps[-1]), strict=True):
        assert torch.equal(found, expected)
    assert [i.name for i in chosen.feature_info] == ["encoder.0", f"decoder.{len(model.decoder) - 1}"]


@every_case
def test_side_outputs_in_training_only(case: str) -> None:
    model, x = make(case, deep_supervision=True), torch.randn(2, 1, 12, 9)
    outputs = model(x)
    assert isinstance(outputs, list) and len(outputs) == len(model.encoder) + isinstance(model.head.fuse, nn.Conv2d)
    assert all(output.shape == (2, 2, 12, 9) for output in outputs)
    sum(output.square().mean() for output in outputs).backward()
    assert all(p.grad is not None for p in model.parameters())
    # The prediction is the same network's without them.
    alone = make(case)
    alone.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model.eval()(x), alone.eval()(x))
    assert isinstance(alone.train()(x), torch.Tensor)
    model.reset_classifier(3)
    assert model.train()(x)[-1].shape == (2, 3, 12, 9) and model.eval()(x).shape == (2, 3, 12, 9)


@every_case
@pytest.mark.parametrize("deep", [False, True])
def test_checkpointed_gradients_are_equal(case: str, deep: bool) -> None:
    model, x = make(case, deep_supervision=deep).double(), torch.randn(2, 1, 9, 8, dtype=torch.float64)
    frugal = copy.deepcopy(model)
    frugal.set_grad_checkpointing()
    for network in (model, frugal):
        outputs = network(x)
        torch.stack(outputs if deep else [outputs]).square().mean().backward()
    for p, q in zip(model.parameters(), frugal.parameters(), strict=True):
        assert_close(q.grad, p.grad)


@every_case
def test_compile_and_export(case: str) -> None:
    model, x = make(case, deep_supervision=True), torch.randn(2, 1, 11, 14)
    expected = copy.deepcopy(model)(x)
    for found, wanted in zip(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected, strict=True):
        assert_close(found, wanted)
    model.eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    assert_close(program(x[:1]), model(x[:1]))


@pytest.mark.parametrize(
    ("conv", "parameters"),
    [("gram", 1_163_174), ("legendre", 1_163_018), ("chebyshev", 930_418)],
)
def test_unet_has_the_parameters_of_ukanet_18(conv: str, parameters: int) -> None:
    # There the later blocks of a stage have norms without weights, whatever is asked for; so without them all around.
    spec = kv.ConvSpec(conv, norm_options={"affine": False})
    with torch.device("meta"):
        assert count(kv.create_model("unet", spec, num_classes=2, width=8, block="light")) == parameters


@pytest.mark.parametrize(
    ("options", "parameters"), [({}, 2_434_361), ({"depth": 5}, 9_808_713), ({"width": 32}, 9_730_105)]
)
def test_unet_has_the_parameters_of_ukagnet(options: dict[str, int], parameters: int) -> None:
    with torch.device("meta"):
        assert count(kv.create_model("unet", "gram", num_classes=1, **options)) == parameters


@pytest.mark.parametrize(
    ("name", "conv", "parameters"),
    [
        ("u2net", "gram", 13_747_997),
        ("u2net", "legendre", 13_747_549),
        ("u2net", "chebyshev", 11_000_173),
        ("u2net", "spline", 24_737_165),
        ("u2net_small", "gram", 354_109),
        ("u2net_small", "chebyshev", 283_389),
        ("u2net_small", "spline", 634_861),
    ],
)
def test_u2net_has_the_parameters_of_u2kanet(name: str, conv: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(kv.create_model(name, conv, num_classes=1)) == parameters


def test_width_scale_multiplies_all_channels() -> None:
    model = kv.create_model("u2net", nn.Conv2d, num_classes=1, width_scale=2, **TINY_U2)
    assert [i.channels for i in model.feature_info] == [8, 12, 16, 8, 8]
    assert model.encoder[0].down[1].in_channels == 4 and model.decoder[-1].body.down[1].in_channels == 4


def test_a_decoder_stage_resizes_and_joins() -> None:
    x, skip = torch.randn(1, 2, 3, 4), torch.randn(1, 3, 5, 8)
    joined = DecoderStage(nn.Identity())(x, skip)
    assert torch.equal(joined[:, 2:], skip)
    assert torch.equal(joined[:, :2], nn.functional.interpolate(x, (5, 8), mode="bilinear", align_corners=False))
    doubled = DecoderStage(nn.Identity(), nn.Upsample(scale_factor=2))(x, skip)
    assert torch.equal(doubled[:, :2], x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5])


def test_a_fusing_head_is_a_convolution_of_its_side_outputs() -> None:
    head = SegmentationHead((4, 6), 2, kernel_size=3, fuses=True, deep_supervision=True)
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    fused, *sides = head(maps)
    assert torch.equal(fused, head.fuse(torch.cat(sides, dim=1)))
    assert torch.equal(head.eval()(maps), fused)


def test_transposed_upsampling_is_of_the_spec() -> None:
    spec = kv.ConvSpec("chebyshev", degree=2, norm="group", norm_options={"num_groups": 2}, structure=kv.LowRank(1))
    up = make("transpose", spec).decoder[0].upsample
    assert isinstance(up.conv, kv.KANConvTranspose2d) and up.conv.basis.degree == 2
    assert (up.conv.in_channels, up.conv.out_channels, up.norm.num_groups) == (16, 8, 2)
    sited = kv.ConvSpec("rbf", norm_site="functions").transposed(4, 2, 2, stride=2)
    assert sited(torch.randn(2, 4, 3, 3)).shape == (2, 2, 6, 6) and sited.conv.basis.norm.num_features == 4


def test_blocks() -> None:
    light = make("light")
    assert isinstance(light.encoder[1][0], Residual) and [len(stage) for stage in light.encoder] == [2, 1, 2]
    assert [len(stage) for stage in make("plain").encoder] == [2, 2, 2]
    bottleneck = make("bottleneck").encoder[1][0].convs
    assert [block.conv.out_channels for block in bottleneck] == [4, 4, 16] and bottleneck[1].conv.groups == 2
    dilated = ResidualU(nn.Conv2d, nn.Identity(), 2, 4, depth=3, dilated=True)
    assert [layer.dilation[0] for layer in (*dilated.down, *dilated.up)] == [1, 2, 4, 2, 1]


@pytest.mark.parametrize("attention", ["self", "focal"])
def test_attention_begins_the_stages_of_the_decoder(attention: str) -> None:
    unet = make("plain", attention=attention)
    kinds = {"self": kv.SelfAttention, "focal": GatedResidual}
    assert all(isinstance(stage.body[0], kinds[attention]) for stage in unet.decoder)
    assert [stage.body[1].conv.in_channels for stage in unet.decoder] == [24, 12]
    assert unet(torch.randn(1, 1, 12, 9)).shape == (1, 2, 12, 9)
    with pytest.raises(ValueError, match=r"unknown attention 'sel'\. Did you mean 'self'"):
        make("plain", attention="sel")


def test_corners_are_aligned() -> None:
    x, skip = torch.randn(1, 2, 3, 4), torch.randn(1, 3, 6, 8)
    joined = DecoderStage(nn.Identity(), align_corners=True)(x, skip)
    assert_close(joined[:, :2], nn.UpsamplingBilinear2d(scale_factor=2)(x), 1e-6)
    assert all(stage.align_corners for stage in make("plain", align_corners=True).decoder)
    blocks = [m for m in make("u2net", align_corners=True).modules() if isinstance(m, ResidualU)]
    assert len(blocks) == 5 and all(block.align_corners for block in blocks)


def test_the_image_keeps_its_colours() -> None:
    spec = kv.ConvSpec("gram", dropout=0.5)
    unet = make("plain", spec)
    assert unet.encoder[0][0].dropout is None and unet.encoder[0][1].dropout is not None
    u2net = make("u2net", spec)
    assert u2net.encoder[0].entry.dropout is None and u2net.encoder[0].down[0].dropout is not None


def test_they_are_segmenters_and_learn() -> None:
    model = make("plain")
    assert isinstance(model, Segmenter)
    x = torch.randn(8, 1, 16, 16)
    target = (nn.functional.avg_pool2d(x, 3, 1, 1)[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {"depth": 1}, r"depth \(=1\) must be >= 2"),
        ("unet", {"width": 6, "groups": 4}, r"width \(=6\) must be divisible by groups \(=4\)"),
        ("unet", {"block": "basik"}, "Did you mean 'basic'"),
        ("unet", {"block": "bottleneck", "width": 6}, r"divisible by the expansion of block 'bottleneck' \(=4\)"),
        ("unet", {"upsample": "transposed"}, "Did you mean 'transpose'"),
        ("unet", {"conv": nn.Conv2d, "upsample": "transpose"}, "needs a ConvSpec"),
        ("u2net", {"depths": (3, 3)}, "one entry for each of at least 2 levels"),
        ("u2net_small", {"groups": 3}, r"must be divisible by groups \(=3\)"),
        ("u2net_small", {"depths": (1,) * 6}, r"depth \(=1\) must be >= 2"),
        ("unet", {"drop_rate": 1}, r"drop_rate \(=1\) must be in"),
    ],
)
def test_bad_values(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.create_model(name, **options)
