"""What a network is made of: rows, sizes, operations."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kanvolution as kv
from kanvolution.cli import main
from kanvolution.models import describe, summarize


def test_plain_twin_counts_as_pytorch_counts() -> None:
    model = kv.create_model("resnet18", conv=nn.Conv2d, num_classes=7, width_scale=1 / 8).eval()
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    found = summarize(model, x.shape)
    assert found.flops == counter.get_total_flops() == sum(layer.flops for layer in found.layers)
    assert found.parameters == sum(p.numel() for p in model.parameters()) == sum(r.parameters for r in found.layers)


@pytest.mark.parametrize("structure", [None, kv.Bottleneck(2, 2), kv.LowRank(2)], ids=str)
def test_rows_add_up(structure: Any) -> None:
    conv = kv.ConvSpec("gram", structure=structure)
    model = kv.create_model("vgg11", conv=conv, num_classes=7, width_scale=1 / 4, attention="self")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = summarize(model, (1, 3, 32, 32))
    assert found.flops == sum(layer.flops for layer in found.layers)
    assert found.parameters == sum(p.numel() for p in model.parameters()) == sum(r.parameters for r in found.layers)
    assert [row.name for row in found.layers][:3] == ["stages.0.0", "stages.1.0", "stages.1.1"]
    assert found.layers[0].shape == (1, 4, 32, 32) and found.layers[-1].shape == (1, 7)
    # The network itself is not touched.
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    meta = describe(lambda: kv.create_model(**{**model.config}), (1, 3, 32, 32))
    assert meta == found


def test_a_layer_counts_as_its_convolution() -> None:
    found = summarize(kv.ConvSpec("gram", degree=3, act="relu")(4, 8, 3, stride=2, padding=1), (2, 4, 8, 6))
    (layer,) = found.layers
    assert layer.kind == "KANConv2d gram 3 /2, BatchNorm2d, ReLU" and layer.shape == (2, 8, 4, 3)
    assert layer.flops == 2 * (2 * 8 * 4 * 3) * (4 * 5 * 9)


def test_models_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vgg11v4*", "--size", "64"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["vgg11v4_gram_bottleneck.imagenet1k"][1] == "7,252,115"
    assert rows["vgg11v4_gram_bottleneck.imagenet1k"][3:] == ["68.50", "88.46"]
    assert len(rows["vgg11v4"]) == 3 and "vgg11v2" not in rows
    assert main(["models", "vgg12"]) == 2
    assert "Did you mean 'vgg1" in capsys.readouterr().err


def test_info_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["conv=gram", "conv.degree=5", "conv.structure=bottleneck", "conv.structure.reduction=8"]
    assert main(["info", "vgg11v4", *options, "width_scale=2", "--size", "32x64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "MFLOPs"]
    assert "stages.0.0" in lines[1] and "32x32x64" in lines[1]
    assert lines[-1].split()[:2] == ["all", "7,252,115"]
    assert main(["info", "simple4", "conv=identity", "num_classes=10", "in_chans=1"]) == 0
    assert "390,890" in capsys.readouterr().out
    assert main(["info", "vgg11v4_gram_bottleneck.imagenet1k", "--size", "64"]) == 0
    assert "brivangl/vgg_kagn_bn11_v4, as stated there; top-1 68.50 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "Did you mean 'resnet1"),
        (["resnet18", "with_scale=2"], "Did you mean 'width_scale'"),
        (["resnet18", "conv=grm"], "Did you mean 'gram'"),
        (["resnet18", "conv=gram", "conv.degre=2"], "Did you mean 'degree'"),
        (["resnet18", "width_scale"], "must be KEY=VALUE"),
        (["resnet18", "num_classes=3", "num_classes.x=3"], "num_classes is 3 already"),
        (["resnet18", "--size", "16"], r"must be at least 32x32"),
        (["resnet18", "--size", "big"], "must be a number of pixels or HxW"),
    ],
)
def test_mistakes_in_the_info_command(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *arguments]) == 2
    assert message in capsys.readouterr().err
