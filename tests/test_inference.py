"""An optimized network computes what the network in evaluation mode computes."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.inference import ConstantAtBorder
from tests.tolerances import assert_close

BASES = kv.list_bases()


def trained(module: nn.Module) -> nn.Module:
    """The module with parameters and statistics away from their initial values."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return module


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": "same", "groups": 2, "dilation": 2},
        {"stride": 2, "padding": 1, "padding_mode": "reflect"},
        {"padding": 0, "bias": True, "groups": 4},
    ],
    ids=["zeros", "same_groups", "reflect", "none"],
)
def test_blocks_give_the_same(basis: str, options: dict[str, Any]) -> None:
    block = trained(kv.ConvSpec(basis)(8, 12, 3, dtype=torch.float64, **options))
    before = copy.deepcopy(block.state_dict())
    fast = kv.optimize(block)
    x = torch.randn(2, 8, 9, 10, dtype=torch.float64)
    assert block.training and not fast.training
    assert_close(fast(x), block.eval()(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    after = block.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("basis", ["legendre", "gram", "chebyshev", "jacobi"])
def test_constant_functions_leave(basis: str) -> None:
    block = trained(kv.ConvSpec(basis, degree=3)(8, 12, 3, padding=1))
    fast = kv.optimize(block)
    assert isinstance(fast.conv, ConstantAtBorder)
    assert fast.conv.conv.weight.shape[1] == block.conv.weight.shape[1] - 8
    unpadded = kv.optimize(kv.ConvSpec(basis, degree=3, norm=None)(8, 12, 3))
    assert isinstance(unpadded.conv, kv.KANConv2d) and unpadded.conv.weight.shape[1] == 8 * (block.conv.basis.size - 1)
    x = torch.randn(8, 9, 9)  # without a batch
    assert_close(fast(x[None])[0], block.eval()(x[None])[0])
    assert_close(fast.conv(x), fast.conv(x[None])[0])


@pytest.mark.parametrize("structure", [None, kv.LowRank(2), kv.Bottleneck(reduction=2), kv.Experts(3, k=2)])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_networks_give_the_same(structure: Any, norm: str) -> None:
    spec = kv.ConvSpec("legendre", norm=norm, structure=structure)
    model = trained(kv.create_model("simple4", conv=spec, num_classes=5, in_chans=3)).eval()
    x = torch.randn(2, 3, 20, 20)
    assert_close(kv.optimize(model)(x), model(x), 1e-4)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_close(kv.optimize(model, channels_last=True)(last), model(x), 1e-4)


def test_linear_networks_and_transposed_layers() -> None:
    model = trained(kv.KAN([6, 8, 3], basis="chebyshev")).eval()
    x = torch.randn(5, 6)
    assert_close(kv.optimize(model)(x), model(x))
    up = nn.Sequential(kv.KANConvNormAct(kv.KANConvTranspose2d(4, 6, 2, stride=2, basis="gram"), nn.BatchNorm2d(6)))
    image = torch.randn(2, 4, 5, 5)
    trained(up).eval()
    assert_close(kv.optimize(up)(image), up(image))


@pytest.mark.parametrize("options", [{"norm_site": "functions"}, {"dropout": 0.5, "dropout_site": "degree"}])
def test_sites(options: dict[str, Any]) -> None:
    block = trained(kv.ConvSpec("legendre", **options)(8, 12, 3, padding=1)).eval()
    x = torch.randn(2, 8, 9, 9)
    assert_close(kv.optimize(block)(x), block(x))


def test_compiled_and_exported() -> None:
    model = kv.create_model("simple4", conv="legendre", num_classes=5, in_chans=3).eval()
    x = torch.randn(2, 3, 12, 12)
    fast = kv.optimize(model)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), model(x), 1e-4)
    assert_close(torch.export.export(fast, (x,)).module()(x), model(x), 1e-4)
