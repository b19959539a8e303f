"""KAConvNeXt: its sizes, where its functions are, and its options."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

import kanvolution as kv
from kanvolution.bases import MixedBasis
from kanvolution.models.kaconvnext import KAConvNeXtBlock
from tests.tolerances import assert_close

TINY: dict[str, Any] = {"channels": (8, 16), "depths": (1, 2), "patch_size": 2}


def make(conv: Any = "gram", **options: Any) -> Any:
    return kv.create_model("kaconvnext_s", conv, **{"num_classes": 5, "in_chans": 2, **TINY, **options})


def blocks(model: nn.Module) -> list[KAConvNeXtBlock]:
    return [module for module in model.modules() if isinstance(module, KAConvNeXtBlock)]


@pytest.mark.parametrize(
    ("name", "millions", "gflops"), [("kaconvnext_s", 5, 0.7), ("kaconvnext_b", 9, 1.4), ("kaconvnext_l", 17.5, 2.9)]
)
def test_parameters_and_flops(name: str, millions: float, gflops: float) -> None:
    with torch.device("meta"), torch.no_grad(), kv.ops.flop_counter(display=False) as flops:
        model = kv.create_model(name, "gram").eval()
        model(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)
    assert flops.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.05)


@pytest.mark.parametrize("conv", kv.list_bases())
def test_learned_activations_wherever_the_basis_has_functions_to_combine(conv: str) -> None:
    model = make(conv, rank=2 if conv == "gram" else 1)
    for block in blocks(model):
        if conv in ("identity", "wavelet_edge"):
            gelu, pointwise = block.project
            assert isinstance(gelu, nn.GELU) and type(pointwise) is nn.Conv2d
        else:
            basis = block.project.conv.basis
            assert isinstance(basis, MixedBasis) and basis.rank == (2 if conv == "gram" else 1)
            assert basis.inner.name == conv and block.project.norm is None and block.project.act is None
        assert block.depthwise.conv.basis.name == conv and block.depthwise.conv.groups == block.scale.shape[0]


def test_a_factory_of_ones_own() -> None:
    model = make(nn.Conv2d)
    assert type(blocks(model)[0].depthwise) is nn.Conv2d and isinstance(blocks(model)[0].norm, nn.BatchNorm2d)
    assert model(torch.randn(2, 2, 9, 8)).shape == (2, 5)


def test_a_block_adds_its_scaled_branch() -> None:
    model = make(layer_scale=0.5).eval()
    block, x = blocks(model)[0], torch.randn(2, 8, 6, 7)
    branch = block.project(block.expand(block.depthwise(block.norm(x))))
    assert_close(block(x), x + 0.5 * branch)
    nn.init.zeros_(block.scale)
    assert torch.equal(block(x), x)


def test_the_norm_is_that_of_the_convolution() -> None:
    model = make(kv.ConvSpec("gram", norm="group", norm_options={"num_groups": 4}))
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(norms) == 3 + 3 * len(blocks(model))
    assert all(isinstance(m, nn.GroupNorm) and m.num_groups == 4 for m in norms)
    bare = make(kv.ConvSpec("gram", norm=None)).modules()
    assert not any(isinstance(m, nn.GroupNorm | nn.BatchNorm2d) for m in bare)


def test_drop_path_grows_linearly_and_acts_in_training_only() -> None:
    model = make(depths=(2, 3), drop_path_rate=0.4)
    assert [block.drop_path.p for block in blocks(model)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert all(isinstance(block.drop_path, StochasticDepth) for block in blocks(model))
    block, x = blocks(model)[-1], torch.randn(64, 16, 4, 4)
    unchanged = (block(x) == x).flatten(1).all(1).sum()
    assert 10 < unchanged < 45
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_options() -> None:
    model = make(kernel_size=3, expansion=1.5, reduction=0, patch_size=1)
    block = blocks(model)[0]
    assert block.depthwise.conv.kernel_size == (3, 3) and block.expand[0].out_channels == 12
    assert isinstance(block.expand[1], nn.Identity)
    squeezed = blocks(make(reduction=4))[0].expand[1]
    assert (squeezed.fc1.in_channels, squeezed.fc1.out_channels) == (32, 2)
    assert [i.reduction for i in model.feature_info] == [1, 2]
    assert [i.reduction for i in make(patch_size=4).feature_info] == [4, 8]


def test_it_learns() -> None:
    x = torch.randn(64, 2, 8, 8)
    target = (x[:, 0].abs().mean((1, 2)) > x[:, 1].abs().mean((1, 2))).long()
    model = make(num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, r"kernel_size \(=4\) must be odd"),
        ({"depths": (1,)}, "one entry a stage"),
        ({"depths": (1, 0)}, r"depths \(=0\) must be >= 1"),
        ({"rank": -1}, r"rank \(=-1\) must be >= 0"),
        ({"rank": 6}, r"rank \(=6\) must be <= the number of functions \(=5\)"),
        ({"patch_size": 0}, r"patch_size \(=0\) must be >= 1"),
        ({"drop_path_rate": 1}, r"drop_path_rate \(=1\) must be in"),
        ({"expansion": 0.01}, r"expansion \(=0.01\) must leave at least one"),
    ],
)
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
